//! Writing: a range under the lease, split into pieces that go to their objects at the same time.

use std::{
    ops::Range,
    sync::{Arc, atomic::Ordering},
};

use sheen_dma::Buffer;
use sheen_ports::Cancel;
use sheen_types::{Errno, Fid, Layout, OstIndex, Segment, StripeObject, Timespec};
use sheen_wire::{
    Opcode,
    object::{ObjectWrite, WriteReply},
};

use crate::{
    client::Client,
    data_lease::Access,
    hold::{Hold, Purpose},
    inode::{Inode, Known},
    layout::has_objects,
    object_request::ObjectRequest,
    pool::Piece,
    statistics::{add, count},
    truncate::FILE_BYTES_MAX,
    underway::Underway,
};

/// How to write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WriteOptions {
    /// At the end of the file, wherever that is (`O_APPEND`); the offset is ignored.
    pub append: bool,
    /// Answer when it is durable against power loss (`O_DSYNC`).
    pub durable: bool,
    /// How the kernel holds the pages.
    pub access: Access,
}

struct Part {
    object: StripeObject,
    object_offset: u64,
    payload: Buffer,
}

struct Ended {
    result: Result<WriteReply, Errno>,
    payload: Option<Buffer>,
    bytes: usize,
}

impl Ended {
    /// Nobody knows what became of the piece.
    fn lost(errno: Errno) -> Self {
        Self { result: Err(errno), payload: None, bytes: 0 }
    }
}

impl Client {
    /// Writes all of `payload` at `offset`. Returns bytes written (fewer than all only when an error came in the
    /// middle, and never of a write-back, which fails then) and the payload's buffer, if it survived.
    ///
    /// # Errors
    /// ENOSPC, EDQUOT, EFBIG, EIO, EINTR.
    pub fn write(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        offset: u64,
        payload: Buffer,
        options: &WriteOptions,
        cancel: &Cancel,
    ) -> Result<(usize, Option<Buffer>), Errno> {
        if payload.is_empty() {
            return Ok((0, Some(payload)));
        }
        count(&self.counters.writes);
        let length = payload.len() as u64;
        let (at, result) = match self.prepare_write(inode, offset, length, options, cancel) {
            Ok((at, layout, hold)) => {
                (at, self.write_pieces(inode, &layout, (at, payload), options, hold, cancel))
            }
            Err(errno) => (offset, Err(errno)),
        };
        if options.access == Access::Writeback && result.is_err() {
            // The kernel keeps pages it could not write and takes them for what the file holds.
            self.losses.note(inode.fid);
        }
        if options.access == Access::Cached {
            self.note_pages(inode);
            if at != offset {
                self.drop_pages(inode, at.min(offset)..u64::MAX);
            }
        }
        if let Ok((bytes, _)) = &result {
            add(&self.counters.write_bytes, *bytes as u64);
            let due = inode.lock().gather_write(at..at + *bytes as u64);
            if let Some(range) = due {
                self.pack_gathered(inode, range, cancel);
            }
        }
        result
    }

    /// Gets the lease, objects for the range, and for an append the place of it.
    fn prepare_write(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        offset: u64,
        length: u64,
        options: &WriteOptions,
        cancel: &Cancel,
    ) -> Result<(u64, Arc<Layout>, Hold), Errno> {
        let mut at = offset;
        if options.append {
            at = inode.lock().known.map_or(0, |known| known.size);
        }
        loop {
            let range: Range<u64> = at..at.checked_add(length).ok_or(Errno::EFBIG)?;
            if range.end > FILE_BYTES_MAX {
                return Err(Errno::EFBIG);
            }
            let layout = self.layout_with_objects(inode, &range, cancel)?;
            let hold = self.hold(inode, Purpose::Write, options.access, range, cancel)?;
            if !inode.has_layout(&layout) {
                continue;
            }
            inode.lock().check_may_write()?;
            if options.append {
                let end = self.content(inode, &layout, Known::default(), cancel)?.size;
                let covered = end.checked_add(length).ok_or(Errno::EFBIG)?;
                if end != at && !has_objects(&layout, &(end..covered)) {
                    at = end;
                    continue;
                }
                at = end;
                if covered > FILE_BYTES_MAX {
                    return Err(Errno::EFBIG);
                }
            }
            return Ok((at, layout, hold));
        }
    }

    fn write_pieces(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        layout: &Layout,
        (at, payload): (u64, Buffer),
        options: &WriteOptions,
        hold: Hold,
        cancel: &Cancel,
    ) -> Result<(usize, Option<Buffer>), Errno> {
        let length = payload.len();
        let pieces = split(layout, at, payload)?;
        let targets = pieces.iter().map(|piece| piece.object.ost).collect();
        let underway = Underway::begin(inode, targets, Some(hold));
        let model = {
            let state = inode.lock();
            ObjectWrite {
                ost: OstIndex(0),
                object: Fid::NONE,
                offset: 0,
                mtime: Timespec::ZERO,
                uid: state.owner.0,
                gid: state.owner.1,
                projid: state.owner.2,
                durable: options.durable,
                compression: state.compression,
            }
        };
        let pieces = pieces
            .into_iter()
            .map(|piece| {
                let (client, cancel) = (self.clone(), cancel.clone());
                let underway = underway.clone();
                let body = ObjectWrite {
                    ost: piece.object.ost,
                    object: piece.object.object,
                    offset: piece.object_offset,
                    ..model.clone()
                };
                let work = move || Ok(client.write_piece(&body, piece.payload, &underway, &cancel));
                Piece::new(piece.object.ost, work)
            })
            .collect();
        // `underway`, and with it the lease, lives until the outcome is noted.
        let ended = self.pool.run_all(pieces);
        let ended = ended.into_iter().map(|ended| ended.unwrap_or_else(Ended::lost)).collect();
        let single = layout.components.iter().map(|c| c.objects.len()).sum::<usize>() == 1;
        let mut state = inode.lock();
        state.written_at = Some(self.clock.now());
        if state.data.revoking {
            self.cleaned.fetch_add(1, Ordering::AcqRel);
        }
        let (written, last, error, payload) = gather(ended);
        if let Some(WriteReply { blocks, mtime, .. }) = last {
            let blocks = (single && written == length).then_some(blocks);
            state.note_write(at + written as u64, mtime, blocks);
        }
        if error.is_some() {
            // A piece behind the one that failed may have made the file longer.
            state.known = None;
        }
        match error {
            // The kernel does not look how much of its pages was written.
            Some(errno) if written == 0 || options.access == Access::Writeback => Err(errno),
            _ => Ok((written, payload)),
        }
    }

    fn write_piece(
        self: &Arc<Self>,
        body: &ObjectWrite,
        payload: Buffer,
        underway: &Arc<Underway>,
        cancel: &Cancel,
    ) -> Ended {
        let bytes = payload.len();
        let mut request = ObjectRequest::new(body.ost, Opcode::ObjectWrite, body).of(underway);
        request.payload = Some(payload);
        match self.ask_object(request, cancel) {
            Ok(reply) => {
                let result = reply.decode::<WriteReply>();
                Ended { result, payload: reply.payload, bytes }
            }
            Err(errno) => Ended { result: Err(errno), payload: None, bytes },
        }
    }
}

/// Cuts the payload where objects change.
fn split(layout: &Layout, at: u64, payload: Buffer) -> Result<Vec<Part>, Errno> {
    let segments = layout.segments(at, payload.len() as u64);
    let mut pieces = Vec::with_capacity(segments.len());
    let mut rest = Some(payload);
    for segment in segments.iter().rev() {
        let object = object_of(layout, segment).ok_or(Errno::EIO)?;
        let start = usize::try_from(segment.file_offset - at).map_err(|_| Errno::EFBIG)?;
        let mut payload = rest.take().ok_or(Errno::EIO)?;
        if start > 0 {
            let tail = payload.split_off(start);
            rest = Some(payload);
            payload = tail;
        }
        pieces.push(Part { object, object_offset: segment.object_offset, payload });
    }
    pieces.reverse();
    Ok(pieces)
}

/// The object a segment lies in, if it exists.
pub(crate) fn object_of(layout: &Layout, segment: &Segment) -> Option<StripeObject> {
    layout.components.get(segment.component)?.objects.get(segment.stripe).copied()
}

/// Bytes written before the first error, the last object's state with the latest time of all, that error, and the payload in one
/// again.
fn gather(ended: Vec<Ended>) -> (usize, Option<WriteReply>, Option<Errno>, Option<Buffer>) {
    let (mut written, mut last, mut error, mut whole) = (0, None, None, None::<Buffer>);
    let mut intact = true;
    for piece in ended {
        match piece.result {
            Ok(reply) if error.is_none() => {
                written += piece.bytes;
                let before = last.map_or(Timespec::ZERO, |last: WriteReply| last.mtime);
                last = Some(WriteReply { mtime: reply.mtime.max(before), ..reply });
            }
            Ok(_) => {}
            Err(errno) => error = error.or(Some(errno)),
        }
        whole = match (whole, piece.payload) {
            (None, first) => first,
            (Some(mut whole), Some(next)) => {
                intact &= whole.join(next).is_ok();
                Some(whole)
            }
            (whole, None) => {
                intact = false;
                whole
            }
        };
    }
    (written, last, error, whole.filter(|_| intact))
}
