//! Inodes without a name that stay for a while: in the order they go, and where their objects lie.
//!
//! Volatile; the state lists them all as orphans. Bounds: as many inodes as the caller lets stay, and [`PLACES_EACH`] times as
//! many places of objects, so that files over many OSTs are fewer.

use std::collections::{BTreeMap, BTreeSet};

use sheen_types::{ClientId, Fid, OstIndex, Tick};

/// OSTs that an inode has objects on, on average when all places are taken.
pub(crate) const PLACES_EACH: usize = 4;

/// An inode that lingers.
#[derive(Clone, Debug)]
pub(crate) struct Lingerer {
    /// When it goes.
    pub until: Tick,
    /// The remover, if it has nothing to give back before the inode goes; else 0.
    pub spared: ClientId,
    /// Where it has objects, each OST once.
    pub osts: Box<[OstIndex]>,
}

/// Inodes by when they go; those of one time by number.
type Order = BTreeSet<(Tick, Fid)>;

/// Inodes that linger.
#[derive(Debug, Default)]
pub(crate) struct Lingering {
    by_fid: BTreeMap<Fid, Lingerer>,
    order: Order,
    on_ost: BTreeMap<OstIndex, Order>,
    /// Entries in `on_ost`.
    places: usize,
}

impl Lingering {
    /// Adds an inode, or tells what is so of it now.
    pub(crate) fn insert(&mut self, fid: Fid, lingerer: Lingerer) {
        self.remove(fid);
        let key = (lingerer.until, fid);
        self.order.insert(key);
        for &ost in &lingerer.osts {
            self.on_ost.entry(ost).or_default().insert(key);
        }
        self.places += lingerer.osts.len();
        self.by_fid.insert(fid, lingerer);
    }

    fn remove(&mut self, fid: Fid) -> Option<Lingerer> {
        let lingerer = self.by_fid.remove(&fid)?;
        let key = (lingerer.until, fid);
        self.order.remove(&key);
        for ost in &lingerer.osts {
            if let Some(order) = self.on_ost.get_mut(ost) {
                order.remove(&key);
                if order.is_empty() {
                    self.on_ost.remove(ost);
                }
            }
        }
        self.places -= lingerer.osts.len();
        Some(lingerer)
    }

    /// The next one to go: one that is due, or any if there are more than `most`.
    pub(crate) fn pop(&mut self, now: Tick, most: usize) -> Option<(Fid, Lingerer)> {
        let &(_, fid) = self.order.first().filter(|_| self.has_due(now, most))?;
        self.remove(fid).map(|lingerer| (fid, lingerer))
    }

    /// Whether one is due, or there are more than `most`.
    pub(crate) fn has_due(&self, now: Tick, most: usize) -> bool {
        self.order.first().is_some_and(|&(until, _)| until <= now || self.is_beyond(most))
    }

    /// Whether an inode lingers.
    pub(crate) fn contains(&self, fid: Fid) -> bool {
        self.by_fid.contains_key(&fid)
    }

    /// The next one to go that has objects on an OST, due or not.
    pub(crate) fn pop_on(&mut self, ost: OstIndex) -> Option<(Fid, Lingerer)> {
        let &(_, fid) = self.on_ost.get(&ost)?.first()?;
        self.remove(fid).map(|lingerer| (fid, lingerer))
    }

    /// It may have something to give back before it goes, whoever removed it.
    pub(crate) fn spare_nobody(&mut self, fid: Fid) {
        if let Some(lingerer) = self.by_fid.get_mut(&fid) {
            lingerer.spared = ClientId(0);
        }
    }

    /// Whether there are more than `most`, or more places than they may have.
    pub(crate) fn is_beyond(&self, most: usize) -> bool {
        self.order.len() > most || self.places > most.saturating_mul(PLACES_EACH)
    }

    /// Those with objects on an OST, in the order they go.
    pub(crate) fn on(&self, ost: OstIndex) -> impl Iterator<Item = Fid> + '_ {
        self.on_ost.get(&ost).into_iter().flatten().map(|&(_, fid)| fid)
    }

    /// Inodes that linger.
    pub(crate) fn len(&self) -> usize {
        self.order.len()
    }

    /// Of them, those with objects on an OST.
    pub(crate) fn len_on(&self, ost: OstIndex) -> usize {
        self.on_ost.get(&ost).map_or(0, BTreeSet::len)
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn lingerer(until: u64, osts: &[u32]) -> Lingerer {
        let osts = osts.iter().copied().map(OstIndex).collect();
        Lingerer { until: Tick(until), spared: ClientId(1), osts }
    }

    #[test]
    fn those_of_an_ost_go_in_order_and_others_stay() {
        let mut all = Lingering::default();
        let fid = |number| Fid::new(1000, number);
        all.insert(fid(1), lingerer(30, &[0, 1]));
        all.insert(fid(2), lingerer(10, &[]));
        all.insert(fid(3), lingerer(20, &[1]));
        assert_eq!((all.len(), all.len_on(OstIndex(0)), all.len_on(OstIndex(1))), (3, 1, 2));
        let popped: Vec<Fid> =
            std::iter::from_fn(|| all.pop_on(OstIndex(1))).map(|(fid, _)| fid).collect();
        assert_eq!(popped, [fid(3), fid(1)]);
        assert_eq!((all.len(), all.len_on(OstIndex(0)), all.places), (1, 0, 0));
        assert!(all.pop(Tick(9), 1).is_none());
        assert_eq!(all.pop(Tick(10), 1).map(|(fid, _)| fid), Some(fid(2)));
    }

    #[test]
    fn too_many_places_are_too_many_inodes() {
        let mut all = Lingering::default();
        all.insert(Fid::new(1000, 1), lingerer(10, &[0, 1, 2, 3, 4]));
        assert!(all.is_beyond(1) && !all.is_beyond(2));
        // Told anew, it counts once.
        all.insert(Fid::new(1000, 1), lingerer(20, &[0]));
        assert_eq!((all.len(), all.places), (1, 1));
        assert!(!all.is_beyond(1));
    }
}
