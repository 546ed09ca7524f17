//! What a client makes of content that reaches it late.

use std::time::Duration;

use sheen_ports::Clock;
use sheen_types::{ClientId, Fid, OstIndex, Tick};
use sheen_wire::{Frame, Opcode, lease::bits};

use super::{Actor, Held, Origin, Surroundings, Told};
use crate::{
    chance::Chance,
    clock::SimClock,
    drift::Drift,
    files::Files,
    network::Network,
    operation::{Deed, Operation, Place},
};

const LEASE: Duration = Duration::from_secs(10);
const FILE: Fid = Fid { seq: 7, oid: 1, ver: 0 };
const PLACE: Place = Place { ost: OstIndex(0), object: FILE };

/// A client that asked for the content of a file under its lease.
fn reader(clock: &SimClock) -> Actor {
    let files = Files::default();
    files.add(FILE, PLACE);
    let network = Network::new(clock.clone(), Chance::new(1));
    let surroundings = Surroundings { network, clock: clock.clone(), files, planted: None };
    let mut actor = Actor::new(1, "fs", surroundings, Drift::NONE, Chance::new(1));
    actor.client = ClientId(3);
    actor.lease = LEASE;
    actor.last_asked = clock.now();
    actor.held.insert(FILE, Held { read_bits: bits::DATA, ..Held::default() });
    actor.deed(FILE, Deed::Read);
    actor.advance(FILE);
    assert_eq!(reads(&actor), 1);
    actor
}

fn reads(actor: &Actor) -> usize {
    let reads = |flight: &&super::Flight| flight.operation == Operation::Read(PLACE);
    actor.flights.values().filter(reads).count()
}

fn answer(actor: &mut Actor) {
    actor.flights.clear();
    let frame = Frame::request(Opcode::ObjectRead, sheen_types::Xid(1));
    actor.cache_answered(Origin::Fill(FILE), &Operation::Read(PLACE), (&frame, vec![5; 9]));
    actor.advance(FILE);
}

#[test]
fn content_that_comes_after_the_end_of_the_lease_is_not_believed_and_read_again() {
    let clock = SimClock::default();
    let mut actor = reader(&clock);
    clock.advance_to(Tick(0).after(LEASE));
    answer(&mut actor);
    assert!(actor.told.is_empty(), "{:?}", actor.told);
    assert_eq!((reads(&actor), actor.busy()), (0, 1), "the program waits");
    actor.last_asked = clock.now();
    actor.advance(FILE);
    assert_eq!(reads(&actor), 1);
    answer(&mut actor);
    let told: Vec<Told> = actor.told.drain(..).collect();
    assert!(matches!(&told[..], [Told::Filled { .. }, Told::Deed { result: Ok(_), .. }]));
}
