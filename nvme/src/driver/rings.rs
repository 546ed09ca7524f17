//! The two rings of a queue pair and their doorbells.
//!
//! Sizes are powers of two, and positions run on freely and are cut to the ring at its edge, so that there is neither division
//! nor a branch at the end of a ring. The completion ring is larger than the submission ring where the controller allows it;
//! the head doorbell is rung only when so much of the surplus is used that the controller could run short.
//!
//! The owner keeps fewer commands in flight than the submission ring has entries, so neither ring overflows.

use sheen_dma::{
    Arena, DeviceCells, Hold, Iova, Register32, fence_after_phase,
    fence_between_shadow_doorbell_and_event_index,
};

use crate::{
    spec::entry::{CQE_BYTES, CompletionTail},
    transport::{Doorbell, DoorbellPair},
};

/// Bit of a completion's second word that is its phase.
const PHASE_SHIFT: u32 = 48;
const _: () = assert!(CQE_BYTES == 2 * size_of::<u64>(), "an entry is two words");

/// How large the rings are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RingSizes {
    /// Entries of the submission ring, a power of two, 2 at least.
    pub(crate) submission: u32,
    /// Entries of the completion ring, a power of two, no fewer.
    pub(crate) completion: u32,
}

impl RingSizes {
    /// Rings for `depth` commands in flight where a queue may have `entries_max` entries. The depth may come out smaller.
    pub(crate) fn new(depth: u32, entries_max: u32) -> Self {
        let most = 1 << entries_max.max(2).ilog2();
        let submission = (depth.max(1) + 1).next_power_of_two().min(most);
        Self { submission, completion: (2 * submission).min(most) }
    }

    /// Commands in flight at most: a ring of n entries holds n - 1.
    pub(crate) const fn depth_max(self) -> u32 {
        self.submission - 1
    }
}

/// A doorbell and, where the controller looks at memory instead, its shadow [NVMe-2.0c §5.8].
#[derive(Debug)]
pub(crate) struct Bell {
    doorbell: Doorbell,
    shadow: Option<Shadow>,
}

/// A shadow doorbell and the value up to which the controller need not be told.
#[derive(Clone, Debug)]
pub(crate) struct Shadow {
    pub(crate) doorbell: Register32,
    pub(crate) event_index: Register32,
}

impl Bell {
    pub(crate) const fn new(doorbell: Doorbell, shadow: Option<Shadow>) -> Self {
        Self { doorbell, shadow }
    }

    /// Publishes a ring position that was `old` before.
    #[inline]
    fn ring(&mut self, old: u32, new: u32) {
        match &self.shadow {
            None => self.doorbell.ring(new),
            Some(shadow) => {
                shadow.doorbell.publish(new);
                fence_between_shadow_doorbell_and_event_index();
                // Distances modulo 2^16, as both sides count them: is the event index among the positions just passed?
                let passed = new.wrapping_sub(old) & 0xffff;
                let beyond = new.wrapping_sub(shadow.event_index.read()).wrapping_sub(1) & 0xffff;
                if beyond < passed {
                    self.doorbell.ring(new);
                }
            }
        }
    }
}

/// Both rings. See the module.
#[derive(Debug)]
pub(crate) struct Rings {
    submission: DeviceCells<[u64; 8]>,
    completion: DeviceCells<u64>,
    sizes: RingSizes,
    completion_log2: u32,
    tail: u32,
    rung: u32,
    head: u32,
    acknowledged: u32,
    /// Completions that may stay unacknowledged.
    deferred_max: u32,
    tail_bell: Bell,
    head_bell: Bell,
}

impl Rings {
    /// Rings in `arena`. None: it has no memory for them.
    pub(crate) fn new(
        arena: &Arena,
        sizes: RingSizes,
        doorbells: DoorbellPair,
        shadows: Option<[Shadow; 2]>,
    ) -> Option<Self> {
        let submission = DeviceCells::new(arena, sizes.submission as usize)?;
        let completion = DeviceCells::new(arena, 2 * sizes.completion as usize)?;
        let (tail_shadow, head_shadow) = match shadows {
            Some([tail, head]) => (Some(tail), Some(head)),
            None => (None, None),
        };
        Some(Self {
            submission,
            completion,
            sizes,
            completion_log2: sizes.completion.ilog2(),
            tail: 0,
            rung: 0,
            head: 0,
            acknowledged: 0,
            // The controller must have room for every command in flight, and a ring of n entries holds n - 1.
            deferred_max: sizes.completion - sizes.submission,
            tail_bell: Bell::new(doorbells.submission_tail, tail_shadow),
            head_bell: Bell::new(doorbells.completion_head, head_shadow),
        })
    }

    /// Where the controller finds the submission ring and the completion ring.
    pub(crate) fn addresses(&self) -> [Iova; 2] {
        [self.submission.iova(), self.completion.iova()]
    }

    /// Holds on the rings' memory, for whoever tells the controller to use it.
    pub(crate) fn holds(&self) -> [Hold; 2] {
        [self.submission.hold(), self.completion.hold()]
    }

    /// Writes an entry. The caller has fewer commands in flight than there are entries.
    #[inline]
    pub(crate) fn push(&mut self, entry: [u64; 8]) {
        self.submission.write_wrapped(self.tail, entry);
        self.tail = self.tail.wrapping_add(1);
    }

    /// Lets the controller see what was pushed: one doorbell.
    #[inline]
    pub(crate) fn ring(&mut self) {
        if self.tail != self.rung {
            let mask = self.sizes.submission - 1;
            self.tail_bell.ring(self.rung & mask, self.tail & mask);
            self.rung = self.tail;
        }
    }

    /// Position of the next completion to take.
    #[inline]
    pub(crate) const fn head(&self) -> u32 {
        self.head
    }

    /// Every entry before `head` was taken.
    #[inline]
    pub(crate) const fn set_head(&mut self, head: u32) {
        self.head = head;
    }

    /// The second word of the entry at `position`.
    #[inline]
    pub(crate) fn peek(&self, position: u32) -> u64 {
        // The ring has two words per entry; the index is cut to it.
        self.completion.read_wrapped(position.wrapping_mul(2).wrapping_add(1))
    }

    /// The first word of the entry at the head.
    pub(crate) fn result(&self) -> u64 {
        self.completion.read_wrapped(self.head.wrapping_mul(2))
    }

    /// Whether the entry at `position` with this second word is new: its phase says in which round it was written.
    #[inline]
    pub(crate) fn is_new(&self, position: u32, word: u64) -> bool {
        let round = position.wrapping_shr(self.completion_log2);
        let is_new = ((word >> PHASE_SHIFT) ^ u64::from(round)) & 1 != 0;
        fence_after_phase();
        is_new
    }

    /// Takes the entry at the head.
    pub(crate) fn advance(&mut self) {
        self.head = self.head.wrapping_add(1);
    }

    /// Acknowledges the entries taken if so many are that the controller could run short.
    #[inline]
    pub(crate) fn acknowledge_some(&mut self) {
        if self.head.wrapping_sub(self.acknowledged) > self.deferred_max / 2 {
            self.acknowledge();
        }
    }

    /// Acknowledges every entry taken.
    pub(crate) fn acknowledge(&mut self) {
        if self.head != self.acknowledged {
            let mask = self.sizes.completion - 1;
            self.head_bell.ring(self.acknowledged & mask, self.head & mask);
            self.acknowledged = self.head;
        }
    }

    /// Whether a head pointer is possible: behind it are at most `in_flight - 1` entries, since the command that completed
    /// was fetched.
    #[inline]
    pub(crate) const fn is_head_possible(&self, head: u16, in_flight: u32) -> bool {
        let mask = self.sizes.submission.wrapping_sub(1);
        let head = head as u32;
        self.tail.wrapping_sub(head) & mask < in_flight && head <= mask
    }

    /// Whether anything completed since the rings were made or rewound.
    pub(crate) const fn has_completed(&self) -> bool {
        self.head != 0
    }

    /// The tail as the controller counts it.
    pub(crate) fn tail_index(&self) -> u16 {
        CompletionTail(u64::from(self.tail & (self.sizes.submission - 1))).sqhd()
    }

    /// As new, for a controller that was disabled: nothing is in the rings.
    pub(crate) fn rewind(&mut self) {
        self.completion.clear();
        self.submission.clear();
        self.tail = 0;
        self.rung = 0;
        self.head = 0;
        self.acknowledged = 0;
    }
}

#[cfg(test)]
mod test {
    use sheen_dma::Registers;

    use super::*;

    fn rings(sizes: RingSizes, shadows: Option<[Shadow; 2]>) -> (Rings, Registers) {
        let arena = Arena::anonymous(1 << 20).unwrap();
        let registers = Registers::memory(4096).unwrap();
        let doorbells = DoorbellPair {
            submission_tail: Doorbell::Mapped(registers.register(0)),
            completion_head: Doorbell::Mapped(registers.register(4)),
        };
        (Rings::new(&arena, sizes, doorbells, shadows).unwrap(), registers)
    }

    #[test]
    fn rings_are_as_large_as_wanted_and_allowed() {
        let sizes = |depth, most| {
            let RingSizes { submission, completion } = RingSizes::new(depth, most);
            (submission, completion)
        };
        assert_eq!(sizes(128, 65536), (256, 512));
        assert_eq!(sizes(127, 65536), (128, 256));
        assert_eq!(sizes(128, 64), (64, 64));
        assert_eq!(sizes(128, 100), (64, 64));
        assert_eq!(sizes(128, 2), (2, 2));
        assert_eq!(sizes(0, 0), (2, 2));
        assert_eq!(RingSizes::new(5, 2).depth_max(), 1);
    }

    #[test]
    fn a_batch_is_one_doorbell_and_heads_are_deferred() {
        let (mut rings, registers) = rings(RingSizes { submission: 4, completion: 8 }, None);
        rings.push([1; 8]);
        rings.push([2; 8]);
        assert_eq!(registers.read32(0), 0);
        rings.ring();
        assert_eq!(registers.read32(0), 2);
        rings.advance();
        rings.acknowledge_some();
        rings.advance();
        rings.acknowledge_some();
        assert_eq!(registers.read32(4), 0, "two may wait");
        rings.advance();
        rings.acknowledge_some();
        assert_eq!(registers.read32(4), 3);
    }

    #[test]
    fn an_entry_is_new_by_the_phase_of_its_round() {
        let (mut rings, _) = rings(RingSizes { submission: 2, completion: 2 }, None);
        let (old, new) = (0, 1 << PHASE_SHIFT);
        assert!(rings.is_new(rings.head(), new | 7) && !rings.is_new(rings.head(), old | 7));
        rings.advance();
        assert!(rings.is_new(rings.head(), new));
        rings.advance();
        assert!(!rings.is_new(rings.head(), new), "the second round has the other phase");
        assert!(rings.is_new(rings.head(), old | u64::from(u16::MAX - 1) << 49));
    }

    #[test]
    fn a_head_is_possible_only_where_commands_were_fetched() {
        let (mut rings, _) = rings(RingSizes { submission: 4, completion: 4 }, None);
        for _ in 0..6 {
            rings.push([0; 8]);
        }
        // The tail is at 2; two in flight: the controller fetched one or both.
        assert!(rings.is_head_possible(2, 2));
        assert!(rings.is_head_possible(1, 2));
        assert!(!rings.is_head_possible(0, 2));
        assert!(!rings.is_head_possible(3, 2));
        assert!(!rings.is_head_possible(6, 2));
    }

    #[test]
    fn a_shadowed_doorbell_is_rung_only_when_the_controller_asks() {
        let memory = Registers::memory(4096).unwrap();
        let shadow = |offset| Shadow {
            doorbell: memory.register(offset),
            event_index: memory.register(offset + 64),
        };
        let sizes = RingSizes { submission: 4, completion: 8 };
        let (mut rings, registers) = rings(sizes, Some([shadow(0), shadow(4)]));
        memory.write32(64, 1);
        rings.push([0; 8]);
        rings.ring();
        assert_eq!((memory.read32(0), registers.read32(0)), (1, 0), "it is awake up to 1");
        rings.push([0; 8]);
        rings.ring();
        assert_eq!((memory.read32(0), registers.read32(0)), (2, 2));
        memory.write32(64, 3);
        rings.push([0; 8]);
        rings.push([0; 8]);
        rings.ring();
        assert_eq!((memory.read32(0), registers.read32(0)), (0, 0), "3 was passed on the way to 0");
    }
}
