//! `fsync` and `sync`: what OSTs acknowledged becomes durable against power loss. Metadata always is.

use std::{collections::BTreeSet, sync::Arc};

use sheen_ports::Cancel;
use sheen_types::{Errno, Fid, OstIndex};
use sheen_wire::{Opcode, metadata::UpdateSize, object::ObjectSync};

use crate::{client::Client, inode::Inode, request::Request, targets::ObjectRequest};

impl Client {
    /// Makes the content of a file durable, whoever wrote it.
    ///
    /// # Errors
    /// EIO, EINTR.
    pub fn sync(self: &Arc<Self>, inode: &Arc<Inode>, cancel: &Cancel) -> Result<(), Errno> {
        let layout = self.layout(inode, cancel)?;
        let known_dirty = {
            let mut state = inode.lock();
            if state.failed {
                return Err(Errno::EIO);
            }
            // With the lease all writes are ours; without, anybody may have written.
            let hold = state.data.mode != crate::data_lease::DataMode::None && !state.data.revoking;
            let fresh = hold.then(BTreeSet::new);
            std::mem::replace(&mut state.unsynced, fresh)
        };
        let objects = layout.components.iter().flat_map(|c| &c.objects);
        let targets: BTreeSet<(OstIndex, Fid)> = objects
            .filter(|o| known_dirty.as_ref().is_none_or(|dirty| dirty.contains(&o.ost)))
            .map(|o| (o.ost, o.object))
            .collect();
        let result = self.sync_targets(&targets, cancel);
        if result.is_err() {
            inode.lock().unsynced = None;
        }
        result
    }

    fn sync_targets(
        self: &Arc<Self>,
        targets: &BTreeSet<(OstIndex, Fid)>,
        cancel: &Cancel,
    ) -> Result<(), Errno> {
        let mut tasks: Vec<Box<dyn FnOnce() -> Result<(), Errno> + Send>> = Vec::new();
        let mut seen = BTreeSet::new();
        // An OST makes all durable at once: one request for each is enough.
        for (ost, object) in targets.iter().filter(|(ost, _)| seen.insert(*ost)) {
            let body = ObjectSync { ost: *ost, object: *object };
            let (client, cancel) = (self.clone(), cancel.clone());
            tasks.push(Box::new(move || {
                let request = ObjectRequest::new(body.ost, Opcode::ObjectSync, &body);
                client.ask_object(request, &cancel).map(drop)
            }));
        }
        self.pool.run_all(tasks).into_iter().collect()
    }

    /// Makes everything on every OST durable.
    ///
    /// # Errors
    /// EIO, EINTR.
    pub fn sync_all(self: &Arc<Self>, cancel: &Cancel) -> Result<(), Errno> {
        let services = self.session.lock().services.clone();
        let targets = services.keys().map(|ost| (*ost, Fid::NONE)).collect();
        self.sync_targets(&targets, cancel)
    }

    /// Tells the MDT what its lazy copy should show, if content was changed here. Failure is of no consequence.
    pub fn tell_size(self: &Arc<Self>, inode: &Arc<Inode>, cancel: &Cancel) {
        let update = {
            let mut state = inode.lock();
            if state.known.is_none() {
                return;
            }
            state.learned(inode.fid)
        };
        if let Some(update) = update {
            let request = Request::new(Opcode::UpdateSize, &UpdateSize { update });
            if let Err(errno) = self.ask(request, cancel) {
                tracing::debug!(%errno, fid = %inode.fid, "telling the size");
            }
        }
    }
}
