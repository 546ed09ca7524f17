//! Both sides append, in turn and at the same time; every record is there once and whole.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use anyhow::{Result, ensure};

use crate::files;
use crate::run::{Litmus, Round};

const RECORDS: u64 = 16;
const RECORD_BYTES: usize = 24;

pub(super) const LITMUS: Litmus = Litmus {
    name: "append-append",
    claim: "records both sides append at the same time are all there, each once and whole",
    round,
};

fn append(file: &mut File, side: u64, number: u64) -> Result<()> {
    let mut record = Vec::with_capacity(RECORD_BYTES);
    for word in [side, number, side ^ number] {
        record.extend_from_slice(&word.to_le_bytes());
    }
    Ok(file.write_all(&record)?)
}

fn append_many(path: &Path, side: u64) -> Result<()> {
    let mut file = File::options().append(true).open(path)?;
    (0..RECORDS).try_for_each(|number| append(&mut file, side, number))
}

fn round(round: &mut Round<'_>) -> Result<()> {
    let (here, there) = (round.here.join("file"), round.there.join("file"));
    files::put(&here, b"")?;
    let path = there.clone();
    let other = round.peer.begin(move || append_many(&path, 2))?;
    append_many(&here, 1)?;
    other.wait()??;
    // And once more in turn, when both have the end of the file cached.
    append(&mut File::options().append(true).open(&here)?, 1, RECORDS)?;
    let path = there.clone();
    round.peer.run(move || append(&mut File::options().append(true).open(&path)?, 2, RECORDS))?;
    require_all(&fs::read(&here)?)?;
    round.peer.run(move || require_all(&fs::read(&there)?))
}

fn require_all(bytes: &[u8]) -> Result<()> {
    let mut seen: BTreeMap<(u64, u64), u32> = BTreeMap::new();
    for record in bytes.chunks(RECORD_BYTES) {
        let words: Vec<u64> = record
            .chunks(8)
            .map(|word| word.try_into().map_or(u64::MAX, u64::from_le_bytes))
            .collect();
        ensure!(words.len() == 3 && words[0] ^ words[1] == words[2], "a torn record {words:?}");
        *seen.entry((words[0], words[1])).or_default() += 1;
    }
    let wanted = usize::try_from(2 * (RECORDS + 1))?;
    ensure!(seen.values().all(|count| *count == 1), "a record is there twice");
    ensure!(seen.len() == wanted, "{} records of {wanted}", seen.len());
    Ok(())
}
