//! The message area: what a client and a service thread on one host share.
//!
//! | bytes         | what                | written by                                                  |
//! |---------------|---------------------|-------------------------------------------------------------|
//! | 0..4          | server sleeping     | server: 1 before it sleeps; whoever finds 1 makes it 0, wakes |
//! | 64..96        | doorbells           | client sets bit n when slot n holds a request; server clears |
//! | 128..132      | callback signal     | both count up; the callback reader sleeps on it              |
//! | 192..196      | reader sleeping     | client                                                       |
//! | 256..260      | callback head       | server: messages written                                     |
//! | 320..324      | callback tail       | client: messages taken                                       |
//! | 4096..        | [`SLOTS`] slots     | see below                                                    |
//! | then          | [`CALLBACKS`] × 1 KiB | server                                                     |
//!
//! A slot: 0..4 state (see [`state`]), 8..16 arena offset of the payload, 16..24 arena offset of the reply room,
//! 64..1088 request, 1088..2112 reply.
//!
//! Doorbells are a bitmap and not a ring: every bit names a valid slot, and a producer that stops half-way holds up
//! nobody. Deliberately absent: any decision (see `shared_link`, `shared_connection`).

use std::{
    io,
    os::fd::OwnedFd,
    sync::atomic::{AtomicU32, AtomicU64},
};

use sheen_wire::{DecodeError, FRAME_BYTES, Frame};

use crate::region::Region;

/// Requests of a connection in flight at a time.
pub(crate) const SLOTS: u32 = 256;
/// Words of doorbells.
pub(crate) const DOORBELLS: usize = 4;
/// Callbacks a client may leave unread.
pub(crate) const CALLBACKS: u32 = 256;
/// Bytes of a message: frame and body.
pub(crate) const MESSAGE_BYTES: usize = 1024;

const SLOTS_OFFSET: usize = 4096;
// 33 cache lines: neighbours do not fall into the same cache set as a power of two would make them.
const SLOT_BYTES: usize = 64 + 2 * MESSAGE_BYTES;
const CALLBACKS_OFFSET: usize = SLOTS_OFFSET + SLOTS as usize * SLOT_BYTES;

/// Bytes of the whole area.
pub(crate) const AREA_BYTES: usize = CALLBACKS_OFFSET + CALLBACKS as usize * MESSAGE_BYTES;

const _: () = assert!(SLOTS as usize == DOORBELLS * 64, "a doorbell bit per slot");
const _: () = assert!(
    FRAME_BYTES + sheen_wire::BODY_BYTES_MAX == MESSAGE_BYTES,
    "a message fills a slot at most"
);
const _: () = assert!(AREA_BYTES.is_multiple_of(4096), "whole pages");
const _: () = assert!(SLOT_BYTES.is_multiple_of(64), "slots share no cache line");

/// Values of a slot's state word.
pub(crate) mod state {
    /// A request is there or on its way; its caller looks by itself.
    pub(crate) const SUBMITTED: u32 = 1;
    /// As above, but the caller sleeps on the word.
    pub(crate) const SLEEPING: u32 = 2;
    /// The reply is there.
    pub(crate) const REPLIED: u32 = 3;
}

/// A mapped message area.
#[derive(Debug)]
pub(crate) struct Area(Region);

impl Area {
    pub(crate) fn create() -> io::Result<(Self, OwnedFd)> {
        let (region, descriptor) = Region::create(AREA_BYTES)?;
        Ok((Self(region), descriptor))
    }

    pub(crate) fn map(descriptor: &OwnedFd) -> io::Result<Self> {
        Region::map(descriptor, AREA_BYTES).map(Self)
    }

    pub(crate) fn server_sleeping(&self) -> &AtomicU32 {
        self.0.word(0)
    }

    pub(crate) fn doorbell(&self, word: usize) -> &AtomicU64 {
        assert!(word < DOORBELLS, "doorbell word {word}");
        self.0.long_word(64 + word * 8)
    }

    pub(crate) fn callback_signal(&self) -> &AtomicU32 {
        self.0.word(128)
    }

    pub(crate) fn reader_sleeping(&self) -> &AtomicU32 {
        self.0.word(192)
    }

    pub(crate) fn callback_head(&self) -> &AtomicU32 {
        self.0.word(256)
    }

    pub(crate) fn callback_tail(&self) -> &AtomicU32 {
        self.0.word(320)
    }

    fn slot(slot: u32) -> usize {
        assert!(slot < SLOTS, "slot {slot}");
        SLOTS_OFFSET + slot as usize * SLOT_BYTES
    }

    pub(crate) fn state(&self, slot: u32) -> &AtomicU32 {
        self.0.word(Self::slot(slot))
    }

    pub(crate) fn payload_offset(&self, slot: u32) -> &AtomicU64 {
        self.0.long_word(Self::slot(slot) + 8)
    }

    pub(crate) fn room_offset(&self, slot: u32) -> &AtomicU64 {
        self.0.long_word(Self::slot(slot) + 16)
    }

    pub(crate) fn write_request(&self, slot: u32, message: &[u8]) {
        self.write_message(Self::slot(slot) + 64, message);
    }

    pub(crate) fn read_request(&self, slot: u32) -> Result<Vec<u8>, DecodeError> {
        self.read_message(Self::slot(slot) + 64)
    }

    pub(crate) fn write_reply(&self, slot: u32, message: &[u8]) {
        self.write_message(Self::slot(slot) + 64 + MESSAGE_BYTES, message);
    }

    pub(crate) fn read_reply(&self, slot: u32) -> Result<Vec<u8>, DecodeError> {
        self.read_message(Self::slot(slot) + 64 + MESSAGE_BYTES)
    }

    fn callback(position: u32) -> usize {
        CALLBACKS_OFFSET + (position % CALLBACKS) as usize * MESSAGE_BYTES
    }

    pub(crate) fn write_callback(&self, position: u32, message: &[u8]) {
        self.write_message(Self::callback(position), message);
    }

    pub(crate) fn read_callback(&self, position: u32) -> Result<Vec<u8>, DecodeError> {
        self.read_message(Self::callback(position))
    }

    fn write_message(&self, offset: usize, message: &[u8]) {
        assert!(message.len() <= MESSAGE_BYTES, "a message of {} bytes", message.len());
        self.0.write(offset, message);
    }

    /// Copies a message out and checks the copy: frame, lengths, checksum.
    fn read_message(&self, offset: usize) -> Result<Vec<u8>, DecodeError> {
        let mut head = [0; FRAME_BYTES];
        self.0.read(offset, &mut head);
        let body_bytes = Frame::peek(&head)?.body_bytes as usize;
        let mut message = vec![0; FRAME_BYTES + body_bytes];
        message[..FRAME_BYTES].copy_from_slice(&head);
        self.0.read(offset + FRAME_BYTES, &mut message[FRAME_BYTES..]);
        Frame::decode_with(&message)?;
        Ok(message)
    }
}
