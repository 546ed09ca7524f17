//! Notifications as bytes: like answers, but without a request, and with their code in the place of the error.

use crate::kernel::{
    NodeId,
    abi::{bytes::Append, reply::OUT_HEADER_BYTES},
};

/// `enum fuse_notify_code`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Code {
    InvalidateInode = 2,
    InvalidateEntry = 3,
    Store = 4,
    Delete = 6,
    RaiseEpoch = 8,
    Prune = 9,
}

/// Flag of an entry's invalidation: look it up anew, do not drop it.
const EXPIRE_ONLY: u32 = 1;

/// A notification before it is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Notification<'a> {
    /// `offset` below 0: attributes only.
    InvalidateInode {
        node: u64,
        offset: i64,
        length: i64,
    },
    InvalidateEntry {
        parent: u64,
        name: &'a [u8],
        expire_only: bool,
    },
    Delete {
        parent: u64,
        child: u64,
        name: &'a [u8],
    },
    /// The bytes follow as payload.
    Store {
        node: u64,
        offset: u64,
        size: u32,
    },
    RaiseEpoch,
    /// Inodes whose unused names are dropped.
    Prune {
        nodes: &'a [NodeId],
    },
}

impl Notification<'_> {
    fn code(&self) -> Code {
        match self {
            Self::InvalidateInode { .. } => Code::InvalidateInode,
            Self::InvalidateEntry { .. } => Code::InvalidateEntry,
            Self::Delete { .. } => Code::Delete,
            Self::Store { .. } => Code::Store,
            Self::RaiseEpoch => Code::RaiseEpoch,
            Self::Prune { .. } => Code::Prune,
        }
    }

    /// The bytes, to be followed by `payload_bytes` more. The name is shorter than 64 KiB.
    pub(crate) fn encode(&self, payload_bytes: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        out.zeros(OUT_HEADER_BYTES);
        match *self {
            Self::InvalidateInode { node, offset, length } => {
                out.u64(node);
                out.u64(offset.cast_unsigned());
                out.u64(length.cast_unsigned());
            }
            Self::InvalidateEntry { parent, name, expire_only } => {
                out.u64(parent);
                name_length(&mut out, name);
                out.u32(if expire_only { EXPIRE_ONLY } else { 0 });
                name_bytes(&mut out, name);
            }
            Self::Delete { parent, child, name } => {
                out.u64(parent);
                out.u64(child);
                name_length(&mut out, name);
                out.u32(0);
                name_bytes(&mut out, name);
            }
            Self::Store { node, offset, size } => {
                out.u64(node);
                out.u64(offset);
                out.u32(size);
                out.u32(0);
            }
            Self::RaiseEpoch => {}
            Self::Prune { nodes } => {
                out.u32(u32::try_from(nodes.len()).unwrap_or(u32::MAX));
                out.u32(0);
                out.u64(0);
                nodes.iter().for_each(|node| out.u64(node.0));
            }
        }
        let length = u32::try_from(out.len() + payload_bytes).unwrap_or(u32::MAX);
        out[0..4].copy_from_slice(&length.to_le_bytes());
        out[4..8].copy_from_slice(&(self.code() as u32).to_le_bytes());
        out
    }
}

fn name_length(out: &mut Vec<u8>, name: &[u8]) {
    out.u32(u32::try_from(name.len()).unwrap_or(u32::MAX));
}

fn name_bytes(out: &mut Vec<u8>, name: &[u8]) {
    out.extend_from_slice(name);
    out.push(0);
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_notification_has_unique_zero_and_its_code_for_an_error() {
        let bytes =
            Notification::InvalidateEntry { parent: 1, name: b"ab", expire_only: true }.encode(0);
        assert_eq!(bytes.len(), 16 + 16 + 3);
        assert_eq!(bytes[0..4], 35_u32.to_le_bytes());
        assert_eq!(bytes[4..8], 3_u32.to_le_bytes());
        assert_eq!(bytes[8..16], [0; 8]);
        assert_eq!(bytes[24..28], 2_u32.to_le_bytes());
        assert_eq!(bytes[28..32], 1_u32.to_le_bytes());
        assert_eq!(&bytes[32..], b"ab\0");
        assert_eq!(Notification::RaiseEpoch.encode(0).len(), 16);
        let bytes = Notification::Prune { nodes: &[NodeId(7), NodeId(9)] }.encode(0);
        assert_eq!(bytes.len(), 16 + 16 + 16);
        assert_eq!((bytes[4], bytes[16], bytes[32], bytes[40]), (9, 2, 7, 9));
    }
}
