//! What a change of content does to a program that runs with its owner's rights: set-user-ID, set-group-ID and file
//! capabilities go, as on a local file system.
//!
//! The kernel leaves this to the file system and does not look at the file first, so most calls are about files that have none
//! of the three. Attributes tell, but for a file with other extended attributes: there it is found out once and remembered while
//! PERM and XATTR are held.

use std::sync::Arc;

use sheen_ports::Cancel;
use sheen_types::{Attributes, Errno};
use sheen_wire::lease::bits;

use crate::{
    client::Client,
    inode::{Inode, InodeState},
    set_attributes::Changes,
};

const S_ISUID: u32 = 0o4000;
const S_ISGID: u32 = 0o2000;
const S_IXGRP: u32 = 0o0010;
const CAPABILITY: &[u8] = b"security.capability";

impl Client {
    /// Takes the privileges of a regular file away because `caller`, who has no CAP_FSETID, is about to change its content.
    /// `is_member` tells whether the caller is in a group; called only if that matters. Returns whether it had any.
    ///
    /// # Errors
    /// EPERM for an immutable file, ENOSPC, ESTALE, EINTR.
    pub fn drop_privileges(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        caller: (u32, u32),
        is_member: impl FnOnce(u32) -> bool,
        cancel: &Cancel,
    ) -> Result<bool, Errno> {
        if inode.lock().is_plain() {
            return Ok(false);
        }
        let version = inode.version();
        let (attributes, _) = self.metadata_attributes(inode, cancel)?;
        let mode = attributes.permissions;
        let stranger = is_stranger(&attributes, is_member);
        let loses_group = mode & S_ISGID != 0 && (mode & S_IXGRP != 0 || stranger);
        if mode & S_ISUID == 0 && !loses_group && !self.has_capability(inode, cancel)? {
            if mode & S_ISGID == 0 {
                inode.lock().note_plain(version);
            }
            return Ok(false);
        }
        let changes =
            Changes { kill_suidgid: true, kill_sgid: stranger, caller, ..Changes::default() };
        self.set_attributes(inode, &changes, cancel)?;
        Ok(true)
    }

    /// Takes the capabilities of a regular file away because a caller with CAP_FSETID is about to change its content. The kernel
    /// does so where it writes through its pages.
    ///
    /// # Errors
    /// EPERM for an immutable file, ENOSPC, ESTALE, EINTR.
    pub fn drop_capability(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        cancel: &Cancel,
    ) -> Result<(), Errno> {
        if inode.lock().is_plain() {
            return Ok(());
        }
        let version = inode.version();
        let (attributes, _) = self.metadata_attributes(inode, cancel)?;
        if !self.has_capability(inode, cancel)? {
            if attributes.permissions & (S_ISUID | S_ISGID) == 0 {
                inode.lock().note_plain(version);
            }
            return Ok(());
        }
        match self.remove_xattr(inode, CAPABILITY, cancel) {
            Err(Errno::ENODATA) => Ok(()),
            result => result,
        }
    }

    /// Whether a caller without CAP_FSETID who changes content takes set-group-ID away that does not stand for execution,
    /// because `is_member` says that the caller is not in the group.
    ///
    /// # Errors
    /// ESTALE, EINTR.
    pub fn loses_group(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        is_member: impl FnOnce(u32) -> bool,
        cancel: &Cancel,
    ) -> Result<bool, Errno> {
        let (attributes, _) = self.metadata_attributes(inode, cancel)?;
        Ok(is_stranger(&attributes, is_member))
    }

    fn has_capability(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        cancel: &Cancel,
    ) -> Result<bool, Errno> {
        match self.get_xattr(inode, CAPABILITY, cancel) {
            Ok(_) => Ok(true),
            Err(Errno::ENODATA) => Ok(false),
            Err(errno) => Err(errno),
        }
    }
}

fn is_stranger(attributes: &Attributes, is_member: impl FnOnce(u32) -> bool) -> bool {
    attributes.permissions & (S_ISGID | S_IXGRP) == S_ISGID && !is_member(attributes.gid)
}

impl InodeState {
    /// Whether the file is known to have no privileges.
    fn is_plain(&self) -> bool {
        self.plain == Some((self.losses, self.changed_at)) && self.holds(bits::PERM | bits::XATTR)
    }

    /// It had none at `version`.
    fn note_plain(&mut self, version: (u64, u64)) {
        // Without the leases nothing tells of a change.
        if version == (self.losses, self.changed_at) && self.holds(bits::PERM | bits::XATTR) {
            self.plain = Some(version);
        }
    }
}

#[cfg(test)]
mod test {
    use sheen_wire::{
        Field, Opcode,
        metadata::{SetAttributes, set},
    };

    use super::*;
    use crate::{
        fake::{FILE, Fake},
        scenarios::start,
    };

    fn changes(fake: &Fake) -> Vec<u32> {
        let sent = fake.sent(Opcode::SetAttributes);
        sent.iter().map(|sent| SetAttributes::from_bytes(&sent.body).unwrap().valid).collect()
    }

    #[test]
    fn a_file_without_privileges_is_looked_at_once() {
        let (fake, client) = start();
        fake.change(|state| {
            state.refuse = Some((Opcode::GetXattr, Errno::ENODATA));
            state.has_xattrs = true;
        });
        let file = client.inode(FILE);
        let drop_them = || {
            let stranger = |_| panic!("there is no set-group-ID");
            client.drop_privileges(&file, (7, 7), stranger, &Cancel::new()).unwrap();
        };
        (0..100).for_each(|_| drop_them());
        assert_eq!(fake.sent(Opcode::GetXattr).len(), 1);
        fake.revoke(FILE, bits::XATTR, false);
        fake.wait_until("the lease is given back", |state| {
            state.log.iter().any(|sent| sent.opcode == Opcode::LeaseCancel)
        });
        drop_them();
        assert_eq!(fake.sent(Opcode::GetXattr).len(), 2, "somebody may have set a capability");
        assert_eq!(changes(&fake), []);
        fake.change(|state| state.refuse = None);
        fake.revoke(FILE, bits::XATTR, false);
        fake.wait_until("the lease is given back", |state| {
            state.log.iter().filter(|sent| sent.opcode == Opcode::LeaseCancel).count() == 2
        });
        drop_them();
        assert_eq!(changes(&fake), [set::KILL_SUIDGID], "it has one now");
        client.disconnect();
    }

    #[test]
    fn nothing_is_asked_about_a_file_whose_attributes_tell() {
        let (fake, client) = start();
        let file = client.inode(FILE);
        client.attributes(&file, &Cancel::new()).unwrap();
        fake.change(|state| state.log.clear());
        for _ in 0..10 {
            client.drop_privileges(&file, (7, 7), |_| false, &Cancel::new()).unwrap();
            client.drop_capability(&file, &Cancel::new()).unwrap();
            let names = client.list_xattr(&file, &Cancel::new()).unwrap();
            assert!(names.is_empty());
        }
        let asked = |sent: &crate::fake::Sent| sent.opcode != Opcode::Ping;
        assert_eq!(fake.lock().log.iter().filter(|sent| asked(sent)).count(), 0);
        client.disconnect();
    }

    #[test]
    fn a_writer_with_cap_fsetid_takes_capabilities_alone() {
        let (fake, client) = start();
        fake.change(|state| {
            state.has_xattrs = true;
            state.set_ids = S_ISUID;
        });
        let file = client.inode(FILE);
        client.drop_capability(&file, &Cancel::new()).unwrap();
        assert_eq!(fake.sent(Opcode::RemoveXattr).len(), 1);
        assert_eq!(changes(&fake), []);
        client.disconnect();
    }

    #[test]
    fn set_group_id_without_execution_goes_when_the_writer_is_not_in_the_group() {
        let (fake, client) = start();
        fake.change(|state| {
            state.refuse = Some((Opcode::GetXattr, Errno::ENODATA));
            state.set_ids = S_ISGID;
        });
        let file = client.inode(FILE);
        client.drop_privileges(&file, (7, 7), |_| true, &Cancel::new()).unwrap();
        assert_eq!(changes(&fake), []);
        client.drop_privileges(&file, (7, 7), |_| false, &Cancel::new()).unwrap();
        assert_eq!(changes(&fake), [set::KILL_SUIDGID | set::KILL_SGID]);
        fake.change(|state| state.set_ids = S_ISUID);
        client.note_change(&file);
        client.drop_privileges(&file, (7, 7), |_| false, &Cancel::new()).unwrap();
        assert_eq!(changes(&fake).last(), Some(&set::KILL_SUIDGID));
        client.disconnect();
    }
}
