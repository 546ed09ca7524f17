//! Devices of the kernel's: a file or block device by io_uring.

pub mod uring;
mod at_once;
mod slots;
mod failure;
pub mod file;
