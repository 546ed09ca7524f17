//! Admin commands: identify, logs, features, events, abort, namespaces, format, sanitize, firmware.

use std::time::Duration;

use sheen_nvme_model::{Config, Fault, Lie, Rule, Status, controller::Event};

use super::by_hand::{Entry, Host};

fn entry(opcode: u8, nsid: u32, page: u64, dwords: [u32; 2]) -> Entry {
    let dwords = [dwords[0], dwords[1], 0, 0, 0, 0];
    Entry { opcode, nsid, pointers: [page, 0], dwords, flags: 0 }
}

fn identify(host: &mut Host, cns: u32, nsid: u32) -> Result<Vec<u8>, (u8, u8)> {
    let page = host.pages(1);
    let seen = host.admin(entry(6, nsid, page, [cns, 0]));
    if seen.status() == (0, 0) { Ok(host.memory.get(page, 4096)) } else { Err(seen.status()) }
}

fn log(host: &mut Host, id: u32, bytes: u32) -> Vec<u8> {
    let page = host.pages(1);
    let seen = host.admin(entry(2, u32::MAX, page, [id | ((bytes / 4 - 1) << 16), 0]));
    assert_eq!(seen.status(), (0, 0));
    host.memory.get(page, bytes as usize)
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

#[test]
fn identify_answers_every_structure_and_refuses_the_rest() {
    let mut host = Host::ready(Config::default(), 0);
    let controller = identify(&mut host, 1, 0).unwrap();
    assert_eq!(&controller[24..40], b"Sheen NVMe model");
    assert_eq!((controller[512], controller[513]), (0x66, 0x44));
    let namespace = identify(&mut host, 0, 1).unwrap();
    assert_eq!(word(&namespace, 0), (64 << 20) / 4096);
    assert_eq!(namespace[26], 1, "format 1");
    assert_eq!(namespace[134], 12, "4096 bytes");
    let list = identify(&mut host, 2, 0).unwrap();
    assert_eq!(word(&list, 0), 1);
    assert_eq!(word(&identify(&mut host, 2, 1).unwrap(), 0), 0);
    let inactive = identify(&mut host, 0, 2).unwrap();
    assert!(inactive.iter().all(|byte| *byte == 0));
    let descriptors = identify(&mut host, 3, 1).unwrap();
    assert_eq!(descriptors[..2], [1, 8]);
    for cns in [5, 6, 8, 0x10, 0x11, 0x12, 0x13, 0x1c] {
        assert!(identify(&mut host, cns, 1).is_ok(), "CNS {cns:#x}");
    }
    assert_eq!(identify(&mut host, 0, 99), Err((0, 0x0b)));
    assert_eq!(identify(&mut host, 2, u32::MAX), Err((0, 0x0b)));
    assert_eq!(identify(&mut host, 0x77, 0), Err((0, 0x02)));
}

#[test]
fn identify_and_logs_lie_when_told_to() {
    let bytes = vec![0xff; 8];
    let config = Config::default()
        .lying(Lie::Identify { cns: 0, offset: 0, bytes })
        .lying(Lie::ShortLog { page: 2, bytes: 16 });
    let mut host = Host::ready(config, 0);
    assert_eq!(word(&identify(&mut host, 0, 1).unwrap(), 0), u64::MAX);
    let page = host.pages(1);
    host.memory.put(page, &[0xaa; 512]);
    let seen = host.admin(entry(2, u32::MAX, page, [2 | (127 << 16), 0]));
    assert_eq!(seen.status(), (0, 0));
    assert_eq!(host.memory.get(page + 16, 496), vec![0xaa; 496], "nothing behind 16 bytes");
}

#[test]
fn features_remember_what_was_set_until_a_reset() {
    let mut host = Host::ready(Config { queue_pairs_max: 5, ..Config::default() }, 0);
    let queues = host.admin(entry(9, 0, 0, [7, 0x0007_0003]));
    assert_eq!((queues.status(), queues.result), ((0, 0), 0x0004_0003));
    assert_eq!(host.admin(entry(10, 0, 0, [6, 0])).result, 1, "the cache is on");
    host.admin(entry(9, 0, 0, [6, 0]));
    assert_eq!(host.admin(entry(10, 0, 0, [6, 0])).result, 0);
    assert_eq!(host.admin(entry(10, 0, 0, [0x106, 0])).result, 1, "by default");
    assert_eq!(host.admin(entry(9, 0, 0, [6 | (1 << 31), 0])).status(), (1, 0x0d));
    assert_eq!(host.admin(entry(9, 0, 0, [0x7f, 0])).status(), (0, 0x02));
    assert_eq!(host.admin(entry(9, 0, 0, [7, 0xffff])).status(), (0, 0x02));
    host.controller.write32(host.now, 0x14, 0);
    host.enable();
    assert_eq!(host.admin(entry(10, 0, 0, [6, 0])).result, 1);
}

#[test]
fn the_error_log_tells_of_failed_commands_newest_first() {
    let mut host = Host::ready(Config::default(), 1);
    host.admin(entry(0x99, 0, 0, [0, 0]));
    let page = host.pages(1);
    let read = host.transfer(2, 1 << 40, 1, page, 0);
    let failed = host.run(1, read);
    let entries = log(&mut host, 1, 128);
    assert_eq!(word(&entries, 0), 2, "the second error");
    assert_eq!(word(&entries, 8) & 0xffff, 1, "of queue 1");
    assert_eq!((word(&entries, 8) >> 16) & 0xffff, u64::from(failed.cid));
    assert_eq!(word(&entries, 16), 1 << 40);
    assert_eq!(word(&entries, 64), 1);
    assert_eq!(word(&log(&mut host, 2, 512), 176), 2, "SMART counts them");
}

#[test]
fn log_pages_unknown_or_beyond_their_end_are_refused() {
    let mut host = Host::ready(Config::default(), 0);
    let page = host.pages(1);
    assert_eq!(host.admin(entry(2, 0, page, [0x7f, 0])).status(), (1, 0x09));
    let mut beyond = entry(2, 0, page, [2, 0]);
    beyond.dwords[2] = 516;
    assert_eq!(host.admin(beyond).status(), (0, 0x02));
    for id in [3, 4, 5, 0x81] {
        log(&mut host, id, 512);
    }
}

#[test]
fn an_event_masks_its_type_until_the_log_is_read() {
    let mut host = Host::ready(Config { event_requests_max: 2, ..Config::default() }, 0);
    host.admin(entry(9, 0, 0, [0x0b, 0x3ff]));
    for _ in 0..2 {
        host.submit(0, Entry { opcode: 0x0c, ..Entry::default() });
    }
    let third = host.admin(Entry { opcode: 0x0c, ..Entry::default() });
    assert_eq!(third.status(), (1, 0x05));
    host.controller.report(Event::TEMPERATURE);
    host.controller.report(Event::SPARE);
    host.poll();
    assert_eq!(host.take(0).unwrap().result, 0x02_0101);
    host.poll();
    assert_eq!(host.take(0), None, "masked");
    log(&mut host, 2, 512);
    host.poll();
    assert_eq!(host.take(0).unwrap().result, 0x02_0201);
}

#[test]
fn an_abort_finds_what_is_held_back_and_nothing_else() {
    let mut host = Host::ready(Config::default(), 1);
    host.controller.plan().add(Rule::next_io(Fault::Stick));
    let flush = Entry { nsid: 1, ..Entry::default() };
    let stuck = host.submit(1, flush);
    host.poll();
    assert_eq!(host.controller.held(), 1);
    let abort = |cid: u16| entry(8, 0, 0, [1 | (u32::from(cid) << 16), 0]);
    assert_eq!(host.admin(abort(stuck ^ 0x100)).result, 1);
    assert_eq!(host.admin(abort(stuck)).result, 0);
    let aborted = host.take(1).unwrap();
    assert_eq!((aborted.cid, aborted.status()), (stuck, (0, 0x07)));
    assert_eq!(host.admin(abort(stuck)).result, 1);
}

#[test]
fn deleting_a_queue_ends_what_it_held_back() {
    let mut host = Host::ready(Config::default(), 1);
    host.controller.plan().add(Rule::next_io(Fault::Stick));
    let stuck = host.submit(1, Entry { nsid: 1, ..Entry::default() });
    host.poll();
    assert_eq!(host.admin(entry(0, 0, 0, [1, 0])).status(), (0, 0));
    let ended = host.take(1).unwrap();
    assert_eq!((ended.cid, ended.status()), (stuck, (0, 0x08)));
}

#[test]
fn namespaces_are_created_attached_and_deleted() {
    let mut host = Host::ready(Config::default(), 1);
    host.admin(entry(9, 0, 0, [0x0b, 0x3ff]));
    host.submit(0, Entry { opcode: 0x0c, ..Entry::default() });
    let (page, list) = (host.pages(1), host.pages(1));
    host.memory.put64(page, 1024);
    host.memory.put64(page + 8, 1024);
    let created = host.admin(entry(0x0d, 0, page, [0, 0]));
    assert_eq!((created.status(), created.result), ((0, 0), 2));
    host.memory.put64(page, 1 << 40);
    host.memory.put64(page + 8, 1 << 40);
    assert_eq!(host.admin(entry(0x0d, 0, page, [0, 0])).status(), (1, 0x15));
    let mut read = host.transfer(2, 0, 1, page, 0);
    read.nsid = 2;
    assert_eq!(host.run(1, read).status(), (0, 0x0b), "not attached");
    host.memory.put64(list, 1 | (1 << 16));
    assert_eq!(host.admin(entry(0x15, 2, list, [0, 0])).status(), (0, 0));
    assert_eq!(host.take(0).unwrap().result, 0x04_0002, "namespaces changed");
    assert_eq!(word(&log(&mut host, 4, 4096), 0), 2);
    assert_eq!(host.admin(entry(0x15, 2, list, [0, 0])).status(), (1, 0x18));
    assert_eq!(host.run(1, read).status(), (0, 0));
    host.memory.put64(list, 1 | (9 << 16));
    assert_eq!(host.admin(entry(0x15, 2, list, [1, 0])).status(), (1, 0x1c));
    assert_eq!(host.admin(entry(0x0d, 2, 0, [1, 0])).status(), (0, 0));
    assert_eq!(host.admin(entry(0x0d, 2, 0, [1, 0])).status(), (0, 0x0b));
}

#[test]
fn a_format_changes_the_block_size_and_erases() {
    let mut host = Host::ready(Config { block_bytes: 512, ..Config::default() }, 1);
    let page = host.pages(1);
    host.memory.put(page, &[9; 512]);
    let write = host.transfer(1, 0, 1, page, 0);
    host.run(1, write);
    assert_eq!(host.admin(entry(0x80, 1, 0, [7, 0])).status(), (1, 0x0a));
    assert_eq!(host.admin(entry(0x80, 9, 0, [1, 0])).status(), (0, 0x0b));
    assert_eq!(host.admin(entry(0x80, 1, 0, [1, 0])).status(), (0, 0));
    let namespace = identify(&mut host, 0, 1).unwrap();
    assert_eq!((namespace[26], word(&namespace, 0)), (1, (64 << 20) / 4096));
    let read = host.transfer(2, 0, 1, page, 0);
    host.run(1, read);
    assert_eq!(host.memory.get(page, 512), vec![0; 512]);
}

#[test]
fn a_sanitize_runs_for_a_while_and_reports_its_end() {
    let time = Duration::from_millis(10);
    let mut host = Host::ready(Config { sanitize_time: time, ..Config::default() }, 1);
    host.submit(0, Entry { opcode: 0x0c, ..Entry::default() });
    assert_eq!(host.admin(entry(0x84, 0, 0, [7, 0])).status(), (0, 0x02));
    assert_eq!(host.admin(entry(0x84, 0, 0, [2, 0])).status(), (0, 0));
    let flush = Entry { nsid: 1, ..Entry::default() };
    assert_eq!(host.run(1, flush).status(), (0, 0x1d));
    host.wait(time / 2);
    let page = log(&mut host, 0x81, 512);
    assert!((0x7000..0x9000).contains(&(word(&page, 0) & 0xffff)), "half done");
    assert_eq!((word(&page, 0) >> 16) & 7, 2, "in progress");
    host.wait(time);
    assert_eq!(host.take(0).unwrap().result, 0x81_0106);
    assert_eq!((word(&log(&mut host, 0x81, 512), 0) >> 16) & 0x107, 0x101);
    assert_eq!(host.run(1, flush).status(), (0, 0));
}

#[test]
fn firmware_is_downloaded_committed_and_activated_by_a_reset() {
    let mut host = Host::ready(Config::default(), 0);
    let page = host.pages(1);
    host.memory.put(page, b"MODEL2.0");
    let download = entry(0x11, 0, page, [1023, 0]);
    assert_eq!(host.admin(entry(0x10, 0, 0, [2 | (1 << 3), 0])).status(), (1, 0x07), "no image");
    assert_eq!(host.admin(download).status(), (0, 0));
    assert_eq!(host.admin(entry(0x11, 0, page, [1023, 4096])).status(), (1, 0x14), "a gap");
    assert_eq!(host.admin(entry(0x10, 0, 0, [1 | (1 << 3), 0])).status(), (1, 0x06), "read-only");
    assert_eq!(host.admin(download).status(), (0, 0));
    assert_eq!(host.admin(entry(0x10, 0, 0, [2 | (1 << 3), 0])).status(), (1, 0x11));
    let slots = log(&mut host, 3, 512);
    assert_eq!((slots[0], &slots[16..24]), (0x21, b"MODEL2.0".as_slice()));
    host.controller.write32(host.now, 0x14, 0);
    host.enable();
    assert_eq!(&identify(&mut host, 1, 0).unwrap()[64..72], b"MODEL2.0");
    assert_eq!(log(&mut host, 3, 512)[0], 2);
}

#[test]
fn a_status_on_command_is_what_the_host_sees() {
    let mut host = Host::ready(Config::default(), 1);
    host.controller.plan().add(Rule::next_io(Fault::Status(Status::UNRECOVERED_READ)));
    let seen = host.run(1, Entry { nsid: 1, ..Entry::default() });
    assert_eq!(seen.status(), (2, 0x81));
    assert_eq!(word(&log(&mut host, 2, 512), 160), 1, "SMART counts media errors");
}
