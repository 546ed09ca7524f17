//! Where a running node has its data key: looked for in all of its memory, by somebody who got the key from the KMS.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context as _, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::moto::Moto;

/// Where the first key block is, and what of it is read; see `docs/formats/keys.md`.
const KEY_BLOCK_OFFSET: u64 = 8192;
const UUID: std::ops::Range<usize> = 32..48;
const SLOT: usize = 256;
const WRAPPED: usize = 448;
/// Bytes of a mapping that are read at a time; pieces overlap by what is looked for.
const PIECE_BYTES: usize = 4 << 20;

/// Where something was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// In memory that is locked and left out of core dumps.
    pub(super) locked: usize,
    /// In any other.
    pub(super) elsewhere: usize,
}

/// The data key of a device whose first slot is of the KMS, as that gives it.
pub(super) fn data_key(device: &Path, moto: &Moto) -> anyhow::Result<Vec<u8>> {
    let mut block = vec![0; 4096];
    File::open(device)?.read_exact_at(&mut block, KEY_BLOCK_OFFSET)?;
    let digits: String = block[UUID].iter().map(|byte| format!("{byte:02x}")).collect();
    let uuid = [0..8, 8..12, 12..16, 16..20, 20..32].map(|range| &digits[range]).join("-");
    let slot = &block[SLOT..];
    let length = usize::from(u16::from_le_bytes([slot[6], slot[7]]));
    let wrapped = &slot[WRAPPED..WRAPPED + length];
    let arn = usize::from(u16::from_le_bytes([wrapped[1], wrapped[2]]));
    let opened = moto.kms(
        "Decrypt",
        &json!({
            "CiphertextBlob": STANDARD.encode(&wrapped[3 + arn..]),
            "EncryptionContext": { "sheen-purpose": "sheen data key v1", "sheen-device": uuid },
        }),
    )?;
    let key = STANDARD.decode(opened["Plaintext"].as_str().context("no plaintext")?)?;
    ensure!(key.len() == 32, "a data key of {} bytes", key.len());
    Ok(key)
}

/// Looks for `bytes` in the memory of a process.
pub(super) fn search(pid: u32, bytes: &[u8]) -> anyhow::Result<Found> {
    let memory = File::open(format!("/proc/{pid}/mem"))?;
    let mappings = fs::read_to_string(format!("/proc/{pid}/smaps"))?;
    let mut found = Found::default();
    let mut range = None;
    for line in mappings.lines() {
        if let Some(flags) = line.strip_prefix("VmFlags:") {
            let has = |flag: &str| flags.split_whitespace().any(|known| known == flag);
            let count = range.take().map_or(0, |range| count_in(&memory, range, bytes));
            if has("lo") && has("dd") {
                found.locked += count;
            } else {
                found.elsewhere += count;
            }
        } else if let Some(next) = parsed(line) {
            range = Some(next);
        }
    }
    Ok(found)
}

/// `BEGIN-END rw-p …`
fn parsed(line: &str) -> Option<(u64, u64)> {
    let (begin, end) = line.split(' ').next()?.split_once('-')?;
    Some((u64::from_str_radix(begin, 16).ok()?, u64::from_str_radix(end, 16).ok()?))
}

fn count_in(memory: &File, (begin, end): (u64, u64), bytes: &[u8]) -> usize {
    let mut count = 0;
    let mut place = begin;
    let mut piece = vec![0; PIECE_BYTES];
    let step = u64::try_from(PIECE_BYTES - bytes.len()).unwrap_or(u64::MAX);
    while place < end {
        let left = usize::try_from(end - place).unwrap_or(usize::MAX).min(PIECE_BYTES);
        // What cannot be read (a device's memory, a page that is gone) holds no key.
        let read = memory.read_at(&mut piece[..left], place).unwrap_or(0);
        count += piece[..read].windows(bytes.len()).filter(|window| *window == bytes).count();
        place += step;
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_process_holds_is_found() {
        let held: Vec<u8> = (0..64_u8).map(|place| place.wrapping_mul(37) ^ 0xa5).collect();
        let other: Vec<u8> = held.iter().map(|byte| byte ^ 0x77).collect();

        let locked = sheen_keys::Secret::copy_of(&other).unwrap();
        assert!(search(std::process::id(), &held).unwrap().elsewhere >= 1);
        assert!(search(std::process::id(), locked.expose()).unwrap().locked >= 1);
    }
}
