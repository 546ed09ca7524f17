//! OSTs that are *unsettled* after a restart: they may still carry out what sessions sent of which nobody knows what they held. Those
//! are the sessions that ended before the restart, and those that did not come back after it.
//!
//! By the end of grace the leases of such sessions have ended at their clients. What is left is what an OST may still change for
//! them: content they held for writing, as at any other time ([`super::fencing`]), but nobody knows which. So an unsettled OST
//! keeps all content that lies there: it goes to no client, is not cut and not removed, unless a client holds it. That it holds
//! it shows that none of those sessions held it for writing: clients assert what they hold, and make new files. Whatever has no
//! object there is served, so one OST that is stuck keeps what lies there, and nothing more.
//!
//! Invariant: who got DATA of a file while it lies on an unsettled OST asserted it, made the file, or got it beside one who did.

use std::collections::{BTreeMap, BTreeSet};

use sheen_meta::HeldBy;
use sheen_types::{ClientId, Fid, OstIndex};
use sheen_wire::lease::bits;

use super::core::Mdt;

/// Stands for all sessions that ended before the start where a session is named.
pub(crate) const ENDED_BEFORE: ClientId = ClientId(0);

/// Which OSTs are unsettled.
#[derive(Debug, Default)]
pub(crate) struct Unsettled {
    /// OSTs that may carry out requests of sessions that ended before the start.
    undrained: BTreeSet<OstIndex>,
    /// Sessions that did not come back: of how many an OST may carry out requests.
    missing: BTreeMap<OstIndex, usize>,
    /// Inodes without a name were left alone that have objects on unsettled OSTs.
    pub orphans_left: bool,
}

impl Unsettled {
    /// Returns whether this OST is.
    pub(crate) fn is_at(&self, ost: OstIndex) -> bool {
        self.undrained.contains(&ost) || self.missing.contains_key(&ost)
    }

    /// Returns whether an OST may carry out requests of sessions that ended before the start.
    pub(crate) fn is_draining(&self) -> bool {
        !self.undrained.is_empty()
    }

    /// Returns the OSTs that are, in order.
    pub(crate) fn osts(&self) -> BTreeSet<OstIndex> {
        self.undrained.iter().chain(self.missing.keys()).copied().collect()
    }

    fn is_empty(&self) -> bool {
        self.undrained.is_empty() && self.missing.is_empty()
    }
}

impl Mdt {
    /// Takes every OST for unsettled until it is done with sessions that ended before this start.
    pub(crate) fn await_drain(&mut self) {
        self.unsettled.undrained = self.osts.iter().map(|address| address.ost).collect();
    }

    /// An OST carries out nothing of a session that ended before this start.
    pub(crate) fn drained_at(&mut self, ost: OstIndex) {
        if self.unsettled.undrained.remove(&ost) {
            self.note_settled(ost);
        }
    }

    /// No OST does.
    pub(crate) fn drained(&mut self) {
        for ost in std::mem::take(&mut self.unsettled.undrained) {
            self.note_settled(ost);
        }
        self.reap_without(ENDED_BEFORE);
        self.end_grace_if_all_back();
    }

    /// A session that did not come back is being fenced.
    pub(crate) fn await_missing(&mut self) {
        for address in &self.osts {
            *self.unsettled.missing.entry(address.ost).or_default() += 1;
        }
    }

    /// An OST carries out nothing any more of a session that did not come back. Called once for each such session and OST.
    pub(crate) fn missing_fenced_at(&mut self, ost: OstIndex) {
        let Some(sessions) = self.unsettled.missing.get_mut(&ost) else { return };
        *sessions -= 1;
        if *sessions == 0 {
            self.unsettled.missing.remove(&ost);
            self.note_settled(ost);
        }
    }

    /// Takes up what waited for an OST, if it is settled now.
    fn note_settled(&mut self, ost: OstIndex) {
        if self.unsettled.is_at(ost) {
            return;
        }
        self.background.destroys_due.insert(ost);
        if std::mem::take(&mut self.unsettled.orphans_left) {
            self.background.orphans_after = Some(Fid::NONE);
        }
        let waited_for = self.waiting.withheld().chain(self.lease_queue.inodes());
        let freed: Vec<Fid> = waited_for.filter(|&fid| self.lies_at(fid, |at| at == ost)).collect();
        self.woken.extend(freed);
    }

    /// Returns whether the content of a file goes to nobody now: an OST that has some of it may still change it for a session of
    /// which nobody knows what it held.
    pub(crate) fn is_withheld(&self, fid: Fid) -> bool {
        !self.unsettled.is_empty()
            && self.lies_at(fid, |ost| self.unsettled.is_at(ost))
            && self.leases.held_by(fid, bits::DATA) == HeldBy::Nobody
    }

    /// Returns the inodes among those that a change touches whose content is withheld from it.
    pub(crate) fn withheld_of(&self, touched: &[(Fid, u32)]) -> Vec<Fid> {
        let content = touched.iter().filter(|(_, touched)| touched & bits::DATA != 0);
        content.map(|&(fid, _)| fid).filter(|&fid| self.is_withheld(fid)).collect()
    }

    /// Returns whether a file has an object on such an OST.
    fn lies_at(&self, fid: Fid, is_such: impl Fn(OstIndex) -> bool) -> bool {
        let Ok(layout) = self.state.layout(fid) else { return false };
        let mut objects = layout.components.iter().flat_map(|component| &component.objects);
        objects.any(|object| is_such(object.ost))
    }
}
