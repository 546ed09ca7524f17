//! Seeds changed at random: the same ones for the same seed, on every machine.
//!
//! Each target has numbers of its own, so that what one is given does not depend on which others run.

use sheen_types::checksum::crc32c;

use crate::Target;

/// Most changes of one input.
const CHANGES_MAX: usize = 4;

/// Inputs made of a target's seeds, without end.
#[derive(Clone, Debug)]
pub struct Mutations {
    seeds: Vec<Vec<u8>>,
    state: u64,
}

impl Mutations {
    /// Those of `target` from a seed on.
    ///
    /// # Panics
    /// When the target has no seeds.
    #[must_use]
    pub fn new(target: &Target, seed: u64) -> Self {
        let seeds = target.seeds();
        assert!(!seeds.is_empty(), "{}: no seeds", target.name);
        let own = u64::from(crc32c(target.name.as_bytes()));
        Self { seeds, state: seed ^ own << 32 }
    }

    fn below(&mut self, bound: usize) -> usize {
        // Knuth's MMIX generator; its upper bits are good.
        self.state = self
            .state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.state >> 33).unwrap_or(0) % bound.max(1)
    }

    fn byte(&mut self) -> u8 {
        u8::try_from(self.below(256)).unwrap_or(0)
    }

    /// The next input.
    pub fn next_input(&mut self) -> Vec<u8> {
        let which = self.below(self.seeds.len());
        let mut input = self.seeds[which].clone();
        for _ in 0..=self.below(CHANGES_MAX) {
            if input.is_empty() {
                break;
            }
            let at = self.below(input.len());
            match self.below(6) {
                0 => input[at] ^= 1 << self.below(8),
                1 => input[at] = self.byte(),
                2 => input[at..].iter_mut().take(8).for_each(|byte| *byte = 0xff),
                3 => input.truncate(at.max(1)),
                4 => {
                    // Again what is there: inputs of many changes, lists of many entries.
                    let copy = input[at..].to_vec();
                    input.extend(copy);
                }
                _ => {
                    for _ in 0..=self.below(16) {
                        let byte = self.byte();
                        input.push(byte);
                    }
                }
            }
        }
        input
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::TARGETS;

    #[test]
    fn a_seed_gives_the_same_inputs_again_and_another_gives_others() {
        let inputs = |target, seed| {
            let mut mutations = Mutations::new(target, seed);
            (0..50).map(|_| mutations.next_input()).collect::<Vec<_>>()
        };
        let [one, .., other] = TARGETS else { panic!("targets") };
        assert_eq!(inputs(one, 1), inputs(one, 1));
        assert_ne!(inputs(one, 1), inputs(one, 2));
        assert_ne!(inputs(one, 1), inputs(other, 1));
    }
}
