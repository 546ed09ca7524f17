//! Requests to an OST as values: decoded, with everything checked that can be without the store.

use sheen_store::{PunchKind, SeekTarget, request::OBJECT_BYTES_MAX};
use sheen_types::{Blocks, Compression, Errno, Fid, OstIndex, units::TRANSFER_BYTES_MAX};
use sheen_wire::{
    Field, Frame, Opcode,
    fields::AttachKey,
    metadata::Attach,
    object::{
        self, GLIMPSE_MAX, ObjectAllocate, ObjectGlimpse, ObjectPunch, ObjectRead, ObjectRepack,
        ObjectSeek, ObjectStatistics, ObjectSync, ObjectTruncate, ObjectWrite, PunchMode,
        REPACK_BYTES_UNIT,
    },
};

/// What is asked of an OST.
#[derive(Debug)]
pub(crate) enum Ask {
    Write(ObjectWrite),
    Read(ObjectRead),
    /// A change that carries no data.
    Change(Change),
    Glimpse(Vec<Fid>),
    Seek {
        object: Fid,
        offset: u64,
        target: SeekTarget,
    },
    Statistics,
}

/// A change the store carries out by itself.
#[derive(Debug)]
pub(crate) enum Change {
    Punch(sheen_store::Punch),
    Truncate(sheen_store::Truncate),
    Allocate(sheen_store::Allocate),
    Destroy(Vec<Fid>),
    Sync,
    Repack(sheen_store::Repack, Compression),
}

/// A request, decoded.
#[derive(Debug)]
pub(crate) enum Decoded {
    /// To one OST of the service.
    Target(OstIndex, Ask),
    /// This connection is to be its client's only one.
    Attach(AttachKey),
    /// Answered without doing anything.
    Nothing,
}

fn body<T: Field>(bytes: &[u8]) -> Result<T, Errno> {
    T::from_bytes(bytes).map_err(|_| Errno::EPROTO)
}

/// A range must be some bytes, all of which an object can have.
fn check_range(offset: u64, length: u64) -> Result<(), Errno> {
    if length == 0 {
        return Err(Errno::EINVAL);
    }
    match offset.checked_add(length) {
        Some(end) if end <= OBJECT_BYTES_MAX => Ok(()),
        _ => Err(Errno::EFBIG),
    }
}

/// Decodes and checks. EPROTO: malformed; EOPNOTSUPP: not an OST's business.
pub(crate) fn decode(frame: &Frame, bytes: &[u8]) -> Result<Decoded, Errno> {
    match frame.opcode {
        Opcode::ObjectWrite => {
            let write: ObjectWrite = body(bytes)?;
            if frame.payload_bytes > 0 {
                check_range(write.offset, u64::from(frame.payload_bytes))?;
            }
            Ok(Decoded::Target(write.ost, Ask::Write(write)))
        }
        Opcode::ObjectRead => {
            let read: ObjectRead = body(bytes)?;
            let length = read.length as usize;
            if length > TRANSFER_BYTES_MAX || length > frame.reply_room() {
                return Err(Errno::EINVAL);
            }
            Ok(Decoded::Target(read.ost, Ask::Read(read)))
        }
        Opcode::ObjectGlimpse => {
            let glimpse: ObjectGlimpse = body(bytes)?;
            if glimpse.objects.0.len() > GLIMPSE_MAX {
                return Err(Errno::EINVAL);
            }
            Ok(Decoded::Target(glimpse.ost, Ask::Glimpse(glimpse.objects.0)))
        }
        Opcode::ObjectSeek => {
            let ObjectSeek { ost, object, offset, target } = body(bytes)?;
            let target = match target {
                object::SeekTarget::Data => SeekTarget::Data,
                object::SeekTarget::Hole => SeekTarget::Hole,
            };
            Ok(Decoded::Target(ost, Ask::Seek { object, offset, target }))
        }
        Opcode::ObjectStatistics => {
            let ObjectStatistics { ost } = body(bytes)?;
            Ok(Decoded::Target(ost, Ask::Statistics))
        }
        Opcode::Attach => body(bytes).map(|Attach { key }| Decoded::Attach(key)),
        Opcode::Ping => Ok(Decoded::Nothing),
        _ => decode_change(frame, bytes)
            .map(|(ost, change)| Decoded::Target(ost, Ask::Change(change))),
    }
}

fn decode_change(frame: &Frame, bytes: &[u8]) -> Result<(OstIndex, Change), Errno> {
    match frame.opcode {
        Opcode::ObjectPunch => {
            let punch: ObjectPunch = body(bytes)?;
            let length = if punch.extend || punch.mode == PunchMode::Zero {
                punch.length
            } else {
                // A hole may reach to the end of everything.
                punch.length.min(OBJECT_BYTES_MAX.saturating_sub(punch.offset))
            };
            check_range(punch.offset, length)?;
            let kind = match punch.mode {
                PunchMode::Hole => PunchKind::Hole,
                PunchMode::Zero => PunchKind::Zero,
            };
            let ObjectPunch { ost, object, offset, extend, mtime, .. } = punch;
            let punch =
                sheen_store::Punch { object, offset, length, kind, extend, mtime, durable: false };
            Ok((ost, Change::Punch(punch)))
        }
        Opcode::ObjectTruncate => {
            let ObjectTruncate { ost, object, size, mtime } = body(bytes)?;
            if size > OBJECT_BYTES_MAX {
                return Err(Errno::EFBIG);
            }
            Ok((
                ost,
                Change::Truncate(sheen_store::Truncate { object, size, mtime, durable: false }),
            ))
        }
        Opcode::ObjectAllocate => {
            let ObjectAllocate { ost, object, offset, length, keep_size, mtime } = body(bytes)?;
            check_range(offset, length)?;
            let allocate =
                sheen_store::Allocate { object, offset, length, keep_size, mtime, durable: false };
            Ok((ost, Change::Allocate(allocate)))
        }
        Opcode::ObjectRepack => {
            let ObjectRepack { ost, object, offset, length, compression } = body(bytes)?;
            check_range(offset, u64::from(length))?;
            if !offset.is_multiple_of(REPACK_BYTES_UNIT) || length as usize > TRANSFER_BYTES_MAX {
                return Err(Errno::EINVAL);
            }
            let length = Blocks::covering(u64::from(length)).bytes();
            let repack = sheen_store::Repack { object, offset, length, durable: false };
            Ok((ost, Change::Repack(repack, compression)))
        }
        Opcode::ObjectSync => {
            let ObjectSync { ost, object: _ } = body(bytes)?;
            Ok((ost, Change::Sync))
        }
        _ => Err(Errno::EOPNOTSUPP),
    }
}
