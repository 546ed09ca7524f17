//! Which controller a command is about, and the way to it.

use std::{fmt, path::PathBuf, str::FromStr};

use anyhow::{Context, Result};
use sheen_dma::Arena;
use sheen_nvme::{
    Transport,
    driver::{Controller, Options},
    pci::PciAddress,
    transport::{vfio, vfio_user},
};

/// A controller that Sheen's driver can reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// A PCI function that vfio-pci has.
    Pci(PciAddress),
    /// A controller in another process, behind a vfio-user socket.
    VfioUser(PathBuf),
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("vfio-user:") {
            return Ok(Self::VfioUser(path.into()));
        }
        let address = text.strip_prefix("nvme:").unwrap_or(text);
        match address.parse() {
            Ok(address) => Ok(Self::Pci(address)),
            Err(error) => Err(format!("{error}; or vfio-user:SOCKET")),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pci(address) => write!(formatter, "{address}"),
            Self::VfioUser(path) => write!(formatter, "vfio-user:{}", path.display()),
        }
    }
}

impl Target {
    /// Attaches the controller, with `bytes` of memory for queues and data.
    ///
    /// # Errors
    /// When it is not bound to vfio-pci, is used by another program, or does not come up.
    pub(super) fn attach(&self, bytes: usize, options: Options) -> Result<Controller> {
        let arena = memory(bytes)?;
        let transport: Box<dyn Transport> = match self {
            Self::Pci(address) => {
                let options = vfio::Options::default();
                Box::new(vfio::Vfio::open(&address.to_string(), options)?)
            }
            Self::VfioUser(path) => {
                Box::new(vfio_user::VfioUser::open(path, vfio_user::Options::default())?)
            }
        };
        Controller::attach(transport, &arena, options)
            .with_context(|| format!("the controller {self} does not come up"))
    }
}

/// Memory a device can reach: hugepages where some are free, else ordinary pages, which serve as well and cost the IOMMU more.
fn memory(bytes: usize) -> Result<Arena> {
    match Arena::hugepages(bytes) {
        Ok(arena) => Ok(arena),
        Err(_) => Arena::shared(bytes).context("memory for the device"),
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_target_is_an_address_or_a_socket() {
        for text in ["0000:01:00.0", "vfio-user:/run/x.sock"] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
        }
        assert_eq!("nvme:1:0.0".parse::<Target>().unwrap().to_string(), "0000:01:00.0");
        assert!("/dev/nvme0n1".parse::<Target>().unwrap_err().contains("vfio-user:SOCKET"));
    }
}
