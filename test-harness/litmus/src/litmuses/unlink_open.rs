//! A removed file cannot be opened by the other side any more, and who has it open goes on reading it.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};

use anyhow::Result;

use crate::files::{self, require_absent, require_equal};
use crate::run::{Litmus, Round};

pub(super) const LITMUS: Litmus = Litmus {
    name: "unlink-open",
    claim: "a removed name does not open on the other side; a descriptor open there still reads, with no links left",
    round,
};

fn round(round: &mut Round<'_>) -> Result<()> {
    let name = format!("file-{}", round.number);
    let (here, there) = (round.here.join(&name), round.there.join(&name));
    files::put(&here, &round.number.to_le_bytes())?;
    let path = there.clone();
    let open = round.peer.run(move || Ok(File::open(path)?))?;
    fs::remove_file(&here)?;
    let number = round.number;
    round.peer.run(move || {
        require_absent("the removed name", File::open(&there))?;
        let mut bytes = [0; 8];
        open.read_exact_at(&mut bytes, 0)?;
        require_equal("what the open descriptor reads", &u64::from_le_bytes(bytes), &number)?;
        require_equal("its links", &open.metadata()?.nlink(), &0)
    })
}
