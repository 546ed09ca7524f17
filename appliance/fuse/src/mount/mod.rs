//! The file system a mount shows: the client library behind [`crate::kernel::Filesystem`].
