//! What a record lock more costs when there are many on one inode: `cargo run --release -p sheen-meta --example locks -- 60000`.

use std::{env, io, io::Write, time::Instant};

use sheen_meta::{
    FileLocks,
    flocks::{LockAnswer, LockLimits, RANGE_END},
};
use sheen_types::{ClientId, Fid};
use sheen_wire::flock::{FileLock, LockFamily, LockType};

/// Locks between two lines of figures.
const STEP: u32 = 10_000;

fn main() -> io::Result<()> {
    let count: u64 = env::args().nth(1).and_then(|count| count.parse().ok()).unwrap_or(60_000);
    let mut out = io::stdout();
    let mut locks = FileLocks::new(LockLimits::default());
    let mut ended = Vec::new();
    let lock = |kind, start, end| FileLock {
        fid: Fid::ROOT,
        family: LockFamily::Posix,
        kind,
        owner: 1,
        pid: 1,
        start,
        end,
    };
    let mut began = Instant::now();
    for number in 1..=count {
        let byte = lock(LockType::Write, 2 * number, 2 * number);
        let answer = locks.set(ClientId(1), &byte, None, &mut ended);
        assert_eq!(answer, LockAnswer::Granted);
        if number % u64::from(STEP) == 0 {
            writeln!(out, "{number} locks: {:?} each", began.elapsed() / STEP)?;
            began = Instant::now();
        }
    }
    let answer = locks.set(ClientId(1), &lock(LockType::Unlock, 0, RANGE_END), None, &mut ended);
    assert_eq!(answer, LockAnswer::Granted);
    writeln!(out, "all given back at once: {:?}", began.elapsed())
}
