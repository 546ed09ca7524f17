//! Commands in flight at a device: a fixed table, so that the queue depth bounds it.

use sheen_dma::Buffer;
use sheen_ports::BlockError;

/// What is left to do for a command.
#[derive(Debug)]
pub(crate) enum Work {
    /// Fill the buffer from byte `offset`.
    Read { buffer: Buffer, offset: u64 },
    /// Write the buffer to byte `offset`.
    Write { buffer: Buffer, offset: u64, durable: bool },
    /// fdatasync.
    Flush,
    /// Forget `bytes` bytes from byte `offset`.
    Discard { offset: u64, bytes: u64 },
    /// The command was malformed; a no-operation carries its completion, so that a sleeper wakes for it too.
    Refused(Option<Buffer>),
}

impl Work {
    /// What a transfer means that makes no progress: the file ends (it was cut behind our back), or there is no room.
    pub(crate) fn short_end(&self) -> BlockError {
        match self {
            Self::Write { .. } => BlockError::NoSpace,
            Self::Read { .. } | Self::Flush | Self::Discard { .. } | Self::Refused(_) => {
                BlockError::MediaLost
            }
        }
    }
}

/// One command in flight.
#[derive(Debug)]
pub(crate) struct Slot {
    /// The caller's token.
    pub(crate) token: u64,
    /// The command.
    pub(crate) work: Work,
    /// Bytes of the transfer that are done.
    pub(crate) done: usize,
    /// Times the command was sent again after a transient refusal.
    pub(crate) attempts: u32,
}

/// The table. A slot's number goes to the kernel as user data and comes back with the completion.
#[derive(Debug)]
pub(crate) struct Slots {
    slots: Vec<Option<Slot>>,
    free: Vec<u32>,
}

impl Slots {
    /// A table of `depth` free slots.
    pub(crate) fn new(depth: u32) -> Self {
        let slots = (0..depth).map(|_| None).collect();
        Self { slots, free: (0..depth).rev().collect() }
    }

    /// Slots in use.
    pub(crate) fn in_use(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Puts a command into a free slot; the caller checked that there is one.
    pub(crate) fn insert(&mut self, slot: Slot) -> u32 {
        let number = self.free.pop().expect("the caller checked that one is free");
        self.slots[number as usize] = Some(slot);
        number
    }

    /// The command in slot `number`.
    pub(crate) fn get_mut(&mut self, number: u32) -> &mut Slot {
        self.slots[number as usize].as_mut().expect("completions name slots in use")
    }

    /// Ends the command in slot `number`.
    pub(crate) fn remove(&mut self, number: u32) -> Slot {
        let slot = self.slots[number as usize].take().expect("completions name slots in use");
        self.free.push(number);
        slot
    }

    /// Takes every command out, for a device that cannot be waited for.
    pub(crate) fn drain(&mut self) -> Vec<Slot> {
        self.slots.iter_mut().filter_map(Option::take).collect()
    }
}
