//! Storing a range anew: its blocks are read as for a read, packed as is wanted now, and given to the store as its image.
//!
//! Path: D6 to D11. Deliberately absent: what keeps the range from changing meanwhile (the store's claims do).

use sheen_dma::Buffer;
use sheen_ports::{Block, Clock, Fabric};
use sheen_store::{MergeToken, Packed, ReadPlan, RequestToken, Segment, Source};
use sheen_types::{BLOCK_BYTES, Compression, Errno, Fid, units::BLOCK_BYTES_U64};

use super::{
    device::{Finished, Purpose},
    image::Image,
    operation::{Reading, Work},
    packing::{Job, Packer},
    reading::{Assembled, fetch_with_packed},
    service::OstService,
    unpacking::Round,
};

/// What a change stores anew.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Wanted {
    pub(crate) object: Fid,
    pub(crate) offset: u64,
    pub(crate) compression: Compression,
}

/// A repack whose blocks are on their way.
#[derive(Debug)]
pub(crate) struct Repacking {
    request: u64,
    merge: MergeToken,
    wanted: Wanted,
    reading: Reading,
}

impl<B: Block, F: Fabric, C: Clock> OstService<B, F, C> {
    /// Sends for the content of a repack. Without memory for it the request is to come again.
    pub(crate) fn begin_repack(
        &mut self,
        number: usize,
        request: RequestToken,
        merge: MergeToken,
        plan: ReadPlan,
    ) {
        let wanted = match &self.operations.get(request.0).work {
            Work::Storing { repack: Some(wanted), .. } => *wanted,
            Work::Storing { .. } | Work::Pulling { .. } | Work::Reading(_) => {
                unreachable!("a repack was asked for")
            }
        };
        if self.is_needless(request, &plan) {
            return self.fail_repack(number, merge, Errno::EINVAL);
        }
        let round = Round::default().next(&plan);
        let Some((image, stored)) = self.buffers_for(plan.checksums.len(), round.blocks) else {
            return self.fail_repack(number, merge, Errno::EAGAIN);
        };
        let Wanted { object, offset, .. } = wanted;
        let reading = Reading { pin: None, object, offset, plan, image: None, round };
        self.fetch_repack(
            number,
            Repacking { request: request.0, merge, wanted, reading },
            image,
            stored,
        );
    }

    fn fetch_repack(
        &mut self,
        number: usize,
        repacking: Repacking,
        image: Buffer,
        stored: Option<Buffer>,
    ) {
        let repack = self.repacks.insert(repacking);
        let reading = &mut self.repacks.get_mut(repack).reading;
        let device = &mut self.targets[number].device;
        fetch_with_packed(device, Purpose::Repack { repack }, reading, image, stored);
    }

    /// What was sent for is here: pack it and give it to the store, or send for more.
    pub(crate) fn on_repack_read(&mut self, number: usize, repack: u64, finished: Finished) {
        let mut repacking = self.repacks.remove(repack);
        let merge = repacking.merge;
        if self.targets[number].store().is_none_or(|store| store.is_stopped()) {
            // The store has ended the request.
            return;
        }
        match self.assemble(number, &mut repacking.reading, finished) {
            Ok(Assembled::More { image, stored }) => {
                self.fetch_repack(number, repacking, image, Some(stored));
            }
            Ok(Assembled::Whole(image)) => self.end_repack(number, &repacking, image),
            Err(errno) => self.fail_repack(number, merge, errno),
        }
    }

    fn end_repack(&mut self, number: usize, repacking: &Repacking, mut image: Buffer) {
        let Repacking { request, merge, wanted, reading } = repacking;
        let (sums, groups) = (&mut self.scratch.checksums, &mut self.scratch.packed);
        sums.clear();
        groups.clear();
        self.packer.repack_image(wanted, &reading.plan, image.as_mut_slice(), sums, groups);
        let bytes = sums.len() * BLOCK_BYTES;
        if bytes < image.len() {
            drop(image.split_off(bytes));
        }
        let packed = (!groups.is_empty()).then_some(wanted.object);
        let image = Image::new(image);
        self.operations.get_mut(*request).work = Work::Storing { image, packed, repack: None };
        if let Some(store) = self.targets[number].store() {
            store.repacked(*merge, sums, groups, &mut self.commands);
        }
    }

    fn fail_repack(&mut self, number: usize, merge: MergeToken, errno: Errno) {
        if let Some(store) = self.targets[number].store() {
            store.merge_failed(merge, errno, &mut self.commands);
        }
    }
}

/// The runs of blocks of an image that hold content, in order: (first, end).
fn content(segments: &[Segment]) -> impl Iterator<Item = (usize, usize)> {
    let mut rest = segments.iter().filter(|segment| segment.source != Source::Hole).peekable();
    std::iter::from_fn(move || {
        let first = rest.next()?;
        let mut end = first.image_block + first.blocks;
        while let Some(next) = rest.next_if(|next| next.image_block == end) {
            end += next.blocks;
        }
        Some((first.image_block as usize, end as usize))
    })
}

impl Packer {
    /// Makes of the whole blocks of a range, in place, the image of its repack: content without holes, packed where that is
    /// wanted and saves a block. Adds the checksums of its blocks to `sums`.
    fn repack_image(
        &mut self,
        wanted: &Wanted,
        plan: &ReadPlan,
        image: &mut [u8],
        sums: &mut Vec<u32>,
        groups: &mut Vec<Packed>,
    ) {
        self.try_again(wanted.object);
        let mut run_sums = Vec::new();
        for (first, end) in content(&plan.segments) {
            let (blocks, kept) = (end - first, sums.len());
            image.copy_within(first * BLOCK_BYTES..end * BLOCK_BYTES, kept * BLOCK_BYTES);
            run_sums.clear();
            run_sums.extend_from_slice(&plan.checksums[first..end]);
            if let Some(codec) = wanted.compression.codec() {
                let job = Job {
                    codec,
                    object: wanted.object,
                    first: wanted.offset / BLOCK_BYTES_U64 + first as u64,
                    whole: 0..blocks as u64,
                };
                let run = &mut image[kept * BLOCK_BYTES..(kept + blocks) * BLOCK_BYTES];
                let before = groups.len();
                self.pack_image(&job, run, &mut run_sums, groups);
                let offset = u32::try_from(first).expect("an image is at most a slab");
                groups[before..].iter_mut().for_each(|group| group.first += offset);
            }
            sums.extend_from_slice(&run_sums);
        }
    }
}
