//! A host that does everything itself: registers, queues, doorbells, one command at a time.

use std::time::Duration;

use sheen_nvme_model::{Config, Controller, test_memory::HostMemory};

/// Dword 0 of a completion, its status field without the phase bit, and its identifiers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) result: u64,
    pub(crate) head: u16,
    pub(crate) queue: u16,
    pub(crate) cid: u16,
    pub(crate) kind: u8,
    pub(crate) code: u8,
}

impl Seen {
    pub(crate) fn status(&self) -> (u8, u8) {
        (self.kind, self.code)
    }
}

/// A command to fill in.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Entry {
    pub(crate) opcode: u8,
    pub(crate) flags: u8,
    pub(crate) nsid: u32,
    pub(crate) pointers: [u64; 2],
    pub(crate) dwords: [u32; 6],
}

#[derive(Debug)]
struct Queue {
    sq: u64,
    cq: u64,
    entries: u32,
    tail: u32,
    head: u32,
    phase: u64,
}

impl Queue {
    fn new(sq: u64, cq: u64, entries: u32) -> Self {
        Self { sq, cq, entries, tail: 0, head: 0, phase: 1 }
    }
}

/// The host and its controller.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) controller: Controller,
    pub(crate) memory: HostMemory,
    pub(crate) now: Duration,
    queues: Vec<Queue>,
    next_cid: u16,
    next_free: u64,
}

/// Entries of every queue made by hand.
pub(crate) const ENTRIES: u32 = 8;
/// I/O SQ entry size 6, CQ entry size 4, enable.
pub(crate) const CC: u32 = (6 << 16) | (4 << 20) | 1;

impl Host {
    pub(crate) fn new(config: Config) -> Self {
        let memory = HostMemory::new(8 << 20);
        let mut controller = Controller::new(config).unwrap();
        *controller.memory() = memory.seen_by_device();
        let next_free = memory.base();
        let now = Duration::ZERO;
        Self { controller, memory, now, queues: Vec::new(), next_cid: 1, next_free }
    }

    /// Brought up, with `pairs` I/O queue pairs.
    pub(crate) fn ready(config: Config, pairs: u16) -> Self {
        let mut host = Self::new(config);
        host.enable();
        for _ in 0..pairs {
            assert_eq!(host.create_pair(None), ((0, 0), (0, 0)));
        }
        host
    }

    /// `pages` zero pages that nothing else uses.
    pub(crate) fn pages(&mut self, pages: u64) -> u64 {
        let address = self.next_free;
        self.next_free += 4096 * pages;
        address
    }

    pub(crate) fn enable(&mut self) {
        let (sq, cq) = (self.pages(1), self.pages(1));
        self.queues = vec![Queue::new(sq, cq, ENTRIES)];
        let (now, c) = (self.now, &mut self.controller);
        c.write32(now, 0x24, ((ENTRIES - 1) << 16) | (ENTRIES - 1));
        c.write64(now, 0x28, sq);
        c.write64(now, 0x30, cq);
        c.write32(now, 0x14, CC);
    }

    pub(crate) fn csts(&mut self) -> u32 {
        self.controller.read32(self.now, 0x1c)
    }

    pub(crate) fn poll(&mut self) -> usize {
        self.controller.poll(self.now)
    }

    pub(crate) fn wait(&mut self, time: Duration) {
        self.now += time;
        self.poll();
    }

    /// Creates the next I/O queue pair; the statuses of both commands.
    pub(crate) fn create_pair(&mut self, vector: Option<u16>) -> ((u8, u8), (u8, u8)) {
        let id = u32::try_from(self.queues.len()).unwrap();
        let (sq, cq) = (self.pages(1), self.pages(1));
        let sizes = id | ((ENTRIES - 1) << 16);
        let interrupts = vector.map_or(0, |vector| 2 | (u32::from(vector) << 16));
        let of_cq = self.admin(Entry {
            opcode: 0x05,
            pointers: [cq, 0],
            dwords: [sizes, 1 | interrupts, 0, 0, 0, 0],
            ..Entry::default()
        });
        let of_sq = self.admin(Entry {
            opcode: 0x01,
            pointers: [sq, 0],
            dwords: [sizes, 1 | (id << 16), 0, 0, 0, 0],
            ..Entry::default()
        });
        self.queues.push(Queue::new(sq, cq, ENTRIES));
        (of_cq.status(), of_sq.status())
    }

    fn doorbell(&self, id: usize, is_head: bool) -> usize {
        (2 * id + usize::from(is_head)) * self.controller.config().stride_bytes()
    }

    /// Writes an entry and rings; returns its identifier.
    pub(crate) fn submit(&mut self, id: usize, entry: Entry) -> u16 {
        let cid = self.next_cid;
        self.next_cid += 1;
        let queue = &mut self.queues[id];
        let at = queue.sq + 64 * u64::from(queue.tail);
        let dword0 = u64::from(entry.opcode)
            | (u64::from(entry.flags) << 8)
            | (u64::from(cid) << 16)
            | (u64::from(entry.nsid) << 32);
        let pair = |i: usize| u64::from(entry.dwords[i]) | (u64::from(entry.dwords[i + 1]) << 32);
        let words = [dword0, 0, 0, entry.pointers[0], entry.pointers[1], pair(0), pair(2), pair(4)];
        for (number, word) in (0..).zip(words) {
            self.memory.put64(at + 8 * number, word);
        }
        queue.tail = (queue.tail + 1) % queue.entries;
        let tail = queue.tail;
        self.controller.doorbells().store(self.doorbell(id, false), tail);
        cid
    }

    /// The next completion, if it is there; the host takes it and rings.
    pub(crate) fn take(&mut self, id: usize) -> Option<Seen> {
        let queue = &mut self.queues[id];
        let at = queue.cq + 16 * u64::from(queue.head);
        let (low, high) = (self.memory.get64(at), self.memory.get64(at + 8));
        if (high >> 48) & 1 != queue.phase {
            return None;
        }
        queue.head = (queue.head + 1) % queue.entries;
        queue.phase ^= u64::from(queue.head == 0);
        let head = queue.head;
        self.controller.doorbells().store(self.doorbell(id, true), head);
        let part = |shift: u32| u16::try_from((high >> shift) & 0xffff).unwrap();
        let status = part(48);
        Some(Seen {
            result: low,
            head: part(0),
            queue: part(16),
            cid: part(32),
            kind: u8::try_from((status >> 9) & 7).unwrap(),
            code: u8::try_from((status >> 1) & 0xff).unwrap(),
        })
    }

    /// One command from its submission to its completion.
    pub(crate) fn run(&mut self, id: usize, entry: Entry) -> Seen {
        let cid = self.submit(id, entry);
        for _ in 0..4 {
            self.poll();
            if let Some(seen) = self.take(id) {
                assert_eq!(seen.cid, cid);
                return seen;
            }
        }
        panic!("no completion of {entry:?}");
    }

    pub(crate) fn admin(&mut self, entry: Entry) -> Seen {
        self.run(0, entry)
    }

    /// Read or write of `blocks` blocks at `lba`, from or to contiguous memory.
    pub(crate) fn transfer(
        &mut self,
        opcode: u8,
        lba: u64,
        blocks: u32,
        memory: u64,
        dw12: u32,
    ) -> Entry {
        let bytes = u64::from(blocks) * self.controller.config().block_bytes as u64;
        let mut second = 0;
        if bytes > 8192 {
            second = self.pages(1);
            for page in 1..bytes.div_ceil(4096) {
                self.memory.put64(second + 8 * (page - 1), memory + 4096 * page);
            }
        } else if bytes > 4096 {
            second = memory + 4096;
        }
        let (low, high) = (lba & 0xffff_ffff, lba >> 32);
        let dwords = [low, high].map(|half| u32::try_from(half).unwrap());
        Entry {
            opcode,
            nsid: 1,
            pointers: [memory, second],
            dwords: [dwords[0], dwords[1], (blocks - 1) | dw12, 0, 0, 0],
            flags: 0,
        }
    }
}
