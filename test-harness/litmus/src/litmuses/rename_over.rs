//! A file replaced by rename is never missing: the other side opens the old or the new one, and never an older one after.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Context, Result, bail};

use crate::files;
use crate::run::{Litmus, Round};

const REPLACEMENTS: u64 = 8;

pub(super) const LITMUS: Litmus = Litmus {
    name: "rename-over",
    claim: "a name replaced by rename always opens, and what is read is never older than what had been replaced",
    round,
};

fn round(round: &mut Round<'_>) -> Result<()> {
    let (here, there) = (round.here.join("name"), round.there.join("name"));
    let first = round.number * 1000;
    files::put(&here, &first.to_le_bytes())?;
    let is_over = Arc::new(AtomicBool::new(false));
    let acknowledged = Arc::new(AtomicU64::new(first));
    let (over, known) = (Arc::clone(&is_over), Arc::clone(&acknowledged));
    let reader = round.peer.begin(move || -> Result<u64> {
        let mut reads = 0;
        loop {
            let is_last = over.load(Ordering::SeqCst);
            let oldest = known.load(Ordering::SeqCst);
            let file = File::open(&there).context("the name does not open")?;
            let stamp = files::number_at(&file, 0).context("a cut file")?;
            if stamp < oldest {
                // Told apart: an old file found by its name, or wrong bytes in the right file.
                let (opened, named) = (file.metadata()?.ino(), fs::metadata(&there)?.ino());
                let (again, later) = (files::number_at(&file, 0)?, files::get(&there)?);
                let nlink = file.metadata()?.nlink();
                bail!(
                    "read {stamp} after {oldest} had been put there: inode {opened:#x} with {nlink} links, the name leads to {named:#x}; read again: {again}, by name: {later:?}"
                );
            }
            reads += 1;
            if is_last {
                return Ok(reads);
            }
        }
    })?;
    let replaced = (1..=REPLACEMENTS).try_for_each(|step| -> Result<()> {
        let temporary = round.here.join("temporary");
        files::put(&temporary, &(first + step).to_le_bytes())?;
        fs::rename(&temporary, &here)?;
        acknowledged.store(first + step, Ordering::SeqCst);
        Ok(())
    });
    is_over.store(true, Ordering::SeqCst);
    reader.wait()??;
    replaced
}
