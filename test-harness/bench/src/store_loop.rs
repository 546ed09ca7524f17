//! An object store on a device in memory, driven in one thread by a fabric that costs next to nothing; and the device alone.
//!
//! What is timed and counted is `measured_section` only. Requests are encoded before it; in it a payload is copied once by
//! the fabric, as any transport has to.

use std::collections::VecDeque;
use std::os::fd::RawFd;

use anyhow::{Result, anyhow, bail, ensure};
use sheen_conformance::random::Random;
use sheen_dma::{Arena, Buffer};
use sheen_node::ost::{OstConfig, OstService};
use sheen_nvme::{RamDevice, RamMedium};
use sheen_ports::{
    Block, BlockCommand, BlockCompletion, BlockOperation, Clock, ConnectionId, Fabric, FabricEvent,
    NotifyError, RequestId,
};
use sheen_reactor::Service;
use sheen_store::{Limits, Zone};
use sheen_types::checksum::crc32c;
use sheen_types::{ClientId, Epoch, Fid, Lba, OstIndex, Tick, Timespec, Xid};
use sheen_wire::object::{ObjectRead, ObjectWrite};
use sheen_wire::{Field, Frame, Opcode};

/// Requests under way at a time.
pub const DEPTH: usize = 16;
const BLOCK_BYTES: usize = 4096;
/// Blocks of the object that is read and written.
const OBJECT_BLOCKS: u64 = 16 << 10;
const DEVICE_BLOCKS: u64 = 64 << 10;
const OBJECT: Fid = Fid { seq: 0x2_0000_0400, oid: 1, ver: 0 };
const OST: OstIndex = OstIndex(0);

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// 4 KiB are read.
    Read,
    /// 4 KiB are written.
    Write,
}

impl Operation {
    /// By its word on a command line.
    ///
    /// # Errors
    /// When there is no such operation.
    pub fn parse(word: &str) -> Result<Self> {
        match word {
            "read" => Ok(Self::Read),
            "write" => Ok(Self::Write),
            _ => bail!("no operation {word}"),
        }
    }
}

/// Hands out encoded requests, [`DEPTH`] at a time, and swallows the replies.
#[derive(Debug, Default)]
struct FlatFabric {
    waiting: VecDeque<Vec<u8>>,
    events: VecDeque<FabricEvent>,
    payload: Vec<u8>,
    in_flight: usize,
    next_slot: u32,
    failed: usize,
}

impl Fabric for FlatFabric {
    fn poll(&mut self, budget: usize, events: &mut Vec<FabricEvent>) -> usize {
        let mut count = 0;
        while count < budget {
            if let Some(event) = self.events.pop_front() {
                events.push(event);
            } else if self.in_flight < DEPTH
                && let Some(message) = self.waiting.pop_front()
            {
                self.in_flight += 1;
                self.next_slot = self.next_slot.wrapping_add(1);
                let request = RequestId { connection: ConnectionId(1), slot: self.next_slot };
                events.push(FabricEvent::Request { request, message });
            } else {
                break;
            }
            count += 1;
        }
        count
    }

    fn pull(&mut self, _request: RequestId, token: u64, mut buffer: Buffer) {
        buffer.as_mut_slice()[..BLOCK_BYTES].copy_from_slice(&self.payload);
        self.events.push_back(FabricEvent::Pulled { token, buffer, result: Ok(()) });
    }

    fn reply(&mut self, _request: RequestId, message: &[u8], payload: Option<Buffer>) {
        self.in_flight -= 1;
        let is_good = Frame::decode_with(message).is_ok_and(|(frame, _)| frame.status == 0);
        self.failed += usize::from(!is_good);
        self.events.extend(payload.map(|buffer| FabricEvent::Sent { buffer }));
    }

    fn notify(&mut self, _connection: ConnectionId, _message: &[u8]) -> Result<(), NotifyError> {
        Err(NotifyError::Closed)
    }

    fn close(&mut self, _connection: ConnectionId) {}

    fn prepare_sleep(&mut self) -> bool {
        false
    }

    fn end_sleep(&mut self) {}

    fn wake_descriptors(&self, _descriptors: &mut Vec<RawFd>) {}

    fn wake_generation(&self) -> u64 {
        0
    }
}

/// Time stands still: nothing here waits for it.
#[derive(Debug)]
struct StillClock;

impl Clock for StillClock {
    fn now(&self) -> Tick {
        Tick(0)
    }

    fn wall(&self) -> Timespec {
        Timespec::ZERO
    }
}

/// An object store whose object is written whole.
#[derive(Debug)]
pub struct StoreLoop {
    service: OstService<RamDevice, FlatFabric, StillClock>,
    random: Random,
    xid: u64,
}

impl StoreLoop {
    /// Formats, recovers and fills.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn new() -> Result<Self> {
        let medium = RamMedium::new(DEVICE_BLOCKS);
        let zone = Zone { first: Lba(0), blocks: DEVICE_BLOCKS };
        let mut device = medium.open(DEPTH);
        touch(&mut device)?;
        for (lba, bytes) in sheen_store::format(zone, 77)? {
            let mut buffer = Buffer::standalone(bytes.len());
            buffer.as_mut_slice()[..bytes.len()].copy_from_slice(&bytes);
            device_alone(
                &mut device,
                std::iter::once(BlockOperation::Write { lba, buffer, durable: true }),
            )?;
        }
        let arena = Arena::anonymous(64 << 20).map_err(|error| anyhow!("arena: {error:?}"))?;
        let config = OstConfig { arena, operations_max: 256, store: Limits::default() };
        let fabric = FlatFabric { payload: vec![0x5a; BLOCK_BYTES], ..FlatFabric::default() };
        let targets = vec![(OST, medium.open(64))];
        let service = OstService::new(config, targets, fabric, StillClock, None)
            .map_err(|error| anyhow!("service: {error:?}"))?;
        let mut made = Self { service, random: Random::new(9), xid: 0 };
        for _ in 0..1_000_000 {
            if made.service.is_ready() {
                break;
            }
            made.service.turn(Tick(0));
        }
        ensure!(made.service.is_ready(), "the store does not recover");
        let whole: Vec<u64> = (0..OBJECT_BLOCKS).collect();
        made.prepare(Operation::Write, &whole);
        made.turn_until_answered();
        made.check()?;
        Ok(made)
    }

    /// Encodes `count` requests at random places of the object.
    pub fn prepare_random(&mut self, operation: Operation, count: u64) {
        let blocks: Vec<u64> = (0..count).map(|_| self.random.below(OBJECT_BLOCKS)).collect();
        self.prepare(operation, &blocks);
    }

    fn prepare(&mut self, operation: Operation, blocks: &[u64]) {
        for block in blocks {
            self.xid += 1;
            let message = self.message(operation, block * 4096);
            self.service.fabric_mut().waiting.push_back(message);
        }
    }

    fn message(&mut self, operation: Operation, offset: u64) -> Vec<u8> {
        let (opcode, body) = match operation {
            Operation::Read => {
                let body = ObjectRead { ost: OST, object: OBJECT, offset, length: 4096 };
                (Opcode::ObjectRead, body.to_vec())
            }
            Operation::Write => {
                let body = ObjectWrite {
                    ost: OST,
                    object: OBJECT,
                    offset,
                    mtime: Timespec::ZERO,
                    uid: 0,
                    gid: 0,
                    projid: 0,
                    durable: false,
                };
                (Opcode::ObjectWrite, body.to_vec())
            }
        };
        let mut frame =
            Frame { client: ClientId(5), epoch: Epoch(1), ..Frame::request(opcode, Xid(self.xid)) };
        match operation {
            Operation::Read => frame.committed = 4096,
            Operation::Write => {
                frame.payload_bytes = 4096;
                frame.payload_checksum = crc32c(&self.service.fabric_mut().payload);
            }
        }
        let mut message = Vec::new();
        frame.encode_with(&body, &mut message);
        message
    }

    /// Carries out all that was prepared. This is what is measured.
    ///
    /// # Errors
    /// When a request failed or is not answered.
    pub fn drive(&mut self) -> Result<()> {
        measured_section(|| self.turn_until_answered());
        self.check()
    }

    fn turn_until_answered(&mut self) {
        let mut idle = 0;
        while idle < 100_000 {
            idle = if self.service.turn(Tick(0)) == 0 { idle + 1 } else { 0 };
            let fabric = self.service.fabric_mut();
            if fabric.waiting.is_empty() && fabric.in_flight == 0 {
                return;
            }
        }
    }

    fn check(&mut self) -> Result<()> {
        let fabric = self.service.fabric_mut();
        ensure!(fabric.in_flight == 0 && fabric.waiting.is_empty(), "requests are not answered");
        ensure!(fabric.failed == 0, "{} requests failed", fabric.failed);
        Ok(())
    }
}

/// The device alone, with as many commands under way.
#[derive(Debug)]
pub struct DeviceLoop {
    device: RamDevice,
    random: Random,
    arena: Arena,
}

impl DeviceLoop {
    /// A device of the same size, written once.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn new() -> Result<Self> {
        let arena = Arena::anonymous(1 << 20).map_err(|error| anyhow!("arena: {error:?}"))?;
        let device = RamMedium::new(DEVICE_BLOCKS).open(DEPTH);
        let mut made = Self { device, random: Random::new(9), arena };
        touch(&mut made.device)?;
        Ok(made)
    }

    /// Carries out `count` operations at random places, reusing [`DEPTH`] buffers. This is what is measured.
    ///
    /// # Errors
    /// When a command fails.
    pub fn drive(&mut self, operation: Operation, count: u64) -> Result<()> {
        let places: Vec<u64> = (0..count).map(|_| self.random.below(OBJECT_BLOCKS)).collect();
        let mut free: Vec<Buffer> = Vec::new();
        for _ in 0..DEPTH {
            free.push(self.arena.allocate(BLOCK_BYTES).ok_or_else(|| anyhow!("no buffers"))?);
        }
        let device = &mut self.device;
        measured_section(|| repeat(device, operation, &places, &mut free))
    }
}

fn repeat(
    device: &mut RamDevice,
    operation: Operation,
    places: &[u64],
    free: &mut Vec<Buffer>,
) -> Result<()> {
    let mut completions: Vec<BlockCompletion> = Vec::new();
    let mut next = places.iter();
    loop {
        while let Some(buffer) = free.pop() {
            let Some(&place) = next.next() else {
                free.push(buffer);
                break;
            };
            let operation = match operation {
                Operation::Read => BlockOperation::Read { lba: Lba(place), buffer },
                Operation::Write => {
                    BlockOperation::Write { lba: Lba(place), buffer, durable: false }
                }
            };
            let refused = device.submit(BlockCommand { token: place, operation });
            ensure!(refused.is_ok(), "the device refuses a command");
        }
        device.ring();
        device.poll(&mut completions);
        for completion in completions.drain(..) {
            completion.result?;
            free.extend(completion.buffer);
        }
        if next.len() == 0 && device.in_flight() == 0 {
            return Ok(());
        }
    }
}

/// Writes a block in each of the medium's pieces, so that it takes its memory before anything is measured.
fn touch(device: &mut RamDevice) -> Result<()> {
    let write = |block| {
        let buffer = Buffer::standalone(BLOCK_BYTES);
        BlockOperation::Write { lba: Lba(block), buffer, durable: false }
    };
    device_alone(device, (0..DEVICE_BLOCKS).step_by(256).map(write))
}

fn device_alone(
    device: &mut RamDevice,
    operations: impl Iterator<Item = BlockOperation>,
) -> Result<()> {
    for operation in operations {
        let refused = device.submit(BlockCommand { token: 1, operation });
        ensure!(refused.is_ok(), "the device refuses a command");
        device.ring();
        let mut completions = Vec::new();
        while device.poll(&mut completions) == 0 {}
        completions.into_iter().try_for_each(|completion| completion.result)?;
    }
    Ok(())
}

/// Where instructions are counted: the counting tool is told this name, so it must stay a function of its own.
#[inline(never)]
fn measured_section<T>(work: impl FnOnce() -> T) -> T {
    work()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_loops_answer_every_request() {
        let mut store = StoreLoop::new().unwrap();
        for operation in [Operation::Write, Operation::Read] {
            store.prepare_random(operation, 500);
            store.drive().unwrap();
            DeviceLoop::new().unwrap().drive(operation, 500).unwrap();
        }
    }
}
