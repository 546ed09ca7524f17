//! A virtual machine with a real Linux, a real NVMe controller model that is not ours, and an IOMMU in between.
//!
//! [`recipe`] says what the guest is made of, [`image`] makes it with mmdebstrap, [`machine`] boots it in QEMU (software
//! emulation, so that it works on every host) and runs one command in it, [`qmp`] pulls devices while it runs.
//! The command's output comes back line by line with the time since power-on. Everything is bounded in time, and the
//! emulator never outlives the runner.

#![forbid(unsafe_code)]

pub mod recipe;
pub mod cpio;
pub mod image;
pub mod programs;
pub mod hardware;
pub mod machine;
pub mod channel;
pub mod qmp;
