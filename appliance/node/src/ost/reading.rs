//! Reads: plan, device, verification, reply.

use std::sync::OnceLock;

use sheen_dma::Buffer;
use sheen_ports::{Block, Clock, Fabric};
use sheen_store::{ReadPlan, Segment, Source};
use sheen_types::{BLOCK_BYTES, Errno, checksum::crc32c};
use sheen_wire::object::{ObjectRead, ReadReply};

use super::{
    checksum::payload_checksum,
    device::{Device, Finished, Pieces, Purpose, errno_of},
    dispatch::Payload,
    operation::{Operation, Origin, Reading, Work},
    service::OstService,
    unpacking::{Damage, Round},
};

/// CRC32C of a block of zeros.
fn zero_block_checksum() -> u32 {
    static CHECKSUM: OnceLock<u32> = OnceLock::new();
    *CHECKSUM.get_or_init(|| crc32c(&[0; BLOCK_BYTES]))
}

impl Reading {
    /// Verifies what came from the device and sums what did not.
    fn verify(&mut self, image: &[u8]) -> Result<(), Damage> {
        let ReadPlan { segments, checksums, .. } = &mut self.plan;
        let (blocks, _whole) = image.as_chunks::<BLOCK_BYTES>();
        for segment in segments {
            let range =
                segment.image_block as usize..(segment.image_block + segment.blocks) as usize;
            let checksums = &mut checksums[range.clone()];
            match segment.source {
                Source::Hole => checksums.fill(zero_block_checksum()),
                // Verified as stored, and summed when it was unpacked.
                Source::Packed { .. } => {}
                Source::Device(first) => {
                    for (number, expected) in checksums.iter().copied().enumerate() {
                        let block = range.start + number;
                        let found = crc32c(&blocks[block]);
                        if expected != found {
                            let lba = first.plus(number as u64);
                            return Err(Damage::Checksum { lba, expected, found });
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

impl<B: Block, F: Fabric, C: Clock> OstService<B, F, C> {
    /// Path: D6. Plans a read and sends it to the device.
    pub(crate) fn begin_read(
        &mut self,
        origin: Origin,
        number: usize,
        read: &ObjectRead,
    ) -> Result<(), Errno> {
        let Origin::Fabric { request, .. } = origin else { return Err(Errno::EINVAL) };
        let Some(store) = self.targets[number].store() else { return Err(Errno::EAGAIN) };
        let mut plan = self.scratch.plans.pop().unwrap_or_default();
        let pin = store.read(read.object, read.offset, u64::from(read.length), &mut plan);
        let blocks = plan.segments.iter().map(|segment| segment.blocks as usize).sum::<usize>();
        let round = Round::default().next(&plan);
        let bytes = blocks * BLOCK_BYTES;
        let may_take = self.shares.may_take(request.connection, bytes);
        let buffers = may_take.then(|| self.buffers_for(blocks, round.blocks)).flatten();
        let Some((image, stored)) = buffers else {
            if let Some(store) = self.targets[number].store() {
                store.release(pin);
            }
            let size = plan.size;
            self.scratch.plans.push(plan);
            if blocks > 0 {
                return Err(Errno::EAGAIN);
            }
            self.answer_with(&origin, 0, &ReadReply { size });
            return Ok(());
        };
        let (object, offset) = (read.object, read.offset);
        let reading = Reading { pin: Some(pin), object, offset, plan, image: None, round };
        let work = Work::Reading(reading);
        self.shares.take(request.connection, bytes);
        let operation = Operation { origin, target: number, work, held_bytes: bytes };
        let token = self.operations.insert(operation);
        match stored {
            None => self.fetch(token, number, image),
            Some(stored) => self.fetch_packed(token, number, image, stored),
        }
        Ok(())
    }

    /// Sends for the blocks of a read without packed ones.
    fn fetch(&mut self, token: u64, number: usize, mut image: Buffer) {
        let purpose = Purpose::Read { operation: token };
        let Work::Reading(reading) = &self.operations.get(token).work else {
            unreachable!("only reads fetch")
        };
        let segments = &reading.plan.segments;
        if segments.iter().all(|segment| segment.source == Source::Hole) {
            image.as_mut_slice().fill(0);
            let pieces = Pieces::from_buf([Some(image)]);
            return self.on_read(token, Finished { purpose, result: Ok(()), pieces });
        }
        let device = &mut self.targets[number].device;
        if let &[Segment { source: Source::Device(lba), .. }] = segments.as_slice() {
            return device.read(purpose, lba, image);
        }
        let group = device.begin(purpose);
        fetch_pieces(device, group, segments, image);
    }

    fn fetch_packed(&mut self, token: u64, number: usize, image: Buffer, stored: Buffer) {
        let Work::Reading(reading) = &mut self.operations.get_mut(token).work else {
            unreachable!("only reads fetch")
        };
        let purpose = Purpose::Read { operation: token };
        let device = &mut self.targets[number].device;
        fetch_with_packed(device, purpose, reading, image, Some(stored));
    }

    /// Path: D10. All blocks that were sent for are here: verify and unpack; then answer with exactly the bytes asked for, or
    /// send for more.
    pub(crate) fn on_read(&mut self, token: u64, finished: Finished) {
        let Operation { origin, target: number, work, held_bytes } = self.operations.remove(token);
        let Work::Reading(mut reading) = work else { unreachable!("only reads read") };
        let answer = match self.assemble(number, &mut reading, finished) {
            Ok(Assembled::More { image, stored }) => {
                let work = Work::Reading(reading);
                let operation = Operation { origin, target: number, work, held_bytes };
                let token = self.operations.insert(operation);
                return self.fetch_packed(token, number, image, stored);
            }
            Ok(Assembled::Whole(image)) => Ok(payload_of(&reading.plan, image)),
            Err(errno) => Err(errno),
        };
        self.give_share(&origin, held_bytes);
        let Reading { pin, plan, object, offset, .. } = reading;
        if let (Some(store), Some(pin)) = (self.targets[number].store(), pin) {
            store.release(pin);
        }
        match (answer, origin) {
            (Ok((buffer, length, checksum)), Origin::Fabric { request, frame, since, ost }) => {
                let body = self.encode(&ReadReply { size: plan.size });
                let payload = Some((buffer, length, checksum));
                self.reply(request, (&frame, since, ost), 0, Ok(&body), payload);
                self.scratch.body = body;
            }
            (answer, origin) => self.answer(&origin, answer.map(|_| &[][..])),
        }
        self.targets[number].tidying.on_read(self.now, object, offset, &plan);
        self.scratch.plans.push(plan);
    }

    /// Puts together what came.
    pub(crate) fn assemble(
        &mut self,
        number: usize,
        reading: &mut Reading,
        finished: Finished,
    ) -> Result<Assembled, Errno> {
        // The device logged it.
        finished.result.map_err(errno_of)?;
        let mut pieces = finished.pieces.into_iter().flatten();
        let mut image = match reading.image.take() {
            Some(image) => image,
            None => {
                let bytes = reading.plan.checksums.len() * BLOCK_BYTES;
                joined(&mut pieces, bytes).ok_or(Errno::EIO)?
            }
        };
        if reading.round.blocks > 0 {
            let bytes = reading.round.blocks * BLOCK_BYTES;
            let stored = joined(&mut pieces, bytes).ok_or(Errno::EIO)?;
            self.unpack(number, reading, stored, &mut image).map_err(|_damage| Errno::EIO)?;
            reading.round = reading.round.next(&reading.plan);
            if reading.round.blocks > 0 {
                let stored = self.buffers.take(reading.round.blocks * BLOCK_BYTES);
                let stored = stored.ok_or(Errno::EAGAIN)?;
                return Ok(Assembled::More { image, stored });
            }
        }
        if let Err(damage) = reading.verify(image.as_slice()) {
            self.report(number, reading, &damage);
            return Err(Errno::EIO);
        }
        Ok(Assembled::Whole(image))
    }
}

/// The payload: the buffer that begins with it, its length and its CRC32C.
fn payload_of(plan: &ReadPlan, mut image: Buffer) -> Payload {
    let ReadPlan { checksums, skip, length, .. } = plan;
    let (skip, length) = (*skip as usize, usize::try_from(*length).unwrap_or(0));
    let bytes = image.as_slice();
    let block = |index: usize| &bytes[index * BLOCK_BYTES..(index + 1) * BLOCK_BYTES];
    let checksum = payload_checksum(checksums, skip, length, block);
    let payload = if skip == 0 { image } else { image.split_off(skip) };
    (payload, length, checksum)
}

/// What came of blocks.
pub(crate) enum Assembled {
    /// The image, all of it right.
    Whole(Buffer),
    /// The image so far, and memory for the next packed groups.
    More { image: Buffer, stored: Buffer },
}

/// The next `blocks` blocks of what is left.
fn next_piece(rest: &mut Option<Buffer>, blocks: usize) -> Option<Buffer> {
    let mut piece = rest.take()?;
    let bytes = blocks * BLOCK_BYTES;
    if bytes < piece.len() {
        *rest = Some(piece.split_off(bytes));
    }
    Some(piece)
}

/// Sends for a round of packed groups, and with the first round for everything else.
pub(crate) fn fetch_with_packed<B: Block>(
    device: &mut Device<B>,
    purpose: Purpose,
    reading: &mut Reading,
    mut image: Buffer,
    stored: Option<Buffer>,
) {
    let group = device.begin(purpose);
    let segments = &reading.plan.segments;
    let any_device = segments.iter().any(|segment| matches!(segment.source, Source::Device(_)));
    if reading.round.is_first() && any_device {
        fetch_pieces(device, group, segments, image);
    } else {
        if reading.round.is_first() {
            for segment in segments.iter().filter(|segment| segment.source == Source::Hole) {
                let first = segment.image_block as usize * BLOCK_BYTES;
                let bytes = segment.blocks as usize * BLOCK_BYTES;
                image.as_mut_slice()[first..first + bytes].fill(0);
            }
        }
        reading.image = Some(image);
    }
    let mut rest = stored;
    for (lba, blocks) in reading.round.extents(&reading.plan) {
        if let Some(piece) = next_piece(&mut rest, blocks) {
            device.read_piece(group, lba, piece);
        }
    }
}

/// Sends for the segments of an image, each into its piece of it; those that do not come from the device are held.
fn fetch_pieces<B: Block>(device: &mut Device<B>, group: u64, segments: &[Segment], image: Buffer) {
    let mut rest = Some(image);
    for segment in segments {
        let Some(mut piece) = next_piece(&mut rest, segment.blocks as usize) else { break };
        match segment.source {
            Source::Hole => {
                piece.as_mut_slice().fill(0);
                device.hold(group, piece);
            }
            Source::Packed { .. } => device.hold(group, piece),
            Source::Device(lba) => device.read_piece(group, lba, piece),
        }
    }
}

/// The first pieces in one again: `bytes` of them.
fn joined(pieces: &mut impl Iterator<Item = Buffer>, bytes: usize) -> Option<Buffer> {
    let mut whole = pieces.next()?;
    while whole.len() < bytes {
        whole.join(pieces.next()?).expect("pieces of one buffer, in order");
    }
    Some(whole)
}
