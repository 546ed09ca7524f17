//! An object store driven in one thread by 1 MiB requests: their content is one of three kinds, compressed or not.

use std::collections::VecDeque;
use std::os::fd::RawFd;

use anyhow::{Result, anyhow, ensure};
use sheen_conformance::random::Random;
use sheen_dma::{Arena, Buffer};
use sheen_node::ost::{OstConfig, OstService, ScrubConfig};
use sheen_nvme::RamMedium;
use sheen_ports::{
    Block, BlockCommand, BlockOperation, Clock, ConnectionId, Fabric, FabricEvent, NotifyError,
    RequestId,
};
use sheen_reactor::Service;
use sheen_store::{Limits, Zone};
use sheen_types::checksum::crc32c;
use sheen_types::{Compression, Fid, Lba, OstIndex, Tick, Timespec, Xid};
use sheen_wire::object::{ObjectRead, ObjectWrite};
use sheen_wire::{Field, Frame, Opcode};

use crate::admitted::{self, SESSION};

/// Requests under way at a time.
const DEPTH: usize = 8;
const SLAB_BYTES: usize = 1 << 20;
/// Slabs of the object.
pub const SLABS: u64 = 64;
const DEVICE_BLOCKS: u64 = 64 << 10;
const OBJECT: Fid = Fid { seq: 0x2_0000_0400, oid: 1, ver: 0 };
const OST: OstIndex = OstIndex(0);

/// What slabs hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// Nothing but zeros.
    Zeros,
    /// Source text: LZ4 makes less than half of it.
    Text,
    /// Random bytes.
    Noise,
}

impl Content {
    /// Every kind, with its name.
    pub const ALL: [(&'static str, Self); 3] =
        [("zeros", Self::Zeros), ("text", Self::Text), ("noise", Self::Noise)];

    /// A slab of it.
    #[must_use]
    pub fn slab(self) -> Vec<u8> {
        match self {
            Self::Zeros => vec![0; SLAB_BYTES],
            Self::Noise => Random::new(11).bytes(SLAB_BYTES),
            Self::Text => SOURCES.concat().into_bytes().repeat(32)[..SLAB_BYTES].to_vec(),
        }
    }
}

/// Text as people write it: more than a window of it, so that its repetition helps nobody.
const SOURCES: [&str; 14] = [
    include_str!("passthrough/mod.rs"),
    include_str!("passthrough/operations.rs"),
    include_str!("main.rs"),
    include_str!("block_io.rs"),
    include_str!("small_files.rs"),
    include_str!("nvme/rate.rs"),
    include_str!("nvme/path.rs"),
    include_str!("table.rs"),
    include_str!("restart.rs"),
    include_str!("objects.rs"),
    include_str!("compression.rs"),
    include_str!("throttled.rs"),
    include_str!("fio.rs"),
    include_str!("slab_loop.rs"),
];

const _: () = {
    let (mut bytes, mut number) = (0, 0);
    while number < SOURCES.len() {
        bytes += SOURCES[number].len();
        number += 1;
    }
    assert!(bytes > 64 << 10, "a window does not hold a source twice");
};

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Slabs are read.
    Read,
    /// Slabs are written.
    Write,
}

/// Hands out encoded requests, [`DEPTH`] at a time; replies are only counted, with the CRC32C of what they bring.
#[derive(Debug, Default)]
struct SlabFabric {
    waiting: VecDeque<Vec<u8>>,
    events: VecDeque<FabricEvent>,
    payload: Vec<u8>,
    checksum: u32,
    in_flight: usize,
    next_slot: u32,
    failed: usize,
}

impl Fabric for SlabFabric {
    fn poll(&mut self, budget: usize, events: &mut Vec<FabricEvent>) -> usize {
        let before = events.len();
        while events.len() - before < budget {
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
        }
        events.len() - before
    }

    fn pull(&mut self, _request: RequestId, token: u64, mut buffer: Buffer) {
        buffer.as_mut_slice()[..SLAB_BYTES].copy_from_slice(&self.payload);
        self.events.push_back(FabricEvent::Pulled { token, buffer, result: Ok(()) });
    }

    fn reply(&mut self, request: RequestId, message: &[u8], payload: Option<Buffer>) {
        self.in_flight -= 1;
        let is_good = Frame::decode_with(message).is_ok_and(|(frame, _)| {
            let read = frame.opcode == Opcode::ObjectRead;
            frame.status == 0 && (!read || frame.payload_checksum == self.checksum)
        });
        self.failed += usize::from(!is_good);
        let connection = request.connection;
        self.events.extend(payload.map(|buffer| FabricEvent::Sent { connection, buffer }));
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

/// An object store with one object.
#[derive(Debug)]
pub struct SlabLoop<B: Block> {
    service: OstService<B, SlabFabric, StillClock>,
    compression: Compression,
    xid: u64,
}

impl<B: Block> SlabLoop<B> {
    /// Formats a medium, opens it as `open` does and writes the object once.
    ///
    /// # Errors
    /// When there is no memory, or a request fails.
    pub fn new(
        content: Content,
        compression: Compression,
        open: impl Fn(&RamMedium) -> B,
    ) -> Result<Self> {
        let medium = RamMedium::new(DEVICE_BLOCKS);
        let zone = Zone { first: Lba(0), blocks: DEVICE_BLOCKS };
        let mut device = medium.open(DEPTH);
        let mut completions = Vec::new();
        // A block in each of the medium's pieces first, so that it has its memory before anything is measured.
        let touched = (0..DEVICE_BLOCKS).step_by(256).map(|lba| (Lba(lba), vec![0; 4096]));
        for (lba, bytes) in touched.chain(sheen_store::format(zone, 77)?) {
            let mut buffer = Buffer::standalone(bytes.len());
            buffer.as_mut_slice()[..bytes.len()].copy_from_slice(&bytes);
            let operation = BlockOperation::Write { lba, buffer, durable: true };
            let taken = device.submit(BlockCommand { token: 0, operation });
            ensure!(taken.is_ok(), "the device refuses a command");
            device.ring();
            device.poll(&mut completions);
        }
        ensure!(completions.iter().all(|ended| ended.result.is_ok()), "the device fails");
        let arena = Arena::anonymous(64 << 20).map_err(|error| anyhow!("arena: {error:?}"))?;
        let config = OstConfig {
            arena,
            operations_max: 256,
            store: Limits::default(),
            scrub: ScrubConfig::OFF,
            tidy: false,
            incarnation: 1,
        };
        let payload = content.slab();
        let checksum = crc32c(&payload);
        let mut fabric = SlabFabric { payload, checksum, ..SlabFabric::default() };
        fabric.events.push_back(admitted::opened(ConnectionId(1)));
        fabric.waiting.push_back(admitted::attach());
        let (targets, desk) = (vec![(OST, open(&medium))], Some(admitted::desk(OST)?));
        let service = OstService::new(config, targets, fabric, StillClock, desk)
            .map_err(|error| anyhow!("service: {error:?}"))?;
        let mut made = Self { service, compression, xid: 0 };
        for _ in 0..10_000_000 {
            if made.service.is_ready() {
                break;
            }
            made.service.turn(Tick(0));
        }
        ensure!(made.service.is_ready(), "the store does not recover");
        made.drive(Operation::Write, 1)?;
        Ok(made)
    }

    /// Reads or writes the whole object, `times` times over. This is what is measured.
    ///
    /// # Errors
    /// When a request failed, is not answered, or brought other bytes than were written.
    pub fn drive(&mut self, operation: Operation, times: u64) -> Result<()> {
        for number in 0..SLABS * times {
            let message = self.message(operation, number % SLABS * SLAB_BYTES as u64);
            self.service.fabric_mut().waiting.push_back(message);
        }
        let mut idle = 0_u64;
        while idle < 1_000_000_000 {
            idle = if self.service.turn(Tick(0)) == 0 { idle + 1 } else { 0 };
            let fabric = self.service.fabric_mut();
            if fabric.waiting.is_empty() && fabric.in_flight == 0 {
                break;
            }
        }
        let fabric = self.service.fabric_mut();
        ensure!(fabric.in_flight == 0 && fabric.waiting.is_empty(), "requests are not answered");
        ensure!(fabric.failed == 0, "{} requests failed", fabric.failed);
        Ok(())
    }

    fn message(&mut self, operation: Operation, offset: u64) -> Vec<u8> {
        self.xid += 1;
        let (opcode, body) = match operation {
            Operation::Read => {
                let length = u32::try_from(SLAB_BYTES).unwrap_or(u32::MAX);
                let body = ObjectRead { ost: OST, object: OBJECT, offset, length };
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
                    compression: self.compression,
                };
                (Opcode::ObjectWrite, body.to_vec())
            }
        };
        let (client, epoch) = SESSION;
        let mut frame = Frame { client, epoch, ..Frame::request(opcode, Xid(self.xid)) };
        match operation {
            Operation::Read => frame.committed = SLAB_BYTES as u64,
            Operation::Write => {
                frame.payload_bytes = u32::try_from(SLAB_BYTES).unwrap_or(u32::MAX);
                frame.payload_checksum = self.service.fabric_mut().checksum;
            }
        }
        let mut message = Vec::new();
        frame.encode_with(&body, &mut message);
        message
    }
}
