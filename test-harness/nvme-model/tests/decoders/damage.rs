//! Ways to damage bytes, and the loop that does.

use std::panic::{AssertUnwindSafe, catch_unwind};

use sheen_nvme_model::chance::Chance;

const CASES: u64 = 20_000;

fn setting(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// Numbers at which arithmetic goes wrong.
const EXTREMES: [u64; 10] =
    [0, 1, 0x7f, 0xff, 0x7fff, 0xffff, 0x7fff_ffff, 0xffff_ffff, u64::MAX >> 1, u64::MAX];

/// Damages `bytes` once to eight times.
pub(crate) fn damage(bytes: &mut Vec<u8>, chance: &mut Chance) {
    for _ in 0..=chance.below(8) {
        if bytes.is_empty() {
            bytes.push(0);
        }
        let at = chance.index(bytes.len());
        match chance.below(6) {
            0 => bytes[at] ^= 1 << chance.below(8),
            1 => chance.fill(&mut bytes[at..(at + 1)]),
            2 => {
                let width = 1 << chance.below(4);
                let value = EXTREMES[chance.index(EXTREMES.len())].to_le_bytes();
                let end = bytes.len().min(at + width);
                bytes[at..end].copy_from_slice(&value[..end - at]);
            }
            3 => bytes.truncate(at),
            4 => {
                let part = bytes[at..bytes.len().min(at + 64)].to_vec();
                let into = chance.index(bytes.len());
                bytes.splice(into..into, part);
            }
            _ => {
                let end = bytes.len().min(at + chance.index(64));
                bytes[at..end].fill(0xff);
            }
        }
    }
}

/// Runs `decode` on many damaged versions of every sample.
pub(crate) fn try_all(name: &str, samples: &[Vec<u8>], decode: impl Fn(&[u8])) {
    let (cases, first) = (setting("SHEEN_FUZZ_CASES", CASES), setting("SHEEN_FUZZ_SEED", 1));
    for seed in first..first + cases {
        let mut chance = Chance::new(seed);
        let mut bytes = samples[chance.index(samples.len())].clone();
        if chance.happens(900) {
            damage(&mut bytes, &mut chance);
        } else {
            chance.fill(&mut bytes);
        }
        let outcome = catch_unwind(AssertUnwindSafe(|| decode(&bytes)));
        assert!(outcome.is_ok(), "{name}: SHEEN_FUZZ_SEED={seed} SHEEN_FUZZ_CASES=1 repeats this");
    }
}
