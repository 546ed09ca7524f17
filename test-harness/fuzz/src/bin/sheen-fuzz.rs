//! The fuzzer: libFuzzer's own options, and the target's name in `SHEEN_FUZZ_TARGET`. With `SHEEN_FUZZ_WRITE_SEEDS=FOLDER` it
//! writes the seeds of every target there, each target's in a folder of its name, and ends.
//!
//! One program for all targets, so that instrumented crates are compiled and linked once.
#![no_main]

use std::{fs, io, path::PathBuf, process::exit, sync::OnceLock};

use sheen_fuzz::{TARGETS, Target};

static TARGET: OnceLock<Target> = OnceLock::new();

fn write_seeds(folder: PathBuf) -> io::Result<()> {
    for target in TARGETS {
        let folder = folder.join(target.name);
        fs::create_dir_all(&folder)?;
        for (number, seed) in target.seeds().iter().enumerate() {
            fs::write(folder.join(format!("seed-{number}")), seed)?;
        }
    }
    Ok(())
}

libfuzzer_sys::fuzz_target!(
    init: {
        if let Some(folder) = std::env::var_os("SHEEN_FUZZ_WRITE_SEEDS") {
            exit(i32::from(write_seeds(folder.into()).is_err()));
        }
        let name = std::env::var("SHEEN_FUZZ_TARGET").unwrap_or_default();
        let target = Target::named(&name).expect("SHEEN_FUZZ_TARGET names a target");
        TARGET.get_or_init(|| target);
    },
    |data: &[u8]| {
        if let Some(target) = TARGET.get() {
            target.run(data);
        }
    }
);
