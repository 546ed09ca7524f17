//! Extended attributes.

use std::sync::Arc;

use sheen_ports::Cancel;
use sheen_types::{AttributeName, Errno, NameError};
use sheen_wire::{
    Opcode,
    metadata::{AttributesReply, ListXattr, SetXattr, XattrName},
};

use crate::{client::Client, inode::Inode, request::Request};

/// Beginnings of the names there can be.
const SPACES: [&[u8]; 4] = [b"user.", b"trusted.", b"security.", b"system.posix_acl_"];
/// Longest value in bytes.
const VALUE_BYTES_MAX: usize = 64 << 10;

fn attribute(name: &[u8]) -> Result<AttributeName, Errno> {
    AttributeName::new(name).map_err(|error| match error {
        NameError::Invalid => Errno::EINVAL,
        NameError::TooLong => Errno::ERANGE,
    })
}

impl Client {
    /// Value of an extended attribute.
    ///
    /// # Errors
    /// ENODATA, EOPNOTSUPP, ESTALE, EINTR.
    pub fn get_xattr(
        self: &Arc<Self>,
        inode: &Inode,
        wanted: &[u8],
        cancel: &Cancel,
    ) -> Result<Vec<u8>, Errno> {
        let body = XattrName { fid: inode.fid, name: attribute(wanted)? };
        if SPACES.iter().any(|space| wanted.starts_with(space))
            && self.lacks_xattrs(inode, cancel)?
        {
            return Err(Errno::ENODATA);
        }
        let request = Request::new(Opcode::GetXattr, &body).with_room(VALUE_BYTES_MAX);
        Ok(self.ask(request, cancel)?.payload().to_vec())
    }

    /// Whether the inode is known to have no extended attribute. The kernel asks for capabilities before it writes, and for lists
    /// before it lets others in: most inodes have neither.
    fn lacks_xattrs(self: &Arc<Self>, inode: &Inode, cancel: &Cancel) -> Result<bool, Errno> {
        self.wait_valid(cancel)?;
        // An attribute that is set or removed elsewhere takes these with it.
        Ok(inode.lock().attributes.is_some_and(|attributes| !attributes.has_xattrs))
    }

    /// Names of extended attributes, each ended by NUL.
    ///
    /// # Errors
    /// ESTALE, EINTR.
    pub fn list_xattr(self: &Arc<Self>, inode: &Inode, cancel: &Cancel) -> Result<Vec<u8>, Errno> {
        if self.lacks_xattrs(inode, cancel)? {
            return Ok(Vec::new());
        }
        let body = ListXattr { fid: inode.fid };
        let request = Request::new(Opcode::ListXattr, &body).with_room(VALUE_BYTES_MAX);
        Ok(self.ask(request, cancel)?.payload().to_vec())
    }

    /// Sets an extended attribute; `flags` are `XATTR_CREATE` 1, `XATTR_REPLACE` 2.
    ///
    /// # Errors
    /// EEXIST, ENODATA, E2BIG, ENOSPC, EOPNOTSUPP, EPERM, EINTR.
    pub fn set_xattr(
        self: &Arc<Self>,
        inode: &Inode,
        wanted: &[u8],
        value: &[u8],
        flags: u32,
        kill_sgid: bool,
        cancel: &Cancel,
    ) -> Result<(), Errno> {
        if value.len() > VALUE_BYTES_MAX {
            return Err(Errno::E2BIG);
        }
        let body = SetXattr { fid: inode.fid, name: attribute(wanted)?, flags, kill_sgid };
        let stamp = self.stamp();
        let mut request = Request::new(Opcode::SetXattr, &body);
        if !value.is_empty() {
            request.payload = Some(self.payload_of(value, cancel)?);
        }
        let reply = self.ask(request, cancel)?;
        let found: AttributesReply = reply.decode()?;
        self.settle_change(inode, &reply, stamp, &found.attributes, &found.lease);
        Ok(())
    }

    /// Removes an extended attribute.
    ///
    /// # Errors
    /// ENODATA, EPERM, ESTALE, EINTR.
    pub fn remove_xattr(
        self: &Arc<Self>,
        inode: &Inode,
        wanted: &[u8],
        cancel: &Cancel,
    ) -> Result<(), Errno> {
        let body = XattrName { fid: inode.fid, name: attribute(wanted)? };
        self.ask(Request::new(Opcode::RemoveXattr, &body), cancel)?;
        self.note_change(inode);
        Ok(())
    }
}
