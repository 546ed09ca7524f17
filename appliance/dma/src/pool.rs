//! Buffers of an arena that one thread keeps at hand.
//!
//! An arena is shared: every buffer taken from it costs a lock, twice. A thread that takes and gives back buffers all the time
//! keeps those it got, whole, and takes them again. Bound: a share of the arena. Beyond it larger ones go back for smaller
//! ones, whose way through the arena is the greater part of their use; when the arena is used up everything kept goes back.

use crate::{Arena, Buffer};

/// Largest piece kept, as a power of two of 4 KiB: 2 MiB.
const ORDER_MAX: usize = 9;
/// At most this share of the arena is kept.
const ARENA_SHARE: usize = 8;
/// And at most so many bytes.
const IDLE_BYTES_MAX: usize = 16 << 20;

/// One thread's way to an arena.
#[derive(Debug)]
pub struct Pool {
    arena: Arena,
    /// By order k: whole pieces of 2^k blocks that nobody else holds.
    idle: [Vec<Buffer>; ORDER_MAX + 1],
    idle_bytes: usize,
    idle_bytes_max: usize,
}

impl Pool {
    /// A pool that keeps nothing yet.
    #[must_use]
    pub fn new(arena: Arena) -> Self {
        let idle_bytes_max = (arena.bytes() / ARENA_SHARE).min(IDLE_BYTES_MAX);
        Self { arena, idle: Default::default(), idle_bytes: 0, idle_bytes_max }
    }

    /// A buffer of exactly `bytes` bytes, as [`Arena::allocate`] gives it. Its content is whatever its last user left. None:
    /// used up for now.
    #[must_use]
    pub fn take(&mut self, bytes: usize) -> Option<Buffer> {
        let kept = self.idle.get_mut(Buffer::order_for(bytes)).and_then(Vec::pop);
        if let Some(mut buffer) = kept {
            self.idle_bytes -= buffer.len();
            buffer.truncate(bytes);
            return Some(buffer);
        }
        self.arena.allocate(bytes).or_else(|| {
            self.release();
            self.arena.allocate(bytes)
        })
    }

    /// Takes a buffer back; of one that was split only the last part brings the memory. Buffers of other arenas return there.
    pub fn give(&mut self, buffer: Buffer) {
        if !buffer.is_of(&self.arena) {
            return;
        }
        let Some(whole) = buffer.into_whole() else { return };
        let order = Buffer::order_for(whole.len());
        if order <= ORDER_MAX && self.make_room(order, whole.len()) {
            self.idle_bytes += whole.len();
            self.idle[order].push(whole);
        }
    }

    /// Gives back larger pieces until one of this order has room; false if there is none for it.
    fn make_room(&mut self, order: usize, bytes: usize) -> bool {
        while self.idle_bytes + bytes > self.idle_bytes_max {
            let larger = self.idle[order + 1..].iter_mut().rev().find_map(Vec::pop);
            let Some(larger) = larger else { return false };
            self.idle_bytes -= larger.len();
        }
        true
    }

    /// Gives back to the arena what is kept: before a thread sleeps.
    pub fn release(&mut self) {
        self.idle.iter_mut().for_each(Vec::clear);
        self.idle_bytes = 0;
    }

    /// The arena.
    #[must_use]
    pub fn arena(&self) -> &Arena {
        &self.arena
    }

    /// Bytes kept.
    #[must_use]
    pub fn idle_bytes(&self) -> usize {
        self.idle_bytes
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_buffer_given_back_is_taken_again_whole() {
        let arena = Arena::anonymous(1 << 16).unwrap();
        let mut pool = Pool::new(arena.clone());
        let mut buffer = pool.take(100).unwrap();
        let at = buffer.arena_offset();
        let tail = buffer.split_off(60);
        pool.give(buffer);
        assert_eq!(pool.idle_bytes(), 0, "the tail is still out");
        pool.give(tail);
        assert_eq!(pool.idle_bytes(), 4096);
        assert_eq!(arena.free_bytes(), (1 << 16) - 4096);
        let again = pool.take(4096).unwrap();
        assert_eq!((again.arena_offset(), again.len(), pool.idle_bytes()), (at, 4096, 0));
    }

    #[test]
    fn a_buffer_somebody_still_holds_is_not_kept() {
        let mut pool = Pool::new(Arena::anonymous(1 << 16).unwrap());
        let buffer = pool.take(4096).unwrap();
        let hold = buffer.hold();
        pool.give(buffer);
        assert_eq!(pool.idle_bytes(), 0);
        drop(hold);
        assert_eq!(pool.arena().free_bytes(), 1 << 16);
    }

    #[test]
    fn what_is_kept_is_bounded_and_goes_back_when_the_arena_is_used_up() {
        let arena = Arena::anonymous(1 << 17).unwrap();
        let mut pool = Pool::new(arena.clone());
        let held: Vec<Buffer> = (0..32).map(|_| pool.take(4096).unwrap()).collect();
        assert!(pool.take(1).is_none());
        held.into_iter().for_each(|buffer| pool.give(buffer));
        assert_eq!(pool.idle_bytes(), (1 << 17) / ARENA_SHARE);
        let large: Vec<Buffer> = (0..3).map(|_| pool.take(8192).unwrap()).collect();
        pool.release();
        large.into_iter().for_each(|buffer| pool.give(buffer));
        assert_eq!(pool.idle_bytes(), 2 * 8192);
        let small: Vec<Buffer> = (0..3).map(|_| pool.take(4096).unwrap()).collect();
        small.into_iter().for_each(|buffer| pool.give(buffer));
        assert_eq!(pool.idle_bytes(), 3 * 4096, "small ones displace large ones");
        let whole = pool.take(1 << 17).unwrap();
        assert_eq!((whole.len(), pool.idle_bytes()), (1 << 17, 0));
        drop(whole);
        pool.give(Buffer::standalone(4096));
        assert_eq!(pool.idle_bytes(), 0, "a buffer of another arena");
        assert_eq!(arena.free_bytes(), 1 << 17);
    }
}
