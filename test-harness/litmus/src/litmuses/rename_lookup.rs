//! After a rename the other side finds the new name and not the old one.

use std::fs;
use std::os::unix::fs::MetadataExt;

use anyhow::Result;

use crate::files::{self, require_absent, require_equal};
use crate::run::{Litmus, Round};

pub(super) const LITMUS: Litmus = Litmus {
    name: "rename-lookup",
    claim: "after a rename the other side finds the new name, and no longer the old one it had looked up",
    round,
};

fn round(round: &mut Round<'_>) -> Result<()> {
    let (old, new) = (format!("old-{}", round.number), format!("new-{}", round.number));
    let (here, there) = (round.here.clone(), round.there.clone());
    files::put(&here.join(&old), b"x")?;
    let path = there.join(&old);
    let inode = round.peer.run(move || Ok(fs::metadata(path)?.ino()))?;
    fs::rename(here.join(&old), here.join(&new))?;
    let renamed = there.join(&new);
    round.peer.run(move || {
        require_absent("the old name", fs::metadata(there.join(&old)))?;
        require_equal("the inode at the new name", &fs::metadata(&renamed)?.ino(), &inode)?;
        Ok(fs::remove_file(renamed)?)
    })?;
    require_absent("the removed file", fs::metadata(here.join(&new)))
}
