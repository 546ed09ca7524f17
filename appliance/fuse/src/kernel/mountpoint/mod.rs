//! Making, changing, finding and ending mounts.
//!
//! As root by `mount(2)` itself; for others through `fusermount3`. Nothing here waits for the file system that is
//! mounted, except [`wait_until_answers`].
//!
//! A program that goes into the background forks first; the child attaches, starts its session, waits with
//! [`wait_until_answers`], raises the readahead, and only then tells its parent (through a pipe, whose end of file
//! tells the parent of a failure) that the mount is there.

pub mod options;
pub mod table;
pub(crate) mod stacked;
pub mod attach;
mod fusermount;
pub mod detach;
mod guard;

pub use attach::{AttachError, attach, is_dead, remount, wait_until_answers};
pub use detach::{Detach, DetachError, abort, detach};
pub use guard::{Guard, guarded, stand_guard};
pub use options::{AtimePolicy, MountOptions, OptionError};
pub use table::{MountPoint, TableError};
