//! The payload memory a client shares with one server: pieces of it for calls, and copies in and out.
//!
//! A server that is hostile, or broken, may write any of it at any time. So nothing in it is ever looked at: payload is copied in from
//! memory of the caller's, and out into it, and only the caller's copy is summed, parsed and handed on. The price is that copy (measured
//! 2026-12-01, see [`crate::region`]).
//!
//! Owns the memory and its mapping. A piece keeps its bytes from other calls until it is dropped, which is not before the server is
//! done with them.

use std::{io, os::fd::BorrowedFd};

use sheen_dma::{Arena, Buffer};

use crate::region::Region;

/// The shared memory of one link.
#[derive(Debug)]
pub(crate) struct Window {
    /// Tells which bytes are taken. Its buffers never leave [`Piece`], which shows no byte of them.
    arena: Arena,
    region: Region,
}

/// A range that belongs to one call.
#[derive(Debug)]
pub(crate) struct Piece(Buffer);

impl Piece {
    /// Where the server finds it.
    pub(crate) fn offset(&self) -> u64 {
        self.0.arena_offset() as u64
    }
}

impl Window {
    /// A window of `bytes` bytes, a power of two of 4 KiB. Only touched pages cost memory.
    pub(crate) fn new(bytes: usize) -> io::Result<Self> {
        let arena = Arena::shared(bytes).map_err(io::Error::other)?;
        let descriptor = arena.descriptor().ok_or(io::ErrorKind::InvalidInput)?;
        let region = Region::map(&descriptor.try_clone_to_owned()?, bytes)?;
        Ok(Self { arena, region })
    }

    pub(crate) fn bytes(&self) -> usize {
        self.arena.bytes()
    }

    /// For the server.
    pub(crate) fn descriptor(&self) -> io::Result<BorrowedFd<'_>> {
        self.arena.descriptor().ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }

    /// Takes `bytes` bytes; None: used up for now.
    pub(crate) fn take(&self, bytes: usize) -> Option<Piece> {
        self.arena.allocate(bytes).map(Piece)
    }

    /// Copies payload into the first bytes of a piece.
    ///
    /// # Panics
    /// When it is longer than the piece.
    pub(crate) fn put(&self, piece: &Piece, payload: &[u8]) {
        assert!(payload.len() <= piece.0.len(), "{} bytes for {}", payload.len(), piece.0.len());
        self.region.write(piece.0.arena_offset(), payload);
    }

    /// Copies the first bytes of a piece out; what the server writes meanwhile may or may not be in the copy.
    ///
    /// # Panics
    /// When there are not so many.
    pub(crate) fn get(&self, piece: &Piece, out: &mut [u8]) {
        assert!(out.len() <= piece.0.len(), "{} bytes of {}", out.len(), piece.0.len());
        self.region.read(piece.0.arena_offset(), out);
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn pieces_do_not_overlap_and_their_bytes_are_copies() {
        let window = Window::new(1 << 16).unwrap();
        let pieces: Vec<Piece> = (0..16).map(|_| window.take(4096).unwrap()).collect();
        assert!(window.take(1).is_none());
        for (number, piece) in (0..).zip(&pieces) {
            window.put(piece, &[number; 4096]);
        }
        let other =
            Region::map(&window.descriptor().unwrap().try_clone_to_owned().unwrap(), 1 << 16);
        for (number, piece) in (0..).zip(&pieces) {
            let mut copy = [0; 4096];
            window.get(piece, &mut copy);
            assert_eq!(copy, [number; 4096]);
            // The server changes its mind: the copy does not.
            let at = usize::try_from(piece.offset()).unwrap();
            other.as_ref().unwrap().write(at, &[0xee; 4096]);
            assert_eq!(copy, [number; 4096]);
        }
        drop(pieces);
        assert!(window.take(1 << 16).is_some());
    }
}
