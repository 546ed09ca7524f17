//! Carrying out what a store tells: merges, device commands, answers.

use sheen_dma::Buffer;
use sheen_ports::{Block, Clock, Fabric};
use sheen_store::{Command, Merge, MergeToken, OldBlock, RequestToken};
use sheen_types::{BLOCK_BYTES, Errno, Lba, checksum::crc32c};

use super::{
    device::{Finished, Purpose, errno_of},
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
                let (purpose, bytes) = (Purpose::Opening(io), blocks as usize * BLOCK_BYTES);
                self.targets[number].device.read_into_reserve(purpose, lba, bytes);
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
            let mut buffer = self.small_image(image_blocks * BLOCK_BYTES);
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
            failed: None,
        };
        let token = self.merges.insert(merging);
        for which in 0..2 {
            let part = self.merges.get_mut(token).merges[which].as_ref();
            let Some((lba, blocks)) = part.map(|part| extent(&part.old)) else { continue };
            let purpose = Purpose::Merge { merge: token, which };
            let (device, bytes) = (&mut self.targets[number].device, blocks * BLOCK_BYTES);
            match self.buffers.take(bytes) {
                Some(buffer) => device.read(purpose, lba, buffer),
                None => device.read_into_reserve(purpose, lba, bytes),
            }
        }
        if remaining == 0 {
            self.end_merge(number, token);
        }
    }

    /// The image of a truncate or punch: one or two blocks. It must not be refused, for what waits for it holds what others wait for;
    /// so when the arena is used up it comes from one that has an image for each operation there can be.
    fn small_image(&mut self, bytes: usize) -> Buffer {
        let buffer = self.buffers.take(bytes).or_else(|| self.small_images.allocate(bytes));
        buffer.expect("an image for each operation")
    }

    /// Gives a buffer back that a read ended with.
    pub(crate) fn give_read(&mut self, number: usize, buffer: Buffer) {
        if let Err(buffer) = self.targets[number].device.give_back(buffer) {
            self.buffers.give(buffer);
        }
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
                self.merge_block(number, operation, &part, old).ok_or(Errno::EIO)
            }
            (_, _, Err(fault)) => Err(errno_of(fault)),
            _ => Err(Errno::EIO),
        };
        if let Some(old) = old {
            self.give_read(number, old);
        }
        let merging = self.merges.get_mut(token);
        merging.failed = merging.failed.or(checksum.err());
        merging.checksums[which] = checksum.ok();
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
        match failed {
            Some(errno) => store.merge_failed(merge, errno, &mut self.commands),
            None => store.merged(merge, checksums, &mut self.commands),
        }
    }
}
