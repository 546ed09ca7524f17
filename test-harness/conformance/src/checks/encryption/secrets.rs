//! Everything secret of a device, computed from its key file and `docs/formats` alone: what must not be found.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context as _, ensure};
use aws_lc_rs::hmac;
use sheen_keys::{KEY_BLOCK_LBAS, KeyBlock, KeySource, ZoneTag};

use super::search::Needle;

const BLOCK: usize = 4096;
/// A round key, and the grain in which keys are looked for.
const PIECE: usize = 16;

/// The secrets of a device, by how they come about.
#[derive(Debug)]
pub(super) struct Secrets {
    /// The key file's digits and its key: not in memory at all once a node is up.
    pub(super) key_file: Vec<Needle>,
    /// Data key and zone keys, in pieces.
    pub(super) keys: Vec<Needle>,
    /// Expanded round keys for encryption, in the order of the standard: where the node's cipher must have them.
    pub(super) encryption: Vec<Needle>,
    /// Those for decryption.
    pub(super) decryption: Vec<Needle>,
}

impl Secrets {
    /// Those of `device`, which the key file `file` opens.
    pub(super) fn of(device: &Path, file: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read(file)?;
        let digits = text.trim_ascii();
        let key: Vec<u8> = digits
            .chunks(2)
            .map(|pair| Ok(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?))
            .collect::<anyhow::Result<_>>()?;
        let mut key_file = pieces("key file", &key);
        key_file.extend(pieces("key file's digits", digits));

        let source: KeySource = format!("file:{}", file.display()).parse()?;
        let device = File::open(device)?;
        let mut block = [0; BLOCK];
        device.read_exact_at(&mut block, KEY_BLOCK_LBAS[0].byte_offset())?;
        let key_block = KeyBlock::decode(&block, KEY_BLOCK_LBAS[0])?;
        let data = key_block.unlock(&source)?.data;
        let mut keys = pieces("data key", data.secret().expose());
        let extracted = sign(&key_block.uuid, data.secret().expose());
        keys.extend(pieces("the data key's extract", &extracted));
        let context = [b"sheen data key v1", &key_block.uuid[..]].concat();
        let extracted = sign(&context, &key);
        key_file.extend(pieces("the key file's extract", &extracted));
        key_file.extend(pieces("wrapping key", &sign(&extracted, b"sheen file wrap v1\x01")));

        let (mut encryption, mut decryption) = (Vec::new(), Vec::new());
        device.read_exact_at(&mut block, 0)?;
        for (index, zone) in zones(&block)?.into_iter().enumerate() {
            let key = data.zone_key(&key_block.uuid, zone)?;
            keys.extend(pieces(&format!("key of zone {index}"), key.expose()));
            for (half, key) in key.expose().chunks(32).enumerate() {
                let rounds = expand(key.try_into()?);
                let named = |direction, round| {
                    format!("{direction} round key {round} of zone {index}, half {half}")
                };
                for (round, key) in rounds.iter().enumerate() {
                    encryption.push(Needle::new(named("encryption", round), key));
                }
                // The tweak is always encrypted: only the first half has keys for decryption.
                for (round, key) in rounds.iter().enumerate().take(14).skip(1).filter(|_| half == 0)
                {
                    decryption.push(Needle::new(named("decryption", round), &inverse_mixed(key)));
                }
            }
        }
        ensure!(encryption.len() >= 60, "an encrypted device has zones");
        Ok(Self { key_file, keys, encryption, decryption })
    }

    /// All of them.
    pub(super) fn all(&self) -> Vec<Needle> {
        let groups = [&self.key_file, &self.keys, &self.encryption, &self.decryption];
        groups.into_iter().flatten().cloned().collect()
    }
}

/// HMAC-SHA-256: a step of HKDF.
fn sign(key: &[u8], bytes: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), bytes).as_ref().to_vec()
}

fn pieces(what: &str, bytes: &[u8]) -> Vec<Needle> {
    let piece = |(index, piece)| Needle::new(format!("{what}, piece {index}"), piece);
    bytes.chunks_exact(PIECE).enumerate().map(piece).collect()
}

/// The zone table of a superblock.
fn zones(block: &[u8; BLOCK]) -> anyhow::Result<Vec<ZoneTag>> {
    ensure!(block[8..16] == *b"SHEENDEV", "no superblock");
    let u32_at = |at: usize| block[at..].first_chunk().map(|bytes| u32::from_le_bytes(*bytes));
    let u64_at = |at: usize| block[at..].first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
    ensure!(
        u32_at(64).is_some_and(|flags| flags & 2 == 2),
        "the superblock does not say encrypted"
    );
    let count = u32_at(68).context("zone count")?;
    (0..count as usize)
        .map(|index| {
            let at = 256 + index * 64;
            Some(ZoneTag { kind: u32_at(at)?, number: u32_at(at + 4)?, identity: u64_at(at + 24)? })
        })
        .collect::<Option<_>>()
        .context("zone table")
}

/// Product in the field of AES [FIPS 197 §4.2].
fn product(mut left: u8, mut right: u8) -> u8 {
    let mut sum = 0;
    while right != 0 {
        if right & 1 == 1 {
            sum ^= left;
        }
        left = (left << 1) ^ if left & 0x80 != 0 { 0x1b } else { 0 };
        right >>= 1;
    }
    sum
}

/// The S-box [FIPS 197 §5.1.1].
fn substitute(byte: u8) -> u8 {
    let inverse = (1..=255).find(|&other| product(byte, other) == 1).unwrap_or(0_u8);
    (0..5).fold(0x63, |sum, turn| sum ^ inverse.rotate_left(turn))
}

/// The 15 round keys of AES-256 [FIPS 197 §5.2].
fn expand(key: &[u8; 32]) -> [[u8; PIECE]; 15] {
    let mut words: Vec<[u8; 4]> =
        key.chunks_exact(4).map(|word| [word[0], word[1], word[2], word[3]]).collect();
    let mut constant = 1;
    for index in 8..60 {
        let mut word = words[index - 1];
        if index % 8 == 0 {
            word.rotate_left(1);
            word = word.map(substitute);
            word[0] ^= constant;
            constant = product(constant, 2);
        } else if index % 8 == 4 {
            word = word.map(substitute);
        }
        let earlier = words[index - 8];
        words.push(std::array::from_fn(|at| word[at] ^ earlier[at]));
    }
    std::array::from_fn(|round| std::array::from_fn(|at| words[round * 4 + at / 4][at % 4]))
}

/// A round key of the equivalent inverse cipher [FIPS 197 §5.3.5].
fn inverse_mixed(key: &[u8; PIECE]) -> [u8; PIECE] {
    const ROW: [u8; 4] = [14, 11, 13, 9];
    std::array::from_fn(|at| {
        let (column, row) = (at / 4 * 4, at % 4);
        (0..4).fold(0, |sum, other| sum ^ product(key[column + other], ROW[(other + 4 - row) % 4]))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn keys_expand_as_in_the_standard() {
        // FIPS 197 A.3.
        let text = "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4";
        let key: Vec<u8> =
            (0..32).map(|at| u8::from_str_radix(&text[at * 2..at * 2 + 2], 16).unwrap()).collect();
        let rounds = expand(&key.try_into().unwrap());
        assert_eq!(hex(&rounds[2]), "9ba354118e6925afa51a8b5f2067fcde");
        assert_eq!(hex(&rounds[14]), "fe4890d1e6188d0b046df344706c631e");
        // FIPS 197 C.3: round 1 of the equivalent inverse cipher is round 13 of the key 00..1f.
        let counting: [u8; 32] = std::array::from_fn(|at| at.to_le_bytes()[0]);
        assert_eq!(hex(&inverse_mixed(&expand(&counting)[13])), "34f1d1ffbfceaa2ffce9e25f2558016e");
    }
}
