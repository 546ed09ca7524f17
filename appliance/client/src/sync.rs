//! `fsync` and `sync`: what OSTs acknowledged becomes durable against power loss. Metadata always is.
//!
//! The MDT's lazy copy of size and mtime is not brought up to date: objects know better, and it would cost a change of
//! metadata for each sync. It learns when the lease on content is given back.

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering},
};

use sheen_ports::Cancel;
use sheen_types::{Errno, Fid, OstIndex};
use sheen_wire::{Opcode, object::ObjectSync};

use crate::{
    client::Client, data_lease::DataMode, inode::Inode, object_request::ObjectRequest, pool::Piece,
    write_errors::ErrorCursor,
};

impl Client {
    /// Makes the content of an open file durable, whoever wrote it, and tells of what was written and is lost. What a
    /// target of a new incarnation forgot is sent again before it is asked ([`crate::resend`]), so that 0 means: all of it
    /// is there for good.
    ///
    /// # Errors
    /// EIO: something was lost, told once for each loss and open file; or an OST cannot. EINTR.
    pub fn sync(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        errors: &ErrorCursor,
        cancel: &Cancel,
    ) -> Result<(), Errno> {
        self.sync_content(inode, cancel)?;
        self.wait_dropped(inode, cancel)?;
        inode.check_write_errors(errors)
    }

    fn sync_content(self: &Arc<Self>, inode: &Arc<Inode>, cancel: &Cancel) -> Result<(), Errno> {
        let layout = self.layout(inode, cancel)?;
        let (known_dirty, seen) = {
            let state = inode.lock();
            if state.failed {
                return Err(Errno::EIO);
            }
            (state.unsynced.clone(), (state.writes_noted, state.writing, state.losses))
        };
        let objects = layout.components.iter().flat_map(|c| &c.objects);
        let targets: BTreeSet<(OstIndex, Fid)> = objects
            .filter(|o| known_dirty.as_ref().is_none_or(|dirty| dirty.contains(&o.ost)))
            .map(|o| (o.ost, o.object))
            .collect();
        self.sync_targets(&targets, cancel)?;
        let mut state = inode.lock();
        // With the lease all writes are ours, so nothing is left to sync until the next; without, anybody may write.
        let quiet = seen == (state.writes_noted, 0, state.losses);
        if quiet && state.data.mode != DataMode::None && !state.data.revoking {
            state.unsynced = Some(BTreeSet::new());
        }
        Ok(())
    }

    fn sync_targets(
        self: &Arc<Self>,
        targets: &BTreeSet<(OstIndex, Fid)>,
        cancel: &Cancel,
    ) -> Result<(), Errno> {
        let mut pieces = Vec::new();
        let mut seen = BTreeSet::new();
        // An OST makes all durable at once: one request for each is enough.
        for (ost, object) in targets.iter().filter(|(ost, _)| seen.insert(*ost)) {
            let body = ObjectSync { ost: *ost, object: *object };
            let (client, cancel) = (self.clone(), cancel.clone());
            pieces.push(Piece::new(*ost, move || {
                let request = ObjectRequest::new(body.ost, Opcode::ObjectSync, &body);
                client.ask_object(request, &cancel).map(drop)
            }));
        }
        self.pool.run_all(pieces).into_iter().collect()
    }

    /// Makes everything on every OST durable.
    ///
    /// # Errors
    /// EIO: an OST cannot, or something was lost since the last time. EINTR.
    pub fn sync_all(self: &Arc<Self>, cancel: &Cancel) -> Result<(), Errno> {
        let services = self.session.lock().services.clone();
        let targets = services.keys().map(|ost| (*ost, Fid::NONE)).collect();
        self.sync_targets(&targets, cancel)?;
        let lost = self.counters.changes_lost.load(Ordering::Relaxed);
        if self.losses_told.swap(lost, Ordering::Relaxed) == lost {
            Ok(())
        } else {
            Err(Errno::EIO)
        }
    }
}
