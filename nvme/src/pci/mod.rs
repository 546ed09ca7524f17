//! NVMe controllers as this machine's PCI functions: finding them, what uses them, and moving them between the kernel's
//! driver and vfio-pci.
//!
//! sysfs is the only truth: nothing is kept elsewhere, every step may be repeated, and an interrupted move is finished by
//! asking for it again or taken back by the opposite one. The root of the file tree and everything that changes the
//! machine ([`Kernel`]) are parameters, so that tests run on a tree of their own.
//!
//! A controller whose namespaces somebody uses is never taken away: see [`Use`]. Deliberately absent: talking to a
//! controller. That is the driver's.
#![forbid(unsafe_code)]

mod address;
mod machine;
mod function;
mod usage;
mod signature;
mod bind;
#[cfg(test)]
mod fake;
#[cfg(test)]
mod test;

pub use address::{AddressError, PciAddress};
pub use bind::{BindError, Bound, Force, UnbindError, Unbound};
pub use function::{ControllerName, Function, NamespaceName};
pub use machine::{Kernel, Machine, PciError};
pub use usage::{Process, Severity, Use};

/// The kernel's own driver.
pub const KERNEL_DRIVER: &str = "nvme";
/// The driver that hands a function to a program.
pub const VFIO_DRIVER: &str = "vfio-pci";
