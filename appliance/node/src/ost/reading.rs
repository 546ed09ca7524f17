//! Reads: plan, device, verification, reply.

use std::sync::OnceLock;

use sheen_dma::Buffer;
use sheen_ports::{Block, Clock, Fabric};
use sheen_store::{ReadPlan, Segment, Source};
use sheen_types::{BLOCK_BYTES, Errno, Lba, checksum::crc32c};
use sheen_wire::object::{ObjectRead, ReadReply};

use super::{
    checksum::payload_checksum,
    device::{Finished, Pieces, Purpose},
    dispatch::Payload,
    operation::{Operation, Origin, Reading, Work},
    service::OstService,
    unpacking::unpack,
};

/// CRC32C of a block of zeros.
fn zero_block_checksum() -> u32 {
    static CHECKSUM: OnceLock<u32> = OnceLock::new();
    *CHECKSUM.get_or_init(|| crc32c(&[0; BLOCK_BYTES]))
}

/// A block whose bytes are not what was stored.
#[derive(Clone, Copy, Debug)]
struct Damage {
    block: usize,
    lba: Lba,
    expected: u32,
    found: u32,
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
                // Verified when it was unpacked.
                Source::Packed { .. } => {}
                Source::Device(first) => {
                    for (number, expected) in checksums.iter().copied().enumerate() {
                        let block = range.start + number;
                        let found = crc32c(&blocks[block]);
                        if expected != found {
                            let lba = first.plus(number as u64);
                            return Err(Damage { block, lba, expected, found });
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
        let Some(store) = self.targets[number].store() else { return Err(Errno::EAGAIN) };
        let mut plan = self.scratch.plans.pop().unwrap_or_default();
        let pin = store.read(read.object, read.offset, u64::from(read.length), &mut plan);
        let blocks = plan.segments.iter().map(|segment| segment.blocks as usize).sum::<usize>();
        let image = match blocks {
            0 => None,
            blocks => self.buffers.take(blocks * BLOCK_BYTES),
        };
        let Some(image) = image else {
            store.release(pin);
            let size = plan.size;
            self.scratch.plans.push(plan);
            if blocks > 0 {
                return Err(Errno::EAGAIN);
            }
            self.answer_with(&origin, &ReadReply { size });
            return Ok(());
        };
        let reading = Reading { pin, object: read.object, offset: read.offset, plan };
        let work = Work::Reading(reading);
        let token = self.operations.insert(Operation { origin, target: number, work });
        self.fetch(token, number, image);
        Ok(())
    }

    /// Sends for the blocks of a read.
    fn fetch(&mut self, token: u64, number: usize, mut image: Buffer) {
        let purpose = Purpose::Read { operation: token };
        let Work::Reading(reading) = &self.operations.get(token).work else {
            unreachable!("only reads fetch")
        };
        let segments = &reading.plan.segments;
        if !segments.iter().any(|segment| matches!(segment.source, Source::Device(_))) {
            image.as_mut_slice().fill(0);
            let pieces = Pieces::from_buf([Some(image)]);
            return self.on_read(token, Finished { purpose, result: Ok(()), pieces });
        }
        let device = &mut self.targets[number].device;
        if let &[Segment { source: Source::Device(lba), .. }] = segments.as_slice() {
            return device.read(purpose, lba, image);
        }
        let group = device.begin(purpose);
        let mut rest = Some(image);
        for segment in segments {
            let Some(mut piece) = rest.take() else { break };
            let bytes = segment.blocks as usize * BLOCK_BYTES;
            if bytes < piece.len() {
                rest = Some(piece.split_off(bytes));
            }
            match segment.source {
                Source::Hole | Source::Packed { .. } => {
                    piece.as_mut_slice().fill(0);
                    device.hold(group, piece);
                }
                Source::Device(lba) => device.read_piece(group, lba, piece),
            }
        }
    }

    /// Path: D10. All blocks are here: verify, then answer with exactly the bytes asked for.
    pub(crate) fn on_read(&mut self, token: u64, finished: Finished) {
        let Operation { origin, target: number, work } = self.operations.remove(token);
        let Work::Reading(mut reading) = work else { unreachable!("only reads read") };
        let answer = self.assemble(number, &mut reading, finished);
        let Reading { pin, plan, .. } = reading;
        if let Some(store) = self.targets[number].store() {
            store.release(pin);
        }
        match (answer, origin) {
            (Ok((buffer, length, checksum)), Origin::Fabric { request, frame, since, ost }) => {
                let body = self.encode(&ReadReply { size: plan.size });
                let payload = Some((buffer, length, checksum));
                self.reply(request, &frame, since, ost, Ok(&body), payload);
                self.scratch.body = body;
            }
            (answer, origin) => self.answer(&origin, answer.map(|_| &[][..])),
        }
        self.scratch.plans.push(plan);
    }

    /// The payload: the buffer that begins with it, its length and its CRC32C.
    fn assemble(
        &mut self,
        number: usize,
        reading: &mut Reading,
        finished: Finished,
    ) -> Result<Payload, Errno> {
        // The device logged it.
        finished.result.map_err(|_fault| Errno::EIO)?;
        let mut pieces = finished.pieces.into_iter().flatten();
        let mut image = pieces.next().ok_or(Errno::EIO)?;
        for piece in pieces {
            image.join(piece).expect("pieces of one buffer, in order");
        }
        unpack(&reading.plan.segments, image.as_mut_slice())?;
        if let Err(Damage { block, lba, expected, found }) = reading.verify(image.as_slice()) {
            let target = &self.targets[number];
            target.stats.checksum_errors.add(1);
            tracing::error!(
                ost = target.index.0, object = ?reading.object, offset = reading.offset, block,
                lba = lba.0, expected, found,
                "a block's checksum is not the stored one; the read fails"
            );
            return Err(Errno::EIO);
        }
        let ReadPlan { checksums, skip, length, .. } = &reading.plan;
        let (skip, length) = (*skip as usize, usize::try_from(*length).unwrap_or(0));
        let bytes = image.as_slice();
        let block = |index: usize| &bytes[index * BLOCK_BYTES..(index + 1) * BLOCK_BYTES];
        let checksum = payload_checksum(checksums, skip, length, block);
        let payload = if skip == 0 { image } else { image.split_off(skip) };
        Ok((payload, length, checksum))
    }
}
