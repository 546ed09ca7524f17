//! A device in memory that loses at a crash what was not durable, and a replica that runs on it.

use std::collections::{BTreeMap, VecDeque};

use sheen_consensus::{
    Command, Format, Group, GroupConfig, IoId, Position, Recovery, RecoveryError, RecoveryStep,
    ZONE_BLOCKS_MIN, Zone,
};
use sheen_types::{BLOCK_BYTES, Lba, Tick};

/// A small generator of chance; the seed is printed by the tests.
#[derive(Debug, Clone)]
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

#[derive(Debug)]
struct InFlight {
    io: IoId,
    lba: Lba,
    bytes: Vec<u8>,
    durable: bool,
    flush: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Device {
    durable: BTreeMap<u64, Vec<u8>>,
    cached: BTreeMap<u64, Vec<u8>>,
    in_flight: VecDeque<InFlight>,
}

impl Device {
    pub(crate) fn submit(&mut self, command: Command) {
        match command {
            Command::Write { io, lba, bytes, durable } => {
                self.in_flight.push_back(InFlight { io, lba, bytes, durable, flush: false });
            }
            Command::Flush { io } => {
                let (lba, bytes) = (Lba(0), Vec::new());
                self.in_flight.push_back(InFlight { io, lba, bytes, durable: false, flush: true });
            }
            other => panic!("not for a device: {other:?}"),
        }
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Completes one command, any of those in flight.
    pub(crate) fn complete_one(&mut self, chance: &mut Chance) -> Option<IoId> {
        if self.in_flight.is_empty() {
            return None;
        }
        let at = usize::try_from(chance.below(self.in_flight.len() as u64)).unwrap();
        let command = self.in_flight.remove(at).unwrap();
        if command.flush {
            self.durable.append(&mut self.cached);
        }
        for (block, bytes) in blocks(&command) {
            if command.durable {
                self.cached.remove(&block);
                self.durable.insert(block, bytes);
            } else {
                self.cached.insert(block, bytes);
            }
        }
        Some(command.io)
    }

    /// Completes the command submitted last, durably; those before it stay in flight.
    pub(crate) fn complete_last(&mut self) -> IoId {
        let last = self.in_flight.pop_back().unwrap();
        for (block, bytes) in blocks(&last) {
            self.durable.insert(block, bytes);
        }
        last.io
    }

    /// Power fails: nothing of what is in flight or cached is kept.
    pub(crate) fn lose_power(&mut self) {
        self.in_flight.clear();
        self.cached.clear();
    }

    /// Power fails: each block in flight or cached is there or not, by chance.
    pub(crate) fn crash(&mut self, chance: &mut Chance) {
        for command in std::mem::take(&mut self.in_flight) {
            for (block, bytes) in blocks(&command) {
                self.cached.insert(block, bytes);
            }
        }
        for (block, bytes) in std::mem::take(&mut self.cached) {
            if chance.below(2) == 0 {
                self.durable.insert(block, bytes);
            }
        }
    }

    pub(crate) fn read(&self, lba: Lba, blocks: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        for block in lba.0..lba.0 + u64::from(blocks) {
            match self.cached.get(&block).or_else(|| self.durable.get(&block)) {
                Some(stored) => bytes.extend_from_slice(stored),
                None => bytes.resize(bytes.len() + BLOCK_BYTES, 0),
            }
        }
        bytes
    }

    /// Flips a bit of a stored block; whether there is such a block.
    pub(crate) fn rot(&mut self, block: u64, byte: usize) -> bool {
        self.durable.get_mut(&block).map(|bytes| bytes[byte] ^= 1).is_some()
    }

    pub(crate) fn write_now(&mut self, lba: Lba, bytes: &[u8]) {
        for (i, block) in (0..).zip(bytes.chunks(BLOCK_BYTES)) {
            self.durable.insert(lba.0 + i, block.to_vec());
        }
    }
}

fn blocks(command: &InFlight) -> Vec<(u64, Vec<u8>)> {
    let chunks = command.bytes.chunks(BLOCK_BYTES).map(<[u8]>::to_vec);
    (command.lba.0..).zip(chunks).collect()
}

pub(crate) fn zone() -> Zone {
    Zone::new(ZONE_BLOCKS_MIN).unwrap()
}

pub(crate) fn formatted(replica: u64, voters: &[u64]) -> Device {
    let format = Format { zone: zone(), identity: 0x1234, replica, voters: voters.to_vec() };
    let mut device = Device::default();
    for (lba, bytes) in format.anchors() {
        device.write_now(lba, &bytes);
    }
    device
}

/// What a restart found: the snapshot's bytes, and the replica.
pub(crate) fn recover(
    device: &mut Device,
    config: GroupConfig,
    now: Tick,
) -> Result<(Vec<u8>, Group), RecoveryError> {
    let mut recovery = Recovery::new(config, zone());
    let mut snapshot = Vec::new();
    loop {
        match recovery.poll()?.expect("every command completes at once") {
            RecoveryStep::Read { io, lba, blocks } => {
                let bytes = device.read(lba, blocks);
                recovery.on_read(io, Some(&bytes));
            }
            RecoveryStep::Write { io, lba, bytes, durable } => {
                assert!(durable);
                device.write_now(lba, &bytes);
                recovery.on_done(io, true);
            }
            RecoveryStep::Flush { io } => {
                device.submit(Command::Flush { io });
                device.complete_one(&mut Chance(0));
                recovery.on_done(io, true);
            }
            RecoveryStep::SnapshotBytes(bytes) => snapshot.extend(bytes),
            RecoveryStep::Ready => return Ok((snapshot, recovery.finish(now))),
        }
    }
}

/// A state machine that is the list of its commands, with the replica that feeds it.
#[derive(Debug)]
pub(crate) struct Replica {
    pub(crate) group: Group,
    pub(crate) applied: Vec<Vec<u8>>,
    pub(crate) sent: Vec<(u64, Vec<u8>)>,
    pub(crate) snapshots_done: u32,
    pub(crate) last: Position,
}

impl Replica {
    pub(crate) fn start(
        device: &mut Device,
        config: GroupConfig,
        now: Tick,
    ) -> Result<Self, RecoveryError> {
        let (snapshot, group) = recover(device, config, now)?;
        let applied = snapshot
            .split(|&byte| byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(<[u8]>::to_vec)
            .collect();
        let last = Position::default();
        let mut replica = Self { group, applied, sent: Vec::new(), snapshots_done: 0, last };
        replica.run(device);
        Ok(replica)
    }

    /// Carries out commands; device commands are only submitted.
    pub(crate) fn run(&mut self, device: &mut Device) {
        self.group.pump();
        while let Some(command) = self.group.poll_command() {
            match command {
                Command::Write { .. } | Command::Flush { .. } => device.submit(command),
                Command::Send { to, message } => self.sent.push((to, message)),
                Command::Committed { position, payload } => {
                    assert!(position > self.last, "in order and once");
                    self.last = position;
                    self.applied.push(payload);
                }
                Command::Leading { .. } | Command::Deposed => {}
                Command::SnapshotDone { .. } => self.snapshots_done += 1,
                Command::Stopped => panic!("the device never fails here"),
            }
        }
    }

    /// Runs until nothing is in flight.
    pub(crate) fn settle(&mut self, device: &mut Device, chance: &mut Chance) {
        loop {
            self.run(device);
            let Some(io) = device.complete_one(chance) else { return };
            self.group.on_io_complete(io, true);
        }
    }

    pub(crate) fn snapshot(&mut self) {
        if self.group.begin_snapshot().is_ok() {
            for line in &self.applied {
                self.group.push_snapshot(line).unwrap();
                self.group.push_snapshot(b"\n").unwrap();
            }
            self.group.finish_snapshot();
        }
    }
}
