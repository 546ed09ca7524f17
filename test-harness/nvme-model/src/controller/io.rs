//! I/O commands. [NVM-1.0c §3.2]
//!
//! A command of one run of memory takes the short way: one look-up, one copy.

use super::{Controller, Outcome, identify::ALL, subsystem::Subsystem};
use crate::{
    bytes::{count, get32, get64, index},
    command::{Command, nvm},
    data_pointer::{self, Run},
    medium::Durability,
    memory::Memory,
    status::Status,
};

/// Commands and bytes since the controller was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Read commands carried out.
    pub reads: u64,
    /// Write commands carried out.
    pub writes: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Flush commands carried out.
    pub flushes: u64,
}

/// Commands without data reach so many blocks at most: WZSL and VSL of the model.
const DATALESS_BYTES_MAX: u64 = 4096 << 8;

impl Controller {
    #[inline]
    pub(super) fn nvm(&mut self, queue: u16, command: &Command) -> Outcome {
        let result = if self.subsystem.sanitize.is_running() {
            Err(Status::SANITIZING)
        } else if command.fused() != 0 {
            Err(Status::INVALID_FIELD)
        } else {
            match command.opcode() {
                nvm::READ => self.read(command),
                nvm::WRITE => self.write(command),
                nvm::FLUSH => self.flush(command),
                nvm::COMPARE => self.compare(command),
                nvm::WRITE_ZEROES => self.write_zeroes(command),
                nvm::DATASET_MANAGEMENT => self.manage_dataset(command),
                nvm::VERIFY => self.check_dataless(command),
                _ => Err(Status::INVALID_OPCODE),
            }
        };
        if let Err(status) = result {
            self.note_error(queue, command, status);
        }
        result.into()
    }

    /// Checks the range; returns its bytes.
    fn check_range(&self, command: &Command) -> Result<u64, Status> {
        let namespace = self.subsystem.attached(command.nsid());
        let medium = &namespace.ok_or(Status::INVALID_NAMESPACE)?.medium;
        let end = command.lba().checked_add(u64::from(command.blocks()));
        if end.is_none_or(|end| end > medium.blocks()) {
            return Err(Status::LBA_RANGE);
        }
        Ok(u64::from(command.blocks()) * count(medium.block_bytes()))
    }

    /// Checks the range and finds the data.
    fn locate(&mut self, command: &Command) -> Result<u64, Status> {
        let bytes = self.check_range(command)?;
        let shift = self.config.transfer_pages_log2;
        if shift > 0 && bytes > 4096 << shift {
            return Err(Status::INVALID_FIELD);
        }
        let (rules, length) = (self.rules(), crate::bytes::index64(bytes));
        data_pointer::walk(&self.memory, command, length, rules, &mut self.runs)?;
        Ok(bytes)
    }

    fn durability(&self, command: &Command) -> Durability {
        if command.is_forced() || !self.features.is_cached() {
            Durability::Durable
        } else {
            Durability::Cached
        }
    }

    fn read(&mut self, command: &Command) -> Result<(), Status> {
        let bytes = self.locate(command)?;
        let namespace = self.subsystem.attached(command.nsid());
        let medium = &namespace.ok_or(Status::INVALID_NAMESPACE)?.medium;
        let (memory, runs) = (&self.memory, &self.runs);
        medium.read(command.lba(), command.blocks(), |at, from| {
            if let [run] = runs.as_slice() {
                return put(memory, run.address + count(at), from);
            }
            scatter(memory, runs, at, from)
        })?;
        self.traffic.reads += 1;
        self.traffic.read_bytes += bytes;
        Ok(())
    }

    fn write(&mut self, command: &Command) -> Result<(), Status> {
        let bytes = self.locate(command)?;
        let durability = self.durability(command);
        let (memory, runs) = (&self.memory, &self.runs);
        write_blocks(&mut self.subsystem, memory, runs, command, command.blocks(), durability)?;
        self.traffic.writes += 1;
        self.traffic.written_bytes += bytes;
        Ok(())
    }

    /// Half of a write reaches the medium and is durable, the rest does not; then the power goes. The host sees a
    /// controller that is not enabled any more.
    pub(super) fn tear(&mut self, queue: u16, command: &Command) {
        if queue != 0 && command.opcode() == nvm::WRITE && self.locate(command).is_ok() {
            let half = command.blocks() / 2;
            let (memory, runs) = (&self.memory, &self.runs);
            let durability = Durability::Durable;
            // What cannot be read is not written: that is a torn write, too.
            let _ = write_blocks(&mut self.subsystem, memory, runs, command, half, durability);
        }
        let seed = self.plan.chance().next_u64();
        self.cut_power(seed);
    }

    fn flush(&mut self, command: &Command) -> Result<(), Status> {
        let nsid = command.nsid();
        if nsid == ALL {
            self.subsystem.flush(None);
        } else {
            self.subsystem.attached(nsid).ok_or(Status::INVALID_NAMESPACE)?;
            self.subsystem.flush(Some(nsid));
        }
        self.traffic.flushes += 1;
        Ok(())
    }

    fn compare(&mut self, command: &Command) -> Result<(), Status> {
        self.locate(command)?;
        let namespace = self.subsystem.attached(command.nsid());
        let medium = &namespace.ok_or(Status::INVALID_NAMESPACE)?.medium;
        let (memory, runs) = (&self.memory, &self.runs);
        let mut theirs = Vec::new();
        medium.read(command.lba(), command.blocks(), |at, ours| {
            theirs.resize(ours.len(), 0);
            gather(memory, runs, at, &mut theirs)?;
            if theirs == ours { Ok(()) } else { Err(Status::COMPARE) }
        })
    }

    fn check_dataless(&self, command: &Command) -> Result<(), Status> {
        let bytes = self.check_range(command)?;
        if bytes > DATALESS_BYTES_MAX { Err(Status::INVALID_FIELD) } else { Ok(()) }
    }

    fn write_zeroes(&mut self, command: &Command) -> Result<(), Status> {
        self.check_dataless(command)?;
        let durability = self.durability(command);
        let namespace = self.subsystem.attached_mut(command.nsid());
        let medium = &mut namespace.ok_or(Status::INVALID_NAMESPACE)?.medium;
        medium.zero(command.lba(), u64::from(command.blocks()), durability);
        Ok(())
    }

    /// Dataset Management: Deallocate makes blocks read as zeros, the hints do nothing. [NVM-1.0c §3.2.3]
    fn manage_dataset(&mut self, command: &Command) -> Result<(), Status> {
        const DEALLOCATE: u32 = 1 << 2;
        let ranges = index(command.dword(10) & 0xff) + 1;
        let list = self.question(command, 16 * ranges)?;
        let durability = self.durability(&Command::new([0; 8]));
        let namespace = self.subsystem.attached_mut(command.nsid());
        let medium = &mut namespace.ok_or(Status::INVALID_NAMESPACE)?.medium;
        let range = |entry: &[u8]| (get64(entry, 8), u64::from(get32(entry, 4)));
        for entry in list.chunks_exact(16) {
            let (first, blocks) = range(entry);
            if first.checked_add(blocks).is_none_or(|end| end > medium.blocks()) {
                return Err(Status::LBA_RANGE);
            }
        }
        if command.dword(11) & DEALLOCATE != 0 {
            for entry in list.chunks_exact(16) {
                let (first, blocks) = range(entry);
                medium.zero(first, blocks, durability);
            }
        }
        Ok(())
    }
}

fn write_blocks(
    subsystem: &mut Subsystem,
    memory: &Memory,
    runs: &[Run],
    command: &Command,
    blocks: u32,
    durability: Durability,
) -> Result<(), Status> {
    let namespace = subsystem.attached_mut(command.nsid());
    let medium = &mut namespace.ok_or(Status::INVALID_NAMESPACE)?.medium;
    medium.write(command.lba(), blocks, durability, |at, room| {
        if let [run] = runs {
            return take(memory, run.address + count(at), room);
        }
        gather(memory, runs, at, room)
    })
}

#[inline]
fn put(memory: &Memory, address: u64, from: &[u8]) -> Result<(), Status> {
    memory.write(address, from).map_err(|_| Status::DATA_TRANSFER)
}

#[inline]
fn take(memory: &Memory, address: u64, room: &mut [u8]) -> Result<(), Status> {
    memory.read(address, room).map_err(|_| Status::DATA_TRANSFER)
}

/// The parts of `runs` that hold `length` bytes from offset `at` of the transfer on: address, offset within the part
/// asked for, length.
fn parts(runs: &[Run], at: usize, length: usize) -> impl Iterator<Item = (u64, usize, usize)> {
    let end = at + length;
    let mut first = 0;
    runs.iter().filter_map(move |run| {
        let (begin, behind) = (first, first + run.bytes);
        first = behind;
        let (from, to) = (begin.max(at), behind.min(end));
        (from < to).then(|| (run.address + count(from - begin), from - at, to - from))
    })
}

fn scatter(memory: &Memory, runs: &[Run], at: usize, from: &[u8]) -> Result<(), Status> {
    for (address, offset, bytes) in parts(runs, at, from.len()) {
        put(memory, address, &from[offset..offset + bytes])?;
    }
    Ok(())
}

fn gather(memory: &Memory, runs: &[Run], at: usize, room: &mut [u8]) -> Result<(), Status> {
    for (address, offset, bytes) in parts(runs, at, room.len()) {
        take(memory, address, &mut room[offset..offset + bytes])?;
    }
    Ok(())
}
