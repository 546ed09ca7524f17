//! Mode, owner and times set by one side are in the other's next `stat`.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::{Duration, SystemTime};

use anyhow::Result;

use crate::files::{self, require_equal};
use crate::run::{Litmus, Round};

pub(super) const LITMUS: Litmus = Litmus {
    name: "chmod-stat",
    claim: "mode and times set on one side are in the other side's next stat",
    round,
};

fn round(round: &mut Round<'_>) -> Result<()> {
    let (here, there) = (round.here.join("file"), round.there.join("file"));
    if round.number == 1 {
        files::put(&here, b"")?;
    }
    let mode = 0o600 | u32::try_from(round.number % 0o100)?;
    let path = there.clone();
    round.peer.run(move || Ok(fs::metadata(path)?))?;
    fs::set_permissions(&here, Permissions::from_mode(mode))?;
    let seconds = i64::try_from(1_000_000_000 + round.number)?;
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000 + round.number);
    files::open(&here)?.set_modified(time)?;
    round.peer.run(move || {
        let found = fs::metadata(there)?;
        require_equal("mode", &(found.mode() & 0o7777), &mode)?;
        require_equal("modification time", &found.mtime(), &seconds)
    })
}
