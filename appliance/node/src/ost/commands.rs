//! Carrying out what a store tells: merges, device commands, answers.

use sheen_dma::Buffer;
use sheen_ports::{Block, Clock, Fabric};
use sheen_store::{Command, Merge, MergeToken, OldBlock, RequestToken};
use sheen_types::{BLOCK_BYTES, Errno, Lba, checksum::crc32c};

use super::{
    device::{Finished, Purpose},
    image::Image,
    operation::{Merging, Work},
    service::OstService,
};

/// Where the old block of a merge, or the group it is in, lies: its first block and how many.
fn extent(old: &OldBlock) -> (Lba, usize) {
    match old {
        OldBlock::Plain { lba, .. } => (*lba, 1),
        OldBlock::Packed(group) => (group.lba, group.checksums.len()),
    }
}

impl<B: Block, F: Fabric, C: Clock> OstService<B, F, C> {
    /// Carries out the commands there are, and those they lead to, in their order.
    pub(crate) fn carry_out(&mut self, number: usize) {
        while !self.commands.is_empty() {
            let spare = std::mem::take(&mut self.scratch.commands);
            let mut commands = std::mem::replace(&mut self.commands, spare);
            for command in commands.drain(..) {
                self.execute(number, command);
            }
            self.scratch.commands = commands;
        }
    }

    fn execute(&mut self, number: usize, command: Command) {
        match command {
            Command::Merge { request, merge, image_blocks, merges } => {
                self.begin_merge(number, request, merge, image_blocks as usize, merges);
            }
            Command::Repack { request, token, plan } => {
                self.begin_repack(number, request, token, *plan);
            }
            Command::WriteData { io, request, lba, image_block, blocks } => {
                let buffer = self.image(request).take(image_block as usize, blocks as usize);
                self.targets[number].device.write(Purpose::Store(io), lba, buffer);
            }
            Command::WriteBytes { io, lba, bytes } => {
                self.targets[number].device.write_bytes(Purpose::Store(io), lba, bytes);
            }
            Command::Flush { io } => {
                self.targets[number].device.flush(Purpose::Store(io));
            }
            Command::Discard { io, lba, blocks } => {
                self.targets[number].device.discard(Purpose::Store(io), lba, blocks);
            }
            Command::Read { io, lba, blocks } => {
                let bytes = blocks as usize * BLOCK_BYTES;
                let buffer = self.buffers.take(bytes);
                let buffer = buffer.unwrap_or_else(|| Buffer::standalone(bytes));
                self.targets[number].device.read(Purpose::Opening(io), lba, buffer);
            }
            Command::Complete { request, result } => self.on_complete(request.0, result),
        }
    }

    fn image(&mut self, request: RequestToken) -> &mut Image {
        match &mut self.operations.get_mut(request.0).work {
            Work::Storing { image, .. } => image,
            Work::Pulling { .. } | Work::Reading(_) => {
                unreachable!("the store knows writes and changes only")
            }
        }
    }

    /// Reads the old blocks that a write, truncate or punch keeps part of.
    fn begin_merge(
        &mut self,
        number: usize,
        request: RequestToken,
        merge: MergeToken,
        image_blocks: usize,
        merges: [Option<Merge>; 2],
    ) {
        if self.image(request).is_empty() {
            // A truncate or punch: one or two blocks, from the reserve when the arena is used up.
            let bytes = image_blocks * BLOCK_BYTES;
            let mut buffer = self.small_buffer(number, bytes);
            buffer.as_mut_slice().fill(0);
            *self.image(request) = Image::new(buffer);
        }
        let remaining = merges.iter().flatten().count();
        let merging = Merging {
            merge,
            operation: request.0,
            merges,
            checksums: [None; 2],
            remaining,
            failed: false,
        };
        let token = self.merges.insert(merging);
        for which in 0..2 {
            let part = self.merges.get_mut(token).merges[which].as_ref();
            let Some((lba, blocks)) = part.map(|part| extent(&part.old)) else { continue };
            let buffer = self.small_buffer(number, blocks * BLOCK_BYTES);
            let purpose = Purpose::Merge { merge: token, which };
            self.targets[number].device.read(purpose, lba, buffer);
        }
        if remaining == 0 {
            self.end_merge(number, token);
        }
    }

    /// A buffer of a few blocks that must not be refused: what waits for it holds what others wait for. The number of
    /// operations bounds how many there are.
    fn small_buffer(&mut self, number: usize, bytes: usize) -> Buffer {
        self.buffers
            .take(bytes)
            .or_else(|| self.targets[number].device.reserve_buffer(bytes))
            .unwrap_or_else(|| Buffer::standalone(bytes))
    }

    /// An old block is here: verify it and keep what the request does not replace.
    pub(crate) fn on_merge_read(
        &mut self,
        number: usize,
        token: u64,
        which: usize,
        mut finished: Finished,
    ) {
        let merging = self.merges.get_mut(token);
        merging.remaining -= 1;
        let last = merging.remaining == 0;
        let (operation, part) = (merging.operation, merging.merges[which].take());
        let old = finished.pieces.pop().flatten();
        // A store that stopped has ended the request.
        let stopped = self.targets[number].store().is_none_or(|store| store.is_stopped());
        let checksum = match (part, &old, finished.result) {
            (Some(part), Some(old), Ok(())) if !stopped => {
                self.merge_block(number, operation, &part, old)
            }
            _ => None,
        };
        if let Some(old) = old {
            self.buffers.give(old);
        }
        let merging = self.merges.get_mut(token);
        merging.failed |= checksum.is_none();
        merging.checksums[which] = checksum;
        if last {
            self.end_merge(number, token);
        }
    }

    /// The merged block's CRC32C; None if the old block is damaged.
    fn merge_block(
        &mut self,
        number: usize,
        operation: u64,
        part: &Merge,
        stored: &Buffer,
    ) -> Option<u32> {
        let mut old = [0; BLOCK_BYTES];
        if let Err(damage) = self.packer.old_block(&part.old, stored.as_slice(), &mut old) {
            let target = &self.targets[number];
            target.stats.checksum_errors.add(1);
            tracing::error!(
                ost = target.index.0, %damage,
                "a block is not what was stored; the change that keeps part of it fails"
            );
            return None;
        }
        let block = self.image(RequestToken(operation)).block_mut(part.image_block as usize);
        let (start, end) = (part.fresh_start as usize, part.fresh_end as usize);
        block[..start].copy_from_slice(&old[..start]);
        block[end..].copy_from_slice(&old[end..]);
        Some(crc32c(block))
    }

    fn end_merge(&mut self, number: usize, token: u64) {
        let Merging { merge, checksums, failed, .. } = self.merges.remove(token);
        let Some(store) = self.targets[number].store() else { return };
        if failed {
            store.merge_failed(merge, Errno::EIO, &mut self.commands);
        } else {
            store.merged(merge, checksums, &mut self.commands);
        }
    }
}
