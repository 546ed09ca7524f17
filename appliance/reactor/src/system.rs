//! Time and chance of the system.

use std::{
    fs::File,
    io::{self, Read},
};

use nix::time::{ClockId, clock_gettime};
use sheen_ports::{Clock, Entropy};
use sheen_types::{Tick, Timespec};

/// `CLOCK_MONOTONIC` and `CLOCK_REALTIME`, read without a system call where the machine can.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Tick {
        let Timespec { seconds, nanoseconds } = read(ClockId::CLOCK_MONOTONIC);
        let seconds = u64::try_from(seconds).unwrap_or(0);
        Tick(seconds.saturating_mul(1_000_000_000).saturating_add(u64::from(nanoseconds)))
    }

    fn wall(&self) -> Timespec {
        read(ClockId::CLOCK_REALTIME)
    }
}

fn read(clock: ClockId) -> Timespec {
    let time = clock_gettime(clock).expect("Linux has both clocks");
    let nanoseconds = u32::try_from(time.tv_nsec()).unwrap_or(0);
    Timespec { seconds: time.tv_sec(), nanoseconds }
}

/// Bytes taken from the kernel at a time.
const POOL_BYTES: usize = 512;

/// The kernel's random bytes, taken in batches.
#[derive(Debug)]
pub struct SystemEntropy {
    source: File,
    pool: [u8; POOL_BYTES],
    used: usize,
}

impl SystemEntropy {
    /// Opens `/dev/urandom`.
    ///
    /// # Errors
    /// When it cannot be opened or read.
    pub fn open() -> io::Result<Self> {
        let mut source = File::open("/dev/urandom")?;
        let mut pool = [0; POOL_BYTES];
        source.read_exact(&mut pool)?;
        Ok(Self { source, pool, used: 0 })
    }
}

impl Entropy for SystemEntropy {
    fn next_u64(&mut self) -> u64 {
        if self.used == POOL_BYTES {
            self.source
                .read_exact(&mut self.pool)
                .expect("an open /dev/urandom gives bytes for ever");
            self.used = 0;
        }
        let bytes =
            self.pool[self.used..].first_chunk().expect("the pool is a multiple of 8 bytes");
        self.used += 8;
        u64::from_le_bytes(*bytes)
    }
}

#[cfg(test)]
mod test {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn time_goes_forward_and_is_of_this_century() {
        let first = SystemClock.now();
        assert!(SystemClock.now() >= first);
        assert!(SystemClock.wall().seconds > 1_700_000_000);
    }

    #[test]
    fn random_numbers_do_not_repeat_across_batches() {
        let mut entropy = SystemEntropy::open().unwrap();
        let numbers: BTreeSet<u64> = (0..1000).map(|_| entropy.next_u64()).collect();
        assert_eq!(numbers.len(), 1000);
    }
}
