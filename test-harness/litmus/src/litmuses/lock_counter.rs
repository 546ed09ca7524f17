//! A counter both sides raise under a lock counts every raise: with `flock`, OFD and POSIX locks.

use std::fs::File;
use std::path::Path;

use anyhow::Result;

use crate::files::{self, require_equal};
use crate::holder::{Owner, count_up};
use crate::run::{Litmus, Round};

const TIMES: u32 = 10;

pub(super) const LITMUS: Litmus = Litmus {
    name: "lock-counter",
    claim: "a number both sides raise at the same time under a lock counts every raise, whatever the kind of lock",
    round,
};

fn count_under_flock(file: &File) -> Result<()> {
    for _ in 0..TIMES {
        file.lock()?;
        let number = files::number_at(file, 0)?;
        files::set_number_at(file, 0, number + 1)?;
        file.unlock()?;
    }
    Ok(())
}

fn count(path: &Path, kind: u64) -> Result<()> {
    let file = files::open(path)?;
    if kind == 0 { count_under_flock(&file) } else { count_up(&file, Owner::Description, TIMES) }
}

fn round(round: &mut Round<'_>) -> Result<()> {
    let (here, there) = (round.here.join("file"), round.there.join("file"));
    files::put(&here, &[0; 16])?;
    let kind = round.number % 3;
    if kind == 2 {
        round.holder.ask(&format!("open {}", there.display()))?;
        round.holder.tell(&format!("count {TIMES}"))?;
        count_up(&files::open(&here)?, Owner::Process, TIMES)?;
        round.holder.answer()?;
    } else {
        let other = round.peer.begin(move || count(&there, kind))?;
        count(&here, kind)?;
        other.wait()??;
    }
    let number = files::number_at(&files::open(&here)?, 0)?;
    require_equal("the count", &number, &u64::from(2 * TIMES))
}
