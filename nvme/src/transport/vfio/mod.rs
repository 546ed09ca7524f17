//! VFIO: a PCI controller given to this process by the kernel.
//!
//! `sysfs`: what the kernel says before anything is opened. `open`: the ways to a descriptor and an address space.
//! `space`: memory for the device. `interrupts`: MSI-X. `ioctl`: the system calls, and all the `unsafe` there is here.
//! Deliberately absent: binding a device to vfio-pci (see the crate's PCI part and `sheen nvme bind`).

mod sysfs;
mod open;
mod structures;
mod ioctl;
mod space;
mod interrupts;
mod device;
mod error;

pub use device::{Options, Vfio, Way, WithoutIommu};
pub use error::OpenError;
