//! Objects written and read straight at a node's object storage targets, without a file system on top.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Result, anyhow, ensure};
use sheen_dma::Arena;
use sheen_ports::{Call, Cancel, Link};
use sheen_types::checksum::crc32c;
use sheen_types::{ClientId, Compression, Epoch, Errno, Fid, OstIndex, Tag, Timespec, Xid};
use sheen_wire::object::{ObjectRead, ObjectSync, ObjectWrite};
use sheen_wire::{Field, Frame, Opcode};

/// Bytes of each object.
pub const OBJECT_BYTES: usize = 4096;
/// A session number the MDT does not reach, so that it has not been ended and fenced.
const CLIENT: ClientId = ClientId(1 << 40);
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

/// A connection to one target's service.
pub struct Target {
    link: Arc<dyn Link>,
    index: OstIndex,
    xid: AtomicU64,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Target").field("index", &self.index).finish_non_exhaustive()
    }
}

impl Target {
    /// Connects to target `index` at `address`; with one target a reactor, target n is service n + 1.
    ///
    /// # Errors
    /// When nobody answers there.
    pub fn connect(address: &str, index: u32) -> Result<Self> {
        let arena = Arena::shared(4 << 20).map_err(|error| anyhow!("arena: {error:?}"))?;
        let link = sheen_rdma::connect(address, index + 1, &arena)
            .map_err(|error| anyhow!("connecting to service {}: {error:?}", index + 1))?;
        let target = Self { link, index: OstIndex(index), xid: AtomicU64::new(0) };
        target.call(Opcode::Attach, &[], None)?;
        Ok(target)
    }

    fn call(&self, opcode: Opcode, body: &[u8], payload: Option<&[u8]>) -> Result<Vec<u8>> {
        loop {
            let xid = Xid(self.xid.fetch_add(1, Ordering::Relaxed) + 1);
            let (client, epoch) = (CLIENT, Epoch(1));
            let mut frame = Frame { client, epoch, tag: Tag(0), ..Frame::request(opcode, xid) };
            let room = self.link.buffer(OBJECT_BYTES);
            let offered = match payload.map(|bytes| (bytes, self.link.buffer(bytes.len()))) {
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
            let result = self.link.call(call, &Cancel::new());
            let (frame, _) = result.reply.map_err(|error| anyhow!("{opcode:?}: {error}"))?;
            if frame.status == -Errno::EAGAIN.0 {
                std::thread::yield_now();
                continue;
            }
            ensure!(frame.status == 0, "{opcode:?}: status {}", frame.status);
            let bytes = usize::try_from(frame.payload_bytes)?;
            return Ok(result.room.map_or(Vec::new(), |room| room.as_slice()[..bytes].to_vec()));
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
