//! Block devices behind [`sheen_ports::Block`].
//!
//! [`UringFile`]: a file or kernel block device by io_uring. [`RamDevice`]: memory, for tests and measurements.
//! [`Zone`]: a range of another device as a device of its own. The driver for NVMe controllers has its room here.
//!
//! `unsafe` stands in [`uring`] only: no safe crate hands a buffer to the kernel and takes it back with the
//! completion without allocating per command or running a runtime of its own.

pub mod uring;
mod slots;
mod failure;
pub mod file;
pub mod ram;
pub mod zone;

pub use file::{OpenError, create_sparse};
pub use ram::{RamDevice, RamMedium};
pub use uring::UringFile;
pub use zone::{Zone, ZoneError};
