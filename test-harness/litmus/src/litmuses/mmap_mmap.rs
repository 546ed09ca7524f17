//! What one side stores in a mapped file the other side's mapping loads.

use anyhow::{Context, Result};
use sheen_dma::FileMapping;

use crate::files::{self, BLOCK_BYTES, require_equal};
use crate::run::{Litmus, Round};

const WORDS: usize = 2 * BLOCK_BYTES / 8;

pub(super) const LITMUS: Litmus = Litmus {
    name: "mmap-mmap",
    claim: "a store into a shared mapping is loaded from the other side's mapping, which had the old page mapped",
    round,
};

fn round(round: &mut Round<'_>) -> Result<()> {
    let (here, there) = (round.here.join("file"), round.there.join("file"));
    if round.number == 1 {
        files::put(&here, &[0; 2 * BLOCK_BYTES])?;
    }
    let stamp = round.number;
    let word = usize::try_from(stamp * 89)? % (WORDS - 1);
    let mine = FileMapping::shared(&files::open(&here)?, WORDS).context("mapping")?;
    let theirs = round.peer.run(move || {
        let mapping = FileMapping::shared(&files::open(&there)?, WORDS).context("mapping")?;
        let _ = mapping.load(word);
        Ok(mapping)
    })?;
    for step in 0..3 {
        let value = stamp * 10 + step;
        mine.store(word, value);
        let theirs = &theirs;
        // Both mappings belong to this process; which kernel inode they lead to is what differs.
        require_equal("what the other mapping loads", &theirs.load(word), &value)?;
        theirs.store(word + 1, !value);
        require_equal(
            "what is loaded of the other mapping's store",
            &mine.load(word + 1),
            &!value,
        )?;
    }
    Ok(())
}
