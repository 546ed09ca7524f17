//! A queue pair alone: a hand-made controller completes its commands, and the test gives the supervisor's orders.

use std::sync::{
    Arc,
    mpsc::{Receiver, channel},
};

use nix::sys::eventfd::EventFd;
use sheen_dma::{Arena, Buffer, DeviceView, Registers};
use sheen_types::Lba;

use super::{
    error::{IoError, QueueFault, Refusal},
    namespace::{Namespace, Offers},
    pointer::Lists,
    queue::{Completion, Durability, Full, Parts, QueuePair},
    rings::{RingSizes, Rings},
    shared::{Broken, Order, Postbox, QueueShared},
    slots::Slots,
    supervisor::{Event, mapped_arenas},
};
use crate::{
    spec::{Cqe, IoOpcode, Sqe, Status},
    transport::{Doorbell, DoorbellPair},
};

const DEPTH: u32 = 7;
const SIZES: RingSizes = RingSizes { submission: 8, completion: 16 };
const TIMEOUT_TICKS: u32 = 4;

/// The controller's side, and the supervisor's.
struct Other {
    view: DeviceView,
    base: u64,
    submission: u64,
    completion: u64,
    registers: Registers,
    fetched: u32,
    posted: u32,
    shared: Arc<QueueShared>,
    events: Receiver<Event>,
    _wake: Arc<EventFd>,
}

fn pair() -> (QueuePair, Other, Arena) {
    // Miri has no shared files, and needs none in one process.
    let arena = if cfg!(miri) { Arena::anonymous(4 << 20) } else { Arena::shared(4 << 20) };
    let arena = arena.unwrap();
    let registers = Registers::memory(4096).unwrap();
    let doorbells = DoorbellPair {
        submission_tail: Doorbell::Mapped(registers.register(0)),
        completion_head: Doorbell::Mapped(registers.register(4)),
    };
    let rings = Rings::new(&arena, SIZES, doorbells, None).unwrap();
    let [submission, completion] = rings.addresses().map(|iova| iova.0);
    let shared = QueueShared::new(3, Some(1)).unwrap();
    let (sender, events) = channel();
    let wake = Arc::new(EventFd::new().unwrap());
    let namespace = Namespace {
        nsid: 1,
        blocks: 1000,
        block_shift: 3,
        transfer_blocks_max: 4,
        volatile_write_cache: true,
        atomic_write_blocks: 1,
        offers: Offers { compare: true, verify: true, write_zeroes: true, discard: false },
    };
    let queue = QueuePair::new(Parts {
        rings,
        slots: Slots::new(DEPTH),
        lists: Lists::new(&arena, DEPTH, 4096, false).unwrap(),
        namespace,
        timeout_ticks: TIMEOUT_TICKS,
        mapped: mapped_arenas(&arena),
        arena: arena.clone(),
        shared: shared.clone(),
        postbox: Postbox::new(sender, wake.clone()),
    });
    let other = Other {
        view: DeviceView::of_arena(&arena).unwrap(),
        base: arena.iova().0,
        submission,
        completion,
        registers,
        fetched: 0,
        posted: 0,
        shared,
        events,
        _wake: wake,
    };
    (queue, other, arena)
}

impl Other {
    /// Takes the commands that were rung for.
    fn fetch(&mut self) -> Vec<Sqe> {
        let tail = self.registers.read32(0);
        let mut commands = Vec::new();
        while self.fetched % SIZES.submission != tail {
            let entry = u64::from(self.fetched % SIZES.submission) * 64;
            let at = self.submission - self.base + entry;
            let word = |index: u64| self.view.load64(at + 8 * index).unwrap();
            commands.push(Sqe([0, 1, 2, 3, 4, 5, 6, 7].map(word)));
            self.fetched += 1;
        }
        commands
    }

    fn complete(&mut self, cid: u16, status: Status) {
        let head = u16::try_from(self.fetched % SIZES.submission).unwrap();
        self.post(Cqe::words(head, 3, cid, status, true, 0));
    }

    /// Writes a completion; its phase is set for the round.
    fn post(&mut self, [result, tail]: [u64; 2]) {
        let at = self.completion - self.base + u64::from(self.posted % SIZES.completion) * 16;
        let is_even = (self.posted / SIZES.completion).is_multiple_of(2);
        let tail = tail & !(1 << 48) | u64::from(is_even) << 48;
        self.view.store64(at, result).unwrap();
        self.view.store64(at + 8, tail).unwrap();
        self.posted += 1;
    }

    fn reset(&mut self) {
        (self.fetched, self.posted) = (0, 0);
    }
}

fn poll(queue: &mut QueuePair) -> Vec<Completion> {
    let mut completions = Vec::new();
    let count = queue.poll(&mut completions);
    assert_eq!(count, completions.len());
    completions
}

fn results(queue: &mut QueuePair) -> Vec<(u64, Result<(), IoError>)> {
    poll(queue).into_iter().map(|completion| (completion.token, completion.result)).collect()
}

#[test]
fn a_read_is_an_entry_and_comes_back_with_its_buffer() {
    let (mut queue, mut other, arena) = pair();
    let buffer = arena.allocate(4096).unwrap();
    let iova = buffer.iova().0;
    queue.read(Lba(5), buffer, 77).unwrap();
    assert!(other.fetch().is_empty(), "not before the doorbell");
    queue.ring();
    let [command] = other.fetch().try_into().unwrap();
    assert_eq!(command.head().opc(), IoOpcode::READ.0);
    assert_eq!((command.head().nsid(), command.data_pointer()), (1, [iova, 0]));
    assert_eq!((command.dword(10), command.dword(11), command.dword(12)), (40, 0, 7));
    assert!(poll(&mut queue).is_empty());
    other.complete(command.head().cid(), Status::SUCCESS);
    let [completion] = poll(&mut queue).try_into().unwrap();
    assert_eq!((completion.token, completion.result), (77, Ok(())));
    assert_eq!(completion.buffer.unwrap().iova().0, iova);
    assert_eq!(queue.in_flight(), 0);
}

#[test]
fn each_command_has_its_own_dwords() {
    let (mut queue, mut other, arena) = pair();
    queue.write(Lba(1), arena.allocate(8192).unwrap(), Durability::Durable, 1).unwrap();
    queue.flush(2).unwrap();
    queue.write_zeroes(Lba(2), 3, 3).unwrap();
    queue.verify(Lba(3), 2, 4).unwrap();
    queue.compare(Lba(4), arena.allocate(4096).unwrap(), 5).unwrap();
    queue.ring();
    let seen: Vec<_> = other
        .fetch()
        .iter()
        .map(|command| (IoOpcode(command.head().opc()), command.dword(10), command.dword(12)))
        .collect();
    let expected = [
        (IoOpcode::WRITE, 8, 15 | 1 << 30),
        (IoOpcode::FLUSH, 0, 0),
        (IoOpcode::WRITE_ZEROES, 16, 23),
        (IoOpcode::VERIFY, 24, 15),
        (IoOpcode::COMPARE, 32, 7),
    ];
    assert_eq!(seen, expected);
}

#[test]
fn what_is_malformed_is_not_sent_and_ends_with_its_reason() {
    let (mut queue, mut other, arena) = pair();
    let blocks = |count: usize| arena.allocate(count * 4096).unwrap();
    queue.read(Lba(1000), blocks(1), 1).unwrap();
    queue.read(Lba(u64::MAX), blocks(1), 2).unwrap();
    queue.read(Lba(0), blocks(5), 3).unwrap();
    queue.read(Lba(0), arena.allocate(4095).unwrap(), 4).unwrap();
    let mut odd = blocks(2);
    let mut odd = odd.split_off(2);
    odd.truncate(4096);
    queue.read(Lba(0), odd, 5).unwrap();
    queue.read(Lba(0), Buffer::standalone(4096), 6).unwrap();
    queue.write_zeroes(Lba(999), 2, 7).unwrap();
    queue.ring();
    assert!(other.fetch().is_empty());
    let mut found = results(&mut queue);
    found.sort_unstable_by_key(|&(token, _)| token);
    let expected = [
        Refusal::Range,
        Refusal::Range,
        Refusal::Length,
        Refusal::Length,
        Refusal::Alignment,
        Refusal::NotMapped,
        Refusal::Range,
    ];
    let expected: Vec<_> =
        (1..).zip(expected).map(|(token, why)| (token, Err(IoError::Refused(why)))).collect();
    assert_eq!(found, expected);
    // A hint that is not offered is taken and forgotten.
    queue.discard(Lba(0), 10, 8).unwrap();
    assert_eq!(results(&mut queue), [(8, Ok(()))]);
}

#[test]
fn a_full_queue_gives_the_buffer_back_and_wraps_for_ever() {
    let (mut queue, mut other, arena) = pair();
    let mut buffers: Vec<Buffer> = (0..DEPTH).map(|_| arena.allocate(4096).unwrap()).collect();
    for round in 0..1000 {
        for buffer in buffers.drain(..) {
            queue.read(Lba(round % 1000), buffer, round).unwrap();
        }
        let spare = arena.allocate(4096).unwrap();
        assert!(queue.read(Lba(0), spare, 9).is_err());
        assert_eq!(queue.flush(9), Err(Full));
        queue.ring();
        let commands = other.fetch();
        assert_eq!(commands.len(), DEPTH as usize);
        for command in commands.iter().rev() {
            other.complete(command.head().cid(), Status::SUCCESS);
        }
        buffers.extend(poll(&mut queue).into_iter().filter_map(|completion| completion.buffer));
        assert_eq!(buffers.len(), DEPTH as usize);
        // The controller always has room for every command in flight.
        let acknowledged = other.registers.read32(4);
        let waiting = other.posted.wrapping_sub(acknowledged) % SIZES.completion;
        assert!(waiting + DEPTH < SIZES.completion, "{waiting} completions are not acknowledged");
    }
}

#[test]
fn a_broken_rule_parks_the_buffers_until_the_last_order() {
    let (mut queue, mut other, arena) = pair();
    queue.read(Lba(0), arena.allocate(4096).unwrap(), 1).unwrap();
    queue.ring();
    let cid = other.fetch()[0].head().cid();
    other.complete(cid + 1, Status::SUCCESS);
    let free = arena.free_bytes();
    assert!(poll(&mut queue).is_empty());
    let fault = QueueFault::UnknownCommand { cid: cid + 1 };
    let told = other.events.try_recv().unwrap();
    assert!(
        matches!(told, Event::Broken(Broken { queue: 3, fault: it }) if it == fault),
        "{told:?}"
    );
    other.complete(cid, Status::SUCCESS);
    assert!(poll(&mut queue).is_empty(), "it does not look any more");
    queue.read(Lba(0), arena.allocate(4096).unwrap(), 2).unwrap();
    queue.ring();
    assert!(other.fetch().is_empty(), "and rings no more");
    assert_eq!(arena.free_bytes(), free - 4096);
    other.shared.order(Order::Stop);
    let ended = results(&mut queue);
    assert_eq!(ended, [(1, Err(IoError::Stopped(fault))), (2, Err(IoError::Stopped(fault)))]);
    queue.read(Lba(0), arena.allocate(4096).unwrap(), 3).unwrap();
    assert_eq!(results(&mut queue), [(3, Err(IoError::Stopped(fault)))]);
}

#[test]
fn after_a_reset_commands_are_sent_again_under_the_same_identifiers() {
    let (mut queue, mut other, arena) = pair();
    let lists = arena.allocate(16384).unwrap();
    queue.write(Lba(7), lists, Durability::Durable, 1).unwrap();
    queue.ring();
    let before = other.fetch();
    queue.flush(2).unwrap();
    other.shared.order(Order::Quiesce);
    assert!(poll(&mut queue).is_empty());
    assert!(matches!(other.events.try_recv(), Ok(Event::Parked { queue: 3 })));
    queue.ring();
    assert!(other.fetch().is_empty(), "parked rings are left alone");
    other.reset();
    other.registers.write32(0, 0);
    other.shared.order(Order::Run);
    assert!(poll(&mut queue).is_empty());
    let again = other.fetch();
    assert_eq!(again.len(), 2);
    assert_eq!(again[0], before[0], "the list is written anew at the same place");
    for command in again {
        other.complete(command.head().cid(), Status::SUCCESS);
    }
    assert_eq!(results(&mut queue), [(1, Ok(())), (2, Ok(()))]);
}

#[test]
fn what_a_lost_controller_may_still_write_to_is_never_given_out() {
    let (mut queue, mut other, arena) = pair();
    let free = arena.free_bytes();
    queue.read(Lba(0), arena.allocate(4096).unwrap(), 1).unwrap();
    queue.ring();
    let _ = other.fetch();
    other.shared.order(Order::Lost);
    let [completion] = poll(&mut queue).try_into().unwrap();
    assert!(completion.buffer.is_none() && completion.result == Err(IoError::Gone));
    assert_eq!(arena.free_bytes(), free - 4096);
}

#[test]
fn a_late_command_is_told_twice_and_a_fresh_one_is_not_late() {
    let (mut queue, mut other, arena) = pair();
    assert!(poll(&mut queue).is_empty());
    // The thread was away for long; what it submits now is new.
    (1..1000).for_each(|tick| other.shared.tick(tick));
    queue.read(Lba(0), arena.allocate(4096).unwrap(), 1).unwrap();
    queue.ring();
    let cid = other.fetch()[0].head().cid();
    let mut told = Vec::new();
    for tick in 1000..1000 + 3 * TIMEOUT_TICKS {
        other.shared.tick(tick);
        assert!(poll(&mut queue).is_empty());
        while let Ok(event) = other.events.try_recv() {
            told.push((tick - 1000, event));
        }
    }
    let told: Vec<_> = told
        .iter()
        .map(|(tick, event)| match event {
            Event::Late { queue: 3, cid: late, reports } => (*tick, *late, *reports),
            other => panic!("{other:?}"),
        })
        .collect();
    let expected = [(TIMEOUT_TICKS, cid, 1), (2 * TIMEOUT_TICKS, cid, 2)];
    assert_eq!(told, expected);
}

#[test]
fn sleep_is_safe_when_nothing_is_in_flight_or_interrupts_are_armed() {
    let (mut queue, mut other, arena) = pair();
    assert!(!queue.prepare_sleep(), "it has not looked at its orders yet");
    queue.end_sleep();
    assert!(poll(&mut queue).is_empty());
    assert!(queue.prepare_sleep());
    queue.end_sleep();
    queue.read(Lba(0), arena.allocate(4096).unwrap(), 1).unwrap();
    assert!(!queue.prepare_sleep(), "its interrupt is not armed");
    queue.end_sleep();
    assert!(!queue.prepare_sleep());
    assert!(matches!(other.events.try_recv(), Ok(Event::Arm { queue: 3, on: true })));
    assert!(other.events.try_recv().is_err(), "it asks once");
    other.shared.set_armed(true);
    assert!(queue.prepare_sleep());
    let cid = other.fetch()[0].head().cid();
    other.complete(cid, Status::SUCCESS);
    assert!(!queue.prepare_sleep(), "a completion came before the interrupt was armed");
    queue.end_sleep();
    assert_eq!(results(&mut queue), [(1, Ok(()))]);
}
