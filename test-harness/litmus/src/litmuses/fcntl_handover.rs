//! POSIX record locks between two processes.

use anyhow::Result;

use crate::files::{self, require_equal};
use crate::holder::{Ask, Owner, record_lock};
use crate::run::{Litmus, Round};

pub(super) const LITMUS: Litmus = Litmus {
    name: "fcntl-handover",
    claim: "a POSIX lock excludes a process of the other side, wakes it on release or close, and hands over what was written",
    round,
};

fn round(round: &mut Round<'_>) -> Result<()> {
    let (here, there) = (round.here.join("file"), round.there.join("file"));
    if round.number == 1 {
        files::put(&here, &[0; 16])?;
    }
    round.holder.ask(&format!("open {}", there.display()))?;
    let mine = files::open(&here)?;
    record_lock(&mine, Owner::Process, Ask::Wait, 0, 8)?;
    require_equal("a lock that is held", &round.holder.ask("try")?.as_str(), &"false")?;
    round.holder.tell("wait")?;
    files::set_number_at(&mine, 8, round.number)?;
    if round.number.is_multiple_of(3) {
        // Closing any descriptor of the file releases the locks of the process.
        drop(mine);
    } else {
        record_lock(&mine, Owner::Process, Ask::Release, 0, 8)?;
    }
    require_equal("the waiter", &round.holder.answer()?.as_str(), &"true")?;
    require_equal("what it reads", &round.holder.ask("read")?, &round.number.to_string())?;
    let again = files::open(&here)?;
    let got = record_lock(&again, Owner::Process, Ask::Try, 0, 8)?;
    require_equal("a lock the other process holds", &got, &false)?;
    round.holder.ask("release").map(drop)
}
