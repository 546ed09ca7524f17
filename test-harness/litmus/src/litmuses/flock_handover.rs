//! `flock`: exclusive means one side at a time, a waiter gets it when it is released, and sees what was written under it.

use std::fs::{File, TryLockError};
use std::time::Duration;

use anyhow::{Result, bail, ensure};

use crate::files::{self, require_equal};
use crate::run::{Litmus, Round};

pub(super) const LITMUS: Litmus = Litmus {
    name: "flock-handover",
    claim: "flock excludes the other side, wakes its waiter on release, and hands over what was written",
    round,
};

fn is_refused(file: &File) -> Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => bail!("flock: {error}"),
    }
}

fn round(round: &mut Round<'_>) -> Result<()> {
    let (here, there) = (round.here.join("file"), round.there.join("file"));
    if round.number == 1 {
        files::put(&here, &[0; 16])?;
    }
    let mine = files::open(&here)?;
    mine.lock()?;
    let path = there.clone();
    let theirs = round.peer.run(move || {
        let file = files::open(&path)?;
        ensure!(is_refused(&file)?, "both sides hold an exclusive flock");
        Ok(file)
    })?;
    let waiter = round.peer.begin(move || -> Result<u64> {
        theirs.lock()?;
        let number = files::number_at(&theirs, 8)?;
        theirs.unlock()?;
        Ok(number)
    })?;
    // Now and then long enough for the waiter to be asleep.
    let pause = if round.number.is_multiple_of(50) { 20 } else { 0 };
    ensure!(waiter.within(Duration::from_millis(pause)).is_none(), "the waiter did not wait");
    files::set_number_at(&mine, 8, round.number)?;
    mine.unlock()?;
    require_equal("what the waiter reads", &waiter.wait()??, &round.number)
}
