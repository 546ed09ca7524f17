//! A file made shorter or longer by one side has that length, and zeros past the old end, for the other.

use std::fs;

use anyhow::{Result, ensure};

use crate::files::{self, require_equal};
use crate::run::{Litmus, Round};

pub(super) const LITMUS: Litmus = Litmus {
    name: "truncate-read",
    claim: "what was cut off is gone for the other side, and reads as zeros when the file is made longer again",
    round,
};

fn round(round: &mut Round<'_>) -> Result<()> {
    let (here, there) = (round.here.join("file"), round.there.join("file"));
    let cut = round.number * 37 % 9000;
    files::put(&here, &[0xaa; 9001])?;
    let path = there.clone();
    round.peer.run(move || require_equal("length", &fs::read(path)?.len(), &9001))?;
    let file = files::open(&here)?;
    file.set_len(cut)?;
    let path = there.clone();
    let kept = usize::try_from(cut)?;
    round.peer.run(move || {
        let found = fs::read(path)?;
        require_equal("length after the cut", &found.len(), &kept)?;
        ensure!(found.iter().all(|byte| *byte == 0xaa), "what was kept changed");
        Ok(())
    })?;
    file.set_len(12_000)?;
    round.peer.run(move || {
        let found = fs::read(there)?;
        require_equal("length after making it longer", &found.len(), &12_000)?;
        ensure!(found[..kept].iter().all(|byte| *byte == 0xaa), "what was kept changed");
        let stale = found[kept..].iter().position(|byte| *byte != 0);
        ensure!(
            stale.is_none(),
            "cut off bytes came back at {:?}",
            stale.map(|place| place + kept)
        );
        Ok(())
    })
}
