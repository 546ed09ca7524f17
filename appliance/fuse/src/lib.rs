//! The kernel's FUSE protocol, and the mount that answers it with a client.
//!
//! [`kernel`] is the edge to the kernel: protocol, workers, notifications, mounting; it knows no storage. What a mount
//! answers is the [`kernel::Filesystem`] trait; [`mount`] implements it with the client library.
//!
//! An own implementation, because no released crate tells `flock` from `fcntl` locks, honours INTERRUPT and offers
//! the notifications coherence needs.
//!
//! `unsafe` is only in [`kernel`], at the system calls without a safe wrapper.

pub mod kernel;
pub mod mount;
