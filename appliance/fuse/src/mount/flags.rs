//! Inode flags and project ids by `ioctl`: `lsattr`, `chattr`, `chattr -p`; and storing a file's content anew.

use std::sync::Arc;

use sheen_client::{Changes, Inode};
use sheen_types::Errno;

use crate::{
    kernel::{Context, Ioctl, IoctlAnswer, NodeId, control},
    mount::{Mount, caller},
};

const GET_FLAGS: u32 = 0x8008_6601;
const SET_FLAGS: u32 = 0x4008_6602;
const GET_XFLAGS: u32 = 0x801c_581f;
const SET_XFLAGS: u32 = 0x401c_5820;
/// Bytes of `struct fsxattr`: xflags, extsize, nextents, projid, cowextsize (4 bytes each), 8 spare.
const FSXATTR_BYTES: usize = 28;
/// (`FS_*_FL`, `FS_XFLAG_*`) of the same meaning.
const SAME: [(u32, u32); 6] = [
    (0x0000_0010, 0x0000_0008),
    (0x0000_0020, 0x0000_0010),
    (0x0000_0008, 0x0000_0020),
    (0x0000_0080, 0x0000_0040),
    (0x0000_0040, 0x0000_0080),
    (0x2000_0000, 0x0000_0200),
];

fn to_xflags(flags: u32) -> u32 {
    SAME.iter().filter(|(flag, _)| flags & flag != 0).fold(0, |all, (_, xflag)| all | xflag)
}

/// None: a flag we do not know.
fn from_xflags(xflags: u32) -> Option<u32> {
    let known = SAME.iter().fold(0, |all, (_, xflag)| all | xflag);
    let flags =
        SAME.iter().filter(|(_, xflag)| xflags & xflag != 0).fold(0, |all, (flag, _)| all | flag);
    (xflags & !known == 0).then_some(flags)
}

/// Those of `flags` that the other numbering cannot express, and therefore does not change.
fn without_xflag(flags: u32) -> u32 {
    flags & !SAME.iter().fold(0, |all, (flag, _)| all | flag)
}

fn number(bytes: &[u8], at: usize) -> Result<u32, Errno> {
    let field = bytes.get(at..at + 4).ok_or(Errno::EINVAL)?;
    Ok(u32::from_ne_bytes_of(field))
}

/// Numbers in an ioctl's argument are in the byte order of the machine.
trait FromMachine {
    fn from_ne_bytes_of(bytes: &[u8]) -> Self;
}

impl FromMachine for u32 {
    fn from_ne_bytes_of(bytes: &[u8]) -> Self {
        let in_order: Vec<u8> = if cfg!(target_endian = "big") {
            bytes.iter().rev().copied().collect()
        } else {
            bytes.to_vec()
        };
        in_order.iter().rev().fold(0, |value, byte| value << 8 | Self::from(*byte))
    }
}

fn bytes_of(value: u32) -> [u8; 4] {
    if cfg!(target_endian = "big") { value.to_be_bytes() } else { value.to_le_bytes() }
}

impl Mount {
    pub(crate) fn control(
        &self,
        context: &Context,
        ioctl: &Ioctl<'_>,
    ) -> Result<IoctlAnswer, Errno> {
        let inode = self.inode(ioctl.node)?;
        let change = |changes: Changes| {
            let changes = Changes { caller: caller(context), ..changes };
            self.client.set_attributes(&inode, &changes, &context.cancel)?;
            self.forget_attributes(ioctl.node);
            Ok(IoctlAnswer { result: 0, output: Vec::new() })
        };
        match ioctl.command {
            GET_FLAGS => {
                let found = self.client.attributes(&inode, &context.cancel)?.attributes;
                Ok(IoctlAnswer { result: 0, output: bytes_of(found.flags).to_vec() })
            }
            GET_XFLAGS => {
                let found = self.client.attributes(&inode, &context.cancel)?.attributes;
                let mut output = vec![0; FSXATTR_BYTES];
                output[..4].copy_from_slice(&bytes_of(to_xflags(found.flags)));
                output[12..16].copy_from_slice(&bytes_of(found.projid));
                Ok(IoctlAnswer { result: 0, output })
            }
            SET_FLAGS => {
                change(Changes { flags: Some(number(ioctl.input, 0)?), ..Changes::default() })
            }
            SET_XFLAGS => {
                let flags = from_xflags(number(ioctl.input, 0)?).ok_or(Errno::EOPNOTSUPP)?;
                let found = self.client.attributes(&inode, &context.cancel)?.attributes;
                change(Changes {
                    flags: Some(flags | without_xflag(found.flags)),
                    projid: Some(number(ioctl.input, 12)?),
                    ..Changes::default()
                })
            }
            control::REPACK => self.repack(context, &inode, ioctl),
            _ => Err(Errno::ENOTTY),
        }
    }

    /// An ioctl changed attributes, which the kernel does not know of: it asks before it shows them again.
    fn forget_attributes(&self, node: NodeId) {
        if let Err(error) = self.outdate_attributes(node) {
            tracing::debug!(%error, "the kernel keeps attributes that changed");
        }
    }

    /// Only for who may write: the descriptor says so.
    fn repack(
        &self,
        context: &Context,
        inode: &Arc<Inode>,
        ioctl: &Ioctl<'_>,
    ) -> Result<IoctlAnswer, Errno> {
        if ioctl.on_directory || self.handles.get(ioctl.handle)?.write != Some(true) {
            return Err(Errno::EBADF);
        }
        let asked = control::Repack::parse(ioctl.input)?;
        let end = asked.offset.checked_add(asked.length).ok_or(Errno::EINVAL)?;
        let range = asked.offset..end;
        let result = self.client.repack(inode, range, asked.compression, &context.cancel);
        // Also where the work ended half-way: the file's space is another.
        self.forget_attributes(ioctl.node);
        result.map(|()| IoctlAnswer { result: 0, output: Vec::new() })
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn flags_survive_the_way_there_and_back() {
        for (flag, xflag) in SAME {
            assert_eq!(to_xflags(flag), xflag);
            assert_eq!(from_xflags(xflag), Some(flag));
        }
        assert_eq!(from_xflags(1 << 31), None);
        assert_eq!(without_xflag(0x2000_0404), 0x0404, "chattr -p leaves compression alone");
    }

    #[test]
    fn numbers_are_read_as_they_are_written() {
        assert_eq!(number(&bytes_of(0x1234_5678), 0), Ok(0x1234_5678));
        assert_eq!(number(&[0; 3], 0), Err(Errno::EINVAL));
    }
}
