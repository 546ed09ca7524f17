//! What one side wrote the other reads: through a descriptor it had open, and through a new one.

use anyhow::Result;

use crate::files::{self, BLOCK_BYTES, require_equal};
use crate::run::{Litmus, Round};

pub(super) const LITMUS: Litmus = Litmus {
    name: "write-read",
    claim: "a write is read by the other side, also through a descriptor that read the old bytes",
    round,
};

fn round(round: &mut Round<'_>) -> Result<()> {
    let (here, there) = (round.here.join("file"), round.there.join("file"));
    let stamp = round.number;
    if stamp == 1 {
        files::put(&here, &[0; 4 * BLOCK_BYTES])?;
    }
    let block = stamp % 4;
    let offset = block * 4096 + (stamp * 8) % 4096;
    let path = there.clone();
    let open = round.peer.run(move || {
        let file = files::open(&path)?;
        // The old bytes are now cached on that side, if it caches.
        files::number_at(&file, offset)?;
        Ok(file)
    })?;
    files::set_number_at(&files::open(&here)?, offset, stamp)?;
    round.peer.run(move || {
        require_equal(
            "the number through the open descriptor",
            &files::number_at(&open, offset)?,
            &stamp,
        )?;
        let again = files::open(&there)?;
        require_equal(
            "the number through a new descriptor",
            &files::number_at(&again, offset)?,
            &stamp,
        )
    })
}
