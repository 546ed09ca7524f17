//! Tests of the worker threads.

use super::*;
use crate::kernel::{
    abi::Header,
    device::{Device, HEAD_BYTES},
    in_flight::Ends,
    message::Body,
};

const LIMITS: CrewLimits =
    CrewLimits { serving: [1, 1, 1, 1, 3, 1, 1], share: [1, 1, 1, 1, 2, 1, 1], readers: 2 };

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
    Message { channel, header, head, body, ends: Ends::default(), tries: false }
}

fn crew() -> Crew {
    let crew = Crew::new(LIMITS);
    crew.open();
    crew
}

fn nobody(_: &Message) -> Option<Target> {
    None
}

fn place(crew: &Crew, lane: Lane, unique: u64) -> Placed {
    crew.place(lane, message(unique), nobody)
}

fn uncounted(lane: Lane) -> Place {
    Place { lane, target: None }
}

fn served_by_reader(placed: &Placed) -> Option<bool> {
    match placed {
        Placed::Serve { successor, .. } => Some(*successor),
        Placed::Parked | Placed::Refused(_) | Placed::Cancelled(_) => None,
    }
}

#[test]
fn the_last_reader_leaves_a_successor_behind() {
    let crew = crew();
    assert_eq!(served_by_reader(&place(&crew, Lane::Namespace, 2)), Some(true));
    assert_eq!(crew.threads(), 2);
    assert!(matches!(crew.served(uncounted(Lane::Namespace)), Next::Read));
    let second = place(&crew, Lane::Namespace, 4);
    assert_eq!(served_by_reader(&second), Some(false), "another reads already");
}

#[test]
fn a_full_lane_parks_and_other_lanes_go_on() {
    let crew = crew();
    assert_eq!(served_by_reader(&place(&crew, Lane::Content, 2)), Some(true));
    assert!(matches!(place(&crew, Lane::Content, 4), Placed::Parked));
    assert_eq!(served_by_reader(&place(&crew, Lane::Release, 6)), Some(true));
    assert_eq!(served_by_reader(&place(&crew, Lane::Namespace, 8)), Some(true));
    let Next::Serve(at, next) = crew.served(uncounted(Lane::Content)) else {
        panic!("the parked one was not taken");
    };
    assert_eq!((at, next.header.unique), (uncounted(Lane::Content), 4));
    assert!(matches!(crew.served(at), Next::Read));
}

#[test]
fn reading_never_waits_for_serving() {
    let crew = crew();
    assert_eq!(served_by_reader(&place(&crew, Lane::Content, 2)), Some(true));
    for unique in 2..5000 {
        assert!(matches!(place(&crew, Lane::Content, 2 * unique), Placed::Parked));
    }
    assert_eq!((crew.parked(), crew.threads()), (4998, 2));
}

#[test]
fn those_that_wait_for_a_stuck_target_leave_threads_to_the_others() {
    let crew = crew();
    let to = |unique, target| crew.place(Lane::Namespace, message(unique), |_| Some(target));
    // Not a crowd yet: nobody is counted.
    assert_eq!(served_by_reader(&place(&crew, Lane::Namespace, 2)), Some(true));
    assert!(matches!(crew.served(uncounted(Lane::Namespace)), Next::Read));
    for unique in [4, 6] {
        assert!(served_by_reader(&to(unique, 1)).is_some());
    }
    assert!(matches!(to(8, 1), Placed::Serve { .. }), "the first two were not counted");
    assert!(matches!(to(10, 2), Placed::Parked), "no thread is left");
    assert!(matches!(to(12, 1), Placed::Parked));
    let Next::Serve(at, next) = crew.served(uncounted(Lane::Namespace)) else {
        panic!("there is a place");
    };
    assert_eq!((at.target, next.header.unique), (Some(2), 10));
    // A second one of the stuck target gets the next place, a third none though there is one.
    let Next::Serve(at, next) = crew.served(at) else { panic!("there is a place") };
    assert_eq!((at.target, next.header.unique), (Some(1), 12));
    assert!(matches!(to(14, 1), Placed::Parked));
    assert!(matches!(crew.served(uncounted(Lane::Namespace)), Next::Read), "its share is full");
    assert!(matches!(to(16, 2), Placed::Serve { .. }));
}

#[test]
fn a_parked_request_can_be_withdrawn_and_one_cancelled_before_is_not_parked() {
    let crew = crew();
    assert_eq!(served_by_reader(&place(&crew, Lane::Content, 2)), Some(true));
    assert!(matches!(place(&crew, Lane::Content, 4), Placed::Parked));
    let (at, withdrawn) = crew.withdraw(4).unwrap();
    assert_eq!((at.lane, withdrawn.header.unique), (Lane::Content, 4));
    assert!(crew.withdraw(4).is_none());
    let late = message(6);
    late.ends.end();
    assert!(matches!(crew.place(Lane::Content, late, nobody), Placed::Cancelled(_)));
    assert!(matches!(crew.served(uncounted(Lane::Content)), Next::Read));
}

#[test]
fn waiting_requests_are_never_parked() {
    let crew = crew();
    assert_eq!(served_by_reader(&place(&crew, Lane::Wait, 2)), Some(true));
    assert!(matches!(place(&crew, Lane::Wait, 4), Placed::Refused(_)));
}

#[test]
fn readers_that_are_too_many_go_home() {
    let crew = crew();
    for unique in [2, 4] {
        assert_eq!(served_by_reader(&place(&crew, Lane::Namespace, unique)), Some(true));
    }
    assert!(matches!(crew.served(uncounted(Lane::Namespace)), Next::Read));
    assert!(matches!(crew.served(uncounted(Lane::Namespace)), Next::Leave));
    assert!(!crew.leave());
}

#[test]
fn the_end_drops_what_is_parked_and_sends_everybody_home() {
    let crew = crew();
    let first = place(&crew, Lane::Content, 2);
    assert!(matches!(place(&crew, Lane::Content, 4), Placed::Parked));
    crew.end();
    drop(first);
    assert!(matches!(crew.served(uncounted(Lane::Content)), Next::Leave));
    assert!(!crew.leave());
    assert!(crew.leave(), "the last one");
}

#[test]
fn a_user_leaves_as_many_lock_waits_to_others_as_it_has() {
    let crew = crew();
    let park = |uid: u32, unique: u64| {
        let mut message = message(unique);
        message.header.uid = uid;
        crew.park_lock_wait(message)
    };
    let refused = (0..5000).find(|unique| park(1, *unique).is_some());
    assert_eq!(refused, Some(2048));
    let refused = (5000..9000).find(|unique| park(2, *unique).is_some());
    assert_eq!(refused, Some(5000 + 1024));
    assert!(park(0, 10_000).is_none(), "there is always room for another user");
    assert!(crew.withdraw(7).is_some());
    assert!(park(1, 7).is_some(), "as many as are free: fewer since the other came");
    assert_eq!(crew.lock_waits().len(), 2048 + 1024);
    let cancelled = message(12_000);
    cancelled.ends.end();
    assert!(crew.park_lock_wait(cancelled).is_some());
}
