//! Writes: buffer, payload, checksums, store.

use sheen_dma::Buffer;
use sheen_ports::{Block, Clock, Fabric, NotifyError};
use sheen_store::{Outcome, Owner, RequestToken, Write};
use sheen_types::{BLOCK_BYTES, Errno, checksum::crc32c, units::BLOCK_BYTES_U64};
use sheen_wire::{
    Frame, Opcode,
    object::{ObjectWrite, WriteReply},
};

use super::{
    checksum::payload_checksum,
    dispatch::SECTORS_PER_BLOCK,
    image::Image,
    operation::{Operation, Origin, Work},
    packing::Job,
    service::OstService,
    sessions::Refusal,
};

/// Bytes of the image before the payload.
fn skip_of(write: &ObjectWrite) -> usize {
    usize::try_from(write.offset % BLOCK_BYTES_U64).unwrap_or(0)
}

impl<B: Block, F: Fabric, C: Clock> OstService<B, F, C> {
    /// Path: D6. Takes a buffer, or refuses as Busy before the payload has moved, and fetches the payload.
    pub(crate) fn begin_write(
        &mut self,
        origin: Origin,
        frame: &Frame,
        number: usize,
        write: ObjectWrite,
    ) -> Result<(), Errno> {
        let Origin::Fabric { request, .. } = origin else { return Err(Errno::EINVAL) };
        let skip = skip_of(&write);
        let blocks = (skip + frame.payload_bytes as usize).div_ceil(BLOCK_BYTES);
        let bytes = blocks * BLOCK_BYTES;
        // A quarter of the operations waits for no peer: reads and syncs go on beside as many writers that stop as there may be.
        let pulling_max = (self.operations_max * 3 / 4).max(1);
        if self.pulling >= pulling_max || !self.shares.may_take(request.connection, bytes) {
            return Err(Errno::EAGAIN);
        }
        let mut buffer = self.buffers.take(bytes).ok_or(Errno::EAGAIN)?;
        self.shares.take(request.connection, bytes);
        let head = (skip > 0).then(|| {
            let payload = buffer.split_off(skip);
            std::mem::replace(&mut buffer, payload)
        });
        let work = Work::Pulling { write, head };
        let token =
            self.operations.insert(Operation { origin, target: number, work, held_bytes: bytes });
        self.pulling += 1;
        self.fabric.pull(request, token, buffer);
        Ok(())
    }

    /// Path: D7. The payload is here: verify it, sum its blocks, give it to the store.
    pub(crate) fn on_pulled(
        &mut self,
        token: u64,
        buffer: Buffer,
        result: Result<(), NotifyError>,
    ) {
        self.pulling -= 1;
        let operation = self.operations.get_mut(token);
        let (origin, number) = (operation.origin, operation.target);
        let storing = Work::Storing { image: Image::default(), packed: None, repack: None };
        let Work::Pulling { write, head } = std::mem::replace(&mut operation.work, storing) else {
            unreachable!("only writes pull")
        };
        let Origin::Fabric { request, frame, .. } = &origin else {
            unreachable!("only peers have payloads")
        };
        if result.is_err() {
            // The connection is gone, and with it whoever waited.
            self.end_operation(token);
            return;
        }
        let attached = self.sessions.connections.session(request.connection);
        if attached.is_none_or(|attached| attached.client != frame.client) {
            // Its session ended meanwhile, or has another connection, over which it was sent again.
            let errno = self.refuse(*request, frame, Refusal::Ended);
            self.end_operation(token);
            return self.answer(&origin, Err(errno));
        }
        let image = match head {
            None => buffer,
            Some(mut head) => {
                head.join(buffer).expect("head and payload were one buffer");
                head
            }
        };
        let result = self.store_write(token, number, &write, frame, image);
        if let Err(errno) = result {
            self.end_operation(token);
            self.answer(&origin, Err(errno));
        }
        if self.scratch.packed.is_empty() {
            self.carry_out(number);
        } else {
            // Packing takes about as long as a disk takes to write: it begins now and not behind the turn's other payloads.
            self.pump(number);
        }
    }

    fn store_write(
        &mut self,
        token: u64,
        number: usize,
        write: &ObjectWrite,
        frame: &Frame,
        mut buffer: Buffer,
    ) -> Result<(), Errno> {
        let (skip, length) = (skip_of(write), frame.payload_bytes as usize);
        let bytes = buffer.as_mut_slice();
        bytes[..skip].fill(0);
        bytes[skip + length..].fill(0);
        let checksums = &mut self.scratch.checksums;
        checksums.clear();
        checksums.extend(bytes.chunks(BLOCK_BYTES).map(crc32c));
        let block = |index: usize| &bytes[index * BLOCK_BYTES..(index + 1) * BLOCK_BYTES];
        let found = payload_checksum(checksums, skip, length, block);
        if found != frame.payload_checksum {
            self.stats.payload_mismatches.add(1);
            let expected = frame.payload_checksum;
            tracing::warn!(
                object = ?write.object, offset = write.offset, length, expected, found,
                "a payload arrived damaged; the client is asked to send it again"
            );
            return Err(Errno::EAGAIN);
        }
        self.pack(write, length, &mut buffer);
        let packed = (!self.scratch.packed.is_empty()).then_some(write.object);
        self.operations.get_mut(token).work =
            Work::Storing { image: Image::new(buffer), packed, repack: None };
        let mtime = self.time_of_change(number, write.object, write.mtime);
        let write = Write {
            object: write.object,
            offset: write.offset,
            length: length as u64,
            checksums: &self.scratch.checksums,
            packed: &self.scratch.packed,
            mtime,
            owner: Owner { uid: write.uid, gid: write.gid, projid: write.projid },
            durable: write.durable,
        };
        let store = self.targets[number].store();
        let taken = store.map(|store| store.write(RequestToken(token), &write, &mut self.commands));
        if matches!(taken, Some(Ok(()))) {
            return Ok(());
        }
        self.stats.busy.add(1);
        Err(Errno::EAGAIN)
    }

    /// Packs what the write covers whole of its blocks, if that is asked for.
    fn pack(&mut self, write: &ObjectWrite, length: usize, image: &mut Buffer) {
        let groups = &mut self.scratch.packed;
        groups.clear();
        let Some(codec) = write.compression.codec() else { return };
        let skip = skip_of(write);
        let whole = (skip.div_ceil(BLOCK_BYTES) as u64)..((skip + length) / BLOCK_BYTES) as u64;
        let first = write.offset / BLOCK_BYTES_U64;
        let job = Job { codec, object: write.object, first, whole };
        let checksums = &mut self.scratch.checksums;
        let blocks = self.packer.pack_image(&job, image.as_mut_slice(), checksums, groups);
        if blocks * BLOCK_BYTES < image.len() {
            drop(image.split_off(blocks * BLOCK_BYTES));
        }
    }

    /// Path: D11. The store ended a write or change.
    pub(crate) fn on_complete(&mut self, token: u64, result: Result<Outcome, Errno>) {
        let operation = self.end_operation(token);
        if let (Err(Errno::EAGAIN), Work::Storing { packed: Some(object), .. }) =
            (&result, &operation.work)
        {
            // Free space lies too scattered for groups: sent again, it is to be stored plain.
            self.packer.refuse(*object);
        }
        let origin = &operation.origin;
        match (result, origin) {
            (Ok(Outcome { size, blocks, mtime, change }), Origin::Fabric { frame, .. })
                if has_write_reply(frame.opcode) =>
            {
                let blocks = blocks * SECTORS_PER_BLOCK;
                self.answer_with(origin, change, &WriteReply { size, blocks, mtime });
            }
            (result, Origin::Tidying) => self.end_tidying(operation.target, result.map(|_| ())),
            (Ok(outcome), _) => self.answer_change(origin, outcome.change, Ok(&[])),
            (Err(errno), _) => self.answer(origin, Err(errno)),
        }
    }
}

/// Whether the reply carries the object's state.
fn has_write_reply(opcode: Opcode) -> bool {
    matches!(
        opcode,
        Opcode::ObjectWrite
            | Opcode::ObjectPunch
            | Opcode::ObjectTruncate
            | Opcode::ObjectAllocate
            | Opcode::ObjectRepack
    )
}
