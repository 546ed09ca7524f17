//! Packing and unpacking: what goes in comes out, what is damaged is refused, what does not shrink is left alone.

use sheen_types::{BLOCK_BYTES, Codec, Fid, checksum::crc32c};

use sheen_store::Packed;

use super::rig::Chance;
use crate::ost::packing::{Job, Packer, UnpackError, WINDOW_BLOCKS, WINDOW_BYTES, windows};

const OBJECT: Fid = Fid::new(0x2_0000_0400, 9);

pub(crate) fn text(bytes: usize, chance: &mut Chance) -> Vec<u8> {
    const WORDS: [&str; 8] = ["block", "of", "the", "journal", "is", "written", "before", "it. "];
    let mut text = Vec::new();
    while text.len() < bytes {
        let word = WORDS[usize::try_from(chance.below(8)).unwrap()];
        text.extend_from_slice(word.as_bytes());
        text.extend_from_slice(format!(" {} ", chance.below(1000)).as_bytes());
    }
    text.truncate(bytes);
    text
}

pub(crate) fn noise(bytes: usize, chance: &mut Chance) -> Vec<u8> {
    (0..bytes).map(|_| u8::try_from(chance.below(256)).unwrap()).collect()
}

/// Base64 of noise: no repetition, but only 64 values.
pub(crate) fn letters(bytes: usize, chance: &mut Chance) -> Vec<u8> {
    (0..bytes).map(|_| b'0' + u8::try_from(chance.below(64)).unwrap()).collect()
}

fn sums(image: &[u8]) -> Vec<u32> {
    image.chunks(BLOCK_BYTES).map(crc32c).collect()
}

/// Packs `image` and puts it together again from the groups.
fn there_and_back(packer: &mut Packer, job: &Job, image: &[u8]) -> (usize, Vec<Packed>) {
    let (mut packed, mut checksums, mut groups) = (image.to_vec(), sums(image), Vec::new());
    let blocks = packer.pack_image(job, &mut packed, &mut checksums, &mut groups);
    packed.truncate(blocks * BLOCK_BYTES);
    assert_eq!(checksums, sums(&packed), "a checksum for each block as it lies there");
    let (mut rest, mut back) = (packed.as_slice(), Vec::new());
    for group in &groups {
        let plain = group.first as usize * BLOCK_BYTES - back.len();
        back.extend_from_slice(&rest[..plain]);
        let stored = &rest[plain..plain + usize::from(group.stored) * BLOCK_BYTES];
        let mut content = vec![0xee; usize::from(group.blocks) * BLOCK_BYTES];
        packer.unpack(group.codec, stored, &mut content).unwrap();
        back.extend_from_slice(&content);
        rest = &rest[plain + stored.len()..];
        assert!(group.stored < group.blocks && usize::from(group.blocks) <= WINDOW_BLOCKS);
        let first = job.first + u64::from(group.first);
        let last = first + u64::from(group.blocks) - 1;
        assert_eq!(first / 16, last / 16, "a group lies in one window");
        assert!(job.whole.contains(&u64::from(group.first)) && last - job.first < job.whole.end);
    }
    back.extend_from_slice(rest);
    assert!(back == image, "the content of {job:?}");
    (blocks, groups)
}

#[test]
fn windows_are_aligned_in_the_object_and_have_two_blocks_or_more() {
    let cut = |range| windows(range).collect::<Vec<_>>();
    assert_eq!(cut(0..32), [0..16, 16..32]);
    assert_eq!(cut(15..50), [16..32, 32..48, 48..50]);
    assert_eq!(cut(14..33), [14..16, 16..32]);
    assert_eq!(cut(5..6), []);
    assert_eq!(cut(7..7), []);
}

#[test]
fn text_and_zeros_shrink_and_come_back() {
    let mut chance = Chance(1);
    for codec in [Codec::Lz4, Codec::Zstd] {
        let mut packer = Packer::default();
        let job = Job { codec, object: OBJECT, first: 32, whole: 0..256 };
        let (blocks, groups) = there_and_back(&mut packer, &job, &text(1 << 20, &mut chance));
        assert_eq!(groups.len(), 16);
        assert!(blocks < 160, "{codec:?}: text took {blocks} of 256 blocks");
        let (blocks, _) = there_and_back(&mut packer, &job, &vec![0; 1 << 20]);
        assert_eq!(blocks, 16, "zeros take a block a window");
    }
}

#[test]
fn noise_is_left_alone_and_soon_not_even_looked_at() {
    let mut packer = Packer::default();
    let job = Job { codec: Codec::Lz4, object: OBJECT, first: 0, whole: 0..256 };
    let image = noise(1 << 20, &mut Chance(2));
    let (blocks, groups) = there_and_back(&mut packer, &job, &image);
    assert_eq!((blocks, groups), (256, vec![]));
    // By now it is passed over, so that even text is; another object's is not.
    let words = text(1 << 20, &mut Chance(3));
    let (blocks, _) = there_and_back(&mut packer, &job, &words);
    assert!(blocks > 100);
    let other = Job { object: Fid::new(OBJECT.seq, 10), ..job.clone() };
    let (there, _) = there_and_back(&mut packer, &other, &words);
    assert!(there < blocks);
    let mut rounds = 0;
    while there_and_back(&mut packer, &job, &words).0 > there {
        rounds += 1;
        assert!(rounds < 3, "at most 2 MiB pass before it is tried again");
    }
}

#[test]
fn noise_is_left_alone_by_zstd_too() {
    let mut packer = Packer::default();
    let job = Job { codec: Codec::Zstd, object: OBJECT, first: 0, whole: 0..256 };
    let image = noise(1 << 20, &mut Chance(12));
    assert_eq!(there_and_back(&mut packer, &job, &image).0, 256);
}

#[test]
fn letters_without_repetition_shrink_by_zstd_alone() {
    let image = letters(1 << 18, &mut Chance(4));
    let job = |codec| Job { codec, object: OBJECT, first: 0, whole: 0..64 };
    let (blocks, _) = there_and_back(&mut Packer::default(), &job(Codec::Lz4), &image);
    assert_eq!(blocks, 64);
    let (blocks, _) = there_and_back(&mut Packer::default(), &job(Codec::Zstd), &image);
    assert!(blocks <= 52, "6 of 8 bits: {blocks} blocks");
}

#[test]
fn any_mixture_in_any_place_comes_back() {
    let mut chance = Chance(0x5eed);
    for round in 0..120 {
        let mut packer = Packer::default();
        let blocks = 1 + chance.below(64);
        let mut image = Vec::new();
        while image.len() < usize::try_from(blocks).unwrap() * BLOCK_BYTES {
            let bytes = usize::try_from(1 + chance.below(90_000)).unwrap();
            match chance.below(4) {
                0 => image.extend(noise(bytes, &mut chance)),
                1 => image.extend(vec![0; bytes]),
                2 => image.extend(letters(bytes, &mut chance)),
                _ => image.extend(text(bytes, &mut chance)),
            }
        }
        image.truncate(usize::try_from(blocks).unwrap() * BLOCK_BYTES);
        let start = chance.below(blocks);
        let end = start + chance.below(blocks - start + 1);
        let codec = if chance.below(2) == 0 { Codec::Lz4 } else { Codec::Zstd };
        let first = chance.below(1000);
        let job = Job { codec, object: OBJECT, first, whole: start..end };
        let (now, groups) = there_and_back(&mut packer, &job, &image);
        let saved: usize =
            groups.iter().map(|group| usize::from(group.blocks - group.stored)).sum();
        assert_eq!(now + saved, usize::try_from(blocks).unwrap(), "round {round}");
    }
}

/// A group as stored, and the bytes of its content.
fn stored(packer: &mut Packer, codec: Codec) -> (Vec<u8>, usize) {
    let image = text(WINDOW_BYTES, &mut Chance(6));
    let (mut bytes, mut checksums, mut groups) = (image.clone(), sums(&image), Vec::new());
    let job = Job { codec, object: OBJECT, first: 0, whole: 0..16 };
    let blocks = packer.pack_image(&job, &mut bytes, &mut checksums, &mut groups);
    bytes.truncate(blocks * BLOCK_BYTES);
    (bytes, image.len())
}

#[test]
fn what_is_no_group_is_refused_by_name() {
    for codec in [Codec::Lz4, Codec::Zstd] {
        let mut packer = Packer::default();
        let (good, bytes) = stored(&mut packer, codec);
        let mut content = vec![0; bytes];
        assert_eq!(packer.unpack(codec, &good, &mut content), Ok(()));
        let length = u32::from_le_bytes(*good.first_chunk().unwrap());
        for wrong in [0, 1, u32::MAX, u32::try_from(good.len()).unwrap() - 3] {
            let mut bad = good.clone();
            bad[..4].copy_from_slice(&wrong.to_le_bytes());
            let found = packer.unpack(codec, &bad, &mut content);
            assert_eq!(found, Err(UnpackError::Length(wrong)));
        }
        let mut bad = good.clone();
        bad[4 + length as usize] = 1;
        assert_eq!(packer.unpack(codec, &bad, &mut content), Err(UnpackError::Padding));
        assert_eq!(packer.unpack(codec, &[], &mut content), Err(UnpackError::Length(0)));
        let mut larger = vec![0; bytes + BLOCK_BYTES];
        let found = packer.unpack(codec, &good, &mut larger);
        assert_eq!(found, Err(UnpackError::Short(bytes)));
        let found = packer.unpack(codec, &good, &mut content[..bytes - 1]);
        assert_eq!(found, Err(UnpackError::Codec), "more than there is room for");
        let other = if codec == Codec::Lz4 { Codec::Zstd } else { Codec::Lz4 };
        assert!(packer.unpack(other, &good, &mut content).is_err());
    }
}

#[test]
fn damaged_groups_never_stop_the_service() {
    let mut chance = Chance(7);
    for codec in [Codec::Lz4, Codec::Zstd] {
        let mut packer = Packer::default();
        let (good, bytes) = stored(&mut packer, codec);
        let mut content = vec![0; bytes];
        for _ in 0..3000 {
            let mut bad = good.clone();
            for _ in 0..1 + chance.below(3) {
                let at = usize::try_from(chance.below(bad.len() as u64)).unwrap();
                bad[at] ^= 1 << chance.below(8);
            }
            // It may unpack to something else: the checksum of the stored blocks is there for that.
            let _ = packer.unpack(codec, &bad, &mut content);
        }
    }
}
