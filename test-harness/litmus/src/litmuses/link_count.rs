//! Hard links: the other side sees the new name, the same inode and the right number of links.

use std::fs;
use std::os::unix::fs::MetadataExt;

use anyhow::Result;

use crate::files::{self, require_equal};
use crate::run::{Litmus, Round};

pub(super) const LITMUS: Litmus = Litmus {
    name: "link-count",
    claim: "after link and unlink the other side counts links right, through either name",
    round,
};

fn round(round: &mut Round<'_>) -> Result<()> {
    let (here, there) = (round.here.clone(), round.there.clone());
    let (first, second) = (format!("first-{}", round.number), format!("second-{}", round.number));
    files::put(&here.join(&first), b"x")?;
    let path = there.join(&first);
    round.peer.run(move || require_equal("links", &fs::metadata(path)?.nlink(), &1))?;
    fs::hard_link(here.join(&first), here.join(&second))?;
    let (one, other) = (there.join(&first), there.join(&second));
    round.peer.run(move || {
        let (one, other) = (fs::metadata(one)?, fs::metadata(other)?);
        require_equal("inode of the second name", &other.ino(), &one.ino())?;
        require_equal("links after link", &(one.nlink(), other.nlink()), &(2, 2))
    })?;
    fs::remove_file(here.join(&first))?;
    round.peer.run(move || {
        let path = there.join(&second);
        require_equal("links after unlink", &fs::metadata(&path)?.nlink(), &1)?;
        Ok(fs::remove_file(path)?)
    })
}
