//! A symlink that is replaced leads the other side to the new target.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use anyhow::Result;

use crate::files::{self, require_absent, require_equal};
use crate::run::{Litmus, Round};

pub(super) const LITMUS: Litmus = Litmus {
    name: "symlink-readlink",
    claim: "a symlink made, replaced or removed on one side is followed so by the other",
    round,
};

fn round(round: &mut Round<'_>) -> Result<()> {
    let (here, there) = (round.here.join("link"), round.there.join("link"));
    let target = format!("target-{}", round.number);
    files::put(&round.here.join(&target), target.as_bytes())?;
    let path = there.clone();
    round.peer.run(move || require_absent("a link not made yet", fs::symlink_metadata(path)))?;
    symlink(&target, &here)?;
    let (path, wanted) = (there.clone(), target.clone());
    round.peer.run(move || {
        require_equal("target", &fs::read_link(&path)?, &PathBuf::from(&wanted))?;
        require_equal("contents behind it", &fs::read(&path)?, &wanted.into_bytes())
    })?;
    fs::remove_file(&here)?;
    symlink("elsewhere", &here)?;
    round.peer.run(move || {
        require_equal("replaced target", &fs::read_link(&there)?, &PathBuf::from("elsewhere"))
    })?;
    fs::remove_file(here)?;
    Ok(fs::remove_file(round.here.join(target))?)
}
