//! Every target on its seeds, on seeds changed at random, and on every input that once stopped it. The same inputs each time; new
//! ones are for `cargo xtask soak fuzz`.

#![cfg(test)]

use std::{fs, path::Path};

use sheen_fuzz::{Mutations, TARGETS};

/// Changed inputs of each target; `cargo xtask test fuzz` runs many more of the same.
const CHANGED: u32 = 120;
const SEED: u64 = 1;

#[test]
fn no_seed_and_no_change_of_one_stops_a_decoder() {
    for target in TARGETS {
        println!("{}", target.name);
        for seed in &target.seeds() {
            target.run(seed);
        }
        let mut mutations = Mutations::new(target, SEED);
        for _ in 0..CHANGED {
            target.run(&mutations.next_input());
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
