//! The cipher of a zone: AES-256-XTS over blocks of 4 KiB.
//!
//! A block is one data unit; its tweak is the block's LBA on the device as 128-bit little-endian number [IEEE 1619-2018 §5.1], so
//! equal blocks at different places, and in different zones (each has its own key), look different. A ciphertext block has as many bytes as
//! its plaintext: there is no room for a tag, and none is needed to find damage, since the store's checksums are of the
//! plaintext.

use sheen_dma::LockError;
use sheen_types::{BLOCK_BYTES, Lba};

use crate::{
    Secret,
    aws_lc::{Direction, XTS_KEY_BYTES, Xts},
};

/// Encrypts and decrypts blocks of one zone. Owned by one thread; its key lies in locked memory.
#[derive(Debug)]
pub struct BlockCipher(Xts);

impl BlockCipher {
    /// Bytes of its key.
    pub const KEY_BYTES: usize = XTS_KEY_BYTES;

    /// The cipher with this key of [`Self::KEY_BYTES`].
    ///
    /// # Errors
    /// [`LockError`].
    ///
    /// # Panics
    /// When the key has another length, or equal halves.
    pub fn new(key: &Secret) -> Result<Self, LockError> {
        let key = key.expose().first_chunk().filter(|_| key.len() == Self::KEY_BYTES);
        Ok(Self(Xts::new(key.expect("an XTS key has 64 bytes"))?))
    }

    /// Encrypts the whole blocks of `blocks` in place; the first belongs to `lba` of the device. What is behind the last whole block stays.
    #[inline]
    pub fn encrypt(&mut self, lba: Lba, blocks: &mut [u8]) {
        self.apply(Direction::Encrypt, lba, blocks);
    }

    /// Undoes [`BlockCipher::encrypt`].
    #[inline]
    pub fn decrypt(&mut self, lba: Lba, blocks: &mut [u8]) {
        self.apply(Direction::Decrypt, lba, blocks);
    }

    #[inline]
    fn apply(&mut self, direction: Direction, lba: Lba, blocks: &mut [u8]) {
        // As 128-bit numbers, so that addresses behind every device, of commands about to be rejected, count on as well.
        for (tweak, block) in (u128::from(lba.0)..).zip(blocks.chunks_exact_mut(BLOCK_BYTES)) {
            self.0.apply(direction, tweak, block);
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn cipher(seed: u8) -> BlockCipher {
        let mut key = Secret::zeroed(BlockCipher::KEY_BYTES).unwrap();
        for (byte, value) in key.expose_mut().iter_mut().zip(seed..) {
            *byte = value;
        }
        BlockCipher::new(&key).unwrap()
    }

    #[test]
    fn each_block_is_a_data_unit_of_its_own() {
        let mut cipher = cipher(1);
        let mut whole = vec![7; 3 * BLOCK_BYTES];
        cipher.encrypt(Lba(9), &mut whole);
        for (lba, block) in (9..).zip(whole.chunks_exact(BLOCK_BYTES)) {
            let mut alone = vec![7; BLOCK_BYTES];
            cipher.encrypt(Lba(lba), &mut alone);
            assert_eq!(alone, block, "block {lba}");
        }
        let distinct: std::collections::BTreeSet<&[u8]> =
            whole.chunks_exact(16).chain([&[7; 16][..]]).collect();
        assert_eq!(distinct.len(), 3 * 256 + 1, "equal plaintext never looks equal");
        cipher.decrypt(Lba(9), &mut whole);
        assert_eq!(whole, vec![7; 3 * BLOCK_BYTES]);
    }

    #[test]
    fn another_key_or_place_gives_noise() {
        let plain: Vec<u8> = (0..BLOCK_BYTES).map(|at| at.to_le_bytes()[0]).collect();
        let mut block = plain.clone();
        cipher(1).encrypt(Lba(5), &mut block);
        for (seed, lba) in [(2, 5), (1, 6)] {
            let mut read = block.clone();
            cipher(seed).decrypt(Lba(lba), &mut read);
            let equal = read.iter().zip(&plain).filter(|(left, right)| left == right).count();
            assert!(equal < 64, "{equal} of 4096 bytes are right by chance");
        }
        let mut tail = [1; 100];
        cipher(1).encrypt(Lba(0), &mut tail);
        assert_eq!(tail, [1; 100], "what is no whole block is not touched");
        cipher(1).encrypt(Lba(u64::MAX), &mut block);
    }
}
