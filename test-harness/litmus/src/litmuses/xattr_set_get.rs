//! Extended attributes set, changed and removed by one side are so for the other.

use anyhow::{Context, Result, ensure};
use rustix::fs::{XattrFlags, getxattr, listxattr, removexattr, setxattr};
use rustix::io::Errno;

use crate::files::{self, require_equal};
use crate::run::{Litmus, Round};

const NAME: &str = "user.litmus";

pub(super) const LITMUS: Litmus = Litmus {
    name: "xattr-set-get",
    claim: "an extended attribute set or removed on one side is so in the other side's next get and list",
    round,
};

fn round(round: &mut Round<'_>) -> Result<()> {
    let (here, there) = (round.here.join("file"), round.there.join("file"));
    if round.number == 1 {
        files::put(&here, b"")?;
    }
    let path = there.clone();
    round.peer.run(move || {
        let mut value = [0; 64];
        // Whether it is there or not, the answer is now cached, if that side caches.
        let _ = getxattr(&path, NAME, &mut value[..]);
        Ok(())
    })?;
    let value = format!("value {}", round.number);
    setxattr(&here, NAME, value.as_bytes(), XattrFlags::empty()).context("setting")?;
    let path = there.clone();
    round.peer.run(move || {
        let mut found = [0; 64];
        let length = getxattr(&path, NAME, &mut found[..]).context("getting")?;
        require_equal("value", &&found[..length], &value.as_bytes())?;
        let mut names = [0; 256];
        let length = listxattr(&path, &mut names[..])?;
        let listed = names[..length].split(|byte| *byte == 0).any(|name| name == NAME.as_bytes());
        ensure!(listed, "the attribute is not listed");
        Ok(())
    })?;
    if round.number.is_multiple_of(2) {
        removexattr(&here, NAME)?;
        round.peer.run(move || {
            let mut found = [0; 64];
            let outcome = getxattr(&there, NAME, &mut found[..]);
            ensure!(outcome == Err(Errno::NODATA), "a removed attribute: {outcome:?}");
            Ok(())
        })?;
    }
    Ok(())
}
