//! `chmod`, `chown`, `utimes`, `truncate` and inode flags.

use std::sync::Arc;

use sheen_ports::Cancel;
use sheen_types::{Errno, Timespec, attributes::frozen};
use sheen_wire::{
    Opcode,
    metadata::{AttributesReply, Credentials, SetAttributes, set},
};

use crate::{
    attributes::{Caching, Observed},
    client::Client,
    inode::Inode,
    lease::LAYOUT_ROOM,
    request::Request,
};

/// A time to set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NewTime {
    /// The server's now.
    Now,
    /// This one.
    At(Timespec),
}

/// What to change; None stays.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Changes {
    /// Permission bits.
    pub permissions: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Project.
    pub projid: Option<u32>,
    /// Size in bytes.
    pub size: Option<u64>,
    /// Access time.
    pub atime: Option<NewTime>,
    /// Modification time.
    pub mtime: Option<NewTime>,
    /// Inode flags (`FS_*_FL`).
    pub flags: Option<u32>,
    /// Drop set-user-ID, and set-group-ID if group-executable.
    pub kill_suidgid: bool,
    /// With `kill_suidgid`: drop set-group-ID in any case, because the caller is not in the group.
    pub kill_sgid: bool,
    /// Who asks: (uid, gid).
    pub caller: (u32, u32),
}

impl Changes {
    /// Whether the time of the last change of content is to be another than that of this change.
    fn dates_content(&self) -> bool {
        self.size.is_none() && matches!(self.mtime, Some(NewTime::At(_)))
    }

    /// Whether the time of the last change of content is decided by it.
    fn sets_mtime(&self) -> bool {
        self.size.is_some() || self.mtime.is_some()
    }

    /// The same time of content once more, from behind `written`.
    fn times_after(&self, inode: &Inode, written: Timespec) -> SetAttributes {
        let mtime = Some(self.mtime.unwrap_or(NewTime::Now));
        let times = Self { mtime, caller: self.caller, ..Self::default() };
        let message = times.message(inode);
        SetAttributes { valid: message.valid | set::AFTER, ctime: written, ..message }
    }

    fn message(&self, inode: &Inode) -> SetAttributes {
        let mut valid = 0;
        let mut take = |value: Option<u32>, bit: u32| {
            valid |= if value.is_some() { bit } else { 0 };
            value.unwrap_or(0)
        };
        let permissions = take(self.permissions, set::MODE) & 0o7777;
        let uid = take(self.uid, set::UID);
        let gid = take(self.gid, set::GID);
        let projid = take(self.projid, set::PROJID);
        let flags = take(self.flags, set::FLAGS);
        valid |= if self.size.is_some() { set::SIZE } else { 0 };
        valid |= if self.kill_suidgid { set::KILL_SUIDGID } else { 0 };
        valid |= if self.kill_sgid { set::KILL_SGID } else { 0 };
        let mut time = |value: Option<NewTime>, now: u32, at: u32| match value {
            None => Timespec::ZERO,
            Some(NewTime::Now) => {
                valid |= now;
                Timespec::ZERO
            }
            Some(NewTime::At(time)) => {
                valid |= at;
                time
            }
        };
        let atime = time(self.atime, set::ATIME_NOW, set::ATIME);
        let mtime = time(self.mtime, set::MTIME_NOW, set::MTIME);
        SetAttributes {
            fid: inode.fid,
            valid,
            permissions,
            uid,
            gid,
            projid,
            size: self.size.unwrap_or(0),
            atime,
            mtime,
            ctime: Timespec::ZERO,
            flags,
            credentials: Credentials { uid: self.caller.0, gid: self.caller.1 },
        }
    }
}

impl Client {
    /// Changes attributes. The MDT decides; objects are cut only after it agreed, so that what it refuses has no effect.
    ///
    /// # Errors
    /// EPERM, EFBIG, ENOSPC, ESTALE, EINTR; EIO also when the MDT agreed and an object could not be cut.
    pub fn set_attributes(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        changes: &Changes,
        cancel: &Cancel,
    ) -> Result<Observed, Errno> {
        if let Some(size) = changes.size {
            self.prepare_truncate(inode, size, cancel)?;
        }
        if changes.dates_content() && inode.lock().mappable {
            // Stores to a mapping count from when they are written: before this.
            self.have_pages_written(inode, 0, cancel)?;
        }
        if changes.flags.is_some_and(|flags| flags & frozen::ALL != 0) {
            // What is dirty here is written while it still may be.
            self.sink().invalidate_data(inode.fid, 0..u64::MAX);
        }
        let (found, caching) = self.send_changes(inode, &changes.message(inode), cancel)?;
        if changes.atime.is_some() {
            inode.lock().accessed = None;
        }
        if changes.flags.is_some() {
            inode.lock().frozen = found.attributes.flags & frozen::ALL;
        }
        if let Some(size) = changes.size {
            self.truncate(inode, size, found.attributes.mtime, cancel)?;
        }
        let observed = self.complete(inode, found.attributes, caching, cancel)?;
        let written = observed.attributes.mtime;
        if !changes.sets_mtime() || written == found.attributes.mtime {
            return Ok(observed);
        }
        // The objects' time lies ahead of what was just decided: it is by a clock that was set back, or of a write meanwhile. This
        // counts from behind it.
        let message = changes.times_after(inode, written);
        let (found, caching) = self.send_changes(inode, &message, cancel)?;
        self.complete(inode, found.attributes, caching, cancel)
    }

    fn send_changes(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        message: &SetAttributes,
        cancel: &Cancel,
    ) -> Result<(AttributesReply, Caching), Errno> {
        let stamp = self.stamp();
        // The kernel writes no page of the file back while a truncation is under way.
        let request = Request::new(Opcode::SetAttributes, message);
        let request = request.with_room(LAYOUT_ROOM).about(inode);
        let reply = self.ask(request, cancel)?;
        let found: AttributesReply = reply.decode()?;
        let settled = self.settle_change(inode, &reply, stamp, &found.attributes, &found.lease);
        Ok((found, Caching::of_attributes(settled.attributes)))
    }
}

#[cfg(test)]
mod test {
    use std::{ops::Range, sync::Mutex};

    use sheen_types::Fid;

    use super::*;
    use crate::{
        CacheSink, NewOpen,
        fake::{FILE, Fake},
        scenarios::{READ, WRITE, start},
    };

    /// A kernel that may have dirty pages; notes how many changes of attributes were sent before it was told to drop them.
    struct Pages(Fake, Mutex<Vec<usize>>);

    impl CacheSink for Pages {
        fn invalidate_data(&self, _: Fid, _: Range<u64>) {
            self.1.lock().unwrap().push(self.0.sent(Opcode::SetAttributes).len());
        }

        fn invalidate_attributes(&self, _: Fid) {}

        fn invalidate_entries(&self) {}
    }

    #[test]
    fn a_time_that_is_set_counts_though_the_server_s_clock_was_set_back_behind_the_objects() {
        for set_back in [false, true] {
            let (fake, client) = start();
            let (file, never) = (client.inode(FILE), Cancel::new());
            fake.change(|state| state.write_as_another(0, b"content"));
            fake.change(|state| state.set_back = set_back);
            let set = |changes: Changes| {
                let before = fake.sent(Opcode::SetAttributes).len();
                let found = client.set_attributes(&file, &changes, &never).unwrap();
                let sent = fake.sent(Opcode::SetAttributes).len() - before;
                (found.attributes.mtime, sent)
            };
            let time = Timespec { seconds: 5, nanoseconds: 6 };
            let dates = Changes { mtime: Some(NewTime::At(time)), ..Changes::default() };
            assert_eq!(set(dates), (time, 1 + usize::from(set_back)));
            let touches = Changes { mtime: Some(NewTime::Now), ..Changes::default() };
            let (touched, requests) = set(touches);
            assert_eq!(requests, 1, "it counts from behind what objects have already");
            assert_eq!(touched.seconds == 50, set_back, "{touched:?}");
            assert_eq!(set(Changes { permissions: Some(0o600), ..Changes::default() }).1, 1);
            client.disconnect();
        }
    }

    #[test]
    fn pages_a_mapping_made_dirty_are_written_before_the_time_of_content_is_set() {
        let (fake, client) = start();
        let pages = Arc::new(Pages(fake.clone(), Mutex::default()));
        client.set_sink(pages.clone());
        let (file, never) = (client.inode(FILE), Cancel::new());
        let time = NewTime::At(Timespec { seconds: 5, nanoseconds: 0 });
        let dropped = |changes: Changes| {
            client.set_attributes(&file, &changes, &never).unwrap();
            std::mem::take(&mut *pages.1.lock().unwrap())
        };
        let dates = Changes { mtime: Some(time), ..Changes::default() };
        let only_writes = NewOpen { read: false, ..WRITE };
        for open in [READ, only_writes] {
            client.open(&file, open, &never).unwrap();
            assert_eq!(dropped(dates), [], "nobody can map it to write");
        }
        client.open(&file, WRITE, &never).unwrap();
        let sent = fake.sent(Opcode::SetAttributes).len();
        assert_eq!(dropped(dates), [sent]);
        assert_eq!(dropped(Changes { atime: Some(time), ..Changes::default() }), []);
        assert_eq!(dropped(Changes { mtime: Some(NewTime::Now), ..Changes::default() }), []);
        client.close(&file, true, &never);
        let sent = fake.sent(Opcode::SetAttributes).len();
        assert_eq!(dropped(dates), [sent], "it may be mapped still");
        client.close(&file, true, &never);
        assert_eq!(dropped(dates), [], "nobody writes any more");
        client.disconnect();
    }
}
