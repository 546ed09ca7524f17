//! A reader that reads all the time while the other side writes: never an older stamp after a newer one.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Context, Result, ensure};

use crate::files::{self, BLOCK_BYTES, stamped};
use crate::run::{Litmus, Round};

const BLOCKS: u64 = 8;
const STAMPS: u64 = 4;

pub(super) const LITMUS: Litmus = Litmus {
    name: "stamped-blocks",
    claim: "a reader during writes never sees an older stamp after a newer one, nor one older than an acknowledged write",
    round,
};

/// What the writer made known outside of the file system.
struct Known {
    acknowledged: [AtomicU64; 8],
    is_over: AtomicBool,
}

fn round(round: &mut Round<'_>) -> Result<()> {
    let (here, there) = (round.here.join("file"), round.there.join("file"));
    let first = round.number * 100;
    let mut contents = Vec::new();
    (0..BLOCKS).for_each(|_| contents.extend_from_slice(&stamped(first)));
    files::put(&here, &contents)?;
    let known = Arc::new(Known {
        acknowledged: std::array::from_fn(|_| AtomicU64::new(first)),
        is_over: AtomicBool::new(false),
    });
    let shared = Arc::clone(&known);
    let reader = round.peer.begin(move || read_until_over(&there, &shared))?;
    let written = write_stamps(&here, first, &known);
    known.is_over.store(true, Ordering::SeqCst);
    reader.wait()??;
    written
}

fn write_stamps(path: &Path, first: u64, known: &Known) -> Result<()> {
    let file = files::open(path)?;
    for stamp in first + 1..=first + STAMPS {
        for (offset, acknowledged) in (0..).step_by(BLOCK_BYTES).zip(&known.acknowledged) {
            file.write_all_at(&stamped(stamp), offset)?;
            acknowledged.store(stamp, Ordering::SeqCst);
        }
    }
    Ok(())
}

fn read_until_over(path: &Path, known: &Known) -> Result<()> {
    let file = files::open(path)?;
    let mut seen = [0_u64; 8];
    let mut block = vec![0; BLOCK_BYTES];
    loop {
        let is_last = known.is_over.load(Ordering::SeqCst);
        for (number, offset) in (0..8_usize).zip((0..).step_by(BLOCK_BYTES)) {
            let oldest = known.acknowledged[number].load(Ordering::SeqCst).max(seen[number]);
            file.read_exact_at(&mut block, offset).context("reading a block")?;
            // A read beside a write may hold words of both; so what the next one must reach is the oldest word of this.
            let words = block.chunks_exact(8).map(|w| w.try_into().map_or(0, u64::from_le_bytes));
            let lowest = words.min().unwrap_or(0);
            ensure!(lowest >= oldest, "block {number} shows {lowest} after {oldest}");
            seen[number] = lowest;
        }
        if is_last {
            return Ok(());
        }
    }
}
