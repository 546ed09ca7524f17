//! A file made shorter or longer by one side has that length, and zeros past the old end, for the other.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

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
    let open = round.peer.run(move || {
        let open = files::open(&path)?;
        require_equal("length", &fs::read(&path)?.len(), &9001)?;
        read_whole(&open)?;
        Ok(open)
    })?;
    let file = files::open(&here)?;
    file.set_len(cut)?;
    let kept = usize::try_from(cut)?;
    let path = there.clone();
    let open = round.peer.run(move || {
        // Without asking for attributes first, which would refresh them by chance.
        let found = read_whole(&open)?;
        require_equal("bytes the open descriptor reads after the cut", &found.len(), &kept)?;
        ensure!(found.iter().all(|byte| *byte == 0xaa), "what was kept changed");
        require_equal("length after the cut", &fs::read(&path)?.len(), &kept)?;
        Ok(open)
    })?;
    file.set_len(12_000)?;
    round.peer.run(move || {
        let found = read_whole(&open)?;
        require_equal("bytes read after making it longer", &found.len(), &12_000)?;
        ensure!(found[..kept].iter().all(|byte| *byte == 0xaa), "what was kept changed");
        let stale = found[kept..].iter().position(|byte| *byte != 0);
        ensure!(
            stale.is_none(),
            "cut off bytes came back at {:?}",
            stale.map(|place| place + kept)
        );
        require_equal("length after making it longer", &fs::metadata(&there)?.len(), &12_000)
    })
}

/// What is there from the beginning on, at most 16 KiB.
fn read_whole(file: &File) -> Result<Vec<u8>> {
    let mut bytes = vec![0; 16 << 10];
    let mut filled = 0;
    loop {
        let count = file.read_at(&mut bytes[filled..], u64::try_from(filled)?)?;
        if count == 0 {
            bytes.truncate(filled);
            return Ok(bytes);
        }
        filled += count;
    }
}
