//! Bytes of the FUSE protocol, version 7, minors 31 to 45 (`include/uapi/linux/fuse.h` of Linux 6.18).
//!
//! Integers are in host order; this project runs on little-endian hosts only, so they are read and written as
//! little-endian explicitly. Nothing the kernel sends makes the decoder panic: what does not fit is [`Malformed`],
//! what is unknown is [`Operation::Unknown`].

pub(crate) mod bytes;
pub(crate) mod header;
pub(crate) mod init;
pub(crate) mod operation;
pub(crate) mod decode;
pub(crate) mod reply;
pub(crate) mod dirent;
pub(crate) mod notification;

pub(crate) use bytes::{Malformed, Reader};
pub(crate) use header::{Header, Opcode};
pub(crate) use operation::{Forgets, Operation};
