//! `SEEK_DATA` and `SEEK_HOLE` over the stripes of a file.

use std::sync::Arc;

use sheen_ports::Cancel;
use sheen_types::{Errno, Layout};
use sheen_wire::{
    Opcode,
    object::{ObjectSeek, SeekReply, SeekTarget},
};

use crate::{
    client::Client, data_lease::Access, hold::Purpose, inode::Inode, inode::Known,
    object_request::ObjectRequest,
};

impl Client {
    /// The first data (or hole) at or behind `offset`; the end of the file counts as a hole.
    ///
    /// # Errors
    /// ENXIO behind the end, or when no data follows; EINTR.
    pub fn seek(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        offset: u64,
        target: SeekTarget,
        cancel: &Cancel,
    ) -> Result<u64, Errno> {
        if inode.lock().writers > 0 {
            // Pages that a mapping made dirty are data the objects do not know of, and the kernel does not write them first.
            self.sink().invalidate_data(inode.fid, offset..u64::MAX);
        }
        let (layout, hold) = loop {
            let layout = self.layout(inode, cancel)?;
            let whole = 0..u64::MAX;
            let hold = self.hold(inode, Purpose::Read, Access::Direct, whole, cancel)?;
            if inode.has_layout(&layout) {
                break (layout, hold);
            }
        };
        let size = self.content(inode, &layout, Known::default(), cancel)?.size;
        if offset >= size {
            return Err(Errno::ENXIO);
        }
        let found = self.seek_in(&layout, offset, target, cancel)?;
        drop(hold);
        match target {
            SeekTarget::Hole => Ok(found.unwrap_or(size).min(size)),
            SeekTarget::Data => found.filter(|at| *at < size).ok_or(Errno::ENXIO),
        }
    }

    /// The first in any object, by offset in the file.
    fn seek_in(
        self: &Arc<Self>,
        layout: &Layout,
        offset: u64,
        target: SeekTarget,
        cancel: &Cancel,
    ) -> Result<Option<u64>, Errno> {
        for component in layout.components.iter().filter(|c| offset < c.end) {
            let start = offset.max(component.start);
            if !component.is_instantiated() {
                if target == SeekTarget::Hole {
                    return Ok(Some(start));
                }
                continue;
            }
            let mut first = None;
            for (stripe, object) in component.objects.iter().enumerate() {
                let object_offset = component.object_size(stripe, start);
                let body = ObjectSeek {
                    ost: object.ost,
                    object: object.object,
                    offset: object_offset,
                    target,
                };
                let request = ObjectRequest::new(object.ost, Opcode::ObjectSeek, &body);
                let at = match self.ask_object(request, cancel) {
                    Ok(reply) => reply.decode::<SeekReply>()?.offset,
                    // Behind the object's end: all hole, and no data.
                    Err(Errno::ENXIO) if target == SeekTarget::Hole => object_offset,
                    Err(Errno::ENXIO) => continue,
                    Err(errno) => return Err(errno),
                };
                let at = component.file_offset(stripe, at);
                first = Some(first.map_or(at, |first: u64| first.min(at)));
            }
            if let Some(at) = first.filter(|at| *at < component.end) {
                return Ok(Some(at));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod test {
    use std::{ops::Range, sync::Mutex};

    use sheen_types::Fid;

    use super::*;
    use crate::{
        CacheSink,
        fake::{FILE, Fake},
        scenarios::{READ, WRITE, start, write},
    };

    /// A kernel with dirty pages: they are written when it is told to drop its pages.
    struct Dirty {
        fake: Fake,
        dropped: Mutex<Vec<(Range<u64>, usize)>>,
    }

    impl CacheSink for Dirty {
        fn invalidate_data(&self, _: Fid, range: Range<u64>) {
            let asked = self.fake.sent(Opcode::ObjectSeek).len();
            self.dropped.lock().unwrap().push((range, asked));
        }

        fn invalidate_attributes(&self, _: Fid) {}

        fn invalidate_entries(&self) {}
    }

    #[test]
    fn pages_a_mapping_made_dirty_are_written_before_objects_are_asked_for_data() {
        let (fake, client) = start();
        let dirty = Arc::new(Dirty { fake: fake.clone(), dropped: Mutex::default() });
        client.set_sink(dirty.clone());
        let file = client.inode(FILE);
        client.open(&file, READ, &Cancel::new()).unwrap();
        write(&fake, &client, &file, 0, b"content");
        // The fake's objects do not tell where data is; that they are asked is enough.
        client.seek(&file, 3, SeekTarget::Data, &Cancel::new()).unwrap_err();
        assert_eq!(dirty.dropped.lock().unwrap().as_slice(), [], "nobody here can map it to write");
        client.open(&file, WRITE, &Cancel::new()).unwrap();
        let asked = fake.sent(Opcode::ObjectSeek).len();
        client.seek(&file, 3, SeekTarget::Data, &Cancel::new()).unwrap_err();
        assert!(dirty.dropped.lock().unwrap().iter().eq(&[(3..u64::MAX, asked)]));
        assert!(fake.sent(Opcode::ObjectSeek).len() > asked);
        client.disconnect();
    }
}
