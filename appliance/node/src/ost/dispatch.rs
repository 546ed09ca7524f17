//! From a request to the work it causes: whose it is, admission, and the answers that need no device.

use std::time::Duration;

use sheen_dma::Buffer;
use sheen_ports::{Block, Clock, Fabric, RequestId};
use sheen_store::RequestToken;
use sheen_types::{
    Errno, Fid, OstIndex, Tick, Timespec, TransactionNumber, units::BLOCK_BYTES_U64,
};
use sheen_wire::{
    Field, Frame, Opcode,
    fields::{AttachKey, List},
    object::{GlimpseReply, ObjectAttributes, ObjectStatisticsReply, SeekReply, WriteReply},
};

use super::{
    access::ObjectAccess,
    image::Image,
    operation::{Operation, Origin, Work},
    repacking::Wanted,
    request::{Ask, Change, Decoded, decode},
    service::OstService,
    sessions::Refusal,
    target::{State, Target},
};

/// Units of `st_blocks` in a block.
pub(crate) const SECTORS_PER_BLOCK: u64 = BLOCK_BYTES_U64 / 512;

/// Payload of a reply: buffer, bytes of it, their CRC32C.
pub(crate) type Payload = (Buffer, usize, u32);

/// How far behind an object's time that lies ahead its next change is. What the MDT decides of such a file is nanoseconds behind the
/// last change it was told of; this is later.
const BEHIND_AHEAD: Duration = Duration::from_millis(1);

impl<B: Block, F: Fabric, C: Clock> OstService<B, F, C> {
    /// Path: D5. Decides what becomes of a request.
    pub(crate) fn on_request(&mut self, request: RequestId, frame: &Frame, body: &[u8]) {
        let since = self.now;
        let ost = target_of(frame.opcode, body);
        let origin = Origin::Fabric { request, frame: *frame, since, ost };
        let result = match self.let_in(request, frame) {
            Err(refusal) => Err(self.refuse(request, frame, refusal)),
            Ok(access) => match decode(frame, body) {
                Ok(Decoded::Nothing) => Ok(Some(Vec::new())),
                Ok(Decoded::Attach(key)) => match self.attach(request, frame, &key) {
                    Ok(()) => Ok(Some(Vec::new())),
                    Err(refusal) => Err(self.refuse(request, frame, refusal)),
                },
                Ok(Decoded::Target(ost, ask)) => match access.check(&ask) {
                    Ok(()) => self.ask(origin, frame, ost, ask),
                    Err(refusal) => Err(self.refuse(request, frame, refusal)),
                },
                Err(errno) => {
                    self.stats.malformed.add(1);
                    Err(errno)
                }
            },
        };
        match result {
            Ok(None) => {}
            Ok(Some(body)) => self.answer(&origin, Ok(&body)),
            Err(errno) => {
                if errno == Errno::EAGAIN {
                    self.stats.busy.add(1);
                }
                self.answer(&origin, Err(errno));
                if is_reserved(frame.opcode) {
                    self.fabric.close(request.connection);
                }
            }
        }
    }

    /// Checks that a request is one of those that clients are served, and comes over a connection of its session. Returns what that may
    /// do with objects.
    fn let_in(&self, request: RequestId, frame: &Frame) -> Result<ObjectAccess, Refusal> {
        match frame.opcode {
            opcode if is_reserved(opcode) => Err(Refusal::Opcode),
            Opcode::Attach => Ok(ObjectAccess::NONE),
            _ => self.sessions.check(request.connection, frame.client, frame.epoch),
        }
    }

    /// Counts a refusal; the number of it.
    pub(crate) fn refuse(&self, request: RequestId, frame: &Frame, refusal: Refusal) -> Errno {
        self.stats.not_admitted[refusal as usize].add(1);
        tracing::debug!(
            connection = request.connection.0, client = frame.client.0, opcode = ?frame.opcode, ?refusal,
            "a frame is not served"
        );
        refusal.errno()
    }

    /// Ok(Some): the body of the answer. Ok(None): answered later.
    fn ask(
        &mut self,
        origin: Origin,
        frame: &Frame,
        ost: OstIndex,
        ask: Ask,
    ) -> Result<Option<Vec<u8>>, Errno> {
        let number = self.find(ost)?;
        match ask {
            Ask::Glimpse(objects) => self.glimpse(number, &objects).map(Some),
            Ask::Seek { object, offset, target } => {
                let store = self.targets[number].store().ok_or(Errno::EAGAIN)?;
                let offset = store.seek(object, offset, target).ok_or(Errno::ENXIO)?;
                Ok(Some(SeekReply { offset }.to_vec()))
            }
            Ask::Statistics => {
                let store = self.targets[number].store().ok_or(Errno::EAGAIN)?;
                let now = store.statistics();
                let free = self.targets[number].fillable_blocks(self.now, now.free_blocks);
                let reply = ObjectStatisticsReply {
                    total_bytes: now.total_blocks * BLOCK_BYTES_U64,
                    free_bytes: free * BLOCK_BYTES_U64,
                    objects: now.objects,
                    logical_bytes: now.logical_blocks * BLOCK_BYTES_U64,
                    physical_bytes: now.used_blocks * BLOCK_BYTES_U64,
                };
                Ok(Some(reply.to_vec()))
            }
            Ask::Write(write) if frame.payload_bytes == 0 => {
                let attributes = self.attributes(number, write.object)?;
                let ObjectAttributes { size, blocks, mtime, .. } = attributes;
                let reply = WriteReply { size, blocks, mtime };
                Ok(Some(reply.to_vec()))
            }
            Ask::Read(_) | Ask::Write(_) | Ask::Change(_) if self.is_full() => Err(Errno::EAGAIN),
            Ask::Write(write) => self.begin_write(origin, frame, number, write).map(|()| None),
            Ask::Read(read) => self.begin_read(origin, number, &read).map(|()| None),
            Ask::Change(change) => self.begin_change(origin, number, change).map(|()| None),
        }
    }

    fn attach(
        &mut self,
        request: RequestId,
        frame: &Frame,
        key: &AttachKey,
    ) -> Result<(), Refusal> {
        let (connection, session) = (request.connection, (frame.client, frame.epoch));
        let mut attached = self.sessions.attach(connection, session, key);
        if attached == Err(Refusal::Newer) && self.take_jobs() > 0 {
            // The MDT tells of a session before the client hears of it: what it told may have waited in the mailbox.
            attached = self.sessions.attach(connection, session, key);
        }
        if let Some(old) = attached? {
            tracing::info!(
                client = frame.client.0,
                old = old.0,
                "an attached connection makes room for another"
            );
            self.fabric.close(old);
        }
        Ok(())
    }

    /// Whether a peer's request must wait.
    fn is_full(&self) -> bool {
        self.operations.len() >= self.operations_max || self.is_stopping()
    }

    /// The place of an OST that serves.
    pub(crate) fn find(&self, ost: OstIndex) -> Result<usize, Errno> {
        let number =
            self.targets.iter().position(|target| target.index == ost).ok_or(Errno::ENODEV)?;
        match &self.targets[number].state {
            State::Ready(_) => Ok(number),
            State::Opening(_) => Err(Errno::EAGAIN),
            State::Failed => Err(Errno::EIO),
        }
    }

    fn attributes(&mut self, number: usize, object: Fid) -> Result<ObjectAttributes, Errno> {
        let store = self.targets[number].store().ok_or(Errno::EAGAIN)?;
        Ok(match store.attributes(object) {
            Some(found) => ObjectAttributes {
                exists: true,
                size: found.size,
                blocks: found.blocks * SECTORS_PER_BLOCK,
                mtime: found.mtime,
            },
            None => ObjectAttributes { exists: false, size: 0, blocks: 0, mtime: Timespec::ZERO },
        })
    }

    fn glimpse(&mut self, number: usize, objects: &[Fid]) -> Result<Vec<u8>, Errno> {
        let objects: Result<Vec<_>, _> =
            objects.iter().map(|&object| self.attributes(number, object)).collect();
        Ok(GlimpseReply { objects: List(objects?) }.to_vec())
    }

    /// The time of a change of `object` that says `given`. Looked at change by change: a clock read once for a turn could lie before
    /// a time that the MDT gave meanwhile, and the change would count as the older one. A change of an object whose time lies ahead,
    /// by a clock that was set back before this start, is after that time: it shows that there was one.
    pub(crate) fn time_of_change(
        &mut self,
        number: usize,
        object: Fid,
        given: Timespec,
    ) -> Timespec {
        self.wall = self.wall.going_on(self.clock.wall());
        if given != Timespec::ZERO {
            return given.min(self.wall);
        }
        let found = self.targets[number].store().and_then(|store| store.attributes(object));
        let ahead = found.map(|found| found.mtime).filter(|mtime| *mtime > self.wall);
        ahead.map_or(self.wall, |mtime| mtime.after(BEHIND_AHEAD))
    }

    fn begin_change(
        &mut self,
        origin: Origin,
        number: usize,
        mut change: Change,
    ) -> Result<(), Errno> {
        if let Change::Punch(sheen_store::Punch { object, mtime, .. })
        | Change::Truncate(sheen_store::Truncate { object, mtime, .. })
        | Change::Allocate(sheen_store::Allocate { object, mtime, .. }) = &mut change
        {
            *mtime = self.time_of_change(number, *object, *mtime);
        }
        let repack = match &change {
            Change::Repack(repack, compression) => Some(Wanted {
                object: repack.object,
                offset: repack.offset,
                compression: *compression,
            }),
            Change::Punch(_)
            | Change::Truncate(_)
            | Change::Allocate(_)
            | Change::Destroy(_)
            | Change::Sync => None,
        };
        let work = Work::Storing { image: Image::default(), packed: None, repack };
        let token =
            self.operations.insert(Operation { origin, target: number, work, held_bytes: 0 });
        let request = RequestToken(token);
        let commands = &mut self.commands;
        let taken = match self.targets[number].store() {
            None => Err(sheen_store::Busy),
            Some(store) => match &change {
                Change::Punch(punch) => store.punch(request, punch, commands),
                Change::Truncate(truncate) => store.truncate(request, truncate, commands),
                Change::Allocate(allocate) => store.allocate(request, allocate, commands),
                Change::Destroy(objects) => store.destroy(request, objects, commands),
                Change::Sync => store.sync(request, commands),
                Change::Repack(repack, _) => store.repack(request, repack, commands),
            },
        };
        if taken.is_err() {
            self.operations.remove(token);
            return Err(Errno::EAGAIN);
        }
        self.carry_out(number);
        Ok(())
    }

    pub(crate) fn destroy_for_mdt(&mut self, origin: Origin, ost: OstIndex, objects: Vec<Fid>) {
        let result = match self.find(ost) {
            Ok(_) if self.operations.is_full() => Err(Errno::EAGAIN),
            Ok(number) => self.begin_change(origin, number, Change::Destroy(objects)),
            Err(errno) => Err(errno),
        };
        if let Err(errno) = result {
            self.answer(&origin, Err(errno));
        }
    }

    /// Path: D12. Answers a peer and counts. `change`: number of what was changed, 0: nothing was.
    pub(crate) fn reply(
        &mut self,
        request: RequestId,
        (frame, since, ost): (&Frame, Tick, Option<OstIndex>),
        change: u64,
        result: Result<&[u8], Errno>,
        payload: Option<Payload>,
    ) {
        let status = result.map_or_else(|errno| -errno.0, |_| 0);
        let mut reply = frame.reply(status);
        let target = ost.and_then(|ost| self.targets.iter().find(|target| target.index == ost));
        reply.incarnation = self.incarnation;
        reply.transaction = TransactionNumber(change);
        reply.committed = target.map_or(0, Target::durable_sequence);
        let payload = payload.map(|(buffer, bytes, checksum)| {
            reply.payload_bytes = u32::try_from(bytes).unwrap_or(0);
            reply.payload_checksum = checksum;
            self.shares.take(request.connection, buffer.len());
            buffer
        });
        let body = result.unwrap_or(&[]);
        let message = &mut self.scratch.message;
        message.clear();
        reply.encode_with(body, message);
        self.fabric.reply(request, message, payload);
        let bytes_in = if status == 0 { u64::from(frame.payload_bytes) } else { 0 };
        let latency = self.now.since(since);
        let bytes_out = u64::from(reply.payload_bytes);
        let target = self.stats.targets.iter().find(|target| Some(target.index) == ost);
        let operations = target.map_or(&self.stats.operations, |target| &target.operations);
        operations.record(frame.opcode, status, bytes_in, bytes_out, latency);
    }
}

/// Whether a request is one that services make among themselves.
const fn is_reserved(opcode: Opcode) -> bool {
    matches!(opcode, Opcode::ObjectDestroy | Opcode::ObjectFence)
}

/// The OST a request names: bodies of those that ask something of one begin with its index.
fn target_of(opcode: Opcode, body: &[u8]) -> Option<OstIndex> {
    let asks_one = matches!(
        opcode,
        Opcode::ObjectWrite
            | Opcode::ObjectRead
            | Opcode::ObjectPunch
            | Opcode::ObjectTruncate
            | Opcode::ObjectGlimpse
            | Opcode::ObjectSync
            | Opcode::ObjectSeek
            | Opcode::ObjectAllocate
            | Opcode::ObjectStatistics
            | Opcode::ObjectRepack
    );
    let index = body.first_chunk().filter(|_| asks_one)?;
    Some(OstIndex(u32::from_le_bytes(*index)))
}
