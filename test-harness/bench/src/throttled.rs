//! A device in memory that moves only so many bytes a second, as a solid-state disk does.
//!
//! Commands are carried out at once; their completions come when the bytes of all commands up to them had the time. Reads and
//! writes share the rate. Deliberately absent: latency, queues inside the device, garbage collection.

use std::{
    collections::VecDeque,
    os::fd::RawFd,
    time::{Duration, Instant},
};

use sheen_nvme::RamDevice;
use sheen_ports::{Block, BlockCommand, BlockCompletion, BlockGeometry};

/// See the module.
#[derive(Debug)]
pub struct Throttled {
    device: RamDevice,
    bytes_per_second: u64,
    /// When the last command that was taken ends.
    busy_until: Instant,
    held: VecDeque<(Instant, BlockCompletion)>,
    arrived: Vec<BlockCompletion>,
}

impl Throttled {
    /// Over a device in memory.
    #[must_use]
    pub fn new(device: RamDevice, bytes_per_second: u64) -> Self {
        let busy_until = Instant::now();
        Self { device, bytes_per_second, busy_until, held: VecDeque::new(), arrived: Vec::new() }
    }
}

impl Block for Throttled {
    fn geometry(&self) -> BlockGeometry {
        self.device.geometry()
    }

    fn submit(&mut self, command: BlockCommand) -> Result<(), BlockCommand> {
        if self.in_flight() >= self.geometry().queue_depth {
            return Err(command);
        }
        self.device.submit(command)
    }

    fn ring(&mut self) {
        self.device.ring();
    }

    fn poll(&mut self, completions: &mut Vec<BlockCompletion>) -> usize {
        let now = Instant::now();
        self.device.poll(&mut self.arrived);
        for completion in self.arrived.drain(..) {
            let bytes = completion.buffer.as_ref().map_or(0, |buffer| buffer.len() as u64);
            let nanoseconds = bytes * 1_000_000_000 / self.bytes_per_second;
            self.busy_until = self.busy_until.max(now) + Duration::from_nanos(nanoseconds);
            self.held.push_back((self.busy_until, completion));
        }
        let before = completions.len();
        while self.held.front().is_some_and(|(at, _)| *at <= now) {
            completions.extend(self.held.pop_front().map(|(_, completion)| completion));
        }
        completions.len() - before
    }

    fn in_flight(&self) -> usize {
        self.device.in_flight() + self.held.len()
    }

    fn wake_descriptor(&self) -> Option<RawFd> {
        None
    }
}

#[cfg(test)]
mod test {
    use sheen_dma::Buffer;
    use sheen_nvme::RamMedium;
    use sheen_ports::BlockOperation;
    use sheen_types::Lba;

    use super::*;

    #[test]
    fn bytes_take_their_time_and_flushes_wait_for_them() {
        let mut device = Throttled::new(RamMedium::new(1024).open(8), 100 << 20);
        let begin = Instant::now();
        for token in 0..4 {
            let buffer = Buffer::standalone(1 << 20);
            let operation = BlockOperation::Write { lba: Lba(token * 256), buffer, durable: false };
            device.submit(BlockCommand { token, operation }).unwrap();
        }
        device.submit(BlockCommand { token: 4, operation: BlockOperation::Flush }).unwrap();
        device.ring();
        let mut completions = Vec::new();
        while completions.len() < 5 {
            device.poll(&mut completions);
        }
        assert!(begin.elapsed() >= Duration::from_millis(40), "{:?}", begin.elapsed());
        assert_eq!(completions.last().unwrap().token, 4);
        assert_eq!(device.in_flight(), 0);
    }
}
