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
