//! Hears of mounts on our directories before names must be taken back, so that nobody waits for that.
//!
//! The kernel tells of changes in this process's own mount namespace alone. While something is mounted anywhere, all are looked
//! at every [`LOOK_EVERY`]: what is gone is no more reason to give no names.

use std::{
    fs::File,
    io::{self, Read, Seek},
    os::fd::AsFd,
    sync::Weak,
    time::Duration,
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::{
    kernel::mountpoint::{MountPoint, table::OWN_TABLE},
    mount::name_cache::NameCache,
};

/// How often all namespaces are looked at while something is mounted.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Watches until the mount with this device number is gone from the table, or nobody has `names`.
pub(crate) fn start(names: Weak<NameCache>, device: (u32, u32)) -> io::Result<()> {
    let mut table = File::open(OWN_TABLE)?;
    std::thread::Builder::new().name("sheen-mounts".to_owned()).spawn(move || {
        while is_mounted(&mut table, device) {
            let Some(stacked) = names.upgrade().map(|names| names.look()) else { return };
            let changed = PollFd::new(table.as_fd(), PollFlags::POLLPRI);
            let timeout = if stacked {
                PollTimeout::try_from(LOOK_EVERY).unwrap_or(PollTimeout::NONE)
            } else {
                PollTimeout::NONE
            };
            if poll(&mut [changed], timeout).is_err() {
                return;
            }
        }
    })?;
    Ok(())
}

/// Reads the table, which is also what the next change is told after.
fn is_mounted(table: &mut File, device: (u32, u32)) -> bool {
    let mut text = Vec::new();
    let read = table.rewind().and_then(|()| table.read_to_end(&mut text));
    read.is_ok() && MountPoint::parse_all(&text).iter().any(|mount| mount.device == device)
}
