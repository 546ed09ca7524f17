//! Both sides create the same name exclusively at the same time: exactly one succeeds.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Result, bail, ensure};

use crate::run::{Litmus, Round};

pub(super) const LITMUS: Litmus = Litmus {
    name: "exclusive-create",
    claim: "of two exclusive creates of one name exactly one succeeds, the other gets EEXIST; the same for mkdir",
    round,
};

fn outcome(result: std::io::Result<()>) -> Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(error) => bail!("{error} instead of EEXIST"),
    }
}

fn attempt(path: &Path, is_directory: bool) -> Result<bool> {
    if is_directory {
        outcome(fs::create_dir(path))
    } else {
        outcome(File::create_new(path).map(drop))
    }
}

fn round(round: &mut Round<'_>) -> Result<()> {
    let name = format!("name-{}", round.number);
    let (here, there) = (round.here.join(&name), round.there.join(&name));
    let is_directory = round.number.is_multiple_of(4);
    let other = round.peer.begin(move || attempt(&there, is_directory))?;
    let mine = attempt(&here, is_directory);
    let theirs = other.wait()??;
    let winners = u32::from(mine?) + u32::from(theirs);
    ensure!(winners == 1, "{winners} succeeded");
    if is_directory {
        fs::remove_dir(here)?
    } else {
        fs::remove_file(here)?
    }
    Ok(())
}
