//! Extended attributes.

use std::sync::Arc;

use sheen_ports::Cancel;
use sheen_types::Errno;
use sheen_wire::{
    Opcode,
    metadata::{AttributesReply, ListXattr, SetXattr, XattrName},
};

use crate::{client::Client, inode::Inode, namespace::name, request::Request};

/// Longest value in bytes.
const VALUE_BYTES_MAX: usize = 64 << 10;

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
        let body = XattrName { fid: inode.fid, name: name(wanted)? };
        let request = Request::new(Opcode::GetXattr, &body).with_room(VALUE_BYTES_MAX);
        Ok(self.ask(request, cancel)?.payload().to_vec())
    }

    /// Names of extended attributes, each ended by NUL.
    ///
    /// # Errors
    /// ESTALE, EINTR.
    pub fn list_xattr(self: &Arc<Self>, inode: &Inode, cancel: &Cancel) -> Result<Vec<u8>, Errno> {
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
        let body = SetXattr { fid: inode.fid, name: name(wanted)?, flags, kill_sgid };
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
        let body = XattrName { fid: inode.fid, name: name(wanted)? };
        self.ask(Request::new(Opcode::RemoveXattr, &body), cancel)?;
        self.note_change(inode);
        Ok(())
    }
}
