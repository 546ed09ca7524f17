//! A file that grew, or whose time changed, is so for the other side's next `stat`.

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;

use anyhow::Result;

use crate::files::{self, require_equal};
use crate::run::{Litmus, Round};

pub(super) const LITMUS: Litmus = Litmus {
    name: "stat-size",
    claim: "size and times of a written file are right in the other side's next stat, also while it is open",
    round,
};

fn round(round: &mut Round<'_>) -> Result<()> {
    let (here, there) = (round.here.join("file"), round.there.join("file"));
    if round.number % 64 == 1 {
        files::put(&here, b"")?;
    }
    let path = there.clone();
    let before = round.peer.run(move || Ok(fs::metadata(path)?.len()))?;
    let mut file = fs::File::options().append(true).open(&here)?;
    let count = 1 + round.number % 5000;
    file.write_all(&vec![7; usize::try_from(count)?])?;
    let seen_here = file.metadata()?;
    let path = there.clone();
    let seen = round.peer.run(move || Ok(fs::metadata(path)?))?;
    require_equal("size while it is open", &seen.len(), &(before + count))?;
    require_equal(
        "modification time",
        &(seen.mtime(), seen.mtime_nsec()),
        &(seen_here.mtime(), seen_here.mtime_nsec()),
    )?;
    drop(file);
    let seen = round.peer.run(move || Ok(fs::metadata(there)?))?;
    require_equal("size after close", &seen.len(), &(before + count))
}
