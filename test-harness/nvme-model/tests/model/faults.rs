//! Faults on command do to the host exactly what they promise.

use std::time::Duration;

use sheen_nvme_model::{Config, Fault, Rule};

use super::by_hand::{Entry, Host, Seen};

const FLUSH: Entry = Entry { opcode: 0, flags: 0, nsid: 1, pointers: [0; 2], dwords: [0; 6] };

/// Three flushes of which the second has the fault; what came within 1 ms, and the three identifiers.
fn second_of_three(fault: Fault) -> (Host, Vec<Seen>, [u16; 3]) {
    let mut host = Host::ready(Config::default(), 1);
    host.controller.plan().add(Rule::next_io(fault).skipping(1));
    let cids = [(); 3].map(|()| host.submit(1, FLUSH));
    host.poll();
    host.wait(Duration::from_millis(1));
    let mut seen = Vec::new();
    while let Some(completion) = host.take(1) {
        seen.push(completion);
    }
    (host, seen, cids)
}

fn cids(seen: &[Seen]) -> Vec<u16> {
    seen.iter().map(|completion| completion.cid).collect()
}

#[test]
fn a_delayed_command_completes_when_its_time_comes() {
    let (mut host, seen, [a, b, c]) = second_of_three(Fault::Delay(Duration::from_millis(5)));
    assert_eq!(cids(&seen), [a, c]);
    host.wait(Duration::from_millis(5));
    assert_eq!(host.take(1).unwrap().cid, b);
}

#[test]
fn a_reordered_command_completes_behind_others() {
    let (_, seen, [a, b, c]) = second_of_three(Fault::Reorder(1));
    assert_eq!(cids(&seen), [a, c, b]);
}

#[test]
fn a_lost_command_is_carried_out_and_never_completes() {
    let (mut host, seen, [a, _, c]) = second_of_three(Fault::Lose);
    assert_eq!(cids(&seen), [a, c]);
    host.wait(Duration::from_secs(100));
    assert_eq!(host.take(1), None);
    assert_eq!(host.controller.traffic().flushes, 3);
}

#[test]
fn a_duplicate_completes_twice() {
    let (_, seen, [a, b, c]) = second_of_three(Fault::Duplicate);
    assert_eq!(cids(&seen), [a, b, b, c]);
}

#[test]
fn wrong_identifiers_come_before_the_right_one() {
    let (_, seen, [a, b, c]) = second_of_three(Fault::CidOutOfRange);
    assert_eq!(cids(&seen), [a, 0xffff, b, c]);
    let (_, seen, [a, b, c]) = second_of_three(Fault::FreeSlot);
    assert_eq!(cids(&seen), [a, a, b, c]);
}

#[test]
fn wrong_queue_and_head_are_as_said() {
    let (_, seen, _) = second_of_three(Fault::WrongQueue);
    assert_eq!(seen[1].queue, 0x41);
    let (_, seen, _) = second_of_three(Fault::ImpossibleHead);
    assert_eq!(seen[1].head, 15);
}

#[test]
fn a_wrong_phase_hides_a_completion_and_all_behind_it() {
    let (_, seen, [a, ..]) = second_of_three(Fault::WrongPhase);
    assert_eq!(cids(&seen), [a]);
}

#[test]
fn a_stopped_queue_stops_after_what_it_did() {
    let (mut host, seen, [a, ..]) = second_of_three(Fault::QueueStops);
    assert_eq!(cids(&seen), [a]);
    assert_eq!(host.csts(), 1);
}

#[test]
fn a_fatal_status_stops_everything_until_a_reset() {
    let (mut host, seen, [a, ..]) = second_of_three(Fault::Fatal);
    assert_eq!(cids(&seen), [a]);
    assert_eq!(host.csts(), 3);
    host.controller.write32(host.now, 0x14, 0);
    assert_eq!(host.csts(), 0);
    host.enable();
    assert_eq!(host.csts(), 1);
}

#[test]
fn a_removal_stops_everything_for_good() {
    let (mut host, _, _) = second_of_three(Fault::SurpriseRemoval);
    assert_eq!(host.csts(), u32::MAX);
    let (mut host, seen, _) = second_of_three(Fault::HotRemoval);
    assert_eq!(seen.len(), 3);
    host.wait(Duration::from_millis(20));
    assert_eq!(host.csts(), u32::MAX);
}

#[test]
fn a_torn_write_keeps_its_first_half_only() {
    let mut host = Host::ready(Config::default(), 1);
    let page = host.pages(4);
    host.memory.put(page, &[7; 16384]);
    host.controller.plan().add(Rule::next_of(1, Fault::TornWrite));
    let write = host.transfer(1, 0, 4, page, 0);
    host.submit(1, write);
    host.poll();
    assert_eq!(host.csts(), 0, "the power went");
    host.enable();
    host.create_pair(None);
    host.memory.put(page, &[1; 16384]);
    let read = host.transfer(2, 0, 4, page, 0);
    host.run(1, read);
    let firsts: Vec<u8> = (0..4).map(|n| host.memory.get(page + 4096 * n, 1)[0]).collect();
    assert_eq!(firsts, [7, 7, 0, 0]);
}

#[test]
fn a_storm_of_events_answers_every_request_at_once() {
    let mut host = Host::ready(Config::default(), 1);
    host.controller.plan().add(Rule::next_io(Fault::EventStorm(10)));
    host.run(1, FLUSH);
    for _ in 0..10 {
        let request = Entry { opcode: 0x0c, ..Entry::default() };
        assert_eq!(host.admin(request).result, 0x02_0201);
    }
    host.submit(0, Entry { opcode: 0x0c, ..Entry::default() });
    host.poll();
    assert_eq!(host.take(0), None, "the storm is over");
}
