//! Reading: a range under the lease, out of its objects at the same time; holes are zeros, the end of the file is the end.

use std::sync::Arc;

use sheen_dma::Buffer;
use sheen_ports::Cancel;
use sheen_types::{Errno, Layout, OstIndex, Segment};
use sheen_wire::{
    Opcode,
    object::{ObjectRead, ReadReply},
};

use crate::{
    attributes::lazy_copy,
    client::Client,
    data_lease::Access,
    hold::{Hold, Purpose, Under},
    inode::Inode,
    object_request::ObjectRequest,
    pool::Piece,
    statistics::{add, count},
    write::object_of,
};

/// What a read gave.
#[derive(Debug)]
pub struct ReadOutcome {
    /// The room, if it survived; its first bytes are the content.
    pub buffer: Option<Buffer>,
    /// Bytes read; fewer than asked for at the end of the file.
    pub bytes: usize,
    /// Of a read for the page cache that met the end of the file: to be kept until its answer is handed over.
    pub end: Option<EndHold>,
}

/// The file ends where a read met its end. The kernel does not learn that from an answer which a notification overtakes, and
/// while this is held, pages that were filled after a lease was asked back are not dropped yet.
#[derive(Debug)]
pub struct EndHold(#[expect(dead_code, reason = "dropped only")] Hold);

/// A segment with its part of the room.
struct Part {
    segment: Segment,
    room: Buffer,
    /// Bytes the object had, and its size; None: there is no object.
    found: Option<(usize, u64)>,
}

impl Client {
    /// Reads into `room`, as much as fits, from `offset`. Whether that counts as an access is the caller's to say
    /// ([`Client::note_access`]).
    ///
    /// # Errors
    /// EIO, EINTR, ESTALE.
    pub fn read(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        offset: u64,
        room: Buffer,
        access: Access,
        cancel: &Cancel,
    ) -> Result<ReadOutcome, Errno> {
        count(&self.counters.reads);
        let range = offset..offset.saturating_add(room.len() as u64);
        let (layout, hold) = loop {
            let layout = self.layout(inode, cancel)?;
            let hold = self.hold(inode, Purpose::Read, access, range.clone(), cancel)?;
            if inode.has_layout(&layout) {
                break (layout, hold);
            }
        };
        let wanted = room.len();
        let mut result = self.read_held(hold.under(), &layout, offset, room, cancel);
        if access == Access::Cached
            && let Ok(ReadOutcome { bytes: bytes @ 1.., .. }) = &result
        {
            let told = self.tell_size(inode, offset.saturating_add(*bytes as u64));
            result = told.and(result);
        }
        match &mut result {
            Ok(outcome) if access == Access::Cached && outcome.bytes < wanted => {
                outcome.end = Some(EndHold(hold));
            }
            _ => drop(hold),
        }
        if access == Access::Cached {
            self.note_pages(inode);
        }
        if let Ok(outcome) = &result {
            add(&self.counters.read_bytes, outcome.bytes as u64);
        }
        result
    }

    /// Tells who caches pages where the file ends (or, if that is not known here, that it does not end before `end`), if it may
    /// have another end and somebody has the file open for writing: a mapping may change the pages it is about to get, and what
    /// it changes behind the end that is known there is not written. The caller works under the lease.
    fn tell_size(&self, inode: &Inode, end: u64) -> Result<(), Errno> {
        let (writers, known) = {
            let state = inode.lock();
            (state.writers, state.known)
        };
        let losses = inode.losses_of_size();
        if writers == 0 || !self.sink().lacks_size(inode.fid, losses) {
            return Ok(());
        }
        match known {
            Some(known) => self.sink().tell_size(inode.fid, known.size, losses),
            None => self.sink().tell_size(inode.fid, end, None),
        }
    }

    fn read_held(
        self: &Arc<Self>,
        under: &Under,
        layout: &Arc<Layout>,
        offset: u64,
        mut room: Buffer,
        cancel: &Cancel,
    ) -> Result<ReadOutcome, Errno> {
        let inode = &*under.inode;
        let size = inode.lock().known.map(|known| known.size);
        let mut wanted = room.len();
        if let Some(size) = size {
            let left = size.saturating_sub(offset);
            wanted = wanted.min(usize::try_from(left).unwrap_or(usize::MAX));
        }
        if wanted == 0 {
            return Ok(ReadOutcome { buffer: Some(room), bytes: 0, end: None });
        }
        let tail = room.split_off(wanted);
        let pieces = self.read_pieces(under, layout, offset, room, cancel)?;
        let full = pieces.iter().all(|p| p.found.is_some_and(|(bytes, _)| bytes == p.room.len()));
        let size = match size {
            Some(size) => size,
            None if full => offset.saturating_add(wanted as u64),
            None => self.size_after_short_read(inode, layout, &pieces, cancel)?,
        };
        let mut whole: Option<Buffer> = None;
        for mut piece in pieces {
            let bytes = piece.found.map_or(0, |(bytes, _)| bytes);
            piece.room.as_mut_slice()[bytes..].fill(0);
            whole = match whole {
                None => Some(piece.room),
                // Pieces were split off one another: they join.
                Some(mut whole) => whole.join(piece.room).is_ok().then_some(whole),
            };
            if whole.is_none() {
                return Err(Errno::EIO);
            }
        }
        let left = size.saturating_sub(offset);
        let bytes = wanted.min(usize::try_from(left).unwrap_or(usize::MAX));
        if let Some(whole) = &mut whole {
            // A buffer that is in two halves serves as well; only the first is given back then.
            drop(whole.join(tail));
        }
        Ok(ReadOutcome { buffer: whole, bytes, end: None })
    }

    /// The size of the file, by what a read that came up short has seen or by asking the objects.
    fn size_after_short_read(
        self: &Arc<Self>,
        inode: &Inode,
        layout: &Layout,
        pieces: &[Part],
        cancel: &Cancel,
    ) -> Result<u64, Errno> {
        let objects: usize = layout.components.iter().map(|c| c.objects.len()).sum();
        if let [Part { found: Some((_, size)), segment, .. }] = pieces
            && objects == 1
        {
            let component = &layout.components[segment.component];
            return Ok(match size.checked_sub(1) {
                Some(last) => component.file_offset(segment.stripe, last).saturating_add(1),
                None => 0,
            });
        }
        let lazy = inode.lock().attributes.map(|attributes| lazy_copy(&attributes));
        let (known, _) = self.learn_content(inode, layout, lazy.unwrap_or_default(), cancel)?;
        Ok(known.size)
    }

    fn read_pieces(
        self: &Arc<Self>,
        under: &Under,
        layout: &Arc<Layout>,
        offset: u64,
        room: Buffer,
        cancel: &Cancel,
    ) -> Result<Vec<Part>, Errno> {
        let mut segments = layout.segments(offset, room.len() as u64);
        if segments.is_empty() {
            // A file without components has no content: one hole.
            let length = room.len() as u64;
            segments.push(Segment {
                component: usize::MAX,
                stripe: 0,
                file_offset: offset,
                object_offset: offset,
                length,
            });
        }
        let mut pieces = Vec::new();
        let mut rest = Some(room);
        for segment in segments.into_iter().rev() {
            let mut room = rest.take().ok_or(Errno::EIO)?;
            let start = usize::try_from(segment.file_offset - offset).map_err(|_| Errno::EFBIG)?;
            if start > 0 {
                let tail = room.split_off(start);
                rest = Some(room);
                room = tail;
            }
            let (client, under, cancel) = (self.clone(), under.clone(), cancel.clone());
            let layout = layout.clone();
            // A hole waits for nobody.
            let target = object_of(&layout, &segment).map_or(OstIndex(0), |object| object.ost);
            let work = move || client.read_piece(&under, &layout, segment, room, &cancel);
            pieces.push(Piece::new(target, work));
        }
        pieces.reverse();
        self.pool.run_all(pieces).into_iter().collect()
    }

    fn read_piece(
        self: &Arc<Self>,
        under: &Under,
        layout: &Layout,
        segment: Segment,
        room: Buffer,
        cancel: &Cancel,
    ) -> Result<Part, Errno> {
        let Some(object) = object_of(layout, &segment) else {
            return Ok(Part { segment, room, found: None });
        };
        let body = ObjectRead {
            ost: object.ost,
            object: object.object,
            offset: segment.object_offset,
            length: u32::try_from(segment.length).map_err(|_| Errno::EINVAL)?,
        };
        let mut request = ObjectRequest::new(object.ost, Opcode::ObjectRead, &body).under(under);
        request.room = Some(room);
        let reply = self.ask_object(request, cancel)?;
        let size = reply.decode::<ReadReply>()?.size;
        let bytes = reply.bytes;
        let room = reply.room.ok_or(Errno::EIO)?;
        let bytes = bytes.min(room.len());
        Ok(Part { segment, room, found: Some((bytes, size)) })
    }
}

#[cfg(test)]
mod test {
    use std::{
        ops::Range,
        sync::{
            Mutex,
            atomic::{AtomicBool, Ordering},
        },
    };

    use sheen_types::Fid;

    use super::*;
    use crate::{
        CacheSink,
        fake::FILE,
        scenarios::{READ, WRITE, buffer_with, start},
    };

    /// A kernel that does not know where files end.
    #[derive(Default)]
    struct Ignorant {
        told: Mutex<Vec<(u64, bool)>>,
        refuses: AtomicBool,
    }

    impl CacheSink for Ignorant {
        fn invalidate_data(&self, _: Fid, _: Range<u64>) {}

        fn invalidate_attributes(&self, _: Fid) {}

        fn invalidate_entries(&self) {}

        fn lacks_size(&self, _: Fid, _: Option<u64>) -> bool {
            true
        }

        fn tell_size(&self, _: Fid, size: u64, losses: Option<u64>) -> Result<(), Errno> {
            self.told.lock().unwrap().push((size, losses.is_some()));
            if self.refuses.load(Ordering::Relaxed) { Err(Errno::EIO) } else { Ok(()) }
        }
    }

    #[test]
    fn no_page_is_handed_out_before_the_end_of_its_file_was_told() {
        let (fake, client) = start();
        fake.change(|state| state.write_as_another(0, b"content"));
        let kernel = Arc::new(Ignorant::default());
        client.set_sink(kernel.clone());
        let file = client.inode(FILE);
        let read = |access| {
            let room = buffer_with(&fake, &[0; 4]);
            client.read(&file, 0, room, access, &Cancel::new()).map(|outcome| outcome.bytes)
        };
        client.open(&file, READ, &Cancel::new()).unwrap();
        assert_eq!(read(Access::Cached), Ok(4));
        assert_eq!(kernel.told.lock().unwrap().as_slice(), [], "nobody can store to it");
        client.open(&file, WRITE, &Cancel::new()).unwrap();
        assert_eq!(read(Access::Direct), Ok(4));
        assert_eq!(kernel.told.lock().unwrap().as_slice(), [], "it has no page of this");
        assert_eq!(read(Access::Cached), Ok(4));
        client.attributes(&file, &Cancel::new()).unwrap();
        assert_eq!(read(Access::Cached), Ok(4));
        let told = [(4, false), (7, true)];
        assert_eq!(kernel.told.lock().unwrap().as_slice(), told, "as far as it is known");
        kernel.refuses.store(true, Ordering::Relaxed);
        assert_eq!(read(Access::Cached), Err(Errno::EIO));
        client.disconnect();
    }
}
