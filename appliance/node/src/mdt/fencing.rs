//! Fencing: keeping what an ended session sent to an OST from taking effect after others got what it held. Sessions are taken off
//! the OSTs' list for that ([`super::admitting`]).
//!
//! Each OST says by itself when it refuses the session and carries out nothing of it any more. Until then that OST may
//! change content the session held for writing, and nothing else: names and attributes change here alone, and who holds
//! content for reading changes none. So of what an evicted client held, only DATA in PW of files with objects on OSTs that
//! have not fenced it is kept from others, under the number of the session that ended. One OST that is stuck with a request
//! keeps from others what lies there, and nothing more.
//!
//! A client that ended its session itself has nothing on its way: all it held is free at once.

use std::collections::{BTreeMap, BTreeSet};

use sheen_types::{ClientId, Fid, OstIndex};
use sheen_wire::lease::bits;

use super::{core::Mdt, lease::revokes_of};

/// How far the OSTs are with fencing a session.
#[derive(Debug, Default)]
pub(crate) struct Fencing {
    /// OSTs that are done.
    fenced: BTreeSet<OstIndex>,
    /// The session has ended.
    pub ended: bool,
    /// It did not come back after a restart: what it held is not known (see [`super::unsettled`]).
    missing: bool,
    /// Files whose content is kept from others, by an OST of theirs that is not done.
    kept: BTreeMap<OstIndex, Vec<Fid>>,
}

impl Mdt {
    /// Has every OST fence a session; `missing`: one that did not come back after a restart.
    pub(crate) fn begin_fence(&mut self, client: ClientId, missing: bool) {
        let fencing = Fencing { missing, ..Fencing::default() };
        self.background.fencing.entry(client).or_insert(fencing);
        if missing {
            self.await_missing();
        }
        self.dismiss_session(client);
    }

    /// An OST refuses the client and carries out nothing of it any more.
    pub(crate) fn fenced_at(&mut self, client: ClientId, ost: OstIndex) {
        let Some(fencing) = self.background.fencing.get_mut(&client) else { return };
        let is_missing = fencing.fenced.insert(ost) && fencing.missing;
        for fid in fencing.kept.remove(&ost).unwrap_or_default() {
            match self.unfenced_ost(client, fid) {
                Some(other) => self.keep_content(client, fid, other),
                None => self.free_leases(client, fid),
            }
        }
        if is_missing {
            self.missing_fenced_at(ost);
        }
    }

    /// Every OST is done.
    pub(crate) fn fenced(&mut self, client: ClientId) {
        let Some(mut fencing) = self.background.fencing.remove(&client) else { return };
        self.background.fences -= usize::from(fencing.ended);
        for fid in std::mem::take(&mut fencing.kept).into_values().flatten() {
            self.free_leases(client, fid);
        }
        if fencing.missing {
            let osts = self.osts.iter().map(|address| address.ost);
            let rest: Vec<OstIndex> = osts.filter(|ost| !fencing.fenced.contains(ost)).collect();
            rest.into_iter().for_each(|ost| self.missing_fenced_at(ost));
        }
        self.reap_without(client);
    }

    /// Drops what an ended session held, but for content that an OST may still change for it if it was `evicted`.
    pub(crate) fn drop_leases(&mut self, client: ClientId, evicted: bool) {
        if let Some(fencing) = self.background.fencing.get_mut(&client) {
            fencing.ended = true;
            self.background.fences += 1;
        }
        let revoked: Vec<_> = self.revokes.range(revokes_of(client)).map(|(key, _)| *key).collect();
        for key in revoked {
            self.revokes.remove(&key);
        }
        for fid in self.leases.of_client(client) {
            let writes = self.leases.held(client, fid).write_bits & bits::DATA != 0;
            match self.unfenced_ost(client, fid).filter(|_| evicted && writes) {
                Some(ost) => {
                    self.leases.cancel(client, fid, bits::ALL & !bits::DATA, false, 0);
                    self.woken.push_back(fid);
                    self.keep_content(client, fid, ost);
                }
                None => self.free_leases(client, fid),
            }
        }
    }

    /// An OST with an object of the file that may still carry out what the client sent. None: there is none.
    fn unfenced_ost(&self, client: ClientId, fid: Fid) -> Option<OstIndex> {
        let fencing = self.background.fencing.get(&client)?;
        let layout = self.state.layout(fid).ok()?;
        let objects = layout.components.iter().flat_map(|component| &component.objects);
        objects.map(|object| object.ost).find(|ost| !fencing.fenced.contains(ost))
    }

    fn keep_content(&mut self, client: ClientId, fid: Fid, ost: OstIndex) {
        if let Some(fencing) = self.background.fencing.get_mut(&client) {
            fencing.kept.entry(ost).or_default().push(fid);
        }
    }

    fn free_leases(&mut self, client: ClientId, fid: Fid) {
        self.leases.cancel(client, fid, bits::ALL, false, 0);
        self.revokes.remove(&(client, fid));
        self.woken.push_back(fid);
    }
}
