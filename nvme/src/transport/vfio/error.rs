//! Why a PCI device cannot be opened, and what to do about it.

use std::{fmt, io, path::PathBuf};

use nix::errno::Errno;

use crate::transport::TransportError;

/// Why a device could not be opened. Every text says what to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// Not a PCI address.
    Address {
        /// As given.
        address: String,
    },
    /// No such function.
    Absent {
        /// Its address.
        address: String,
    },
    /// Another driver has it, or none.
    NotBound {
        /// The function.
        address: String,
        /// Its driver.
        driver: Option<String>,
    },
    /// The function has no IOMMU group.
    NoIommu {
        /// The function.
        address: String,
    },
    /// There is only VFIO's mode without IOMMU, which was not asked for.
    WithoutIommu {
        /// The function.
        address: String,
    },
    /// Mode without IOMMU was asked for together with a way that has none.
    WithoutIommuByNode {
        /// The function.
        address: String,
    },
    /// Another function of the group belongs to the kernel.
    NotViable {
        /// The function.
        address: String,
        /// Its group.
        group: u32,
        /// The others with their drivers.
        others: Vec<(String, String)>,
    },
    /// A device node is missing.
    NoNode {
        /// Which.
        path: PathBuf,
    },
    /// A device node may not be opened.
    Permission {
        /// Which.
        path: PathBuf,
    },
    /// A device node is open elsewhere.
    Busy {
        /// Which.
        path: PathBuf,
    },
    /// A device node cannot be opened for another reason.
    Node {
        /// Which.
        path: PathBuf,
        /// Why.
        kind: io::ErrorKind,
    },
    /// The kernel's VFIO cannot do something that is needed.
    Lacking {
        /// What.
        what: &'static str,
    },
    /// A step was refused.
    Step {
        /// To continue the sentence "cannot ...".
        doing: &'static str,
        /// What the system said.
        errno: Errno,
    },
    /// The device answers, but not as an NVMe controller does.
    Device {
        /// The function.
        address: String,
        /// What is wrong.
        error: TransportError,
    },
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address { address } => {
                write!(
                    f,
                    "{address:?} is no PCI address: give it as 0000:00:04.0 (see `sheen nvme list`)"
                )
            }
            Self::Absent { address } => {
                write!(f, "there is no PCI device {address}: see `sheen nvme list`")
            }
            Self::NotBound { address, driver: Some(driver) } => write!(
                f,
                "{address} belongs to the driver {driver}: give it to vfio-pci with `sheen nvme bind {address}`"
            ),
            Self::NotBound { address, driver: None } => {
                write!(
                    f,
                    "{address} has no driver: give it to vfio-pci with `sheen nvme bind {address}`"
                )
            }
            Self::NoIommu { address } => write!(
                f,
                "{address} is in no IOMMU group: switch the IOMMU on in the firmware (VT-d, AMD-Vi) and in the kernel \
                 (intel_iommu=on)"
            ),
            Self::WithoutIommu { address } => write!(
                f,
                "{address} has no IOMMU: switch one on, or allow the mode without IOMMU explicitly, in which the device can write \
                 to all memory"
            ),
            Self::WithoutIommuByNode { address } => {
                write!(f, "{address} has no IOMMU, and iommufd needs one: use the group instead")
            }
            Self::NotViable { address, group, others } => {
                write!(f, "{address} shares IOMMU group {group} with ")?;
                let mut rest = others.iter();
                if others.is_empty() {
                    f.write_str("a device the kernel uses")?;
                } else if let Some((other, driver)) = rest.next() {
                    write!(f, "{other} (driver {driver})")?;
                }
                rest.try_for_each(|(other, driver)| write!(f, ", {other} (driver {driver})"))?;
                f.write_str(": give all of them to vfio-pci, or put the device in another slot")
            }
            Self::NoNode { path } => write!(
                f,
                "{} does not exist: load the kernel's VFIO (`modprobe vfio-pci`), and bind the device to it",
                path.display()
            ),
            Self::Permission { path } => {
                write!(
                    f,
                    "{}: permission denied: run as root, or give your user the node",
                    path.display()
                )
            }
            Self::Busy { path } => write!(
                f,
                "{} is open already: another process, or another device of the group in this one, uses it",
                path.display()
            ),
            Self::Node { path, kind } => write!(f, "{}: {kind}", path.display()),
            Self::Lacking { what } => write!(f, "the kernel's VFIO lacks {what}"),
            Self::Step { doing, errno } => write!(f, "cannot {doing}: {errno}"),
            Self::Device { address, error } => write!(f, "{address}: {error}"),
        }
    }
}

impl std::error::Error for OpenError {}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_group_that_is_not_viable_names_the_other_devices() {
        let others = ["0000:00:04.1", "0000:00:04.2"].map(|at| (at.to_owned(), "nvme".to_owned()));
        let error = OpenError::NotViable {
            address: "0000:00:04.0".to_owned(),
            group: 7,
            others: others.to_vec(),
        };
        assert_eq!(
            error.to_string(),
            "0000:00:04.0 shares IOMMU group 7 with 0000:00:04.1 (driver nvme), 0000:00:04.2 (driver nvme): give all of \
             them to vfio-pci, or put the device in another slot"
        );
    }
}
