//! Objects written and read straight at a node's object storage targets, without a file system on top.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::{Result, anyhow, ensure};
use sheen_dma::Arena;
use sheen_ports::{Call, Cancel, Link};
use sheen_types::checksum::crc32c;
use sheen_types::{ClientId, Compression, Epoch, Errno, Fid, OstIndex, Tag, Timespec, Xid};
use sheen_wire::metadata::{Attach, Connect, ConnectReply};
use sheen_wire::object::{ObjectRead, ObjectSync, ObjectWrite};
use sheen_wire::{Field, Frame, Opcode};

/// Bytes of each object.
pub const OBJECT_BYTES: usize = 4096;
/// How often a session tells that it lives.
const PING_MILLISECONDS: u64 = 5_000;
/// Threads that write; each waits for its reply.
const THREADS: u64 = 16;

/// The object of that number.
#[must_use]
pub fn object(number: u64) -> Fid {
    let width = u64::from(Fid::SEQUENCE_WIDTH);
    // Far above the sequences a node gives to clients in a bench.
    let sequence = Fid::NORMAL_SEQUENCE_FIRST + (1 << 20) + number / width;
    Fid::new(sequence, u32::try_from(number % width + 1).unwrap_or(1))
}

/// A session of its own, and its connection to one target's service.
pub struct Target {
    mdt: Arc<dyn Link>,
    link: Arc<dyn Link>,
    index: OstIndex,
    client: ClientId,
    epoch: Epoch,
    xid: AtomicU64,
    since: Instant,
    /// Milliseconds from `since` to the last sign of life to the MDT.
    pinged: AtomicU64,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Target").field("index", &self.index).finish_non_exhaustive()
    }
}

fn link_to(address: &str, service: u32) -> Result<Arc<dyn Link>> {
    let arena = Arena::shared(4 << 20).map_err(|error| anyhow!("arena: {error:?}"))?;
    sheen_rdma::connect(address, service, &arena)
        .map_err(|error| anyhow!("connecting to service {service}: {error:?}"))
}

impl Target {
    /// Opens a session of `filesystem` and connects to target `index` at `address`; with one target a reactor, target n is
    /// service n + 1.
    ///
    /// # Errors
    /// When nobody answers there, or there is no such file system.
    pub fn connect(address: &str, filesystem: &[u8], index: u32) -> Result<Self> {
        let mut target = Self {
            mdt: link_to(address, 0)?,
            link: link_to(address, index + 1)?,
            index: OstIndex(index),
            client: ClientId(0),
            epoch: Epoch(0),
            xid: AtomicU64::new(0),
            since: Instant::now(),
            pinged: AtomicU64::new(0),
        };
        let (filesystem, label) = (filesystem.to_vec(), b"bench".to_vec());
        let mut uuid = *b"bench of objects";
        uuid[0] ^= index.to_le_bytes()[0];
        let connect = Connect { uuid, client: ClientId(0), filesystem, label, slots: 1 };
        let (body, _) = target.call_over(&target.mdt, Opcode::Connect, &connect.to_vec(), None)?;
        let reply = ConnectReply::from_bytes(&body)?;
        (target.client, target.epoch) = (reply.client, reply.epoch);
        target.call(Opcode::Attach, &Attach { key: reply.attach_key }.to_vec(), None)?;
        Ok(target)
    }

    /// Tells the MDT now and then that the session lives.
    fn keep_alive(&self) -> Result<()> {
        let now = u64::try_from(self.since.elapsed().as_millis())?;
        let pinged = self.pinged.load(Ordering::Relaxed);
        let (order, pings) = (Ordering::Relaxed, &self.pinged);
        // One thread of several is the one to do it.
        if now > pinged + PING_MILLISECONDS
            && pings.compare_exchange(pinged, now, order, order).is_ok()
        {
            self.call_over(&self.mdt, Opcode::Ping, &[], None)?;
        }
        Ok(())
    }

    fn call(&self, opcode: Opcode, body: &[u8], payload: Option<&[u8]>) -> Result<Vec<u8>> {
        self.keep_alive()?;
        self.call_over(&self.link, opcode, body, payload).map(|(_, payload)| payload)
    }

    /// Asks until the service is not busy. Body and payload of the answer.
    fn call_over(
        &self,
        link: &Arc<dyn Link>,
        opcode: Opcode,
        body: &[u8],
        payload: Option<&[u8]>,
    ) -> Result<(Vec<u8>, Vec<u8>)> {
        loop {
            let xid = Xid(self.xid.fetch_add(1, Ordering::Relaxed) + 1);
            let (client, epoch) = (self.client, self.epoch);
            let mut frame = Frame { client, epoch, tag: Tag(0), ..Frame::request(opcode, xid) };
            let room = link.buffer(OBJECT_BYTES);
            let offered = match payload.map(|bytes| (bytes, link.buffer(bytes.len()))) {
                None => None,
                Some((bytes, Some(mut buffer))) => {
                    buffer.as_mut_slice()[..bytes.len()].copy_from_slice(bytes);
                    frame.payload_checksum = crc32c(bytes);
                    Some((buffer, bytes.len()))
                }
                Some((_, None)) => {
                    std::thread::yield_now();
                    continue;
                }
            };
            let call = Call { frame, body: body.to_vec(), payload: offered, room };
            let result = link.call(call, &Cancel::new());
            let (frame, body) = result.reply.map_err(|error| anyhow!("{opcode:?}: {error}"))?;
            if frame.status == -Errno::EAGAIN.0 {
                std::thread::yield_now();
                continue;
            }
            ensure!(frame.status == 0, "{opcode:?}: status {}", frame.status);
            let bytes = usize::try_from(frame.payload_bytes)?;
            let room = result.room.map_or(Vec::new(), |room| room.as_slice()[..bytes].to_vec());
            return Ok((body, room));
        }
    }

    /// Writes an object whose words are all its number.
    ///
    /// # Errors
    /// What the target says.
    pub fn write(&self, number: u64) -> Result<()> {
        let body = ObjectWrite {
            ost: self.index,
            object: object(number),
            offset: 0,
            mtime: Timespec::ZERO,
            uid: 0,
            gid: 0,
            projid: 0,
            durable: false,
            compression: Compression::None,
        };
        let payload = number.to_le_bytes().repeat(OBJECT_BYTES / 8);
        self.call(Opcode::ObjectWrite, &body.to_vec(), Some(&payload)).map(drop)
    }

    /// Reads an object back and requires its contents.
    ///
    /// # Errors
    /// When it has others, or what the target says.
    pub fn check(&self, number: u64) -> Result<()> {
        let length = u32::try_from(OBJECT_BYTES)?;
        let body = ObjectRead { ost: self.index, object: object(number), offset: 0, length };
        let found = self.call(Opcode::ObjectRead, &body.to_vec(), None)?;
        let wanted = number.to_le_bytes().repeat(OBJECT_BYTES / 8);
        ensure!(found == wanted, "object {number} has other contents");
        Ok(())
    }

    /// Makes all of the target durable.
    ///
    /// # Errors
    /// What the target says.
    pub fn sync(&self) -> Result<()> {
        let body = ObjectSync { ost: self.index, object: Fid::NONE };
        self.call(Opcode::ObjectSync, &body.to_vec(), None).map(drop)
    }
}

/// Writes `count` objects, spread over the targets, by several threads.
///
/// # Errors
/// When a write fails.
pub fn fill(targets: &[Target], count: u64) -> Result<()> {
    let spread = u64::try_from(targets.len())?;
    let step = usize::try_from(THREADS)?;
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..THREADS)
            .map(|thread| {
                scope.spawn(move || {
                    (thread..count).step_by(step).try_for_each(|number| {
                        targets[usize::try_from(number % spread)?].write(number)
                    })
                })
            })
            .collect();
        writers.into_iter().try_for_each(|writer| {
            writer.join().unwrap_or_else(|_| Err(anyhow!("a writer panicked")))
        })
    })?;
    targets.iter().try_for_each(Target::sync)
}
