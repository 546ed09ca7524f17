//! In a directory one side removed, the other can create nothing; one the other filled cannot be removed.

use std::fs::{self, File};
use std::io::ErrorKind;

use anyhow::{Context, Result, bail};

use crate::files::{self, require_absent};
use crate::run::{Litmus, Round};

pub(super) const LITMUS: Litmus = Litmus {
    name: "rmdir-create",
    claim: "nothing can be created in a directory the other side removed, nor one be removed that the other side filled",
    round,
};

fn round(round: &mut Round<'_>) -> Result<()> {
    let name = format!("directory-{}", round.number);
    let (here, there) = (round.here.join(&name), round.there.join(&name));
    fs::create_dir(&here)?;
    let path = there.clone();
    round.peer.run(move || files::put(&path.join("entry"), b"x"))?;
    match fs::remove_dir(&here) {
        Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => {}
        Err(error) => bail!("removing a filled directory: {error}"),
        Ok(()) => bail!("a filled directory was removed"),
    }
    let path = there.clone();
    round.peer.run(move || Ok(fs::remove_file(path.join("entry"))?))?;
    fs::remove_dir(&here).context("removing the emptied directory")?;
    round.peer.run(move || {
        require_absent("the removed directory", File::create_new(there.join("late")).map(drop))
    })
}
