//! Taking in what replies say: grants, attributes, layouts; and keeping own changes apart from what was read before them.
//!
//! A reply may be overtaken by a change this client makes itself (its own leases are never in its own way). So the end of
//! each change is stamped, and what was asked before is not cached.

use std::sync::{Arc, atomic::Ordering};

use sheen_types::{Attributes, Compression, Errno, Layout, attributes::frozen};
use sheen_wire::{
    Field, Opcode,
    lease::{LeaseGrant, LeaseReply, LeaseRequest, LockMode, bits},
    metadata::AttributesReply,
};

use sheen_ports::Cancel;

use crate::{
    client::Client,
    data_lease::DataMode,
    inode::{Inode, InodeState},
    request::{Reply, Request},
    statistics::count,
};

/// Room for a layout: 8 components of 64 stripes take 12.5 KiB.
pub(crate) const LAYOUT_ROOM: usize = 16 << 10;

/// What a reply may be cached for, as the inode's losses (of attributes: its version) at that moment. The bit it hangs on was granted by that very
/// reply or before: what a later one grants may speak of a time when the reply was no longer true.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Settled {
    /// Nothing newer was known: what came with the reply was taken in.
    pub(crate) fresh: bool,
    /// Names that lead here, if LOOKUP is held.
    pub(crate) names: Option<u64>,
    /// Attributes (content apart).
    pub(crate) attributes: Option<(u64, u64)>,
}

impl Client {
    /// Taken before asking: what was asked is not cached if a change ended after.
    pub(crate) fn stamp(&self) -> u64 {
        self.stamps.load(Ordering::Acquire)
    }

    /// A change of the inode's attributes by this client ended.
    pub(crate) fn note_change(&self, inode: &Inode) {
        let mut state = inode.lock();
        state.attributes = None;
        state.changed_at = self.stamps.fetch_add(1, Ordering::AcqRel) + 1;
    }

    /// This client changed entries of a directory, asked for at `stamp`: takes in what the reply says of it. What it does not say
    /// is asked for at the next use.
    pub(crate) fn settle_directory(
        &self,
        directory: &Inode,
        reply: &Reply,
        stamp: u64,
        after: Option<&AttributesReply>,
    ) {
        let mut state = directory.lock();
        state.attributes = None;
        if let Some(AttributesReply { attributes, lease }) = after {
            settle_locked(&mut state, reply.identity.server, None, stamp, attributes, lease);
        }
        state.changed_at = self.stamps.fetch_add(1, Ordering::AcqRel) + 1;
    }

    /// Takes in what a reply says of `inode` that was asked at `stamp`.
    pub(crate) fn settle(
        &self,
        inode: &Inode,
        reply: &Reply,
        stamp: u64,
        attributes: &Attributes,
        grant: &LeaseGrant,
    ) -> Settled {
        let server = reply.identity.server;
        settle_locked(&mut inode.lock(), server, layout_in(reply), stamp, attributes, grant)
    }

    /// As [`Client::settle`], for a reply whose payload is a listing.
    pub(crate) fn settle_listed(
        &self,
        inode: &Inode,
        reply: &Reply,
        stamp: u64,
        attributes: &Attributes,
        grant: &LeaseGrant,
    ) -> Settled {
        let server = reply.identity.server;
        settle_locked(&mut inode.lock(), server, None, stamp, attributes, grant)
    }

    /// As [`Client::settle`], for the reply to a change of just these attributes.
    pub(crate) fn settle_change(
        &self,
        inode: &Inode,
        reply: &Reply,
        stamp: u64,
        attributes: &Attributes,
        grant: &LeaseGrant,
    ) -> Settled {
        let mut state = inode.lock();
        state.attributes = None;
        let server = reply.identity.server;
        let layout = layout_in(reply);
        let mut settled = settle_locked(&mut state, server, layout, stamp, attributes, grant);
        state.changed_at = self.stamps.fetch_add(1, Ordering::AcqRel) + 1;
        if let Some((_, changed_at)) = &mut settled.attributes {
            *changed_at = state.changed_at;
        }
        settled
    }

    /// Asks the MDT for DATA in `mode`. Only one request per inode at a time: others wait for its outcome, then look
    /// again.
    pub(crate) fn request_data(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        mode: DataMode,
        cancel: &Cancel,
    ) -> Result<(), Errno> {
        let mut state = inode.lock();
        if state.requesting {
            state = inode.wait(state, crate::slots::CANCEL_POLL);
            drop(state);
            return if cancel.is_cancelled() { Err(Errno::EINTR) } else { Ok(()) };
        }
        state.requesting = true;
        drop(state);
        let result = self.request_data_once(inode, mode, cancel);
        inode.lock().requesting = false;
        inode.notify();
        result
    }

    fn request_data_once(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        mode: DataMode,
        cancel: &Cancel,
    ) -> Result<(), Errno> {
        count(&self.counters.lease_requests);
        let mode = match mode {
            DataMode::Write => LockMode::ProtectedWrite,
            DataMode::None | DataMode::Read => LockMode::ProtectedRead,
        };
        let stamp = self.stamp();
        let body = LeaseRequest { fid: inode.fid, bits: bits::DATA, mode };
        let request = Request::new(Opcode::LeaseRequest, &body).with_room(LAYOUT_ROOM);
        let reply = self.ask(request, cancel)?;
        let lease: LeaseReply = reply.decode()?;
        self.settle(inode, &reply, stamp, &lease.attributes, &lease.lease);
        Ok(())
    }
}

fn settle_locked(
    state: &mut InodeState,
    server: u64,
    layout: Option<Arc<Layout>>,
    stamp: u64,
    attributes: &Attributes,
    grant: &LeaseGrant,
) -> Settled {
    state.kind = Some(attributes.kind);
    state.owner = (attributes.uid, attributes.gid, attributes.projid);
    state.nameless = attributes.nlink == 0;
    state.compression = Compression::of_flags(attributes.flags);
    if !state.apply(server, grant) {
        return Settled { fresh: false, names: None, attributes: None };
    }
    state.frozen = attributes.flags & frozen::ALL;
    if let Some(layout) = layout {
        state.layout = Some(layout);
    }
    let losses = Some(state.losses);
    let names = losses.filter(|_| state.holds(bits::LOOKUP));
    if state.changed_at > stamp || !state.holds(bits::UPDATE | bits::PERM) {
        return Settled { fresh: true, names, attributes: None };
    }
    state.attributes = Some(*attributes);
    Settled { fresh: true, names, attributes: Some((state.losses, state.changed_at)) }
}

/// The layout in a reply's payload.
pub(crate) fn layout_in(reply: &Reply) -> Option<Arc<Layout>> {
    let payload = reply.payload();
    if payload.is_empty() {
        return None;
    }
    match Layout::from_bytes(payload) {
        Ok(layout) => Some(Arc::new(layout)),
        Err(error) => {
            tracing::error!(%error, "a layout makes no sense");
            None
        }
    }
}
