//! A listing on the other side shows what was created and not what was removed.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};

use crate::files;
use crate::run::{Litmus, Round};

pub(super) const LITMUS: Litmus = Litmus {
    name: "create-readdir",
    claim: "a created entry is in the other side's next listing, a removed one is not",
    round,
};

fn listing(path: &Path) -> Result<BTreeSet<String>> {
    fs::read_dir(path)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

fn round(round: &mut Round<'_>) -> Result<()> {
    let name = format!("entry-{}", round.number);
    let (here, there) = (round.here.clone(), round.there.clone());
    let list = there.clone();
    round.peer.run(move || listing(&list))?;
    if round.number.is_multiple_of(3) {
        fs::create_dir(here.join(&name))?;
    } else {
        files::put(&here.join(&name), b"")?;
    }
    let (list, wanted) = (there.clone(), name.clone());
    round.peer.run(move || {
        ensure!(listing(&list)?.contains(&wanted), "the created entry is not listed");
        Ok(())
    })?;
    if round.number.is_multiple_of(3) {
        fs::remove_dir(here.join(&name))?;
    } else {
        fs::remove_file(here.join(&name))?;
    }
    round.peer.run(move || {
        ensure!(!listing(&there)?.contains(&name), "the removed entry is still listed");
        Ok(())
    })
}
