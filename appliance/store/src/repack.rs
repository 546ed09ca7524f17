//! Storing a range anew with the same content: to compress it, to undo that, or to bring scattered blocks together.
//!
//! Claims of the range make it atomic against changes: nobody alters the content between the read and the new mapping.
//! After a crash it counts only if the changes do whose content it copied.

use sheen_types::{Errno, Timespec};

use crate::{
    Busy, Command, MergeToken, Packed, ReadPlan, Repack, RequestToken, Store,
    binding::Binding,
    image::{ImagePart, are_sound, bind_image, image_parts},
    object::Object,
    operation::{Kind, Operation, State},
    request::{OBJECT_BYTES_MAX, WRITE_BLOCKS_MAX},
};

/// Before all times: an object's mtime stays.
const NEVER: Timespec = Timespec { seconds: i64::MIN, nanoseconds: 0 };

impl Store {
    /// Takes a repack. If the range holds anything, a [`Command::Repack`] asks for its content as it is to be stored.
    /// Size, times and owner stay. May end with EAGAIN as a packed write may.
    ///
    /// # Errors
    /// [`Busy`]: nothing was taken.
    ///
    /// # Panics
    /// When the range is not of whole blocks, empty, or of more than a write may touch.
    pub fn repack(
        &mut self,
        request: RequestToken,
        repack: &Repack,
        commands: &mut Vec<Command>,
    ) -> Result<(), Busy> {
        let Repack { object, offset, length, durable } = *repack;
        assert!(offset.is_multiple_of(4096) && length.is_multiple_of(4096), "whole blocks");
        assert!(length > 0 && length / 4096 <= WRITE_BLOCKS_MAX as u64, "a bounded range");
        let end = offset.checked_add(length).filter(|&end| end <= OBJECT_BYTES_MAX);
        let Some(end) = end else { return Self::refuse(request, Errno::EFBIG, commands) };
        let number = self.take(Kind::Repack, request, object)?;
        let operation = self.operations.get_mut(number);
        operation.offset = offset;
        operation.end = end;
        operation.mtime = NEVER;
        operation.durable = durable;
        self.claim(number, offset / 4096, end / 4096, commands);
        Ok(())
    }

    /// Asks for the content anew, if there is any.
    pub(crate) fn plan_repack(&mut self, number: u32, commands: &mut Vec<Command>) {
        let operation = self.operations.get_mut(number);
        let range = blocks_of(operation);
        let object = self.index.get(operation.object);
        let written = object.filter(|object| written_ranges(object, range).next().is_some());
        let Some(object) = written else {
            self.make_ready(number, commands);
            return;
        };
        let mut plan = Box::new(ReadPlan { size: object.size, ..ReadPlan::default() });
        plan.length = operation.end - operation.offset;
        plan.fill(&self.layout, (operation.object, object), range);
        operation.state = State::Merging;
        let token = MergeToken::new(operation.generation, number);
        commands.push(Command::Repack { request: operation.request, token, plan });
    }

    /// The request's image is there: the blocks of the plan that are not holes, in order, with `packed` groups in the place of
    /// some; `checksums` are the CRC32C of its blocks. If it cannot be made call [`Store::merge_failed`].
    ///
    /// # Panics
    /// When a group covers a hole or is none, or the checksums are not one per image block.
    pub fn repacked(
        &mut self,
        token: MergeToken,
        checksums: &[u32],
        packed: &[Packed],
        commands: &mut Vec<Command>,
    ) {
        let Some(number) = self.merging(token) else { return };
        let operation = self.operations.get_mut(number);
        let object = self.index.get(operation.object);
        let object = object.expect("a claimed object stays");
        let range = blocks_of(operation);
        assert!(operation.kind == Kind::Repack, "only a repack is answered so");
        assert!(are_sound(packed, range.0, range), "groups in order");
        for group in packed {
            let first = range.0 + u64::from(group.first);
            let end = first + u64::from(group.blocks);
            let covered = written_ranges(object, (first, end)).next() == Some((first, end));
            assert!(covered, "a group of content only");
        }
        operation.packed.extend_from_slice(packed);
        operation.checksums.extend_from_slice(checksums);
        let binding = Binding::new(operation.object, self.generation);
        let parts = repack_parts(object, range, &operation.packed);
        let stored = parts.last().map_or(0, |part| part.image_block + part.stored());
        assert!(stored == checksums.len() as u64, "a checksum for each image block");
        let parts = repack_parts(object, range, &operation.packed);
        bind_image(binding, parts, &mut operation.checksums);
        self.make_ready(number, commands);
        self.run_granted(commands);
    }
}

fn blocks_of(operation: &Operation) -> (u64, u64) {
    (operation.offset / 4096, operation.end / 4096)
}

/// The longest ranges of written blocks within `first..end`, in order.
fn written_ranges(
    object: &Object,
    (first, end): (u64, u64),
) -> impl Iterator<Item = (u64, u64)> + use<'_> {
    let mut pieces = object.pieces(first, end).filter(|piece| piece.written).peekable();
    std::iter::from_fn(move || {
        let piece = pieces.next()?;
        let mut until = piece.block + piece.blocks;
        while let Some(next) = pieces.next_if(|next| next.block == until) {
            until += next.blocks;
        }
        Some((piece.block, until))
    })
}

/// The parts of a repack's image.
pub(crate) fn repack_parts<'a>(
    object: &'a Object,
    range: (u64, u64),
    packed: &'a [Packed],
) -> impl Iterator<Item = ImagePart> + use<'a> {
    let mut image_block = 0;
    written_ranges(object, range).flat_map(move |written| {
        let parts = image_parts(written, image_block, range.0, packed);
        let groups = packed.iter().filter(|group| {
            let block = range.0 + u64::from(group.first);
            (written.0..written.1).contains(&block)
        });
        let saved: u64 = groups.map(|group| u64::from(group.blocks - group.stored)).sum();
        image_block += written.1 - written.0 - saved;
        parts
    })
}
