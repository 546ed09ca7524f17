//! What one side stores in a mapped file the other reads, after `msync` and also without.

use anyhow::{Context, Result};
use sheen_dma::FileMapping;

use crate::files::{self, BLOCK_BYTES, require_equal};
use crate::run::{Litmus, Round};

pub(super) const LITMUS: Litmus = Litmus {
    name: "mmap-read",
    claim: "a store into a shared mapping is read(2) by the other side, with and without msync; a write(2) there is loaded",
    round,
};

const WORDS: usize = 4 * BLOCK_BYTES / 8;

fn round(round: &mut Round<'_>) -> Result<()> {
    let (here, there) = (round.here.join("file"), round.there.join("file"));
    if round.number == 1 {
        files::put(&here, &[0; 4 * BLOCK_BYTES])?;
    }
    let file = files::open(&here)?;
    let mapping = FileMapping::shared(&file, WORDS).context("mapping")?;
    let stamp = round.number;
    let word = usize::try_from(stamp * 97)? % (WORDS - 1);
    let offset = u64::try_from(word * 8)?;
    let _ = mapping.load(word);
    let path = there.clone();
    let open = round.peer.run(move || {
        let file = files::open(&path)?;
        files::number_at(&file, offset)?;
        Ok(file)
    })?;
    mapping.store(word, stamp);
    if stamp.is_multiple_of(2) {
        mapping.sync()?;
    }
    round.peer.run(move || {
        require_equal("what the other side reads", &files::number_at(&open, offset)?, &stamp)?;
        files::set_number_at(&open, offset + 8, !stamp)
    })?;
    require_equal("what is loaded after the other side wrote", &mapping.load(word + 1), &!stamp)
}
