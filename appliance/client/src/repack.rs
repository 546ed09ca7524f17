//! Storing content anew, compressed or plain: what `sheen recompress` asks for.
//!
//! The content stays what it is, so that no lease on it is in the way and none is taken; only its space changes. An OST
//! does one slab at a time; a range is cut where slabs end and sent in rounds of a few.

use std::{ops::Range, sync::Arc};

use sheen_ports::Cancel;
use sheen_types::{Compression, Errno, units::TRANSFER_BYTES_MAX};
use sheen_wire::{
    Opcode,
    object::{ObjectRepack, REPACK_BYTES_UNIT, WriteReply},
};

use crate::{
    client::Client,
    inode::Inode,
    layout::{Part, parts},
    object_request::ObjectRequest,
    pool::Piece,
    underway::Underway,
};

/// Most bytes of a file in one call.
pub const REPACK_BYTES_MAX: u64 = 64 << 20;
/// Requests under way at a time.
const ROUND: usize = 4;

impl Client {
    /// Stores what lies in `range` of a file anew: with `compression`, or with that of the file's flags if it is None.
    /// Windows of 64 KiB that the range meets in part are stored anew as a whole.
    ///
    /// # Errors
    /// EINVAL: an empty range or one of more than [`REPACK_BYTES_MAX`]. ENOSPC, EIO, EINTR. EOPNOTSUPP: the OST cannot.
    pub fn repack(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        range: Range<u64>,
        compression: Option<Compression>,
        cancel: &Cancel,
    ) -> Result<(), Errno> {
        if range.is_empty() || range.end - range.start > REPACK_BYTES_MAX {
            return Err(Errno::EINVAL);
        }
        let compression = match compression {
            Some(given) => given,
            None => Compression::of_flags(self.metadata_attributes(inode, cancel)?.0.flags),
        };
        let layout = self.layout(inode, cancel)?;
        let bodies: Vec<ObjectRepack> =
            parts(&layout, &range).iter().flat_map(|part| slabs(part, compression)).collect();
        let mut result = Ok(());
        for round in bodies.chunks(ROUND) {
            if cancel.is_cancelled() {
                result = Err(Errno::EINTR);
                break;
            }
            let mut pieces = Vec::new();
            let targets = round.iter().map(|body| body.ost).collect();
            let underway = Underway::begin(inode, targets, None);
            for body in round.iter().cloned() {
                let (client, cancel) = (self.clone(), cancel.clone());
                let underway = underway.clone();
                pieces.push(Piece::new(body.ost, move || {
                    let request =
                        ObjectRequest::new(body.ost, Opcode::ObjectRepack, &body).of(&underway);
                    client.ask_object(request, &cancel)?.decode::<WriteReply>().map(drop)
                }));
            }
            result = self.carry_out(pieces);
            if result.is_err() {
                break;
            }
        }
        // Size and times stand; the space is the objects' to know.
        if let Some(known) = &mut inode.lock().known {
            known.blocks = None;
        }
        result
    }
}

/// The requests for a part of an object, from the window its first byte lies in on.
fn slabs(part: &Part, compression: Compression) -> impl Iterator<Item = ObjectRepack> + use<> {
    let slab = TRANSFER_BYTES_MAX as u64;
    let object = part.object;
    let (first, end) = (part.start - part.start % REPACK_BYTES_UNIT, part.end);
    let starts = (first / slab..end.div_ceil(slab)).map(move |number| first.max(number * slab));
    starts.map(move |offset| {
        let behind = (offset / slab + 1).saturating_mul(slab).min(end);
        ObjectRepack {
            ost: object.ost,
            object: object.object,
            offset,
            length: u32::try_from(behind - offset).unwrap_or(u32::MAX),
            compression,
        }
    })
}

#[cfg(test)]
mod test {
    use sheen_types::{Fid, OstIndex, StripeObject};

    use super::*;

    #[test]
    fn a_part_is_cut_where_slabs_end_and_begins_with_a_window() {
        let object = StripeObject { object: Fid::ROOT, generation: 0, ost: OstIndex(3) };
        let part = |start, end| Part { component: 0, stripe: 0, object, start, end };
        let cut = |start, end| {
            let ranges = slabs(&part(start, end), Compression::Lz4);
            ranges.map(|body| (body.offset, body.length)).collect::<Vec<_>>()
        };
        assert_eq!(cut(70_000, 70_001), [(65536, 4465)]);
        assert_eq!(cut(0, 2 << 20), [(0, 1 << 20), (1 << 20, 1 << 20)]);
        assert_eq!(cut((1 << 20) - 1, (1 << 20) + 1), [((1 << 20) - 65536, 65536), (1 << 20, 1)]);
    }
}
