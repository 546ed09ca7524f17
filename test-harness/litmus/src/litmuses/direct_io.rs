//! Direct and buffered I/O of the two sides agree.

use std::os::unix::fs::FileExt;

use anyhow::Result;

use crate::files::{self, AlignedBlock, BLOCK_BYTES, require_equal, stamp_of, stamped};
use crate::run::{Litmus, Round};

pub(super) const LITMUS: Litmus = Litmus {
    name: "direct-io",
    claim: "O_DIRECT writes are read by the other side's buffered reads, and the other way round, and direct by direct",
    round,
};

fn round(round: &mut Round<'_>) -> Result<()> {
    let (here, there) = (round.here.join("file"), round.there.join("file"));
    if round.number == 1 {
        files::put(&here, &[0; 4 * BLOCK_BYTES])?;
    }
    let stamp = round.number * 2;
    let offset = (round.number % 4) * 4096;
    let path = there.clone();
    let (buffered, direct) = round.peer.run(move || {
        let (buffered, direct) = (files::open(&path)?, files::open_direct(&path)?);
        // Last, since opening directly may drop what is cached: the old bytes are now cached on that side, if it caches.
        files::number_at(&buffered, offset)?;
        Ok((buffered, direct))
    })?;
    let mine = files::open_direct(&here)?;
    mine.write_all_at(AlignedBlock::new(&stamped(stamp)).as_ref(), offset)?;
    round.peer.run(move || {
        let mut block = AlignedBlock::new(&[]);
        buffered.read_exact_at(block.as_mut(), offset)?;
        require_equal("buffered read of a direct write", &stamp_of(block.as_ref())?, &stamp)?;
        direct.read_exact_at(block.as_mut(), offset)?;
        require_equal("direct read of a direct write", &stamp_of(block.as_ref())?, &stamp)?;
        Ok(buffered.write_all_at(&stamped(stamp + 1), offset)?)
    })?;
    let mut block = AlignedBlock::new(&[]);
    mine.read_exact_at(block.as_mut(), offset)?;
    require_equal("direct read of a buffered write", &stamp_of(block.as_ref())?, &(stamp + 1))
}
