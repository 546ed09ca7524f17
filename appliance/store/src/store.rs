//! The running store.

use sheen_types::{Errno, Fid};

use crate::{
    Allocate, Busy, Command, IoFault, IoToken, MergeToken, ObjectAttributes, Punch, ReadPin,
    ReadPlan, RequestToken, SeekTarget, Statistics, Truncate, Write,
};

/// An open store. After each turn of requests and completions call [`Store::pump`] once: records gather until then.
#[derive(Debug)]
pub struct Store {}

impl Store {
    /// Takes a write. Commands follow, at once or later; the last is its [`Command::Complete`].
    ///
    /// # Errors
    /// [`Busy`]: nothing was taken.
    ///
    /// # Panics
    /// When the checksums are not one per image block, the length is 0 or too many blocks are touched.
    pub fn write(
        &mut self,
        request: RequestToken,
        write: &Write<'_>,
        commands: &mut Vec<Command>,
    ) -> Result<(), Busy> {
        let _ = (request, write, commands);
        todo!()
    }

    /// Takes a truncate.
    ///
    /// # Errors
    /// [`Busy`]: nothing was taken.
    pub fn truncate(
        &mut self,
        request: RequestToken,
        truncate: &Truncate,
        commands: &mut Vec<Command>,
    ) -> Result<(), Busy> {
        let _ = (request, truncate, commands);
        todo!()
    }

    /// Takes a punch.
    ///
    /// # Errors
    /// [`Busy`]: nothing was taken.
    pub fn punch(
        &mut self,
        request: RequestToken,
        punch: &Punch,
        commands: &mut Vec<Command>,
    ) -> Result<(), Busy> {
        let _ = (request, punch, commands);
        todo!()
    }

    /// Takes a reservation of space.
    ///
    /// # Errors
    /// [`Busy`]: nothing was taken.
    pub fn allocate(
        &mut self,
        request: RequestToken,
        allocate: &Allocate,
        commands: &mut Vec<Command>,
    ) -> Result<(), Busy> {
        let _ = (request, allocate, commands);
        todo!()
    }

    /// Destroys objects; those that do not exist are fine. Completes once, when all are gone durably.
    ///
    /// # Errors
    /// [`Busy`]: nothing was taken.
    pub fn destroy(
        &mut self,
        request: RequestToken,
        objects: &[Fid],
        commands: &mut Vec<Command>,
    ) -> Result<(), Busy> {
        let _ = (request, objects, commands);
        todo!()
    }

    /// Makes durable everything that completed so far.
    ///
    /// # Errors
    /// [`Busy`]: nothing was taken.
    pub fn sync(&mut self, request: RequestToken, commands: &mut Vec<Command>) -> Result<(), Busy> {
        let _ = (request, commands);
        todo!()
    }

    /// The merge is done; `checksums` are those of the merged image blocks, in the order of the command.
    pub fn merged(
        &mut self,
        merge: MergeToken,
        checksums: [Option<u32>; 2],
        commands: &mut Vec<Command>,
    ) {
        let _ = (merge, checksums, commands);
        todo!()
    }

    /// The merge cannot be done (old block damaged or unreadable): its request completes with `errno`.
    pub fn merge_failed(&mut self, merge: MergeToken, errno: Errno, commands: &mut Vec<Command>) {
        let _ = (merge, errno, commands);
        todo!()
    }

    /// A write or flush completed.
    pub fn on_io(&mut self, io: IoToken, result: Result<(), IoFault>, commands: &mut Vec<Command>) {
        let _ = (io, result, commands);
        todo!()
    }

    /// Ends a turn: sends the records gathered, starts flushes, checkpoints and what waited.
    pub fn pump(&mut self, commands: &mut Vec<Command>) {
        let _ = commands;
        todo!()
    }

    /// Plans a read of `length` bytes at `offset` (at most 1 MiB at any alignment). Sees every completed change.
    pub fn read(&mut self, object: Fid, offset: u64, length: u64, plan: &mut ReadPlan) -> ReadPin {
        let _ = (object, offset, length, plan);
        todo!()
    }

    /// The blocks of a plan were read.
    pub fn release(&mut self, pin: ReadPin) {
        let _ = pin;
        todo!()
    }

    /// What an object knows; None if it does not exist.
    #[must_use]
    pub fn attributes(&self, object: Fid) -> Option<ObjectAttributes> {
        let _ = object;
        todo!()
    }

    /// Finds data or a hole at or behind `offset`; None is ENXIO.
    #[must_use]
    pub fn seek(&self, object: Fid, offset: u64, target: SeekTarget) -> Option<u64> {
        let _ = (object, offset, target);
        todo!()
    }

    /// Space and load.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        todo!()
    }

    /// Whether a device operation of the store failed so that it can no longer promise anything: every request completes
    /// with EIO until the store is opened anew.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        todo!()
    }

    /// Takes the buffer of a [`Command::WriteBytes`] back.
    pub fn recycle(&mut self, bytes: Vec<u8>) {
        let _ = bytes;
        todo!()
    }
}
