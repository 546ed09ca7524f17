//! Open file description locks: as `flock`, by range.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::files::{self, require_equal};
use crate::holder::{Ask, Owner, record_lock};
use crate::run::{Litmus, Round};

pub(super) const LITMUS: Litmus = Litmus {
    name: "ofd-handover",
    claim: "an OFD lock excludes the other side from its range only, wakes its waiter, and hands over what was written",
    round,
};

fn round(round: &mut Round<'_>) -> Result<()> {
    let (here, there) = (round.here.join("file"), round.there.join("file"));
    if round.number == 1 {
        files::put(&here, &[0; 64])?;
    }
    let owner = Owner::Description;
    let mine = files::open(&here)?;
    record_lock(&mine, owner, Ask::Wait, 0, 16)?;
    let path = there.clone();
    let theirs = round.peer.run(move || {
        let file = files::open(&path)?;
        ensure!(!record_lock(&file, owner, Ask::Try, 8, 16)?, "overlapping ranges are both held");
        ensure!(record_lock(&file, owner, Ask::Try, 16, 16)?, "a free range is refused");
        record_lock(&file, owner, Ask::Release, 16, 16)?;
        Ok(file)
    })?;
    let waiter = round.peer.begin(move || -> Result<u64> {
        record_lock(&theirs, owner, Ask::Wait, 0, 16)?;
        let number = files::number_at(&theirs, 8)?;
        record_lock(&theirs, owner, Ask::Release, 0, 16)?;
        Ok(number)
    })?;
    let pause = if round.number.is_multiple_of(50) { 20 } else { 0 };
    ensure!(waiter.within(Duration::from_millis(pause)).is_none(), "the waiter did not wait");
    files::set_number_at(&mine, 8, round.number)?;
    record_lock(&mine, owner, Ask::Release, 0, 16)?;
    require_equal("what the waiter reads", &waiter.wait()??, &round.number)
}
