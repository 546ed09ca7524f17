//! The table of commands in flight: fixed, one cache line each, found by command identifier.
//!
//! A command identifier is the slot's number with a generation in the bits above, so that a completion that comes twice or
//! too late names no command in flight. A free slot holds [`CID_NONE`], which no completion can name: the number in it lies past
//! every table. So one comparison tells a good completion from all bad ones.

use sheen_dma::Buffer;

use crate::spec::{IoOpcode, entry::CID_NONE};

/// Slots of a table at most: a queue's entries less one, leaving four bits for the generation.
pub(crate) const SLOTS_MAX: u32 = 4095;
/// The end of the list of free slots.
const NO_SLOT: u16 = u16::MAX;

/// What a command does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Read,
    Write,
    Flush,
    WriteZeroes,
    Discard,
    Compare,
    Verify,
}

impl Kind {
    #[inline]
    pub(crate) const fn opcode(self) -> IoOpcode {
        match self {
            Self::Read => IoOpcode::READ,
            Self::Write => IoOpcode::WRITE,
            Self::Flush => IoOpcode::FLUSH,
            Self::WriteZeroes => IoOpcode::WRITE_ZEROES,
            Self::Discard => IoOpcode::DATASET_MANAGEMENT,
            Self::Compare => IoOpcode::COMPARE,
            Self::Verify => IoOpcode::VERIFY,
        }
    }
}

/// A command in flight: all that is needed to send it again.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct Slot {
    /// The caller's.
    pub(crate) token: u64,
    pub(crate) buffer: Option<Buffer>,
    /// First logical block, in the namespace's format.
    pub(crate) slba: u64,
    /// Command dword 12, or 4 KiB blocks of a discard.
    pub(crate) length: u32,
    /// Tick of the queue pair when it was submitted.
    pub(crate) tick: u32,
    /// [`CID_NONE`] when free.
    cid: u16,
    /// The identifier of its next command.
    next_cid: u16,
    next_free: u16,
    pub(crate) kind: Kind,
    /// Times it was sent.
    pub(crate) attempts: u8,
    /// Times the supervisor was told that it takes long.
    pub(crate) reports: u8,
}

const _: () = assert!(size_of::<Slot>() == 64, "a slot is a cache line");

impl Slot {
    fn new(number: u16, next_free: u16) -> Self {
        Self {
            token: 0,
            buffer: None,
            slba: 0,
            length: 0,
            tick: 0,
            cid: CID_NONE,
            next_cid: number,
            next_free,
            kind: Kind::Flush,
            attempts: 0,
            reports: 0,
        }
    }

    /// The identifier of the command in it.
    #[inline]
    pub(crate) const fn cid(&self) -> u16 {
        self.cid
    }

    pub(crate) const fn is_free(&self) -> bool {
        self.cid == CID_NONE
    }
}

/// The table.
#[derive(Debug)]
pub(crate) struct Slots {
    slots: Box<[Slot]>,
    first_free: u16,
    /// Bits of a command identifier that are the slot's number.
    number_mask: u16,
    in_flight: u32,
}

impl Slots {
    /// `depth` free slots (at most [`SLOTS_MAX`]).
    pub(crate) fn new(depth: u32) -> Self {
        let depth = u16::try_from(depth.clamp(1, SLOTS_MAX)).expect("clamped to twelve bits");
        let next = |number| if number + 1 == depth { NO_SLOT } else { number + 1 };
        let slots = (0..depth).map(|number| Slot::new(number, next(number))).collect();
        // The number of all ones is never a slot's, so that CID_NONE is never a command's.
        let number_mask = (depth + 1).next_power_of_two() - 1;
        Self { slots, first_free: 0, number_mask, in_flight: 0 }
    }

    #[inline]
    pub(crate) const fn in_flight(&self) -> u32 {
        self.in_flight
    }

    pub(crate) fn depth(&self) -> usize {
        self.slots.len()
    }

    /// A free slot, to be filled by the caller before it does anything else. It is in flight from here on.
    #[inline]
    pub(crate) fn take(&mut self) -> Option<&mut Slot> {
        // One check finds both the end of the list and the end of the table.
        let slot = self.slots.get_mut(usize::from(self.first_free))?;
        self.first_free = slot.next_free;
        slot.cid = slot.next_cid;
        self.in_flight = self.in_flight.wrapping_add(1);
        Some(slot)
    }

    /// The slot of a command in flight. None: there is no such command.
    #[inline]
    pub(crate) fn find(&mut self, cid: u16) -> Option<&mut Slot> {
        let slot = self.slots.get_mut(usize::from(cid & self.number_mask))?;
        if slot.cid == cid { Some(slot) } else { None }
    }

    /// Ends the command in flight with this identifier and frees its slot; what it held goes to the caller.
    #[inline]
    pub(crate) fn release(&mut self, cid: u16) -> Option<(u64, Option<Buffer>)> {
        let mask = self.number_mask;
        let slot = self.slots.get_mut(usize::from(cid & mask))?;
        if slot.cid != cid {
            return None;
        }
        slot.cid = CID_NONE;
        slot.next_cid = cid.wrapping_add(mask.wrapping_add(1));
        slot.next_free = self.first_free;
        self.first_free = cid & mask;
        self.in_flight = self.in_flight.wrapping_sub(1);
        Some((slot.token, slot.buffer.take()))
    }

    /// Slot number of a command identifier.
    #[inline]
    pub(crate) const fn number(&self, cid: u16) -> u32 {
        (cid & self.number_mask) as u32
    }

    /// Every slot, in flight or not.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter()
    }

    /// The slot with this number, in flight or not.
    pub(crate) fn get(&mut self, number: usize) -> Option<&mut Slot> {
        self.slots.get_mut(number)
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_full_table_refuses_and_a_freed_slot_serves_again_under_another_identifier() {
        let mut slots = Slots::new(3);
        let cids: Vec<u16> = (0..3).map(|_| slots.take().unwrap().cid()).collect();
        assert_eq!(cids, [0, 1, 2]);
        assert!(slots.take().is_none());
        slots.find(1).unwrap().token = 77;
        assert_eq!(slots.release(1).unwrap().0, 77);
        assert!(slots.find(1).is_none() && slots.release(1).is_none(), "it came twice");
        assert_eq!(slots.take().unwrap().cid(), 1 + 4);
        assert!(slots.release(1).is_none(), "it came too late");
        assert_eq!(slots.in_flight(), 3);
    }

    #[test]
    fn no_completion_names_a_free_slot() {
        for depth in [1, 3, 7, 8, SLOTS_MAX] {
            let mut slots = Slots::new(depth);
            assert_eq!(slots.depth(), depth as usize);
            for cid in 0..=u16::MAX {
                assert!(slots.find(cid).is_none(), "{cid} of {depth}");
            }
        }
    }

    #[test]
    fn generations_go_round_without_the_reserved_identifier() {
        let mut slots = Slots::new(1);
        for _ in 0..200_000 {
            let cid = slots.take().unwrap().cid();
            assert_ne!(cid, CID_NONE);
            assert_eq!(slots.number(cid), 0);
            slots.release(cid).unwrap();
        }
    }
}
