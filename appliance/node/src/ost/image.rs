//! The blocks of a write in memory: the run of 4 KiB blocks its range touches, cut into pieces as they go to the device.

use sheen_dma::Buffer;
use sheen_types::BLOCK_BYTES;
use smallvec::{SmallVec, smallvec};

/// Pieces in order, each whole blocks. What was taken out is gone.
#[derive(Debug, Default)]
pub(crate) struct Image {
    /// First block of each piece, and its bytes.
    pieces: SmallVec<[(usize, Buffer); 1]>,
}

impl Image {
    /// An image of all of `buffer`, which is whole blocks.
    pub(crate) fn new(buffer: Buffer) -> Self {
        assert!(buffer.len().is_multiple_of(BLOCK_BYTES), "an image of {} bytes", buffer.len());
        Self { pieces: smallvec![(0, buffer)] }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    fn position(&self, block: usize) -> usize {
        let holds = |(first, buffer): &(usize, Buffer)| {
            (*first..*first + buffer.len() / BLOCK_BYTES).contains(&block)
        };
        self.pieces.iter().position(holds).expect("a block of an image is taken once")
    }

    /// The bytes of a block that was not taken.
    pub(crate) fn block_mut(&mut self, block: usize) -> &mut [u8] {
        let at = self.position(block);
        let (first, buffer) = &mut self.pieces[at];
        let start = (block - *first) * BLOCK_BYTES;
        &mut buffer.as_mut_slice()[start..start + BLOCK_BYTES]
    }

    /// Takes `blocks` blocks from `first` out.
    pub(crate) fn take(&mut self, first: usize, blocks: usize) -> Buffer {
        let at = self.position(first);
        let (start, mut buffer) = self.pieces.remove(at);
        if first == start && buffer.len() == blocks * BLOCK_BYTES {
            return buffer;
        }
        let mut wanted = buffer.split_off((first - start) * BLOCK_BYTES);
        let rest = wanted.split_off(blocks * BLOCK_BYTES);
        if !rest.is_empty() {
            self.pieces.insert(at, (first + blocks, rest));
        }
        if !buffer.is_empty() {
            self.pieces.insert(at, (start, buffer));
        }
        wanted
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn blocks_come_out_in_any_order_with_their_own_bytes() {
        let mut buffer = Buffer::standalone(8 * BLOCK_BYTES);
        for (number, block) in (0..).zip(buffer.as_mut_slice().chunks_mut(BLOCK_BYTES)) {
            block.fill(number);
        }
        let mut image = Image::new(buffer);
        for (first, blocks) in [(3, 2), (7, 1), (0, 1), (5, 2), (1, 2)] {
            assert_eq!(image.block_mut(first)[0], u8::try_from(first).unwrap());
            let taken = image.take(first, blocks);
            assert_eq!(taken.len(), blocks * BLOCK_BYTES);
            let last = u8::try_from(first + blocks - 1).unwrap();
            assert_eq!(taken.as_slice()[taken.len() - 1], last);
        }
        assert!(image.pieces.is_empty());
    }

    #[test]
    #[should_panic(expected = "taken once")]
    fn a_block_taken_twice_stops() {
        let mut image = Image::new(Buffer::standalone(2 * BLOCK_BYTES));
        drop(image.take(0, 1));
        drop(image.take(0, 1));
    }
}
