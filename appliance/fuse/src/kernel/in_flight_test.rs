//! Tests of what a signal does to a request.

use std::sync::atomic::AtomicU32;

use super::*;

const PROCESS: u32 = 1000;

const fn eyes(fate: fn(u32) -> Fate) -> Eyes {
    Eyes { fate, is_over: |_| false }
}

/// Nobody was killed.
fn nobody(_: u32) -> Fate {
    Fate::Lives { process: PROCESS }
}

/// Everybody was.
fn everybody(_: u32) -> Fate {
    Fate::Ends
}

fn ends_if(killed: bool) -> Fate {
    if killed { Fate::Ends } else { Fate::Lives { process: PROCESS } }
}

#[test]
fn an_interrupt_cancels_its_request_only() {
    let in_flight = InFlight::new(eyes(everybody));
    let (two, four) = (in_flight.enter(2, 1, EndsBy::Death), in_flight.enter(4, 1, EndsBy::Death));
    assert!(in_flight.interrupt(4));
    assert!(four.is_ended() && !two.is_ended());
    in_flight.end();
    assert!(two.is_ended());
    assert!(in_flight.enter(6, 1, EndsBy::Death).is_ended(), "it came after the end");
}

#[test]
fn a_harmless_signal_ends_a_wait_for_a_lock_and_nothing_else() {
    let in_flight = InFlight::new(eyes(nobody));
    let wait = in_flight.enter(2, 1, EndsBy::AnySignal);
    let other = in_flight.enter(4, 1, EndsBy::Death);
    assert!(in_flight.interrupt(2) && !in_flight.interrupt(4));
    assert!(wait.is_ended() && !other.is_ended());
    assert!(!wait.cancel.is_cancelled(), "its caller lives on");
}

#[test]
fn who_is_killed_after_a_harmless_signal_is_found() {
    static KILLED: AtomicU32 = AtomicU32::new(0);
    let in_flight = InFlight::new(eyes(|thread| ends_if(thread == KILLED.load(Ordering::SeqCst))));
    let (seven, eight) =
        (in_flight.enter(2, 7, EndsBy::Death), in_flight.enter(4, 8, EndsBy::Death));
    assert!(!in_flight.interrupt(2) && !in_flight.interrupt(4));
    assert!(in_flight.look().is_empty());
    KILLED.store(8, Ordering::SeqCst);
    assert_eq!(in_flight.look(), [4], "the kernel tells nothing of it");
    assert!(eight.is_ended() && !seven.is_ended());
    in_flight.leave(2);
    assert!(in_flight.look().is_empty());
    assert!(in_flight.suspects().is_empty(), "those that were answered are not looked at");
}

#[test]
fn who_is_killed_after_a_signal_ended_its_wait_for_a_lock_is_let_go() {
    static KILLED: AtomicU32 = AtomicU32::new(0);
    let in_flight = InFlight::new(eyes(|_| ends_if(KILLED.load(Ordering::SeqCst) == 1)));
    let wait = in_flight.enter(2, 7, EndsBy::AnySignal);
    assert!(in_flight.interrupt(2));
    assert!(in_flight.look().is_empty());
    assert!(wait.is_ended() && !wait.cancel.is_cancelled());
    KILLED.store(1, Ordering::SeqCst);
    assert_eq!(in_flight.look(), [2]);
    assert!(wait.cancel.is_cancelled());
}

#[test]
fn the_last_call_of_a_process_ends_by_time() {
    let in_flight = InFlight::new(eyes(nobody));
    let last = in_flight.enter(2, 1, EndsBy::Time);
    let other = in_flight.enter(4, 1, EndsBy::Death);
    assert!(in_flight.look().is_empty());
    grow_old(&in_flight, 2);
    assert_eq!(in_flight.look(), [2]);
    assert!(last.is_ended() && !other.is_ended());
    assert!(in_flight.look().is_empty(), "once");
}

/// As if a request had been sent long ago.
fn grow_old(in_flight: &InFlight, unique: u64) {
    let long_ago = Instant::now().checked_sub(LAST_CALL_MAX).unwrap();
    in_flight.shard(unique).requests.get_mut(&unique).unwrap().since = Some(long_ago);
}

#[test]
fn whose_death_is_not_told_is_looked_at_when_it_takes_long() {
    let in_flight = InFlight::new(eyes(everybody));
    let (direct, told) =
        (in_flight.enter(2, 1, EndsBy::UntoldDeath), in_flight.enter(4, 1, EndsBy::Death));
    assert!(in_flight.look().is_empty(), "it is young");
    grow_old(&in_flight, 2);
    assert_eq!(in_flight.look(), [2]);
    assert!(direct.is_ended() && !told.is_ended());
    assert!(in_flight.look().is_empty(), "once");
}

#[test]
fn what_a_thread_began_that_has_ended_lives_as_long_as_its_process() {
    static GONE: AtomicU32 = AtomicU32::new(0);
    static OVER: AtomicU32 = AtomicU32::new(0);
    let fate = |thread| match GONE.load(Ordering::SeqCst) {
        gone if thread <= gone => Fate::Unseen,
        _ => Fate::Lives { process: PROCESS },
    };
    let is_over = |process| process == OVER.load(Ordering::SeqCst);
    let in_flight = InFlight::new(Eyes { fate, is_over });
    let seen = in_flight.enter(2, 1, EndsBy::UntoldDeath);
    let alive = in_flight.enter(4, 9, EndsBy::UntoldDeath);
    for unique in [2, 4] {
        grow_old(&in_flight, unique);
    }
    assert!(in_flight.look().is_empty());
    GONE.store(2, Ordering::SeqCst);
    // Never seen alive: of which process it was is not known.
    let unseen = in_flight.enter(6, 2, EndsBy::UntoldDeath);
    grow_old(&in_flight, 6);
    assert!(in_flight.look().is_empty());
    OVER.store(PROCESS, Ordering::SeqCst);
    let mut ended = in_flight.look();
    ended.sort_unstable();
    assert_eq!(ended, [2, 4]);
    assert!(seen.is_ended() && alive.is_ended() && !unseen.is_ended());
}

#[test]
fn an_interrupt_that_overtakes_its_request_is_kept_for_it() {
    let in_flight = InFlight::new(eyes(everybody));
    assert!(!in_flight.interrupt(6));
    assert!(in_flight.enter(6, 1, EndsBy::Death).is_ended());
    in_flight.leave(6);
    assert!(!in_flight.enter(6, 1, EndsBy::Death).is_ended(), "it was used up");
}

#[test]
fn late_interrupts_do_not_pile_up() {
    let in_flight = InFlight::new(eyes(everybody));
    for unique in (0..100_000).step_by(32) {
        in_flight.interrupt(unique);
    }
    assert_eq!(in_flight.shard(0).early.len(), EARLY_MAX);
}
