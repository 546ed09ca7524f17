//! Reads: plan, device, verification, reply.

use std::sync::OnceLock;

use sheen_dma::Buffer;
use sheen_ports::{Block, Clock, Fabric};
use sheen_store::Source;
use sheen_types::{BLOCK_BYTES, Errno, Lba, checksum::crc32c};
use sheen_wire::{
    Field,
    object::{ObjectRead, ReadReply},
};

use super::{
    checksum::payload_checksum,
    device::{Finished, Purpose},
    operation::{Operation, Origin, Reading, Work},
    packing::unpack,
    service::OstService,
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
        let (blocks, _whole) = image.as_chunks::<BLOCK_BYTES>();
        for segment in &self.segments {
            let range =
                segment.image_block as usize..(segment.image_block + segment.blocks) as usize;
            let checksums = &mut self.checksums[range.clone()];
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
        let target = &mut self.targets[number];
        let Some(store) = target.store() else { return Err(Errno::EAGAIN) };
        let pin = store.read(read.object, read.offset, u64::from(read.length), &mut self.plan);
        let plan = &mut self.plan;
        let blocks = plan.segments.iter().map(|segment| segment.blocks as usize).sum::<usize>();
        let length = usize::try_from(plan.length).unwrap_or(0);
        let image = if length == 0 { None } else { self.arena.allocate(blocks * BLOCK_BYTES) };
        let Some(mut image) = image else {
            store.release(pin);
            if length == 0 {
                let body = ReadReply { size: plan.size }.to_vec();
                self.answer(&origin, Ok(&body));
                return Ok(());
            }
            return Err(Errno::EAGAIN);
        };
        let reading = Reading {
            pin,
            object: read.object,
            offset: read.offset,
            size: plan.size,
            length,
            skip: plan.skip as usize,
            segments: std::mem::take(&mut plan.segments),
            checksums: std::mem::take(&mut plan.checksums),
        };
        let segments = reading.segments.clone();
        let any_device = segments.iter().any(|segment| matches!(segment.source, Source::Device(_)));
        let work = Work::Reading(Box::new(reading));
        let token = self.operations.insert(Operation { origin, target: number, work });
        if !any_device {
            image.as_mut_slice().fill(0);
            let purpose = Purpose::Read { operation: token };
            self.on_read(token, Finished { purpose, result: Ok(()), pieces: vec![image] });
            return Ok(());
        }
        let device = &mut self.targets[number].device;
        let group = device.begin(Purpose::Read { operation: token });
        for segment in segments {
            let rest = image.split_off(segment.blocks as usize * BLOCK_BYTES);
            let mut piece = std::mem::replace(&mut image, rest);
            match segment.source {
                Source::Hole | Source::Packed { .. } => {
                    piece.as_mut_slice().fill(0);
                    device.hold(group, piece);
                }
                Source::Device(lba) => device.read(group, lba, piece),
            }
        }
        Ok(())
    }

    /// Path: D10. All blocks are here: verify, then answer with exactly the bytes asked for.
    pub(crate) fn on_read(&mut self, token: u64, finished: Finished) {
        let Operation { origin, target: number, work } = self.operations.remove(token);
        let Work::Reading(mut reading) = work else { unreachable!("only reads read") };
        let answer = self.assemble(number, &mut reading, finished);
        let Reading { pin, size, length, .. } = *reading;
        if let Some(store) = self.targets[number].store() {
            store.release(pin);
        }
        match (answer, origin) {
            (Ok((buffer, checksum)), Origin::Fabric { request, frame, since, ost }) => {
                let body = ReadReply { size }.to_vec();
                let payload = Some((buffer, length, checksum));
                self.reply(request, &frame, since, ost, Ok(&body), payload);
            }
            (answer, origin) => self.answer(&origin, answer.map(|_| &[][..])),
        }
    }

    /// The payload and its CRC32C.
    fn assemble(
        &mut self,
        number: usize,
        reading: &mut Reading,
        finished: Finished,
    ) -> Result<(Buffer, u32), Errno> {
        // The device logged it.
        finished.result.map_err(|_fault| Errno::EIO)?;
        let mut pieces = finished.pieces.into_iter();
        let mut image = pieces.next().ok_or(Errno::EIO)?;
        for piece in pieces {
            image.join(piece).expect("pieces of one buffer, in order");
        }
        unpack(&reading.segments, image.as_mut_slice())?;
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
        let bytes = image.as_slice();
        let block = |index: usize| &bytes[index * BLOCK_BYTES..(index + 1) * BLOCK_BYTES];
        let checksum = payload_checksum(&reading.checksums, reading.skip, reading.length, block);
        Ok((image.split_off(reading.skip), checksum))
    }
}
