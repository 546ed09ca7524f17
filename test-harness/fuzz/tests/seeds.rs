//! Every target on its seeds, on seeds changed at random, and on every input that once stopped it.
//!
//! `SHEEN_FUZZ_SEED` (a number, printed on failure) replays a run.

#![cfg(test)]

use std::{fs, path::Path, time::SystemTime};

use sheen_fuzz::TARGETS;

/// Changed inputs of each target; the fuzzer proper does thousands a second for as long as it likes.
const CHANGED: u32 = 120;

struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).expect("31 bits") % bound.max(1)
    }
}

#[test]
fn no_seed_and_no_change_of_one_stops_a_decoder() {
    let clock = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos();
    let seed = std::env::var("SHEEN_FUZZ_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or(u64::try_from(clock & 0xffff_ffff).unwrap());
    println!("SHEEN_FUZZ_SEED={seed}");
    let mut chance = Chance(seed);
    for target in TARGETS {
        let seeds = target.seeds();
        assert!(!seeds.is_empty(), "{}: no seeds", target.name);
        println!("{}: {} seeds", target.name, seeds.len());
        for seed in &seeds {
            target.run(seed);
        }
        for _ in 0..CHANGED {
            let mut input = seeds[chance.below(seeds.len())].clone();
            for _ in 0..=chance.below(4) {
                let at = chance.below(input.len());
                match chance.below(4) {
                    0 => input[at] ^= 1 << chance.below(8),
                    1 => input[at] = u8::try_from(chance.below(256)).unwrap(),
                    2 => input[at..].iter_mut().take(8).for_each(|byte| *byte = 0xff),
                    _ => input.truncate(at.max(1)),
                }
            }
            target.run(&input);
        }
    }
}

#[test]
fn inputs_that_once_stopped_a_decoder_do_so_no_more() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions");
    for target in TARGETS {
        let Ok(inputs) = fs::read_dir(folder.join(target.name)) else { continue };
        for input in inputs {
            let path = input.unwrap().path();
            println!("{}", path.display());
            target.run(&fs::read(&path).unwrap());
        }
    }
}
