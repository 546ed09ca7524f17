//! Cutting and extending the objects of a file.
//!
//! The object that holds the last byte is made and extended, so that objects always know the size.

use std::{ops::Range, sync::Arc};

use sheen_ports::Cancel;
use sheen_types::{Component, Errno, Layout, Timespec};
use sheen_wire::{
    Opcode,
    object::{ObjectTruncate, WriteReply},
};

use crate::{
    attributes::lazy_copy,
    client::Client,
    data_lease::Access,
    hold::{Hold, Purpose},
    inode::{Inode, Known},
    layout::has_objects,
    object_request::ObjectRequest,
    pool::Piece,
    underway::Underway,
};

/// Largest size of a file in bytes.
pub(crate) const FILE_BYTES_MAX: u64 = i64::MAX as u64;

/// Size the object of `stripe` must have when the file ends at `size`.
pub(crate) fn object_end(component: &Component, stripe: usize, size: u64) -> u64 {
    if size <= component.start { 0 } else { component.object_size(stripe, size.min(component.end)) }
}

impl Client {
    /// Makes room for a file to end at `size`: an object for its last byte, if the file grows. No content changes.
    pub(crate) fn prepare_truncate(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        size: u64,
        cancel: &Cancel,
    ) -> Result<(), Errno> {
        if size > FILE_BYTES_MAX {
            return Err(Errno::EFBIG);
        }
        if size > 0 {
            drop(self.hold_to_truncate(inode, size, cancel)?);
        }
        Ok(())
    }

    /// Makes the objects of a file end where the file is to end, as the MDT allowed at `mtime`.
    pub(crate) fn truncate(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        size: u64,
        mtime: Timespec,
        cancel: &Cancel,
    ) -> Result<(), Errno> {
        let (layout, hold) = self.hold_to_truncate(inode, size, cancel)?;
        self.truncate_objects(inode, &layout, size, (mtime, hold), cancel)
    }

    /// The lease on the content, and a layout with an object for the last byte if the file is to grow to `size`.
    fn hold_to_truncate(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        size: u64,
        cancel: &Cancel,
    ) -> Result<(Arc<Layout>, Hold), Errno> {
        let last: Range<u64> = size.saturating_sub(1)..size;
        let mut layout = self.layout(inode, cancel)?;
        loop {
            let (attributes, _) = self.metadata_attributes(inode, cancel)?;
            let hold = self.hold(inode, Purpose::Write, Access::Direct, 0..u64::MAX, cancel)?;
            if !inode.has_layout(&layout) {
                drop(hold);
                layout = self.layout(inode, cancel)?;
                continue;
            }
            if has_objects(&layout, &last) {
                return Ok((layout, hold));
            }
            let known = self.content(inode, &layout, lazy_copy(&attributes), cancel)?;
            if size <= known.size {
                return Ok((layout, hold));
            }
            drop(hold);
            layout = self.layout_with_objects(inode, &last, cancel)?;
        }
    }

    /// What is known of the content, asking the objects if need be. The caller holds the lease.
    pub(crate) fn content(
        self: &Arc<Self>,
        inode: &Inode,
        layout: &Layout,
        without_objects: Known,
        cancel: &Cancel,
    ) -> Result<Known, Errno> {
        let known = inode.lock().known;
        match known {
            Some(known) => Ok(known),
            None => Ok(self.learn_content(inode, layout, without_objects, cancel)?.0),
        }
    }

    fn truncate_objects(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        layout: &Layout,
        size: u64,
        (mtime, hold): (Timespec, Hold),
        cancel: &Cancel,
    ) -> Result<(), Errno> {
        let mut pieces = Vec::new();
        let objects = layout.components.iter().flat_map(|component| &component.objects);
        let targets = objects.map(|object| object.ost).collect();
        let underway = Underway::begin(inode, targets, Some(hold));
        for component in &layout.components {
            for (stripe, object) in component.objects.iter().enumerate() {
                let body = ObjectTruncate {
                    ost: object.ost,
                    object: object.object,
                    size: object_end(component, stripe, size),
                    mtime,
                };
                let (client, cancel) = (self.clone(), cancel.clone());
                let underway = underway.clone();
                let work = move || client.truncate_object(&body, &underway, &cancel);
                pieces.push(Piece::new(object.ost, work));
            }
        }
        let result = self.carry_out(pieces);
        let mut state = inode.lock();
        match result {
            Ok(()) => {
                state.known = Some(Known { size, blocks: None, mtime });
                state.untold = true;
            }
            // Some objects may be cut, others not: they must be asked.
            Err(_) => state.known = None,
        }
        result
    }

    fn truncate_object(
        self: &Arc<Self>,
        body: &ObjectTruncate,
        underway: &Arc<Underway>,
        cancel: &Cancel,
    ) -> Result<(), Errno> {
        let request = ObjectRequest::new(body.ost, Opcode::ObjectTruncate, body).of(underway);
        self.ask_object(request, cancel)?.decode::<WriteReply>().map(drop)
    }

    /// Carries out parts of one change of content at the same time; the first error counts.
    /// The change must live until its outcome is noted, the lease with it.
    pub(crate) fn carry_out(&self, pieces: Vec<Piece<()>>) -> Result<(), Errno> {
        self.pool.run_all(pieces).into_iter().collect()
    }

    /// After a change whose effect on size and space only the objects know.
    pub(crate) fn forget_content(&self, inode: &Inode) {
        let mut state = inode.lock();
        state.untold = true;
        state.known = None;
    }
}
