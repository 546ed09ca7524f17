//! Ids for inodes this client creates, out of sequences the MDT granted to it.

use std::sync::{Arc, Mutex};

use sheen_ports::Cancel;
use sheen_types::{Errno, Fid};
use sheen_wire::{Opcode, codec::Field, metadata::SequenceGrantReply};

use crate::{client::Client, request::Request};

/// The sequence in use and the last number given out of it.
#[derive(Debug, Default)]
pub(crate) struct Identifiers {
    current: Mutex<Option<Range>>,
}

#[derive(Debug, Clone, Copy)]
struct Range {
    sequence: u64,
    used: u32,
}

impl Identifiers {
    /// Sequences belong to the session; it was ended.
    pub(crate) fn forget(&self) {
        *self.current.lock().expect("no panic while locked") = None;
    }

    fn take(&self) -> Option<Fid> {
        let mut current = self.current.lock().expect("no panic while locked");
        let range = current.as_mut()?;
        if range.used == Fid::SEQUENCE_WIDTH {
            *current = None;
            return None;
        }
        range.used += 1;
        Some(Fid::new(range.sequence, range.used))
    }
}

/// No fields.
pub(crate) struct Empty;

impl Field for Empty {
    fn encode(&self, _: &mut sheen_wire::Encoder<'_>) {}

    fn decode(_: &mut sheen_wire::Decoder<'_>) -> Result<Self, sheen_wire::DecodeError> {
        Ok(Self)
    }
}

impl Client {
    /// An id no inode ever had.
    pub(crate) fn new_fid(self: &Arc<Self>, cancel: &Cancel) -> Result<Fid, Errno> {
        loop {
            if let Some(fid) = self.identifiers.take() {
                return Ok(fid);
            }
            let reply = self.ask(Request::new(Opcode::SequenceGrant, &Empty), cancel)?;
            let grant: SequenceGrantReply = reply.decode()?;
            let mut current = self.identifiers.current.lock().expect("no panic while locked");
            // Two threads may have asked at once: the second sequence is left unused, there are 2^44 of them.
            if current.is_none() {
                *current = Some(Range { sequence: grant.sequence, used: 0 });
            }
        }
    }
}
