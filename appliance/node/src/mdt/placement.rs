//! Which OSTs new objects go to: chosen when a change is proposed, written into its entry, so that applying it needs nothing
//! else.
//!
//! The MDT asks each OST for its space now and then. From the answers it makes an order in which each OST stands as often
//! as its free space says, as evenly as can be, and new objects go through it place by place: OSTs of like space take turns,
//! a fuller one gets fewer. Left out are OSTs that do not answer or cannot serve, and those that are full, as long as there are
//! others, and of like ones those that are behind with what they have to destroy; whether a file fits at all is for the OSTs
//! to say.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use sheen_meta::Operation;
use sheen_types::{FileKind, OstIndex, Tick, layout::STRIPES_MAX};
use sheen_wire::metadata::OstAddress;

use super::{
    background::Job,
    core::Mdt,
    gateway::{OstJob, OstSpace},
};

/// OSTs a system may have.
const OSTS_MAX: usize = sheen_meta::Limits::OSTS_MAX;
/// How often an OST is asked.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// An OST that has not answered for so long is left out; chosen by eye.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// OSTs asked in one tick.
const ASKED_PER_TICK: usize = 64;
/// The emptiest OST stands so often in the order, the fullest once.
const WEIGHT_MAX: u64 = 8;
/// An OST is full that has less than this part of its space free (1/n).
const FULL_PART: u64 = 100;

/// What is known of an OST.
#[derive(Debug, Default)]
struct Known {
    space: Option<OstSpace>,
    /// It said that it cannot serve.
    failing: bool,
    /// Since when an answer is awaited.
    asked: Option<Tick>,
    /// When it is asked next.
    due: Tick,
}

/// How good a place an OST is; a worse one is chosen if there is no better.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Standing {
    Good,
    Full,
    Sick,
}

impl Known {
    fn standing(&self, now: Tick) -> Standing {
        let silent = self.asked.is_some_and(|since| now.since(since) > ANSWER_WITHIN);
        match self.space {
            _ if self.failing || silent => Standing::Sick,
            Some(space) if space.free_bytes <= space.total_bytes / FULL_PART => Standing::Full,
            Some(_) | None => Standing::Good,
        }
    }
}

/// Where new objects go.
#[derive(Debug, Default)]
pub(crate) struct Placement {
    known: BTreeMap<OstIndex, Known>,
    /// OSTs in the order they take objects, some more often than others.
    order: Vec<OstIndex>,
    next: usize,
    /// Where the round of questions stands.
    asked_last: Option<OstIndex>,
    order_due: Tick,
    /// OSTs with too much to destroy: passed by while there are others as good (see `destroys`).
    pub(crate) behind: BTreeSet<OstIndex>,
    /// Those that are in the order are.
    pub(crate) all_behind: bool,
}

impl Placement {
    /// The next `count` OSTs, each once; fewer if there are not so many. None known: nothing.
    fn choose(&mut self, count: usize) -> Vec<OstIndex> {
        let mut chosen = Vec::with_capacity(count);
        for step in 0..self.order.len() {
            if chosen.len() == count {
                break;
            }
            let ost = self.order[self.next];
            self.next = (self.next + 1) % self.order.len();
            if step == 0 || !chosen.contains(&ost) {
                chosen.push(ost);
            }
        }
        chosen
    }

    /// Makes the order anew from what is known of these OSTs.
    fn arrange(&mut self, osts: &[OstIndex], now: Tick) {
        let standing = |ost: &OstIndex| {
            let standing = self.known.get(ost).map_or(Standing::Good, |known| known.standing(now));
            (standing, self.behind.contains(ost))
        };
        let best = osts.iter().map(standing).min();
        let usable: Vec<OstIndex> =
            osts.iter().copied().filter(|ost| Some(standing(ost)) == best).collect();
        self.all_behind = best.is_some_and(|(_, behind)| behind);
        let free = |ost: &OstIndex| {
            let space = self.known.get(ost).and_then(|known| known.space);
            space.map(|space| space.free_bytes)
        };
        // Of whom nothing is known yet, the best is thought.
        let most = usable.iter().filter_map(free).max().unwrap_or(0).max(1);
        let weights: Vec<u64> =
            usable.iter().map(|ost| weight(free(ost).unwrap_or(most), most)).collect();
        self.order = interleave(&usable, &weights);
        self.next = self.next.checked_rem(self.order.len()).unwrap_or(0);
    }
}

/// 1..=[`WEIGHT_MAX`], by the share of the most free space.
fn weight(free: u64, most: u64) -> u64 {
    let share = u128::from(free) * u128::from(WEIGHT_MAX);
    let weight = share.div_ceil(u128::from(most));
    u64::try_from(weight).unwrap_or(WEIGHT_MAX).clamp(1, WEIGHT_MAX)
}

/// Each OST as often as its weight says, its places as far apart as can be.
fn interleave(osts: &[OstIndex], weights: &[u64]) -> Vec<OstIndex> {
    let alike = weights.iter().all(|&weight| weight == weights[0]);
    let mut places: Vec<(u64, OstIndex)> = Vec::new();
    for (&ost, &weight) in osts.iter().zip(weights) {
        let weight = if alike { 1 } else { weight };
        // The middles of as many equal parts of the whole; 840 is divisible by every weight.
        let part = 840 / weight;
        places.extend((0..weight).map(|at| (at * part + part / 2, ost)));
    }
    places.sort_unstable();
    places.into_iter().map(|(_, ost)| ost).collect()
}

/// OSTs that can be served, in order of index, each once.
pub(crate) fn served(mut osts: Vec<OstAddress>) -> Vec<OstAddress> {
    let is_beyond = |address: &OstAddress| address.ost.0 as usize >= OSTS_MAX;
    if let Some(beyond) = osts.iter().find(|address| is_beyond(address)) {
        let ost = beyond.ost.0;
        tracing::error!(ost, "OSTs with an index of {OSTS_MAX} or more are not served");
    }
    osts.retain(|address| !is_beyond(address));
    osts.sort_by_key(|address| address.ost);
    osts.dedup_by_key(|address| address.ost);
    osts
}

impl Mdt {
    /// The OSTs for what an operation makes.
    pub(crate) fn placement_for(&mut self, operation: &Operation) -> Vec<OstIndex> {
        match operation {
            Operation::Create(body) if body.request.kind == FileKind::Regular => {
                self.placement.choose(1)
            }
            Operation::InstantiateLayout(_) => self.placement.choose(STRIPES_MAX),
            _ => Vec::new(),
        }
    }

    /// Asks OSTs for their space, and takes what they said into account. Called every tick.
    pub(crate) fn watch_osts(&mut self) {
        let osts: Vec<OstIndex> = self.state.osts().into_iter().map(|(ost, _)| ost).collect();
        let start = osts.partition_point(|&ost| Some(ost) <= self.placement.asked_last);
        let round = osts[start..].iter().chain(&osts[..start]);
        for &ost in round.take(ASKED_PER_TICK) {
            self.placement.asked_last = Some(ost);
            let known = self.placement.known.entry(ost).or_default();
            if known.asked.is_none() && known.due <= self.now {
                known.asked = Some(self.now);
                known.due = self.now.after(ASK_EVERY);
                self.submit_ost(OstJob::Space { ost }, Job::Space { ost });
            }
        }
        if self.placement.order_due <= self.now {
            self.arrange_placement();
        }
    }

    /// An OST said what space it has, or that it cannot serve.
    pub(crate) fn learn_space(&mut self, ost: OstIndex, space: Option<OstSpace>) {
        let known = self.placement.known.entry(ost).or_default();
        let before = known.standing(self.now);
        known.asked = None;
        known.failing = space.is_none();
        known.space = space.or(known.space);
        if known.standing(self.now) != before {
            self.arrange_placement();
        }
    }

    /// The mailbox was full: it is asked again later, and that says nothing of the OST.
    pub(crate) fn space_not_asked(&mut self, ost: OstIndex) {
        self.placement.known.entry(ost).or_default().asked = None;
    }

    pub(crate) fn arrange_placement(&mut self) {
        self.placement.order_due = self.now.after(ASK_EVERY);
        let accepting: Vec<OstIndex> = self
            .state
            .osts()
            .into_iter()
            .filter_map(|(ost, accepts)| accepts.then_some(ost))
            .collect();
        self.placement.arrange(&accepting, self.now);
    }
}

#[cfg(test)]
mod test {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn placement(free: &[u64]) -> Placement {
        let mut placement = Placement::default();
        for (index, &free_bytes) in (0..).zip(free) {
            let space = Some(OstSpace { total_bytes: 100 * GIB, free_bytes });
            let known = Known { space, ..Known::default() };
            placement.known.insert(OstIndex(index), known);
        }
        placement
    }

    fn arranged(mut placement: Placement, osts: u32) -> Placement {
        let all: Vec<OstIndex> = (0..osts).map(OstIndex).collect();
        placement.arrange(&all, Tick(0));
        placement
    }

    /// How many of `files` each OST gets.
    fn shares(placement: &mut Placement, osts: usize, files: usize) -> Vec<usize> {
        let mut shares = vec![0; osts];
        for _ in 0..files {
            shares[placement.choose(1)[0].0 as usize] += 1;
        }
        shares
    }

    #[test]
    fn osts_of_like_space_take_turns() {
        let mut placement = arranged(placement(&[50 * GIB, 48 * GIB, 50 * GIB - 1]), 3);
        let order: Vec<u32> = (0..6).map(|_| placement.choose(1)[0].0).collect();
        assert_eq!(order, [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn a_fuller_ost_gets_fewer_and_never_many_in_a_row() {
        let mut placement = arranged(placement(&[80 * GIB, 20 * GIB, 40 * GIB]), 3);
        assert_eq!(placement.order.len(), 8 + 2 + 4);
        assert_eq!(shares(&mut placement, 3, 1400), [800, 200, 400]);
        let doubled = [&placement.order[..], &placement.order[..]].concat();
        assert!(!doubled.windows(4).any(|four| four.iter().all(|&ost| ost == four[0])));
    }

    #[test]
    fn stripes_lie_on_different_osts_and_as_many_as_there_are() {
        let mut placement = arranged(placement(&[80 * GIB, 2 * GIB, 40 * GIB]), 3);
        let mut chosen = placement.choose(8);
        chosen.sort_unstable();
        assert_eq!(chosen, [0, 1, 2].map(OstIndex));
        assert_eq!(arranged(Placement::default(), 0).choose(8), []);
    }

    #[test]
    fn full_and_sick_osts_are_left_out_while_there_are_others() {
        let mut three = placement(&[80 * GIB, 0, 40 * GIB]);
        three.known.get_mut(&OstIndex(2)).unwrap().failing = true;
        let mut three = arranged(three, 3);
        assert_eq!(shares(&mut three, 3, 10), [10, 0, 0]);
        // Only full ones and sick ones are left: full ones, an empty file still fits.
        three.known.get_mut(&OstIndex(0)).unwrap().failing = true;
        let mut three = arranged(three, 3);
        assert_eq!(shares(&mut three, 3, 10), [0, 10, 0]);
        three.known.get_mut(&OstIndex(1)).unwrap().failing = true;
        let three = arranged(three, 3);
        assert_eq!(three.order.iter().map(|ost| ost.0).max(), Some(2), "all, if all are sick");
    }

    #[test]
    fn an_ost_that_is_behind_is_better_than_a_full_or_sick_one_and_waited_for() {
        let mut two = placement(&[80 * GIB, 0]);
        two.behind.insert(OstIndex(0));
        let mut two = arranged(two, 2);
        assert!(two.all_behind);
        assert_eq!(shares(&mut two, 2, 10), [10, 0]);
        two.known.get_mut(&OstIndex(1)).unwrap().failing = true;
        let two = arranged(two, 2);
        assert_eq!((two.all_behind, &two.order[..]), (true, &[OstIndex(0)][..]));
        let mut two = placement(&[80 * GIB, 80 * GIB]);
        two.behind.insert(OstIndex(0));
        let two = arranged(two, 2);
        assert_eq!((two.all_behind, &two.order[..]), (false, &[OstIndex(1)][..]));
    }

    #[test]
    fn an_ost_that_does_not_answer_is_sick_after_a_while() {
        let mut two = placement(&[GIB * 9, GIB * 9]);
        two.known.get_mut(&OstIndex(1)).unwrap().asked = Some(Tick(0));
        let all = [OstIndex(0), OstIndex(1)];
        two.arrange(&all, Tick(0).after(ANSWER_WITHIN));
        assert_eq!(two.order.len(), 2);
        two.arrange(&all, Tick(0).after(ANSWER_WITHIN + Duration::from_millis(1)));
        assert_eq!(two.order, [OstIndex(0)]);
    }
}
