//! A name that was looked up in vain is found as soon as the other side created it.

use std::fs;

use anyhow::{Context, Result};

use crate::files::{self, require_absent};
use crate::run::{Litmus, Round};

pub(super) const LITMUS: Litmus = Litmus {
    name: "negative-dentry",
    claim: "a name found missing is found at once when the other side made it, by create, link, rename or mkdir",
    round,
};

fn round(round: &mut Round<'_>) -> Result<()> {
    let name = format!("name-{}", round.number);
    let (here, there) = (round.here.join(&name), round.there.join(&name));
    for _ in 0..3 {
        require_absent("the name", fs::metadata(&here))?;
    }
    let source = round.there.join("source");
    let way = round.number % 4;
    round.peer.run(move || match way {
        0 => files::put(&there, b"x"),
        1 => Ok(fs::create_dir(&there)?),
        2 => {
            files::put(&source, b"x")?;
            Ok(fs::rename(&source, &there)?)
        }
        _ => {
            files::put(&source, b"x")?;
            fs::hard_link(&source, &there)?;
            Ok(fs::remove_file(&source)?)
        }
    })?;
    let found = fs::metadata(&here).context("the name the other side made")?;
    if found.is_dir() {
        fs::remove_dir(here)?
    } else {
        fs::remove_file(here)?
    }
    Ok(())
}
