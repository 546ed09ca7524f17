//! Which OSTs new objects go to: chosen when a change is proposed, written into its entry, so that applying it needs nothing
//! else.
//!
//! The MDT asks each OST for its space now and then. From the answers it makes an order in which each OST stands as often
//! as its free space says, as evenly as can be, and new objects go through it place by place: OSTs of like space take turns,
//! a fuller one gets fewer. Left out are OSTs that do not answer or cannot serve, and those that are full, as long as there are
//! others, and of like ones those that are behind with what they have to destroy; whether a file fits at all is for the OSTs
//! to say.
//!
//! What lingers and what is listed for destruction counts as free: who wants that room gets it ([`super::room`]). Where little is
//! left, an OST is asked with its space what some of those objects hold, and again as soon as files went; what the others hold is
//! estimated from that. There, a file must also find room for its beginning, which is one object: an OST with less than that,
//! and much less than another, is passed by.
//!
//! An OST that had no room for what a client wrote counts as full at once, until it answered a question asked after that. One
//! whose room a fast writer takes within the time between two questions is asked as soon as a file was placed on it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use sheen_meta::Operation;
use sheen_types::{Fid, FileKind, OstIndex, Tick, layout::STRIPES_MAX};
use sheen_wire::metadata::OstAddress;

use super::{
    background::Job,
    core::Mdt,
    gateway::{MEASURED_MAX, OstJob, OstSpace},
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
/// An OST that was asked is not asked again before, however much happens.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(5);
/// An OST with less than this part of its space free (1/n), or less than [`BEGINNING_BYTES`], is short of it.
const SHORT_PART: u64 = 8;
/// Of a file, what lies in its first object: the first component of the layout.
const BEGINNING_BYTES: u64 = 100 << 20;
/// The order is made anew at once when the room of an OST is another by this part (1/n) of all its space.
const MOVED_PART: u64 = 16;
/// An OST is full that has less than this part of its space free (1/n).
const FULL_PART: u64 = 100;

/// What is known of an OST.
#[derive(Debug, Default)]
struct Known {
    /// As it said last; what was removed: an estimate for all there is.
    space: Option<OstSpace>,
    /// Of how many that are to go (of, all) it was asked what some hold.
    measured: (u64, u64),
    /// Its room when the order was made.
    arranged: u64,
    /// When it was asked last.
    asked_at: Tick,
    /// It said that it cannot serve.
    failing: bool,
    /// Whether `space` is believed.
    word: Word,
    /// Since when an answer is awaited.
    asked: Option<Tick>,
    /// When it is asked next.
    due: Tick,
}

/// What the word of an OST is worth that it has room.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
enum Word {
    #[default]
    Believed,
    /// A client found no room since it was asked.
    Refuted,
    /// As [`Word::Refuted`], and a question asked after that is under way.
    AskedAnew,
}

/// How good a place an OST is; a worse one is chosen if there is no better.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Standing {
    Good,
    /// A file's beginning may not fit, and another OST has much more room.
    Tight,
    Full,
    Sick,
}

impl Known {
    fn standing(&self, now: Tick) -> Standing {
        let silent = self.asked.is_some_and(|since| now.since(since) > ANSWER_WITHIN);
        match self.space {
            _ if self.failing || silent => Standing::Sick,
            _ if self.word != Word::Believed => Standing::Full,
            Some(space) if room(space) <= space.total_bytes / FULL_PART => Standing::Full,
            Some(_) | None => Standing::Good,
        }
    }

    /// As [`Known::standing`], where the OST with most room has `most`.
    fn standing_beside(&self, most: u64, now: Tick) -> Standing {
        let standing = self.standing(now);
        let tight = |space: OstSpace| room(space) < BEGINNING_BYTES && room(space) < most / 2;
        match standing {
            Standing::Good if self.space.is_some_and(tight) => Standing::Tight,
            Standing::Good | Standing::Tight | Standing::Full | Standing::Sick => standing,
        }
    }

    /// Whether a new file may find it full before it is asked in its turn.
    fn may_be_filled(&self) -> bool {
        self.space.is_some_and(|space| space.free_bytes < BEGINNING_BYTES)
    }

    /// Whether little is free, whatever is to go.
    fn is_short(&self) -> bool {
        self.space.is_some_and(|space| {
            space.free_bytes < BEGINNING_BYTES.max(space.total_bytes / SHORT_PART)
        })
    }
}

/// What new files can get: what is free, and what is to go.
fn room(space: OstSpace) -> u64 {
    space.free_bytes.saturating_add(space.removed_bytes).min(space.total_bytes)
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
    /// Files went from an OST that is short of space or were placed on one, or one had none for a client: such OSTs are asked now.
    hurry: bool,
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
        let good = osts.iter().filter_map(|ost| self.known.get(ost));
        let good = good.filter(|known| known.standing(now) == Standing::Good);
        let roomiest = good.filter_map(|known| known.space.map(room)).max().unwrap_or(0);
        let standing = |ost: &OstIndex| {
            let known = self.known.get(ost);
            let standing =
                known.map_or(Standing::Good, |known| known.standing_beside(roomiest, now));
            (standing, self.behind.contains(ost))
        };
        let best = osts.iter().map(standing).min();
        let usable: Vec<OstIndex> =
            osts.iter().copied().filter(|ost| Some(standing(ost)) == best).collect();
        self.all_behind = best.is_some_and(|(_, behind)| behind);
        let free = |ost: &OstIndex| {
            let space = self.known.get(ost).and_then(|known| known.space);
            space.map(room)
        };
        // Of whom nothing is known yet, the best is thought.
        let most = usable.iter().filter_map(free).max().unwrap_or(0).max(1);
        let weights: Vec<u64> =
            usable.iter().map(|ost| weight(free(ost).unwrap_or(most), most)).collect();
        self.order = interleave(&usable, &weights);
        self.next = self.next.checked_rem(self.order.len()).unwrap_or(0);
        for known in self.known.values_mut() {
            known.arranged = known.space.map_or(0, room);
        }
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
        let chosen = match operation {
            Operation::Create(body) if body.request.kind == FileKind::Regular => {
                self.placement.choose(1)
            }
            Operation::InstantiateLayout(_) => self.placement.choose(STRIPES_MAX),
            _ => Vec::new(),
        };
        let known = |ost: &OstIndex| self.placement.known.get(ost);
        let is_in_doubt = |ost: &OstIndex| known(ost).is_some_and(Known::may_be_filled);
        if self.osts.len() > 1 && chosen.iter().any(is_in_doubt) {
            self.placement.hurry = true;
        }
        chosen
    }

    /// An OST had no room for a client, whatever it said: it gets nothing new until it was asked anew, which is done at once.
    pub(crate) fn note_no_room(&mut self, ost: OstIndex) {
        // With one there is no choice.
        if self.osts.len() < 2 {
            return;
        }
        let known = self.placement.known.entry(ost).or_default();
        let before = known.standing(self.now);
        known.word = Word::Refuted;
        // Of those that are not asked in a hurry, each is in the next tick.
        known.due = self.now;
        let is_news = known.standing(self.now) != before;
        self.placement.hurry = true;
        if is_news {
            self.arrange_placement();
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
                self.ask_ost(ost);
            }
        }
        if self.placement.order_due <= self.now {
            self.arrange_placement();
        }
    }

    /// Asks OSTs that are short of space, after files went from one or were placed on one, and those that had none for a client.
    /// Called every turn.
    pub(crate) fn ask_in_hurry(&mut self) {
        if !std::mem::take(&mut self.placement.hurry) {
            return;
        }
        for at in 0..self.osts.len().min(ASKED_PER_TICK) {
            let ost = self.osts[at].ost;
            let known = self.placement.known.entry(ost).or_default();
            if !known.is_short() && known.word != Word::Refuted {
                continue;
            }
            if known.asked.is_some() || self.now < known.asked_at.after(ASK_AGAIN_AFTER) {
                // What it says, or said, may be of before.
                self.placement.hurry = true;
            } else {
                self.ask_ost(ost);
            }
        }
    }

    /// Something that holds space on these OSTs began to linger, or went. With one OST there is no choice.
    pub(crate) fn note_space_moves(&mut self, osts: &[OstIndex]) {
        let is_short = |ost: &OstIndex| self.placement.known.get(ost).is_some_and(Known::is_short);
        if self.osts.len() > 1 && osts.iter().any(is_short) {
            self.placement.hurry = true;
        }
    }

    fn ask_ost(&mut self, ost: OstIndex) {
        let is_short = self.placement.known.get(&ost).is_some_and(Known::is_short);
        let (removed, measured) =
            if is_short { self.some_removed(ost) } else { (Vec::new(), (0, 0)) };
        let known = self.placement.known.entry(ost).or_default();
        known.asked = Some(self.now);
        known.asked_at = self.now;
        known.due = self.now.after(ASK_EVERY);
        known.measured = measured;
        if known.word == Word::Refuted {
            known.word = Word::AskedAnew;
        }
        self.submit_ost(OstJob::Space { ost, removed }, Job::Space { ost });
    }

    /// Objects on an OST that are to go, a bounded number; of how many (files and listed objects) they are, and how many there are.
    fn some_removed(&self, ost: OstIndex) -> (Vec<Fid>, (u64, u64)) {
        let mut objects: Vec<Fid> =
            self.state.pending_destroys(ost, Fid::NONE).take(MEASURED_MAX / 2).collect();
        let mut named = objects.len();
        for fid in self.background.lingering.on(ost) {
            let layout = self.state.layout(fid).unwrap_or_default();
            let of_file = layout.components.iter().flat_map(|component| &component.objects);
            let of_file: Vec<Fid> =
                of_file.filter(|object| object.ost == ost).map(|object| object.object).collect();
            if objects.len() + of_file.len() > MEASURED_MAX {
                break;
            }
            objects.extend(of_file);
            named += 1;
        }
        let all = self.state.destroys_pending_of(ost) + self.background.lingering.len_on(ost);
        (objects, (named as u64, all as u64))
    }

    /// An OST said what space it has, or that it cannot serve.
    pub(crate) fn learn_space(&mut self, ost: OstIndex, space: Option<OstSpace>) {
        let known = self.placement.known.entry(ost).or_default();
        let before = known.standing(self.now);
        known.asked = None;
        known.failing = space.is_none();
        if known.word == Word::AskedAnew {
            known.word = Word::Believed;
        }
        let (named, all) = known.measured;
        let estimate = |space: OstSpace| {
            let each = space.removed_bytes.checked_div(named).unwrap_or(0);
            OstSpace { removed_bytes: each.saturating_mul(all), ..space }
        };
        known.space = space.map(estimate).or(known.space);
        let moved = known.space.is_some_and(|space| {
            room(space).abs_diff(known.arranged) > space.total_bytes / MOVED_PART
        });
        if moved || known.standing(self.now) != before {
            self.arrange_placement();
        }
    }

    /// The mailbox was full: it is asked again later, and that says nothing of the OST.
    pub(crate) fn space_not_asked(&mut self, ost: OstIndex) {
        let known = self.placement.known.entry(ost).or_default();
        known.asked = None;
        if known.word == Word::AskedAnew {
            known.word = Word::Refuted;
        }
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
            let space = Some(OstSpace { total_bytes: 100 * GIB, free_bytes, removed_bytes: 0 });
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
    fn what_is_to_go_counts_as_free_and_an_ost_too_tight_for_a_beginning_is_passed_by() {
        let spaces = |rooms: &[(u64, u64)]| {
            let mut placement = Placement::default();
            for (index, &(free, removed)) in (0..).zip(rooms) {
                let space = OstSpace {
                    total_bytes: 80 << 20,
                    free_bytes: free << 20,
                    removed_bytes: removed << 20,
                };
                let known = Known { space: Some(space), ..Known::default() };
                placement.known.insert(OstIndex(index), known);
            }
            arranged(placement, 2)
        };
        assert_eq!(shares(&mut spaces(&[(12, 0), (12, 48)]), 2, 10), [0, 10]);
        assert_eq!(shares(&mut spaces(&[(0, 48), (12, 0)]), 2, 10), [10, 0]);
        assert_eq!(shares(&mut spaces(&[(60, 0), (12, 48)]), 2, 10), [5, 5]);
        assert_eq!(shares(&mut spaces(&[(12, 0), (12, 0)]), 2, 10), [5, 5], "there is no better");
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
