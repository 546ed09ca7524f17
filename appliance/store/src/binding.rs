//! Checksums bound to what they are of: object, block and generation.
//!
//! The index, the journal and the checkpoint hold a block's CRC32C mixed with its identity. A checksum that stands in the
//! list of another block, object or generation, by a bug or by damage, then fits no content. Outside the store's own bytes
//! checksums are raw; they are bound where they enter and unbound where they leave.

use sheen_types::Fid;

/// An object's blocks of one generation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Binding {
    seed: u64,
}

impl Binding {
    pub(crate) const fn new(object: Fid, generation: u32) -> Self {
        let ids = mix(object.seq ^ 0x9e37_79b9_7f4a_7c15)
            ^ ((object.oid as u64) << 32 | object.ver as u64);
        Self { seed: mix(mix(ids) ^ generation as u64) }
    }

    /// Binds the checksum of `block`, or unbinds it: each undoes the other. For a packed group `block` is the group's first
    /// block and the number of the stored block.
    pub(crate) const fn bind(self, checksum: u32, block: u64) -> u32 {
        let mask = mix(self.seed ^ block.wrapping_mul(0xd6e8_feb8_6659_fd93));
        // Shifted down to 32 bits.
        checksum ^ (mask >> 32) as u32
    }
}

/// A bijection in which each bit of the input changes half the bits of the output (the finalizer of splitmix64).
const fn mix(value: u64) -> u64 {
    let value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn binding_twice_gives_the_raw_checksum_back() {
        let binding = Binding::new(Fid::new(7, 3), 9);
        for block in 0..1000 {
            let raw = 0x1234_5678_u32.wrapping_mul(3 + 2 * 77);
            assert_eq!(binding.bind(binding.bind(raw, block), block), raw);
        }
    }

    #[test]
    fn neighbours_in_object_block_and_generation_are_told_apart() {
        let mut masks = Vec::new();
        for oid in 0..8 {
            for ver in 0..2 {
                for generation in 0..8 {
                    let object = Fid { seq: 0x2_0000_0400, oid, ver };
                    let binding = Binding::new(object, generation);
                    masks.extend((0..256).map(|block| binding.bind(0, block)));
                    masks.push(binding.bind(0, 1 << 32));
                }
            }
        }
        let all = masks.len();
        masks.sort_unstable();
        masks.dedup();
        // Of 33,000 random numbers of 32 bits, 0.13 pairs are equal.
        assert!(masks.len() + 2 >= all, "{} of {all}", masks.len());
    }

    #[test]
    fn each_bit_of_the_identity_changes_about_half_the_mask() {
        let mask = |seq, oid, block, generation| {
            Binding::new(Fid { seq, oid, ver: 0 }, generation).bind(0, block)
        };
        let base = mask(1, 1, 1, 1);
        for bit in 0..32 {
            for other in [
                mask(1 ^ 1 << bit, 1, 1, 1),
                mask(1, 1 ^ 1 << bit, 1, 1),
                mask(1, 1, 1 ^ 1 << bit, 1),
                mask(1, 1, 1, 1 ^ 1 << bit),
            ] {
                let changed = (base ^ other).count_ones();
                assert!((4..=28).contains(&changed), "bit {bit}: {changed} bits");
            }
        }
    }
}
