//! What an actor keeps of files under leases on their content: cached bytes, changes not written back yet, and programs that
//! wait.
//!
//! As a kernel over the client library does: a read is answered from the cache while the lease is held, a change is accepted
//! into the cache and written back later, several at a time. A lease is given back when what was accepted under it is
//! written back and durable. When the time of the session has passed without a word from the MDT, nothing is read or
//! accepted, whatever is cached.

use std::collections::{BTreeMap, VecDeque};

use sheen_types::{Errno, Fid, OstIndex};
use sheen_wire::{
    Frame,
    lease::{LeaseRequest, LeaseRevoke, LockMode, bits},
    metadata::InstantiateLayout,
};

use super::{Actor, Origin, Told};
use crate::{
    file_model::Content,
    operation::{Deed, Edit, Operation},
    plan::Planted,
};

/// Changes of a file on their way at a time.
const FLYING_MAX: usize = 4;
/// Changes that wait in the cache; then they are written back.
const DIRTY_MAX: usize = 4;
/// How often a change is written back at once, and how often a write-back first makes objects for a range behind the first
/// component of the layout.
const WRITE_BACK_PERCENT: u64 = 40;
const LAYOUT_PERCENT: u64 = 25;
/// A byte of the second component of the default layout.
const BEHIND_FIRST_COMPONENT: u64 = 101 << 20;

/// A file in the cache.
#[derive(Debug, Default)]
pub(super) struct FileCache {
    /// All of it, while the lease is held.
    content: Option<Content>,
    /// What programs wait for, in order.
    pub(super) deeds: VecDeque<Deed>,
    /// Accepted, not written back, in order.
    pub(super) dirty: VecDeque<(u64, Edit)>,
    /// Being written back.
    pub(super) flying: BTreeMap<u64, Edit>,
    /// Revokes that wait for all this.
    pub(super) revokes: Vec<LeaseRevoke>,
    /// The lease is being asked for.
    asking: bool,
    /// Content is being read, under a lease that is not given back before the first deed is done.
    filling: bool,
    /// What is found must be made durable first, in this incarnation (None: not known yet).
    doubt: Option<Option<u64>>,
    /// Everything dirty is to be written back.
    flush: bool,
    /// Objects are being made before.
    instantiating: bool,
    /// Something accepted may not be durable.
    unclean: bool,
}

impl FileCache {
    fn is_written_back(&self) -> bool {
        self.dirty.is_empty() && self.flying.is_empty()
    }

    /// Whether nothing is under way.
    pub(super) fn is_quiet(&self) -> bool {
        self.deeds.is_empty()
            && self.flying.is_empty()
            && self.revokes.is_empty()
            && !(self.asking || self.filling || self.instantiating)
    }

    /// Whether there is something to go on with: for all others [`Actor::advance`] does nothing.
    fn has_work(&self) -> bool {
        !self.deeds.is_empty()
            || self.flush
            || !self.revokes.is_empty()
            || self.unclean && self.is_written_back()
    }

    /// Bits that are being given back.
    pub(super) fn asked_back(&self) -> u32 {
        self.revokes.iter().fold(0, |bits, revoke| bits | revoke.bits)
    }

    /// The session ended: nothing is held, what was not written back is lost. Returns the programs that must be told.
    fn void(&mut self) -> Vec<Deed> {
        let deeds = std::mem::take(&mut self.deeds);
        let (told, kept) = deeds.into_iter().partition(|deed| *deed == Deed::Sync);
        *self = Self { deeds: kept, ..Self::default() };
        Vec::from_iter::<VecDeque<Deed>>(told)
    }
}

impl Actor {
    /// A program does something with a file.
    pub fn deed(&mut self, fid: Fid, deed: Deed) {
        self.caches.entry(fid).or_default().deeds.push_back(deed);
    }

    /// Nobody wants the file any more: what is cached of it is dropped. It is quiet. What OSTs acknowledged is kept on until
    /// it is durable: the removal may fail.
    pub fn forget_file(&mut self, fid: Fid) {
        self.caches.remove(&fid);
    }

    /// Whether anything may have to be sent to an OST again.
    pub(super) fn owes_anything(&self) -> bool {
        self.debts.values().any(|debt| !debt.is_empty())
    }

    /// Whether nothing of the file is under way.
    #[must_use]
    pub fn is_quiet(&self, fid: Fid) -> bool {
        let resending = |flight: &super::Flight| matches!(flight.origin, Origin::Resend(..));
        self.caches.get(&fid).is_none_or(FileCache::is_quiet)
            && !self.flights.values().any(resending)
    }

    pub(super) fn advance_all(&mut self) {
        let working = self.caches.iter().filter(|(_, cache)| cache.has_work());
        let fids: Vec<Fid> = working.map(|(&fid, _)| fid).collect();
        fids.into_iter().for_each(|fid| self.advance(fid));
    }

    pub(super) fn advance(&mut self, fid: Fid) {
        let Some(place) = self.caches.get_mut(&fid) else { return };
        let mut cache = std::mem::take(place);
        self.do_deeds(fid, &mut cache);
        self.write_back(fid, &mut cache);
        if !cache.revokes.is_empty() {
            self.give_back_data(fid, &mut cache);
        }
        if cache.unclean && cache.is_written_back() && !self.owes(fid) {
            cache.unclean = false;
            self.told.push_back(Told::Clean(fid));
        }
        self.caches.insert(fid, cache);
    }

    fn owes(&self, fid: Fid) -> bool {
        self.debts.values().any(|debt| debt.owes(fid))
    }

    fn do_deeds(&mut self, fid: Fid, cache: &mut FileCache) {
        while let Some(&deed) = cache.deeds.front() {
            if deed == Deed::Sync {
                if !self.is_durable(fid, cache) {
                    return;
                }
                self.told.push_back(Told::Deed { fid, deed, result: Ok(Vec::new()) });
                cache.deeds.pop_front();
                continue;
            }
            // What is being given back takes nobody new.
            if !self.may_cache() || cache.filling || !cache.revokes.is_empty() {
                return;
            }
            let held = self.held.get(&fid).copied().unwrap_or_default();
            let change = matches!(deed, Deed::Edit(_));
            let usable = if change { held.write_bits } else { held.read_bits | held.write_bits };
            if usable & bits::DATA == 0 {
                return self.ask_lease(fid, change, cache);
            }
            if cache.content.is_none() {
                return self.fill(fid, cache);
            }
            self.do_cached(fid, deed, cache);
        }
    }

    /// Does the first deed with what is cached.
    fn do_cached(&mut self, fid: Fid, deed: Deed, cache: &mut FileCache) {
        let Some(content) = &mut cache.content else { return };
        let mut found = Vec::new();
        match deed {
            Deed::Read => found.clone_from(&content.0),
            Deed::Edit(edit) => {
                content.apply(edit);
                self.edits += 1;
                cache.dirty.push_back((self.edits, edit));
                cache.unclean = true;
                let now = matches!(edit, Edit::Write { durable: true, .. });
                cache.flush |= now
                    || cache.dirty.len() >= DIRTY_MAX
                    || self.chance.percent(WRITE_BACK_PERCENT);
            }
            Deed::Sync => {}
        }
        self.told.push_back(Told::Deed { fid, deed, result: Ok(found) });
        cache.deeds.pop_front();
    }

    /// Whether everything accepted is durable; sees to it that it becomes so.
    fn is_durable(&mut self, fid: Fid, cache: &mut FileCache) -> bool {
        if !cache.is_written_back() {
            cache.flush = true;
            return false;
        }
        let owing = self.debts.iter().find(|(_, debt)| debt.owes(fid)).map(|(&ost, _)| ost);
        if let Some(ost) = owing {
            self.sync(ost);
        }
        owing.is_none()
    }

    pub(super) fn sync(&mut self, ost: OstIndex) {
        let under_way = |flight: &super::Flight| flight.origin == Origin::Sync(ost);
        if !self.flights.values().any(under_way) {
            self.begin_for(Operation::Sync(ost), Origin::Sync(ost));
        }
    }

    fn ask_lease(&mut self, fid: Fid, change: bool, cache: &mut FileCache) {
        if !std::mem::replace(&mut cache.asking, true) {
            let mode = if change { LockMode::ProtectedWrite } else { LockMode::ProtectedRead };
            let request = LeaseRequest { fid, bits: bits::DATA, mode };
            self.begin_for(Operation::Lease(request), Origin::Lease(fid));
        }
    }

    /// Reads the content; where another client left changes that are not durable, those are made so before.
    fn fill(&mut self, fid: Fid, cache: &mut FileCache) {
        let Some(place) = self.files.place(fid) else { return };
        cache.filling = true;
        let doubtful = self.files.is_doubtful(fid, self.number);
        cache.doubt = doubtful.then_some(None);
        let operation = if doubtful { Operation::Sync(place.ost) } else { Operation::Read(place) };
        self.begin_for(operation, Origin::Fill(fid));
    }

    fn write_back(&mut self, fid: Fid, cache: &mut FileCache) {
        cache.flush &= !cache.dirty.is_empty();
        let Some(place) = self.files.place(fid).filter(|_| cache.flush) else { return };
        if cache.instantiating {
            return;
        }
        if cache.flying.is_empty() && self.chance.percent(LAYOUT_PERCENT) {
            cache.instantiating = true;
            let (start, end) = (BEHIND_FIRST_COMPONENT, BEHIND_FIRST_COMPONENT + 1);
            let request = InstantiateLayout { fid, start, end };
            return self.begin_for(Operation::Instantiate(request), Origin::Layout(fid));
        }
        self.write_some(fid, place, cache);
    }

    fn write_some(&mut self, fid: Fid, place: crate::operation::Place, cache: &mut FileCache) {
        while cache.flying.len() < FLYING_MAX
            && let Some(&(number, edit)) = cache.dirty.front()
            && cache.flying.values().all(|&flying| flying.commutes(edit))
        {
            cache.dirty.pop_front();
            cache.flying.insert(number, edit);
            self.begin_for(Operation::Edit(place, edit), Origin::Write(fid, number));
        }
    }

    fn give_back_data(&mut self, fid: Fid, cache: &mut FileCache) {
        if cache.filling || !self.is_durable(fid, cache) {
            return self.write_back(fid, cache);
        }
        for revoke in std::mem::take(&mut cache.revokes) {
            self.give_back(&revoke);
        }
        let held = self.held.get(&fid).copied().unwrap_or_default();
        if (held.read_bits | held.write_bits) & bits::DATA == 0 {
            cache.content = None;
        }
    }

    /// What the cache asked for was answered.
    pub(super) fn cache_answered(
        &mut self,
        origin: Origin,
        operation: &Operation,
        (frame, payload): (&Frame, Vec<u8>),
    ) {
        let status = Errno(-frame.status);
        match origin {
            Origin::Program | Origin::Sync(_) => {}
            Origin::Resend(ost, number) => {
                self.acknowledge(ost, number, Fid::NONE, operation, frame)
            }
            Origin::Write(fid, number) => {
                if let Some(cache) = self.caches.get_mut(&fid) {
                    cache.flying.remove(&number);
                }
                if let Some(ost) = operation.ost() {
                    self.acknowledge(ost, number, fid, operation, frame);
                }
            }
            Origin::Layout(fid) => {
                if let Some(mut cache) = self.caches.remove(&fid) {
                    cache.instantiating = false;
                    if let Some(place) = self.files.place(fid) {
                        self.write_some(fid, place, &mut cache);
                    }
                    self.caches.insert(fid, cache);
                }
            }
            Origin::Lease(fid) => {
                if let Some(cache) = self.caches.get_mut(&fid) {
                    cache.asking = false;
                    // The file is gone.
                    for deed in cache.deeds.drain(..).filter(|_| frame.status != 0) {
                        self.told.push_back(Told::Deed { fid, deed, result: Err(status) });
                    }
                }
            }
            Origin::Fill(fid) => self.filled(fid, frame, payload),
        }
    }

    fn acknowledge(
        &mut self,
        ost: OstIndex,
        number: u64,
        fid: Fid,
        operation: &Operation,
        frame: &Frame,
    ) {
        let Operation::Edit(place, edit) = *operation else { return };
        if frame.status != 0 {
            return self.fail(&format!("{operation:?}: status {}", frame.status));
        }
        let debt = self.debts.entry(ost).or_default();
        let fid =
            debt.next_again().filter(|(again, _)| *again == number).map_or(fid, |(_, o)| o.fid);
        debt.acknowledge(number, (fid, place), edit, frame);
        if debt.len() > super::stable::OWED_MAX {
            self.sync(ost);
        }
    }

    fn filled(&mut self, fid: Fid, frame: &Frame, payload: Vec<u8>) {
        let Some(mut cache) = self.caches.remove(&fid) else { return };
        let place = self.files.place(fid);
        match (cache.doubt, place) {
            // On its way while the session's time ran out: others may have changed the file since. It is read again.
            _ if !self.may_cache() => (cache.filling, cache.doubt) = (false, None),
            (Some(None), Some(place)) => {
                cache.doubt = Some(Some(frame.incarnation));
                self.begin_for(Operation::Read(place), Origin::Fill(fid));
            }
            // It was made durable by a node that is gone: what was read may be another content.
            (Some(Some(incarnation)), _) if incarnation != frame.incarnation => {
                self.fill(fid, &mut cache);
            }
            _ => {
                cache.filling = false;
                cache.doubt = None;
                self.told.push_back(Told::Filled { fid, content: payload.clone() });
                cache.content = Some(Content(payload));
                if let Some(&deed) = cache.deeds.front().filter(|&&deed| deed != Deed::Sync) {
                    let held = self.held.get(&fid).copied().unwrap_or_default();
                    if deed == Deed::Read || held.write_bits & bits::DATA != 0 {
                        self.do_cached(fid, deed, &mut cache);
                    }
                }
            }
        }
        self.caches.insert(fid, cache);
    }

    /// The session ended: all that is cached is void, and programs that wait for durability are told.
    pub(super) fn void_caches(&mut self) {
        let queued = self.planted == Some(Planted::WrongEpoch);
        self.flights.retain(|_, flight| {
            flight.origin == Origin::Program || queued && matches!(flight.origin, Origin::Write(..))
        });
        for (&fid, cache) in &mut self.caches {
            for deed in cache.void() {
                self.told.push_back(Told::Deed { fid, deed, result: Err(Errno::EIO) });
            }
        }
        self.debts.clear();
    }

    /// The MDT forgot what it asked for: what is held is told to it, and asked back again if need be.
    pub(super) fn drop_revokes(&mut self) {
        self.caches.values_mut().for_each(|cache| cache.revokes.clear());
    }

    /// The MDT asks for bits.
    pub(super) fn revoked(&mut self, revoke: &LeaseRevoke) {
        let held = self.held.entry(revoke.fid).or_default();
        held.sequence = held.sequence.max(revoke.sequence);
        let fid = revoke.fid;
        let in_use = self.caches.contains_key(&fid) || self.owes(fid);
        if revoke.bits & bits::DATA != 0 && in_use {
            self.caches.entry(fid).or_default().revokes.push(revoke.clone());
            self.advance(fid);
        } else {
            self.give_back(revoke);
        }
    }
}
