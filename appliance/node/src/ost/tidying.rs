//! Scattered content that is read in order is brought together, behind the answer.
//!
//! A read of 256 KiB or more whose range lies in many more pieces than it need be names its *slab*, the aligned 1 MiB of its
//! object. The service stores the slab anew by a repack of its own, which is atomic against changes and leaves reads under
//! way their old blocks. One at a time for each OST, and only while the service has slots and the store has free space.
//!
//! What it writes is bounded: a byte for each byte read in order, and a slab that was tried is left alone for a while,
//! however it went. If a slab is still scattered afterwards, free space is, and the whole OST is left alone for as long.
//!
//! Owns what is to be done next, what was tried, and the credit. Deliberately absent: packed content, which is never touched
//! (what it is to be packed with is its owner's wish), and making room: whole free slabs that are used up do not come back.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use sheen_ports::{Block, Clock, Fabric};
use sheen_store::{ReadPlan, Repack, RequestToken, Source, Statistics};
use sheen_types::{BLOCK_BYTES, Compression, Errno, Fid, Tick};

use super::{
    image::Image,
    operation::{Operation, Origin, Work},
    repacking::Wanted,
    service::OstService,
    statistics::OstStats,
};

/// What is stored anew at a time: the most that a repack may.
const SLAB_BYTES: u64 = 1 << 20;
const SLAB_BLOCKS: u64 = SLAB_BYTES / BLOCK_BYTES as u64;
/// Reads of fewer bytes are not taken for reads in order.
const READ_BYTES_MIN: u64 = 256 << 10;
/// A piece costs a device command, about a microsecond of the thread; 32 KiB take several to copy and to sum. Shorter pieces
/// than that, in the mean, are worth a move.
const PIECE_BLOCKS_MIN: usize = 8;
/// Slabs that wait; further ones are noticed again with the next read.
const WAITING_MAX: usize = 32;
/// Slabs remembered as tried, 40 KiB for each OST; whichever displaces another lets it be tried early.
const TRIED_SLOTS: usize = 1024;
/// How long a slab that was tried is left alone, chosen by eye.
const REST: Duration = Duration::from_secs(600);
/// Credit is not saved beyond this, so that a long calm is not followed by a storm.
const CREDIT_BYTES_MAX: u64 = 64 << 20;
/// Free blocks that are left to writes, beyond the store's reserve: 4 MiB.
const LEFT_BLOCKS: u64 = 4 * SLAB_BLOCKS;

/// A slab of an object: which, and its first byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Slab {
    object: Fid,
    offset: u64,
}

impl Slab {
    fn slot(self) -> usize {
        let number = self.object.seq ^ (u64::from(self.object.oid) << 32);
        let number = number.wrapping_add(self.offset / SLAB_BYTES);
        // Multiplicative hashing: the upper bits depend on all lower ones.
        let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        usize::try_from(mixed % TRIED_SLOTS as u64).unwrap_or(0)
    }
}

/// The tidying of one OST.
#[derive(Debug)]
pub(crate) struct Tidying {
    is_on: bool,
    waiting: VecDeque<Slab>,
    under_way: Option<Slab>,
    /// A slab, and until when it is left alone.
    tried: Box<[(Slab, Tick)]>,
    /// Nothing is begun before this.
    rests_until: Tick,
    credit_bytes: u64,
    stats: Arc<OstStats>,
}

impl Tidying {
    pub(crate) fn new(is_on: bool, stats: Arc<OstStats>) -> Self {
        let slots = if is_on { TRIED_SLOTS } else { 0 };
        Self {
            is_on,
            waiting: VecDeque::with_capacity(if is_on { WAITING_MAX } else { 0 }),
            under_way: None,
            tried: vec![(Slab::default(), Tick(0)); slots].into(),
            rests_until: Tick(0),
            credit_bytes: 0,
            stats,
        }
    }

    /// A read was answered by this plan.
    pub(crate) fn on_read(&mut self, now: Tick, object: Fid, offset: u64, plan: &ReadPlan) {
        if !self.is_on || plan.length < READ_BYTES_MIN {
            return;
        }
        self.credit_bytes = (self.credit_bytes + plan.length).min(CREDIT_BYTES_MAX);
        if now < self.rests_until || !is_scattered(plan) {
            return;
        }
        // Of a read of two slabs, the one that holds its midst.
        let offset = (offset + plan.length / 2) / SLAB_BYTES * SLAB_BYTES;
        let slab = Slab { object, offset };
        let (tried, until) = self.tried[slab.slot()];
        let is_known = tried == slab && now < until;
        if is_known || self.waiting.len() >= WAITING_MAX || self.waiting.contains(&slab) {
            return;
        }
        self.waiting.push_back(slab);
    }

    /// What to begin now.
    fn poll(&mut self, now: Tick, store: impl FnOnce() -> Statistics) -> Option<(Slab, bool)> {
        let waits = self.under_way.is_none() && self.credit_bytes >= SLAB_BYTES;
        if !waits || self.waiting.is_empty() {
            return None;
        }
        let statistics = store();
        let spare = statistics.allocatable_blocks.saturating_sub(statistics.reserve_blocks);
        if now < self.rests_until || spare < LEFT_BLOCKS + SLAB_BLOCKS {
            self.waiting.clear();
            return None;
        }
        let slab = self.waiting.pop_front()?;
        // Old blocks come back with a flush: one is asked for before they are as many as what is free.
        let durable = statistics.quarantined_blocks + LEFT_BLOCKS >= spare;
        self.under_way = Some(slab);
        Some((slab, durable))
    }

    /// Whether nothing of it is in the store.
    #[cfg(test)]
    pub(crate) fn is_idle(&self) -> bool {
        self.under_way.is_none()
    }

    /// The slab under way was taken by the store.
    fn begun(&mut self, now: Tick) {
        let Some(slab) = self.under_way else { return };
        self.credit_bytes -= SLAB_BYTES;
        self.tried[slab.slot()] = (slab, now.after(REST));
    }
}

/// Whether plain content lies in so many more pieces than it need be that moving it is worth it.
fn is_scattered(plan: &ReadPlan) -> bool {
    let (mut blocks, mut pieces, mut parts) = (0, 0, 0);
    let mut behind_hole = true;
    for segment in &plan.segments {
        match segment.source {
            Source::Packed { .. } => return false,
            Source::Hole => behind_hole = true,
            Source::Device(_) => {
                blocks += segment.blocks as usize;
                pieces += 1;
                parts += usize::from(std::mem::take(&mut behind_hole));
            }
        }
    }
    (pieces - parts) * PIECE_BLOCKS_MIN > blocks
}

impl<B: Block, F: Fabric, C: Clock> OstService<B, F, C> {
    /// Begins to store the next slab anew, if there is one and nobody needs what it takes.
    pub(crate) fn tidy(&mut self, number: usize) -> usize {
        if self.targets[number].tidying.waiting.is_empty() {
            return 0;
        }
        let is_busy = self.operations.len() > self.operations_max / 2;
        if is_busy || self.is_stopping() {
            // Requests end, and each brings a turn.
            return 0;
        }
        let (now, target) = (self.now, &mut self.targets[number]);
        let Some(store) = target.state.ready().filter(|store| !store.is_stopped()) else {
            return 0;
        };
        let Some((slab, durable)) = target.tidying.poll(now, || store.statistics()) else {
            return 0;
        };
        let Slab { object, offset } = slab;
        let repack = Some(Wanted { object, offset, compression: Compression::None });
        let work = Work::Storing { image: Image::default(), packed: None, repack };
        let operation = Operation { origin: Origin::Tidying, target: number, work, held_bytes: 0 };
        let token = self.operations.insert(operation);
        let repack = Repack { object, offset, length: SLAB_BYTES, durable };
        if store.repack(RequestToken(token), &repack, &mut self.commands).is_err() {
            self.operations.remove(token);
            target.tidying.under_way = None;
            return 0;
        }
        target.tidying.begun(now);
        self.carry_out(number);
        1
    }

    /// Whether a repack is to be given up: it is the service's own, and its content is not what it was begun for.
    pub(crate) fn is_needless(&self, request: RequestToken, plan: &ReadPlan) -> bool {
        let origin = &self.operations.get(request.0).origin;
        matches!(origin, Origin::Tidying) && !is_scattered(plan)
    }

    /// The slab under way was stored anew, or is left as it is.
    pub(crate) fn end_tidying(&mut self, number: usize, result: Result<(), Errno>) {
        let (now, target) = (self.now, &mut self.targets[number]);
        let Some(slab) = target.tidying.under_way.take() else { return };
        let Some(store) = target.state.ready().filter(|_| result.is_ok()) else { return };
        let mut plan = self.scratch.plans.pop().unwrap_or_default();
        let pin = store.read(slab.object, slab.offset, SLAB_BYTES, &mut plan);
        store.release(pin);
        let tidying = &mut target.tidying;
        if is_scattered(&plan) {
            tidying.waiting.clear();
            tidying.rests_until = now.after(REST);
        }
        let held = plan.segments.iter().filter(|segment| segment.source != Source::Hole);
        let bytes: u64 = held.map(|segment| u64::from(segment.blocks) * BLOCK_BYTES as u64).sum();
        tidying.stats.tidied_slabs.add(1);
        tidying.stats.tidied_bytes.add(bytes);
        self.scratch.plans.push(plan);
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use sheen_store::Segment;
    use sheen_types::Lba;

    /// A read of 1 MiB in pieces of `blocks` blocks each.
    fn plan(blocks: u32) -> ReadPlan {
        let piece = |number: u32| Segment {
            image_block: number * blocks,
            blocks,
            source: Source::Device(Lba(u64::from(number) * 1000)),
        };
        let segments = (0..256 / blocks).map(piece).collect();
        ReadPlan { size: SLAB_BYTES, length: SLAB_BYTES, segments, ..ReadPlan::default() }
    }

    fn tidying() -> Tidying {
        Tidying::new(true, Arc::default())
    }

    fn roomy() -> Statistics {
        Statistics { allocatable_blocks: 1 << 20, reserve_blocks: 512, ..Statistics::default() }
    }

    /// Whether a slab is begun, which then is tidied at once.
    fn begins(tidying: &mut Tidying, now: Tick, statistics: Statistics) -> bool {
        let begins = tidying.poll(now, || statistics).is_some();
        tidying.begun(now);
        tidying.under_way = None;
        begins
    }

    #[test]
    fn a_slab_that_was_tried_is_left_alone_for_ten_minutes() {
        let (mut tidying, object) = (tidying(), Fid::new(7, 1));
        let begun = (0..=1200).filter(|&second| {
            let now = Tick(0).after(Duration::from_secs(second));
            tidying.on_read(now, object, 0, &plan(1));
            begins(&mut tidying, now, roomy())
        });
        assert_eq!(begun.collect::<Vec<_>>(), [0, 600, 1200]);
    }

    #[test]
    fn pieces_of_32_kib_are_left_alone_and_holes_are_no_pieces() {
        assert!(is_scattered(&plan(1)) && is_scattered(&plan(4)));
        assert!(!is_scattered(&plan(8)) && !is_scattered(&plan(256)));
        let mut holes = plan(1);
        let every_other = holes.segments.iter_mut().step_by(2);
        every_other.for_each(|segment| segment.source = Source::Hole);
        assert!(!is_scattered(&holes), "no piece follows another");
        let mut packed = plan(1);
        packed.segments[100].source = Source::Packed {
            lba: Lba(9),
            stored: 1,
            first: 0,
            whole: 2,
            codec: sheen_types::Codec::Lz4,
        };
        assert!(!is_scattered(&packed));
    }

    #[test]
    fn no_more_is_written_than_was_read_and_no_more_than_64_mib_at_once() {
        let (mut tidying, now) = (tidying(), Tick(0));
        let mut short = plan(1);
        short.length = READ_BYTES_MIN;
        let (mut begun, mut read) = (0, 0);
        for number in 0..4000 {
            tidying.on_read(now, Fid::new(7, number), 0, &short);
            read += short.length;
            begun += u64::from(begins(&mut tidying, now, roomy()));
            assert!(begun * SLAB_BYTES <= read);
        }
        assert!(begun > 900, "{begun}");
        (0..1000).for_each(|_| tidying.on_read(now, Fid::new(8, 1), 0, &plan(256)));
        assert_eq!(tidying.credit_bytes, CREDIT_BYTES_MAX);
    }

    #[test]
    fn a_store_without_free_space_is_left_alone_and_flushes_give_old_blocks_back() {
        let (mut tidying, now) = (tidying(), Tick(0));
        let spare = LEFT_BLOCKS + SLAB_BLOCKS;
        for (blocks, quarantined_blocks, expected) in [
            (spare - 1, 0, None),
            (spare, SLAB_BLOCKS, Some(true)),
            (spare, 0, Some(false)),
            (2 * spare, SLAB_BLOCKS, Some(false)),
        ] {
            let statistics = Statistics {
                allocatable_blocks: 512 + blocks,
                reserve_blocks: 512,
                quarantined_blocks,
                ..Statistics::default()
            };
            tidying.on_read(now, Fid::new(7, 1), blocks * SLAB_BYTES, &plan(1));
            let begun = tidying.poll(now, || statistics);
            tidying.under_way = None;
            assert_eq!(begun.map(|(_, durable)| durable), expected);
            assert!(tidying.waiting.is_empty());
        }
    }

    #[test]
    fn what_waits_is_bounded_and_waits_once() {
        let (mut tidying, now) = (tidying(), Tick(0));
        for number in 0..100 {
            tidying.on_read(now, Fid::new(7, number / 2), 0, &plan(1));
        }
        assert_eq!(tidying.waiting.len(), WAITING_MAX);
        let mut off = Tidying::new(false, Arc::default());
        off.on_read(now, Fid::new(7, 1), 0, &plan(1));
        assert!(off.waiting.is_empty());
    }
}
