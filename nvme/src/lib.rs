//! Block devices behind [`sheen_ports::Block`].
//!
//! [`spec`] is the layout of NVMe, [`transport`] the ways to a controller, [`driver`] what drives it.
//! [`UringFile`]: a file or kernel block device by io_uring. [`RamDevice`]: memory, for tests and measurements.
//! [`Zone`]: a range of another device as a device of its own.
//!
//! `unsafe` stands in [`kernel::uring`] only: no safe crate hands a buffer to the kernel and takes it back with the
//! completion without allocating per command or running a runtime of its own.

pub mod spec;
pub mod transport;
pub mod driver;
pub mod kernel;
pub mod ram;
pub mod zone;
pub mod pci;

pub use kernel::{
    file::{self, OpenError, create_sparse},
    uring::{self, UringFile},
};
pub use ram::{RamDevice, RamMedium};
pub use transport::{Doorbell, DoorbellPair, DoorbellPort, PciIdentity, Transport, TransportError};
pub use zone::{Zone, ZoneError};

/// The README's programs, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct Readme;
