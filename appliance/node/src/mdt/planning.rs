//! Planning: what is in the way of a change, and when it is looked for again. Path: M3.
//!
//! A change that is not ready waits for one thing at a time: for others to give back what they hold of one inode
//! ([`Obstacle::Leases`]), for an OST ([`Obstacle::Withheld`]), or behind another change that has its key. What others hold of its
//! other inodes was asked back with the first plan and is on its way too; so it is planned again once for each inode at most, not
//! once for each lease. Of many waiters of an inode that many hold nobody is looked at before the last holder that is in its way
//! has gone: the leases table counts them ([`sheen_meta::HeldBy`]), and a lease given back costs one look at those counts for each
//! set of bits that is waited for. So waiters and holders add up, they do not multiply.
//!
//! **No wake is lost.** For a change that waits at an inode:
//! 1. All in its way were asked. The plan asks everybody who was not asked. While it is parked, others get nothing new of what it
//!    waits for (what is asserted after a restart is asked back at once, [`Mdt::reassert`]); its own client may, which is not in
//!    its way, and is asked by the plan of the next client's change.
//! 2. However a holding ends, its inode is woken: given back ([`Mdt::finish_cancel`]), the session ended by its client, by eviction
//!    for silence or for a revoke past its deadline ([`Mdt::drop_leases`]), the OSTs done with a fenced session ([`Mdt::fenced_at`]),
//!    the inode gone (`Effect::InodeRemoved`). An OST that settles wakes the inodes that lie there (`Mdt::note_settled`).
//! 3. An inode that was woken stays in the queue until no waiter is left there that nothing is in the way of
//!    ([`ChangeWaits::first_free`]). So each waiter has its own condition: one that waits for few bits does not wait for what another
//!    needs, and one whose client is the last holder goes on while the others wait for that client.
//! 4. A waiter that is gone (session ended, refused, retired) takes its entry with it ([`Mdt::retire`]) and wakes what it kept. A
//!    restart or a failed log forgets all changes: clients send them again, or are told.
//!
//! **Fairness.** Waiters of an inode are taken in order of arrival, inodes in turn, at most [`PLANS_PER_TURN`] in a turn of the
//! service, so that requests of others go between; what is left makes the next turn due at once. New requests never enter the
//! queue of those that are due, so each is reached after a bounded number of turns.

use sheen_meta::{Operation, touches};
use sheen_types::{ClientId, Fid};

use super::{
    core::Mdt,
    mutation::{Change, ChangeId, Progress, keeps_others_out},
    waiting::Obstacle,
};

/// Waiting changes that are planned again in one turn: as many as one proposal takes. A plan costs some microseconds.
pub(crate) const PLANS_PER_TURN: usize = 512;

impl Mdt {
    /// Looks at everything that may go on now, until nothing more does or this turn's plans are used up.
    pub(crate) fn settle(&mut self) {
        loop {
            if self.plans_left > 0
                && let Some(fid) = self.woken.pop_front()
            {
                match self.first_free(fid) {
                    Some(id) => {
                        self.woken.push_back(fid);
                        self.plan_again(id);
                    }
                    None => self.serve_lease_queue(fid),
                }
            } else if self.plans_left > 0
                && let Some(id) = self.unblocked.pop_front()
            {
                self.plan_again(id);
            } else if let Some(incoming) = self.again.pop_front() {
                self.dispatch(incoming);
            } else {
                return;
            }
        }
    }

    /// Begins a turn: waiting changes may be planned again.
    pub(crate) fn renew_plans(&mut self) {
        self.plans_left = PLANS_PER_TURN;
        self.settle();
    }

    /// Whether changes are due that this turn had no plans left for.
    pub(crate) fn has_due_plans(&self) -> bool {
        !self.woken.is_empty() || !self.unblocked.is_empty()
    }

    /// The first that came of the changes that wait at an inode and that nothing there is in the way of any more.
    fn first_free(&self, fid: Fid) -> Option<ChangeId> {
        let held_by = |wanted| self.leases.held_by(fid, wanted);
        self.waiting.first_free(fid, held_by, || self.is_withheld(fid))
    }

    /// Something a waiting change waited for has ended.
    pub(crate) fn plan_again(&mut self, id: ChangeId) {
        self.plans_left = self.plans_left.saturating_sub(1);
        let Some(change) = self.changes.get_mut(&id) else { return };
        if change.progress != Progress::Waiting {
            return;
        }
        let spared = change.spared;
        if let Some(obstacle) = change.waits_for.take() {
            self.waiting.remove(obstacle, spared, id);
        }
        let keys = std::mem::take(&mut change.keys);
        let before = std::mem::take(&mut change.touched);
        self.give_up_keys(&keys);
        self.plan(id);
        // Only now: what it goes on to keep is never free in between.
        self.unpark(spared, &before);
        // What it keeps from others no longer, others may be waiting for. (Not what it goes on to keep: it would be looked at
        // again for ever.)
        let touched = self.changes.get(&id).map_or(&[][..], |change| change.touched.as_slice());
        let kept = |fid: Fid| touched.iter().find(|now| now.0 == fid).map_or(0, |now| now.1);
        let freed = before.into_iter().filter(|&(fid, bits)| bits & !kept(fid) != 0);
        self.woken.extend(freed.map(|(fid, _)| fid));
    }

    /// Finds out what is in the way of a change, and asks for it.
    pub(crate) fn plan(&mut self, id: ChangeId) {
        let Some(mut change) = self.changes.remove(&id) else { return };
        self.stats.plans.add(1);
        if let Operation::OrphanRelease(release) = &change.operation
            && self.opens.is_open(release.fid)
        {
            self.retire(id, &change);
            return;
        }
        let spared = change.spared;
        let mut obstacle = self.park(&mut change);
        if matches!(obstacle, Some(Obstacle::Leases { .. })) && !change.contested {
            change.contested = true;
            obstacle = self.park_for_less(&mut change).or(obstacle);
        }
        let keys = self.keys_of(&change.operation);
        let ahead = keys.iter().find_map(|key| self.keys.get(key)).copied();
        if obstacle.is_none() && ahead.is_none() {
            change.progress = Progress::Ready;
            self.ready.push_back(id);
            self.background.releases_ready += usize::from(change.is_release());
        }
        if ahead.is_none() && keeps_others_out(change.progress) {
            self.keys.extend(keys.iter().map(|key| (key.clone(), id)));
            change.keys = keys;
        }
        change.waits_for = obstacle;
        self.changes.insert(id, change);
        match (obstacle, ahead) {
            (Some(obstacle), _) => self.waiting.insert(obstacle, spared, id),
            (None, Some(ahead)) => {
                self.blocked.entry(ahead).or_default().insert(id);
            }
            (None, None) => {}
        }
    }

    /// Keeps what a change touches from others, asks back what they hold of it, and returns the first thing that is in its way.
    fn park(&mut self, change: &mut Change) -> Option<Obstacle> {
        let removed = self.plan_removal(change);
        let mut touched = touches(&self.state, &change.operation);
        for (fid, bits) in &mut touched {
            *bits |= removed.filter(|removed| removed.0 == *fid).map_or(0, |removed| removed.1);
        }
        for &(fid, bits) in &touched {
            self.leases.park(change.spared, fid, bits);
        }
        for conflict in self.leases.unasked(change.spared, &touched) {
            self.ask_back(conflict);
        }
        let held = self.leases.in_way(change.spared, &touched);
        let withheld = || self.withheld_of(&touched).first().copied();
        let obstacle = held
            .map(|(fid, bits)| Obstacle::Leases { fid, bits })
            .or_else(|| withheld().map(|fid| Obstacle::Withheld { fid }));
        change.touched = touched;
        obstacle
    }

    /// Parks a removal that was planned without a thought of others again: somebody may be about to open what it takes away, so only
    /// the name goes, for which others give back less. None, and all is as before: what they give back less is all they hold.
    fn park_for_less(&mut self, change: &mut Change) -> Option<Obstacle> {
        if !matches!(change.operation, Operation::Unlink(_) | Operation::Rename(_)) {
            return None;
        }
        let first = std::mem::take(&mut change.touched);
        let obstacle = self.park(change);
        let useless = match obstacle {
            Some(Obstacle::Leases { .. }) => first,
            Some(Obstacle::Withheld { .. }) | None => std::mem::replace(&mut change.touched, first),
        };
        self.unpark(change.spared, &useless);
        obstacle.filter(|obstacle| matches!(obstacle, Obstacle::Leases { .. }))
    }

    fn unpark(&mut self, spared: ClientId, touched: &[(Fid, u32)]) {
        for &(fid, bits) in touched {
            self.leases.unpark(spared, fid, bits);
        }
    }

    /// Asserts what the module says of changes that wait.
    #[cfg(test)]
    pub(crate) fn check_waits(&self) {
        let mut at_inodes = 0;
        for (&id, change) in &self.changes {
            let spared = change.spared;
            let Some(obstacle) = change.waits_for else {
                let is_blocked = self.blocked.values().any(|behind| behind.contains(&id));
                let waits = change.progress == Progress::Waiting;
                assert!(!waits || is_blocked || self.unblocked.contains(&id), "{change:?} is lost");
                continue;
            };
            at_inodes += 1;
            assert_eq!(change.progress, Progress::Waiting);
            assert!(self.waiting.contains(obstacle, spared, id));
            assert_eq!(self.leases.unasked(spared, &change.touched), [], "{change:?}");
            let (Obstacle::Leases { fid, .. } | Obstacle::Withheld { fid }) = obstacle;
            assert!(self.first_free(fid).is_none() || self.woken.contains(fid), "{change:?}");
        }
        assert_eq!(self.waiting.len(), at_inodes);
    }
}
