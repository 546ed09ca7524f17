//! Whole zones with bytes changed behind good checksums: what a bug, or rot that a checksum missed, would leave.

use std::sync::OnceLock;

use sheen_types::{BLOCK_BYTES, Lba};

use super::raft;
use crate::{
    base,
    disk::Disk,
    framing::{Frame, extent, frames, seal},
    input::Input,
    shake::open_and_use,
};

/// Most changes of one image; more only make it slow.
const CHANGES_MAX: u32 = 24;

/// Changes of framed structures: which one, where, bytes to put there, how.
fn change(disk: &mut Disk, frames: &[(u64, Frame)], input: &mut Input<'_>) {
    for _ in 0..CHANGES_MAX {
        if input.is_empty() {
            return;
        }
        let (lba, frame) = frames[input.below(frames.len())];
        let how = input.u8();
        let head = disk.read(Lba(lba), 1);
        let range = extent(lba, frame, &head);
        let blocks = u32::try_from(range.end - range.start).unwrap_or(1);
        let mut bytes = disk.read(Lba(lba), blocks);
        let at = input.below(bytes.len().min(1 << 16));
        let count = usize::from(how & 15) + 1;
        for (byte, new) in bytes[at..].iter_mut().zip(input.bytes(count)) {
            *byte = if how & 16 == 0 { *new } else { *byte ^ new };
        }
        if how & 32 == 0 {
            seal(frame, &mut bytes);
        }
        if how & 64 != 0 && frame == Frame::Anchor {
            // The twin, if it is one, goes: this copy alone counts.
            for (other, _) in frames.iter().filter(|&&(at, kind)| kind == frame && at != lba) {
                disk.write(Lba(*other), &[0; BLOCK_BYTES]);
            }
        }
        disk.write(Lba(lba), &bytes);
    }
}

pub(super) fn run_store(data: &[u8]) {
    let mut input = Input(data);
    let (disk, frames) = if input.u8() & 1 == 0 {
        (base::aged(), framed(&AGED, base::aged()))
    } else {
        (base::fresh(), framed(&FRESH, base::fresh()))
    };
    let mut disk = disk.clone();
    change(&mut disk, frames, &mut input);
    open_and_use(disk);
}

type Framed = OnceLock<Vec<(u64, Frame)>>;
static AGED: Framed = OnceLock::new();
static FRESH: Framed = OnceLock::new();
static RAFT: Framed = OnceLock::new();

fn framed(known: &'static Framed, disk: &Disk) -> &'static [(u64, Frame)] {
    known.get_or_init(|| frames(disk))
}

pub(super) fn run_raft(data: &[u8]) {
    let mut disk = raft::base().clone();
    change(&mut disk, framed(&RAFT, raft::base()), &mut Input(data));
    raft::recover(disk);
}

/// Changes one field of an anchor, of the first batch, of the last.
fn seeds(disk: &Disk, which: &[u8]) -> Vec<Vec<u8>> {
    let frames = frames(disk).len();
    let mut seeds = Vec::new();
    for number in [0, 1, frames / 2, frames - 2, frames - 1] {
        let number = u16::try_from(number).unwrap_or(0).to_le_bytes();
        for at in [24_u16, 100, 160, 3000] {
            let at = at.to_le_bytes();
            seeds.push([which, &number, &[16 + 7], &at, &[1, 2, 3, 4, 5, 6, 7, 8]].concat());
        }
    }
    seeds
}

pub(super) fn store_seeds() -> Vec<Vec<u8>> {
    [seeds(base::aged(), &[0]), seeds(base::fresh(), &[1])].concat()
}

pub(super) fn raft_seeds() -> Vec<Vec<u8>> {
    seeds(raft::base(), &[])
}
