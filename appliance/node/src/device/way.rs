//! How a device is reached: a file or kernel disk, an NVMe controller of ours by PCI address, one served over vfio-user.
//!
//! `device.path` says which: `nvme:0000:00:04.0`, `vfio-user:/run/disk.sock`, both optionally with `?ns=2`; else it is a path.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use sheen_dma::{Arena, ArenaError};
use sheen_keys::BlockCipher;
use sheen_nvme::{
    Transport, TransportError, UringFile, Zone,
    driver::{AttachError, Controller, NvmeBlock, Options, QueueError},
    transport::{vfio, vfio_user},
};
use thiserror::Error;

use super::{DeviceError, ZoneEntry, keys::ZoneKeys, zone_block::ZoneBlock};
use crate::config::DeviceConfig;

/// Memory for rings, lists and copies beside what the queue pairs' depth asks for.
const ARENA_BYTES_BASE: usize = 8 << 20;
/// Memory of a command slot: its entry, its completion, its list.
const SLOT_BYTES: usize = 4096;
/// Queue pairs beside those of the OSTs: the MDT's, and that of the superblock.
const OWN_PAIRS: u32 = 2;
/// Queue pairs asked for: as many as there can be OSTs. A controller grants fewer where it has fewer.
const PAIRS_MAX: u16 = 34;

/// What `device.path` means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// A file or a disk of the kernel's.
    Path(PathBuf),
    /// A controller bound to vfio-pci.
    Pci {
        /// Its PCI address.
        address: String,
        /// The namespace.
        nsid: u32,
    },
    /// A controller served on a socket.
    VfioUser {
        /// The socket.
        socket: PathBuf,
        /// The namespace.
        nsid: u32,
    },
}

/// `device.path` names an NVMe controller in a way we do not understand.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "device.path {text:?}: expected nvme:ADDRESS or vfio-user:SOCKET, optionally followed by ?ns=NUMBER, like nvme:0000:01:00.0?ns=1"
)]
pub struct WayError {
    text: String,
}

impl Way {
    /// Reads `device.path`.
    ///
    /// # Errors
    /// [`WayError`].
    pub fn of(path: &Path) -> Result<Self, WayError> {
        let Some(text) = path.to_str() else { return Ok(Self::Path(path.into())) };
        let error = || WayError { text: text.to_owned() };
        let (kind, rest) = match text.split_once(':') {
            Some((kind @ ("nvme" | "vfio-user"), rest)) => (kind, rest),
            _ => return Ok(Self::Path(path.into())),
        };
        let (place, nsid) = match rest.split_once('?') {
            None => (rest, 1),
            Some((place, option)) => {
                let number = option.strip_prefix("ns=").ok_or_else(error)?;
                (place, number.parse().ok().filter(|&nsid| nsid > 0).ok_or_else(error)?)
            }
        };
        if place.is_empty() {
            return Err(error());
        }
        Ok(match kind {
            "nvme" => Self::Pci { address: place.to_owned(), nsid },
            _ => Self::VfioUser { socket: place.into(), nsid },
        })
    }
}

/// Why an NVMe controller could not be used.
#[derive(Debug, Error)]
pub enum NvmeError {
    /// The PCI function could not be opened.
    #[error(transparent)]
    Vfio(#[from] vfio::OpenError),
    /// The socket could not be used.
    #[error(transparent)]
    VfioUser(#[from] vfio_user::OpenError),
    /// There is no memory for it.
    #[error(transparent)]
    Arena(#[from] ArenaError),
    /// The controller did not come up.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// There is no queue pair.
    #[error("{0}; fewer OSTs or a smaller device.queue_depth need less")]
    Queue(#[from] QueueError),
    /// The controller cannot reach an arena.
    #[error(
        "mapping buffers for the controller: {0}; with VFIO, `ulimit -l` bounds what can be mapped"
    )]
    Map(TransportError),
}

/// How much a controller is to carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueBudget {
    /// Queue pairs of OSTs.
    pub osts: u32,
    /// Commands of each.
    pub depth: u32,
}

impl QueueBudget {
    /// For reading and writing a superblock.
    pub const SMALL: Self = Self { osts: 1, depth: 16 };

    /// What a configuration asks for.
    #[must_use]
    pub const fn of(config: &DeviceConfig) -> Self {
        Self { osts: config.osts, depth: config.queue_depth }
    }

    /// Memory of rings and lists: a line of the memory plan.
    #[must_use]
    pub const fn arena_bytes(self) -> usize {
        let slots = (self.osts + OWN_PAIRS) as usize * self.depth as usize;
        (slots * SLOT_BYTES + ARENA_BYTES_BASE).next_power_of_two()
    }
}

/// A way to the device that threads open their zones by. Clones are the same device.
#[derive(Clone, Debug)]
pub struct DeviceHandle {
    /// `device.path`.
    pub(super) path: PathBuf,
    pub(super) reach: Reach,
    /// None: not encrypted.
    pub(super) keys: Option<ZoneKeys>,
}

/// How threads reach a device.
#[derive(Clone, Debug)]
pub(super) enum Reach {
    /// Each thread opens the file.
    Path,
    /// Each thread gets a queue pair.
    Nvme {
        /// The controller.
        controller: Arc<Controller>,
        /// The namespace.
        nsid: u32,
    },
}

impl DeviceHandle {
    /// A zone of the device for the calling thread, with a ring or queue pair of its own. The caller keeps the device open
    /// meanwhile.
    ///
    /// # Errors
    /// [`DeviceError`].
    pub fn open_zone(
        &self,
        zone: ZoneEntry,
        queue_depth: u32,
    ) -> Result<Zone<ZoneBlock>, DeviceError> {
        let path = &self.path;
        let cipher = self.zone_cipher(zone)?;
        let block = match &self.reach {
            Reach::Path => ZoneBlock::uring(UringFile::open(path, queue_depth)?, cipher),
            Reach::Nvme { controller, nsid } => {
                let queue = controller.queue_pair(*nsid, queue_depth);
                let queue = queue.map_err(|error| DeviceError::nvme(path, error.into()))?;
                ZoneBlock::nvme(NvmeBlock::new(queue), cipher)
            }
        };
        Zone::new(block, zone.first, zone.blocks)
            .map_err(|source| DeviceError::Zone { path: path.clone(), source })
    }

    /// What encrypts a zone, by blocks of the device. None: not encrypted.
    ///
    /// # Errors
    /// [`DeviceError::Lock`].
    pub(crate) fn zone_cipher(&self, zone: ZoneEntry) -> Result<Option<BlockCipher>, DeviceError> {
        let cipher = self.keys.as_ref().map(|keys| keys.cipher(zone)).transpose();
        cipher.map_err(|reason| DeviceError::Lock { path: self.path.clone(), reason })
    }

    /// An arena whose buffers the device reaches.
    ///
    /// # Errors
    /// [`DeviceError`].
    pub fn arena(&self, bytes: usize) -> Result<Arena, DeviceError> {
        let path = &self.path;
        match &self.reach {
            Reach::Path => Arena::anonymous(bytes)
                .map_err(|error| DeviceError::nvme(path, NvmeError::Arena(error))),
            Reach::Nvme { controller, .. } => {
                let failed = |error| DeviceError::nvme(path, error);
                let arena = device_arena(bytes).map_err(failed)?;
                controller.map(&arena).map_err(|error| failed(NvmeError::Map(error)))?;
                Ok(arena)
            }
        }
    }
}

/// An arena for a controller: of hugepages where there are any free.
fn device_arena(bytes: usize) -> Result<Arena, NvmeError> {
    match Arena::hugepages(bytes) {
        Ok(arena) => Ok(arena),
        Err(error @ ArenaError::Hugepages { .. }) => {
            tracing::info!(bytes, "using small pages for device memory: {error}");
            Ok(Arena::shared(bytes)?)
        }
        Err(error) => Err(error.into()),
    }
}

/// Attaches the controller that `way` names. None: it names none.
pub(super) fn attach(
    path: &Path,
    way: &Way,
    budget: QueueBudget,
) -> Result<Option<(Arc<Controller>, u32)>, DeviceError> {
    let failed = |error| DeviceError::nvme(path, error);
    let (transport, nsid): (Result<Box<dyn Transport>, NvmeError>, u32) = match way {
        Way::Path(_) => return Ok(None),
        Way::Pci { address, nsid } => {
            let opened = vfio::Vfio::open(address, vfio::Options::default());
            (opened.map(|it| Box::new(it) as Box<dyn Transport>).map_err(NvmeError::from), *nsid)
        }
        Way::VfioUser { socket, nsid } => {
            let opened = vfio_user::VfioUser::open(socket, vfio_user::Options::default());
            (opened.map(|it| Box::new(it) as Box<dyn Transport>).map_err(NvmeError::from), *nsid)
        }
    };
    let arena = device_arena(budget.arena_bytes()).map_err(failed)?;
    let options = Options { queue_pairs_max: PAIRS_MAX, ..Options::default() };
    let controller = transport
        .and_then(|transport| Ok(Controller::attach(transport, &arena, options)?))
        .map_err(failed)?;
    tracing::info!(
        device = controller.describe(),
        model = controller.model(),
        serial = controller.serial(),
        "NVMe controller attached"
    );
    Ok(Some((Arc::new(controller), nsid)))
}

#[cfg(test)]
mod test {
    use super::*;

    fn of(text: &str) -> Result<Way, WayError> {
        Way::of(Path::new(text))
    }

    #[test]
    fn a_path_is_a_path_unless_it_names_a_controller() {
        for path in ["/dev/nvme0n1", "nvme", "./nvme:x", "disk:1", "/a:b"] {
            assert_eq!(of(path), Ok(Way::Path(path.into())));
        }
        let address = "0000:00:04.0".to_owned();
        assert_eq!(of("nvme:0000:00:04.0"), Ok(Way::Pci { address: address.clone(), nsid: 1 }));
        assert_eq!(of("nvme:0000:00:04.0?ns=3"), Ok(Way::Pci { address, nsid: 3 }));
        let socket = PathBuf::from("/run/disk.sock");
        assert_eq!(of("vfio-user:/run/disk.sock"), Ok(Way::VfioUser { socket, nsid: 1 }));
    }

    #[test]
    fn what_names_no_namespace_is_refused_with_an_example() {
        for text in
            ["nvme:", "nvme:0000:00:04.0?ns=0", "nvme:0000:00:04.0?ns=x", "vfio-user:/s?n=1"]
        {
            let error = of(text).unwrap_err().to_string();
            assert!(error.contains("nvme:0000:01:00.0?ns=1") && error.contains(text), "{error}");
        }
    }

    #[test]
    fn a_controller_that_is_not_there_is_told_with_what_to_do() {
        let text = |path: &str| {
            let path = Path::new(path);
            let way = Way::of(path).unwrap();
            attach(path, &way, QueueBudget::SMALL).unwrap_err().to_string()
        };
        let absent = text("nvme:0000:ff:1f.7");
        assert!(absent.contains("0000:ff:1f.7"), "{absent}");
        let socket = text("vfio-user:/nowhere/sock");
        assert!(socket.contains("/nowhere/sock"), "{socket}");
    }
}
