//! Queues: laps, full queues, wrong doorbells, creating and deleting.

use std::io::Read as _;
use std::os::fd::OwnedFd;

use nix::sys::eventfd::{EfdFlags, EventFd};
use sheen_nvme_model::{Config, Shadow};

use super::by_hand::{ENTRIES, Entry, Host};

const FLUSH: Entry = Entry { opcode: 0, flags: 0, nsid: 1, pointers: [0; 2], dwords: [0; 6] };

#[test]
fn many_laps_keep_phase_and_head_right() {
    let mut host = Host::ready(Config::default(), 2);
    for round in 0..10 * ENTRIES {
        for id in 1..=2 {
            let seen = host.run(id, FLUSH);
            assert_eq!(seen.status(), (0, 0));
            assert_eq!(usize::from(seen.queue), id);
            assert_eq!(u32::from(seen.head), (round + 1) % ENTRIES);
        }
    }
    assert_eq!(host.controller.traffic().flushes, u64::from(20 * ENTRIES));
}

#[test]
fn a_full_completion_queue_holds_commands_back_and_loses_none() {
    let mut host = Host::ready(Config::default(), 1);
    let mut waiting = Vec::new();
    for _ in 0..ENTRIES - 1 {
        waiting.push(host.submit(1, FLUSH));
    }
    host.poll();
    // The host takes none, but the submission queue is empty again.
    for _ in 0..ENTRIES - 1 {
        waiting.push(host.submit(1, FLUSH));
    }
    host.poll();
    assert_eq!(host.controller.traffic().flushes, u64::from(ENTRIES - 1));
    let mut seen = Vec::new();
    for _ in 0..4 {
        while let Some(completion) = host.take(1) {
            seen.push(completion.cid);
        }
        host.poll();
    }
    assert_eq!(seen, waiting);
}

#[test]
fn a_doorbell_outside_of_the_queue_stops_it_and_is_reported() {
    let mut host = Host::ready(Config::default(), 1);
    host.submit(0, Entry { opcode: 0x0c, ..Entry::default() });
    host.controller.doorbells().store(8, ENTRIES);
    host.poll();
    let event = host.take(0).unwrap();
    assert_eq!(event.result & 0xff_ffff, 0x01_0100, "error, invalid doorbell value, log 1");
    host.submit(1, FLUSH);
    host.poll();
    assert_eq!(host.take(1), None);
}

#[test]
fn impossible_queues_are_refused() {
    let mut host = Host::ready(Config { queue_pairs_max: 2, ..Config::default() }, 1);
    let page = host.pages(1);
    let mut create = |opcode, dw10: u32, dw11: u32, base: u64| {
        let dwords = [dw10, dw11, 0, 0, 0, 0];
        host.admin(Entry { opcode, pointers: [base, 0], dwords, ..Entry::default() }).status()
    };
    let two = (ENTRIES - 1) << 16 | 2;
    assert_eq!(create(5, two, 0, page), (0, 0x02), "not contiguous");
    assert_eq!(create(5, two, 1, page + 8), (0, 0x13), "not aligned");
    assert_eq!(create(5, two, 1, 4096), (0, 0x04), "not mapped");
    assert_eq!(create(5, two + 1, 1, page), (1, 0x01), "beyond the last identifier");
    assert_eq!(create(5, two - 2, 1, page), (1, 0x01), "the admin queue");
    assert_eq!(create(5, two - 1, 1, page), (1, 0x01), "exists");
    assert_eq!(create(5, 2, 1, page), (1, 0x02), "one entry");
    assert_eq!(create(5, 0xffff_0002, 1, page), (1, 0x02), "more than MQES");
    assert_eq!(create(5, two, 3 | (99 << 16), page), (1, 0x08), "no such vector");
    assert_eq!(create(1, two, 1 | (2 << 16), page), (1, 0x00), "no such completion queue");
    assert_eq!(create(1, two, 1, page), (1, 0x00), "the admin completion queue");
    assert_eq!(create(4, 1, 0, 0), (1, 0x0c), "a submission queue uses it");
    assert_eq!(create(4, 2, 0, 0), (1, 0x01), "there is none");
    assert_eq!(create(0, 2, 0, 0), (1, 0x01), "there is none");
    assert_eq!(create(0, 1, 0, 0), (0, 0));
    assert_eq!(create(4, 1, 0, 0), (0, 0));
    assert_eq!(create(0x99, 1, 0, 0), (0, 0x01), "no such command");
}

#[test]
#[cfg_attr(miri, ignore = "needs an eventfd")]
fn a_completion_signals_the_vector_of_its_queue_unless_masked() {
    let mut host = Host::ready(Config::default(), 0);
    assert_eq!(host.create_pair(Some(3)), ((0, 0), (0, 0)));
    let event = EventFd::from_flags(EfdFlags::EFD_NONBLOCK).unwrap();
    let event = std::fs::File::from(OwnedFd::from(event));
    assert!(host.controller.arm(3, Some(event.try_clone().unwrap())));
    assert!(!host.controller.arm(999, None));
    let fired = || (&event).read(&mut [0; 8]).is_ok();
    assert!(!fired());
    host.run(1, FLUSH);
    assert!(fired());
    host.controller.write32(host.now, 0x0c, 1 << 3);
    host.run(1, FLUSH);
    assert!(!fired());
    host.controller.write32(host.now, 0x10, 1 << 3);
    host.poll();
    assert!(fired(), "what was masked comes when it is unmasked");
}

#[test]
fn a_kicked_controller_asks_for_the_next_doorbell_write() {
    let mut host = Host::ready(Config { shadow: Shadow::Kicked, ..Config::default() }, 1);
    let (shadow, event) = (host.pages(1), host.pages(1));
    let pointers = [shadow, event];
    let configure = Entry { opcode: 0x7c, pointers, ..Entry::default() };
    assert_eq!(host.admin(configure).status(), (0, 0));
    host.memory.put64(shadow + 8, 1);
    // Without a look at the register, the first entry is looked for at once: the queue is fresh.
    host.submit(1, FLUSH);
    host.poll();
    assert!(host.take(1).is_some());
    host.memory.put64(shadow + 8, 1 | (1 << 32));
    host.poll();
    assert_eq!(host.memory.get64(event + 8) & 0xffff_ffff, 1, "the event index follows");
    // The next entry without a doorbell write is not seen; with one it is.
    let tail = 2 | (1 << 32);
    host.memory.put64(shadow + 8, tail);
    host.poll();
    host.poll();
    assert_eq!(host.controller.traffic().flushes, 1);
    host.submit(1, FLUSH);
    host.poll();
    assert_eq!(host.controller.traffic().flushes, 2);
}
