//! Tests of the worker threads.

use sheen_ports::Cancel;

use super::*;
use crate::kernel::{
    abi::Header,
    device::{Device, HEAD_BYTES},
    message::Body,
};

const LIMITS: CrewLimits = CrewLimits { serving: [1, 1, 1, 2, 1], readers: 2, queued: 2 };

fn message(unique: u64) -> Message {
    let null = std::fs::File::open("/dev/null").unwrap();
    let header = Header {
        length: 40,
        opcode: 1,
        unique,
        node: 1,
        uid: 0,
        gid: 0,
        pid: 0,
        extension_bytes: 0,
    };
    let channel = Device::new(null.into()).channel();
    let (head, body) = ([0; HEAD_BYTES], Body::Short);
    Message { channel, header, head, body, cancel: Cancel::new() }
}

fn crew() -> Crew {
    let crew = Crew::new(LIMITS);
    crew.open();
    crew
}

fn served_by_reader(placed: &Placed) -> Option<bool> {
    match placed {
        Placed::Serve { successor, .. } => Some(*successor),
        Placed::Queued | Placed::Refused(_) => None,
    }
}

#[test]
fn the_last_reader_leaves_a_successor_behind() {
    let crew = crew();
    let first = crew.place(Lane::Namespace, message(2));
    assert_eq!(served_by_reader(&first), Some(true));
    assert_eq!(crew.threads(), 2);
    assert!(matches!(crew.served(Lane::Namespace), Next::Read));
    let second = crew.place(Lane::Namespace, message(4));
    assert_eq!(served_by_reader(&second), Some(false), "another reads already");
}

#[test]
fn a_full_lane_queues_and_other_lanes_go_on() {
    let crew = crew();
    assert_eq!(served_by_reader(&crew.place(Lane::Content, message(2))), Some(true));
    assert!(matches!(crew.place(Lane::Content, message(4)), Placed::Queued));
    assert_eq!(served_by_reader(&crew.place(Lane::Release, message(6))), Some(true));
    assert_eq!(served_by_reader(&crew.place(Lane::Namespace, message(8))), Some(true));
    let Next::Serve(Lane::Content, next) = crew.served(Lane::Content) else {
        panic!("the queued one was not taken");
    };
    assert_eq!(next.header.unique, 4);
    assert!(matches!(crew.served(Lane::Content), Next::Read));
}

#[test]
fn waiting_requests_are_never_queued() {
    let crew = crew();
    assert_eq!(served_by_reader(&crew.place(Lane::Wait, message(2))), Some(true));
    assert!(matches!(crew.place(Lane::Wait, message(4)), Placed::Refused(_)));
}

#[test]
fn readers_that_are_too_many_go_home() {
    let crew = crew();
    for unique in [2, 4] {
        assert_eq!(served_by_reader(&crew.place(Lane::Namespace, message(unique))), Some(true));
    }
    assert!(matches!(crew.served(Lane::Namespace), Next::Read));
    assert!(matches!(crew.served(Lane::Namespace), Next::Leave));
    assert!(!crew.leave());
}

#[test]
fn the_end_drops_the_queue_and_sends_everybody_home() {
    let crew = crew();
    let first = crew.place(Lane::Content, message(2));
    assert!(matches!(crew.place(Lane::Content, message(4)), Placed::Queued));
    crew.end();
    drop(first);
    assert!(matches!(crew.served(Lane::Content), Next::Leave));
    assert!(!crew.leave());
    assert!(crew.leave(), "the last one");
}

#[test]
fn a_full_queue_holds_its_reader_until_there_is_space() {
    let crew = crew();
    assert_eq!(served_by_reader(&crew.place(Lane::Content, message(2))), Some(true));
    for unique in [4, 6] {
        assert!(matches!(crew.place(Lane::Content, message(unique)), Placed::Queued));
    }
    std::thread::scope(|scope| {
        let held = scope.spawn(|| crew.place(Lane::Content, message(8)));
        assert!(matches!(crew.served(Lane::Content), Next::Serve(Lane::Content, _)));
        assert!(matches!(held.join().unwrap(), Placed::Queued));
    });
}
