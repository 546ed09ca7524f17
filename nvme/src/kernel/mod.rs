//! Devices of the kernel's: a file or block device by io_uring.

pub mod uring;
mod slots;
mod failure;
pub mod file;
