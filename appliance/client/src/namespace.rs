//! Names: finding, linking, removing, moving; and where symbolic links lead.

use std::sync::Arc;

use sheen_ports::Cancel;
use sheen_types::{Errno, Fid, FileKind, Name, NameError};
use sheen_wire::{
    Field, Opcode,
    lease::{LeaseGrant, bits},
    metadata::{
        AttributesReply, Credentials, EntryReply, Link, Lookup, ReadLink, Rename, RenameReply,
        Unlink, UnlinkReply,
    },
};

use crate::{
    attributes::{Caching, Observed},
    client::Client,
    inode::Inode,
    lease::LAYOUT_ROOM,
    request::{Reply, Request},
};

/// `RENAME_EXCHANGE`.
const EXCHANGE: u32 = 2;
/// `RENAME_WHITEOUT`.
const WHITEOUT: u32 = 4;
/// Longest target of a symbolic link in bytes.
const TARGET_BYTES_MAX: usize = 4095;

/// A name that leads to an inode.
#[derive(Clone, Debug)]
pub struct Found {
    /// The inode.
    pub inode: Arc<Inode>,
    /// Its attributes.
    pub observed: Observed,
    /// Whether the name may be cached.
    pub name: Caching,
}

/// What a lookup says.
#[expect(clippy::large_enum_variant, reason = "taken apart at once, never kept")]
#[derive(Clone, Debug)]
pub enum LookedUp {
    /// The name leads to this.
    Found(Found),
    /// There is no such name; whether that may be cached (losses of the directory).
    Absent(Caching),
}

/// Checks a name of the kernel's.
pub(crate) fn name(bytes: &[u8]) -> Result<Name, Errno> {
    Name::new(bytes).map_err(|error| match error {
        NameError::TooLong => Errno::ENAMETOOLONG,
        NameError::Invalid => Errno::EINVAL,
    })
}

pub(crate) fn credentials((uid, gid): (u32, u32)) -> Credentials {
    Credentials { uid, gid }
}

impl Client {
    /// Finds a name in a directory; None asks for its parent.
    ///
    /// # Errors
    /// ENOTDIR, ENAMETOOLONG, ESTALE, EINTR.
    pub fn lookup(
        self: &Arc<Self>,
        parent: &Arc<Inode>,
        wanted: Option<&[u8]>,
        cancel: &Cancel,
    ) -> Result<LookedUp, Errno> {
        let wanted = wanted.map(name).transpose()?;
        self.wait_valid(cancel)?;
        let known = wanted.as_ref().and_then(|wanted| self.known_name(parent, wanted));
        if let Some(found) = known {
            return Ok(LookedUp::Found(found));
        }
        let absence = wanted.as_ref().and_then(|wanted| self.known_absence(parent, wanted));
        if let Some(caching) = absence {
            return Ok(LookedUp::Absent(caching));
        }
        let stamp = self.stamp();
        let body = Lookup { parent: parent.fid, name: wanted.clone() };
        let request = Request::new(Opcode::Lookup, &body).with_room(LAYOUT_ROOM);
        let reply = self.ask_raw(request, cancel)?;
        if reply.status == -Errno::ENOENT.0 {
            let caching = match LeaseGrant::from_bytes(&reply.body) {
                Ok(grant) => apply_to(parent, &reply, &grant),
                Err(_) => Caching::Never,
            };
            return Ok(LookedUp::Absent(caching));
        }
        let reply = reply.checked()?;
        let entry: EntryReply = reply.decode()?;
        let found = self.take_entry(parent, &reply, &entry, stamp, cancel)?;
        if entry.attributes.kind == FileKind::Regular {
            found.inode.lock().looked_up = Some(self.clock.now());
        }
        if let Some(wanted) = wanted {
            self.learn_name(parent, wanted, &found, stamp);
        }
        Ok(LookedUp::Found(found))
    }

    /// Takes in an entry that was found (not changed).
    pub(crate) fn take_entry(
        self: &Arc<Self>,
        parent: &Arc<Inode>,
        reply: &Reply,
        entry: &EntryReply,
        stamp: u64,
        cancel: &Cancel,
    ) -> Result<Found, Errno> {
        apply_to(parent, reply, &entry.parent_lease);
        let inode = self.inode(entry.attributes.fid);
        let settled = self.settle(&inode, reply, stamp, &entry.attributes, &entry.lease);
        if !settled.fresh && entry.attributes.kind == FileKind::Regular {
            self.keep_layout(&inode, reply);
        }
        let caching = Caching::of_attributes(settled.attributes);
        let observed = self.complete_soon(&inode, entry.attributes, caching, cancel)?;
        Ok(Found { inode, observed, name: Caching::from_settled(settled.names) })
    }

    /// Takes in what the reply to a Create or Link says of the directory.
    pub(crate) fn settle_parent(
        &self,
        parent: &Inode,
        reply: &Reply,
        entry: &EntryReply,
        stamp: u64,
    ) {
        let lease = entry.parent_lease.clone();
        let after = entry.parent.map(|attributes| AttributesReply { attributes, lease });
        self.settle_directory(parent, reply, stamp, after.as_ref());
        if after.is_none() {
            apply_to(parent, reply, &entry.parent_lease);
        }
    }

    /// Gives an inode another name.
    ///
    /// # Errors
    /// EEXIST, EMLINK, EPERM, ENOENT, EINTR.
    pub fn link(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        parent: &Arc<Inode>,
        new_name: &[u8],
        cancel: &Cancel,
    ) -> Result<Found, Errno> {
        let body = Link { fid: inode.fid, parent: parent.fid, name: name(new_name)? };
        let stamp = self.stamp();
        let request = Request::new(Opcode::Link, &body).with_room(LAYOUT_ROOM);
        self.forget_name(parent, &body.name);
        let reply = self.ask(request, cancel).inspect_err(|_| self.doubt_names(parent))?;
        let entry: EntryReply = reply.decode()?;
        self.note_name(parent, body.name, (inode.fid, None), stamp);
        self.settle_parent(parent, &reply, &entry, stamp);
        let settled = self.settle_change(inode, &reply, stamp, &entry.attributes, &entry.lease);
        let caching = Caching::of_attributes(settled.attributes);
        let observed = self.complete_soon(inode, entry.attributes, caching, cancel)?;
        Ok(Found { inode: inode.clone(), observed, name: Caching::from_settled(settled.names) })
    }

    /// Removes a name: of an empty directory if `directory`, else of anything but one.
    ///
    /// # Errors
    /// ENOENT, ENOTEMPTY, EISDIR, ENOTDIR, EPERM, EINTR.
    pub fn unlink(
        self: &Arc<Self>,
        parent: &Arc<Inode>,
        old_name: &[u8],
        directory: bool,
        caller: (u32, u32),
        cancel: &Cancel,
    ) -> Result<(), Errno> {
        let body = Unlink {
            parent: parent.fid,
            name: name(old_name)?,
            directory,
            credentials: credentials(caller),
        };
        let keeps = !directory && self.keeps_changes_of(parent, &body.name);
        let stamp = self.stamp();
        let reply = self.ask(Request::new(Opcode::Unlink, &body).keeping(keeps), cancel);
        let gone = reply.and_then(|reply| Ok((reply.decode::<UnlinkReply>()?, reply)));
        self.note_no_name(parent, &body.name, stamp);
        match &gone {
            Ok((gone, reply)) => self.settle_directory(parent, reply, stamp, gone.parent.as_ref()),
            Err(_) => {
                self.doubt_names(parent);
                self.note_change(parent);
            }
        }
        let (gone, _) = gone?;
        self.note_lost_name(gone.fid, gone.nlink == 0 || directory);
        if gone.nlink == 0 {
            self.look_for_use(gone.fid, true);
        }
        Ok(())
    }

    /// An inode lost a name, perhaps its `last`: then the kernel, which took the name away, has none left to forget.
    fn note_lost_name(&self, fid: Fid, last: bool) {
        if let Some(inode) = self.inodes.find(fid) {
            self.note_change(&inode);
            if last {
                let mut state = inode.lock();
                state.nameless = true;
                state.names_given = false;
                state.absences_given = false;
                // Nobody opens it by that name any more: the answer to the revoke that follows need not wait for it.
                state.looked_up = None;
            }
        }
    }

    /// Whether changes may have to be sent again of the file a name leads to; also if it is not known where it leads. The MDT
    /// then destroys the file's objects only after this client gave DATA back, and so made its changes durable.
    fn keeps_changes_of(&self, parent: &Inode, name: &Name) -> bool {
        match self.known_inode(parent, name) {
            Some((inode, _)) => self.unstable.has_changes_of(&inode),
            None => !self.unstable.is_empty(),
        }
    }

    /// What a name leads to, if that is known to have no other name; and its version at this moment.
    fn with_one_name(&self, parent: &Inode, name: &Name) -> Option<(Arc<Inode>, (u64, u64))> {
        let (inode, _) = self.known_inode(parent, name)?;
        let version = inode.version();
        let attributes = inode.lock().attributes?;
        (attributes.nlink <= 1 || attributes.kind == FileKind::Directory)
            .then_some((inode, version))
    }

    /// Moves a name. Returns the inode it leads to.
    ///
    /// # Errors
    /// ENOENT, EEXIST, ENOTEMPTY, EINVAL, EXDEV, EPERM, EINTR.
    pub fn rename(
        self: &Arc<Self>,
        from: (&Arc<Inode>, &[u8]),
        to: (&Arc<Inode>, &[u8]),
        flags: u32,
        caller: (u32, u32),
        cancel: &Cancel,
    ) -> Result<Fid, Errno> {
        let whiteout = if flags & WHITEOUT != 0 { self.new_fid(cancel)? } else { Fid::NONE };
        let body = Rename {
            from_parent: from.0.fid,
            from_name: name(from.1)?,
            to_parent: to.0.fid,
            to_name: name(to.1)?,
            flags,
            credentials: credentials(caller),
            whiteout,
        };
        let replaced = self.with_one_name(to.0, &body.to_name).filter(|_| flags & EXCHANGE == 0);
        let keeps = self.keeps_changes_of(to.0, &body.to_name);
        let known = self.known_inode(from.0, &body.from_name).map(|(inode, _)| {
            let gaps = inode.lock().name_gaps;
            (inode, gaps)
        });
        let target = self.seen_name(to.0, &body.to_name);
        let stamp = self.stamp();
        let request = Request::new(Opcode::Rename, &body).keeping(keeps);
        let reply = self.ask(request, cancel);
        let reply = reply.and_then(|reply| Ok((reply.decode::<RenameReply>()?, reply)));
        self.note_no_name(from.0, &body.from_name, stamp);
        self.forget_name(to.0, &body.to_name);
        // Both names are there: what moved had both, or another took its place.
        let both = flags & (EXCHANGE | WHITEOUT) != 0;
        match &reply {
            Ok((done, _)) if !both && target != Some(done.moved) => {
                let gaps = known.filter(|(inode, gaps)| {
                    let state = inode.lock();
                    inode.fid == done.moved && state.name_gaps == *gaps && state.holds(bits::LOOKUP)
                });
                let leads_to = (done.moved, gaps.map(|(_, gaps)| gaps));
                self.note_name(to.0, body.to_name, leads_to, stamp);
            }
            Ok(_) | Err(_) => {
                self.doubt_names(from.0);
                self.doubt_names(to.0);
            }
        }
        match &reply {
            Ok((done, reply)) => {
                self.settle_directory(from.0, reply, stamp, done.from_parent.as_ref());
                if to.0.fid != from.0.fid {
                    self.settle_directory(to.0, reply, stamp, done.to_parent.as_ref());
                }
            }
            Err(_) => {
                self.note_change(from.0);
                self.note_change(to.0);
            }
        }
        let (done, _) = reply?;
        self.note_lost_name(done.moved, false);
        if !done.replaced.is_none() {
            // Nobody gave it another name meanwhile: that would have changed its version.
            let last = replaced.is_some_and(|(inode, version)| inode.version() == version);
            self.note_lost_name(done.replaced, last);
            self.look_for_use(done.replaced, true);
        }
        Ok(done.moved)
    }

    /// Where a symbolic link leads.
    ///
    /// # Errors
    /// EINVAL when it is none, ESTALE, EINTR.
    pub fn read_link(self: &Arc<Self>, inode: &Inode, cancel: &Cancel) -> Result<Vec<u8>, Errno> {
        let body = ReadLink { fid: inode.fid };
        let request = Request::new(Opcode::ReadLink, &body).with_room(TARGET_BYTES_MAX + 1);
        Ok(self.ask(request, cancel)?.payload().to_vec())
    }
}

/// Takes in a grant on a directory that came beside an entry of it, or beside the news that there is none; whether that
/// news may be cached.
pub(crate) fn apply_to(parent: &Inode, reply: &Reply, grant: &LeaseGrant) -> Caching {
    let mut state = parent.lock();
    state.kind = Some(FileKind::Directory);
    let fresh = state.apply(reply.identity.server, grant);
    let held = fresh && state.holds(bits::UPDATE);
    if held { Caching::WhileLosses(state.losses) } else { Caching::Never }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn names_of_the_kernel_are_checked() {
        assert_eq!(name(&[b'x'; 256]), Err(Errno::ENAMETOOLONG));
        assert_eq!(name(b"."), Err(Errno::EINVAL));
        assert!(name(b"x").is_ok());
        assert_eq!(TARGET_BYTES_MAX, 4095);
    }
}
