//! Data: what is written is read, in both block sizes, by PRP and SGL; what a power cut keeps.

use sheen_nvme_model::{Config, chance::Chance};

use super::by_hand::{Entry, Host};

const WRITE: u8 = 1;
const READ: u8 = 2;
const FORCED: u32 = 1 << 30;

fn pattern(seed: u64, bytes: usize) -> Vec<u8> {
    let mut data = vec![0; bytes];
    Chance::new(seed).fill(&mut data);
    data
}

#[test]
fn what_is_written_is_read_back_in_every_size() {
    for block_bytes in [512, 4096] {
        let mut host = Host::ready(Config { block_bytes, ..Config::default() }, 1);
        let (from, into) = (host.pages(64), host.pages(64));
        for blocks in [1, 2, 3, 8, 9, 24, 33] {
            let bytes = blocks as usize * block_bytes;
            let data = pattern(u64::from(blocks), bytes);
            host.memory.put(from, &data);
            let write = host.transfer(WRITE, 1234, blocks, from, 0);
            assert_eq!(host.run(1, write).status(), (0, 0));
            let read = host.transfer(READ, 1234, blocks, into, 0);
            assert_eq!(host.run(1, read).status(), (0, 0));
            assert_eq!(host.memory.get(into, bytes), data, "{blocks} blocks of {block_bytes}");
        }
    }
}

#[test]
fn sgl_and_prp_see_the_same_bytes() {
    let mut host = Host::ready(Config::default(), 1);
    let (from, into, list) = (host.pages(4), host.pages(4), host.pages(1));
    let data = pattern(9, 8192);
    host.memory.put(from, &data);
    let write = host.transfer(WRITE, 0, 2, from, 0);
    assert_eq!(host.run(1, write).status(), (0, 0));
    // Three runs with odd lengths.
    for (number, (address, length)) in
        (0..).zip([(into + 12288, 4100_u64), (into, 100), (into + 5000, 3992)])
    {
        host.memory.put64(list + 16 * number, address);
        host.memory.put64(list + 16 * number + 8, length);
    }
    let mut read = host.transfer(READ, 0, 2, into, 0);
    read.flags = 1 << 6;
    read.pointers = [list, 48 | (0x30 << 56)];
    // The first run crosses into the next page and ends there.
    assert_eq!(host.run(1, read).status(), (0, 0));
    let mut seen = host.memory.get(into + 12288, 4100);
    seen.extend(host.memory.get(into, 100));
    seen.extend(host.memory.get(into + 5000, 3992));
    assert_eq!(seen, data);
}

#[test]
fn ranges_and_addresses_outside_are_refused() {
    let mut host = Host::ready(Config::default(), 1);
    let page = host.pages(2);
    let blocks = (64 << 20) / 4096;
    let status = |host: &mut Host, lba, count, memory| {
        let read = host.transfer(READ, lba, count, memory, 0);
        host.run(1, read).status()
    };
    assert_eq!(status(&mut host, blocks - 1, 1, page), (0, 0));
    assert_eq!(status(&mut host, blocks - 1, 2, page), (0, 0x80));
    assert_eq!(status(&mut host, u64::MAX, 1, page), (0, 0x80));
    assert_eq!(status(&mut host, 0, 1, 4096), (0, 0x04), "not mapped");
    assert_eq!(status(&mut host, 0, 1, page + 1), (0, 0x13));
    let mut read = host.transfer(READ, 0, 1, page, 0);
    read.nsid = 2;
    assert_eq!(host.run(1, read).status(), (0, 0x0b));
    read.nsid = 1;
    read.flags = 1;
    assert_eq!(host.run(1, read).status(), (0, 0x02), "fused");
    read.dwords[2] = 511;
    read.flags = 0;
    assert_eq!(host.run(1, read).status(), (0, 0x02), "more than MDTS");
}

#[test]
fn compare_zeroes_discard_and_verify_do_what_they_say() {
    let mut host = Host::ready(Config::default(), 1);
    let (page, list) = (host.pages(1), host.pages(1));
    host.memory.put(page, &pattern(1, 4096));
    let write = host.transfer(WRITE, 7, 1, page, 0);
    host.run(1, write);
    let compare = host.transfer(5, 7, 1, page, 0);
    assert_eq!(host.run(1, compare).status(), (0, 0));
    host.memory.put(page + 4095, &[0x55]);
    assert_eq!(host.run(1, compare).status(), (2, 0x85));
    let zeroes = host.transfer(8, 7, 1, 0, 0);
    assert_eq!(host.run(1, zeroes).status(), (0, 0));
    let read = host.transfer(READ, 7, 1, page, 0);
    host.run(1, read);
    assert_eq!(host.memory.get(page, 4096), vec![0; 4096]);
    let verify = host.transfer(12, 7, 1, 0, 0);
    assert_eq!(host.run(1, verify).status(), (0, 0));

    host.memory.put(page, &pattern(1, 4096));
    for lba in [20, 21, 22] {
        let write = host.transfer(WRITE, lba, 1, page, 0);
        host.run(1, write);
    }
    // Two ranges: blocks 20 and 22.
    host.memory.put64(list, 1 << 32);
    host.memory.put64(list + 8, 20);
    host.memory.put64(list + 16, 1 << 32);
    host.memory.put64(list + 24, 22);
    let dwords = [1, 4, 0, 0, 0, 0];
    let discard = Entry { opcode: 9, nsid: 1, pointers: [list, 0], dwords, flags: 0 };
    assert_eq!(host.run(1, discard).status(), (0, 0));
    let expected = [vec![0; 4096], pattern(1, 4096), vec![0; 4096]];
    for (lba, content) in (20..).zip(expected) {
        let read = host.transfer(READ, lba, 1, page, 0);
        host.run(1, read);
        assert_eq!(host.memory.get(page, 4096), content, "block {lba}");
    }
}

#[test]
fn a_power_cut_may_lose_what_was_neither_flushed_nor_forced() {
    let (mut lost, mut kept) = (false, false);
    for seed in 0..32 {
        let mut host = Host::ready(Config::default(), 1);
        let page = host.pages(1);
        host.memory.put(page, &[1; 4096]);
        for (lba, flags) in [(0, 0), (1, FORCED)] {
            let write = host.transfer(WRITE, lba, 1, page, flags);
            host.run(1, write);
        }
        host.run(1, Entry { opcode: 0, nsid: 1, ..Entry::default() });
        let write = host.transfer(WRITE, 2, 1, page, 0);
        host.run(1, write);
        let cut = host.controller.cut_power(seed);
        assert_eq!(cut.at_risk, 1);
        assert_eq!(host.csts(), 0);
        host.enable();
        host.create_pair(None);
        let mut first = |lba| {
            let read = host.transfer(READ, lba, 1, page, 0);
            host.run(1, read);
            host.memory.get(page, 1)[0]
        };
        assert_eq!((first(0), first(1)), (1, 1));
        match first(2) {
            0 => lost = true,
            _ => kept = true,
        }
    }
    assert!(lost && kept);
}

#[test]
fn without_the_cache_a_completed_write_is_durable() {
    let mut host = Host::ready(Config::default(), 1);
    let dwords = [6, 0, 0, 0, 0, 0];
    assert_eq!(host.admin(Entry { opcode: 9, dwords, ..Entry::default() }).status(), (0, 0));
    let page = host.pages(1);
    let write = host.transfer(WRITE, 0, 1, page, 0);
    host.run(1, write);
    assert_eq!(host.controller.cut_power(0).at_risk, 0);
}
