//! Tests of the table of leases.

use super::*;

const A: ClientId = ClientId(1);
const B: ClientId = ClientId(2);
const C: ClientId = ClientId(3);
const FILE: Fid = Fid::new(0x400, 1);
const OTHER: Fid = Fid::new(0x400, 2);
const READABLE: u32 = bits::METADATA;

fn table() -> Leases {
    Leases::new(Epoch(1), 100)
}

fn conflict(client: ClientId, held: u32, to_read: bool) -> Conflict {
    Conflict { client, fid: FILE, bits: held, to_read }
}

#[test]
fn readers_share_and_a_writer_of_data_is_alone() {
    let mut leases = table();
    let first = leases.grant(A, FILE, READABLE, bits::DATA);
    assert_eq!((first.read_bits, first.write_bits), (READABLE, bits::DATA));
    let second = leases.grant(B, FILE, bits::ALL, bits::DATA);
    assert_eq!((second.read_bits, second.write_bits), (READABLE, 0));
    assert!(second.sequence > first.sequence);
    let reading = leases.conflicts(B, FILE, bits::ALL, LockMode::ProtectedRead);
    assert_eq!(reading, [conflict(A, bits::DATA, true)]);
    assert_eq!(leases.conflicts(A, FILE, bits::ALL, LockMode::ProtectedRead), []);
    let changing = leases.unasked(C, &[(OTHER, bits::ALL), (FILE, bits::UPDATE)]);
    assert_eq!(changing, [conflict(A, bits::UPDATE, false), conflict(B, bits::UPDATE, false)]);
}

#[test]
fn only_data_is_granted_for_writing() {
    let mut leases = table();
    let grant = leases.grant(A, FILE, 0, bits::ALL);
    assert_eq!((grant.read_bits, grant.write_bits), (0, bits::DATA));
    assert_eq!(leases.grant(B, FILE, 0, bits::DATA), LeaseGrant::NONE);
    assert_eq!(leases.len(), 1);
}

#[test]
fn a_writer_asked_to_read_goes_down_and_both_read() {
    let mut leases = table();
    leases.grant(A, FILE, 0, bits::DATA);
    let revoke = leases.revoke(conflict(A, bits::DATA, true)).unwrap();
    assert!(revoke.to_read && revoke.bits == bits::DATA);
    assert_eq!(leases.revoke(conflict(A, bits::DATA, true)), None);
    assert!(leases.is_revoking(A, FILE));
    assert_eq!(leases.grant(B, FILE, bits::DATA, 0), LeaseGrant::NONE);
    // Asking for it again meanwhile changes nothing, and a grant does not speak of it any more.
    assert_eq!(leases.grant(A, FILE, 0, bits::DATA).sequence, revoke.sequence);
    let other = leases.grant(A, FILE, bits::PERM, 0);
    assert_eq!((other.read_bits, other.write_bits), (bits::PERM | bits::DATA, 0));
    assert!(leases.cancel(A, FILE, bits::PERM, false, other.sequence));
    assert!(leases.cancel(A, FILE, bits::DATA, true, revoke.sequence));
    assert!(!leases.is_revoking(A, FILE));
    assert_eq!(leases.held(A, FILE).read_bits, bits::DATA);
    assert_eq!(leases.grant(B, FILE, bits::DATA, 0).read_bits, bits::DATA);
    // A stronger demand follows a weaker one.
    leases.grant(C, OTHER, 0, bits::DATA);
    let down = Conflict { client: C, fid: OTHER, bits: bits::DATA, to_read: true };
    assert!(leases.revoke(down).is_some());
    let all = leases.revoke(Conflict { to_read: false, ..down }).unwrap();
    assert!(!all.to_read);
    assert_eq!(leases.revoke(down), None);
    assert!(leases.cancel(C, OTHER, bits::DATA, false, all.sequence));
    assert_eq!(leases.held(C, OTHER), LeaseGrant::NONE);
}

#[test]
fn bits_being_revoked_are_asked_once_and_granted_to_nobody() {
    let mut leases = table();
    leases.grant(A, FILE, READABLE, 0);
    let first = leases.revoke(conflict(A, bits::UPDATE, false)).unwrap();
    let second = leases.revoke(conflict(A, bits::UPDATE | bits::PERM, false)).unwrap();
    assert_eq!((first.bits, second.bits), (bits::UPDATE, bits::PERM));
    assert!(second.sequence > first.sequence);
    // Its own renewed request does not bring them back, other bits come.
    let grant = leases.grant(A, FILE, READABLE, bits::DATA);
    assert_eq!(grant.write_bits, bits::DATA);
    assert_eq!(grant.read_bits, READABLE & !bits::UPDATE & !bits::PERM);
    assert!(leases.cancel(A, FILE, bits::UPDATE, false, first.sequence));
    assert!(leases.is_revoking(A, FILE));
    assert!(leases.cancel(A, FILE, bits::PERM, false, second.sequence));
    assert!(!leases.is_revoking(A, FILE));
    assert_eq!(leases.held(A, FILE).read_bits, READABLE & !bits::UPDATE & !bits::PERM);
    assert_eq!(leases.revoke(conflict(B, bits::ALL, false)), None);
}

#[test]
fn a_cancel_does_not_take_a_grant_it_has_not_seen() {
    let mut leases = table();
    let seen = leases.grant(A, FILE, bits::UPDATE, 0);
    leases.grant(A, FILE, bits::UPDATE | bits::PERM, 0);
    assert!(!leases.cancel(A, FILE, bits::UPDATE, false, seen.sequence));
    assert_eq!(leases.held(A, FILE).read_bits, bits::UPDATE | bits::PERM);
    let revoke = leases.revoke(conflict(A, bits::UPDATE, false)).unwrap();
    leases.grant(A, FILE, bits::XATTR, 0);
    assert!(leases.cancel(A, FILE, bits::UPDATE | bits::PERM, false, revoke.sequence));
    assert_eq!(leases.held(A, FILE).read_bits, bits::PERM | bits::XATTR);
    assert!(leases.cancel(A, FILE, bits::ALL, false, 0));
    assert!(leases.is_empty() && leases.by_client.is_empty() && leases.by_age.is_empty());
}

/// A client drops an inode and gives back what it held; before that arrives it looks the inode up again, and is asked for what
/// it got then. The late message is no answer to that.
#[test]
fn a_late_cancel_is_no_answer_to_a_revoke_it_has_not_seen() {
    let mut leases = table();
    let dropped = leases.grant(A, FILE, bits::LOOKUP, 0);
    leases.grant(A, FILE, bits::LOOKUP, 0);
    let revoke = leases.revoke(conflict(A, bits::LOOKUP, false)).unwrap();
    assert!(!leases.cancel(A, FILE, bits::LOOKUP, false, dropped.sequence));
    assert!(leases.is_revoking(A, FILE));
    assert!(leases.cancel(A, FILE, bits::LOOKUP, false, revoke.sequence));
    let write = leases.grant(A, FILE, 0, bits::DATA);
    leases.grant(A, FILE, bits::PERM, 0);
    let down = leases.revoke(conflict(A, bits::DATA, true)).unwrap();
    assert!(!leases.cancel(A, FILE, bits::DATA, false, write.sequence));
    assert!(leases.cancel(A, FILE, bits::DATA, true, down.sequence));
}

#[test]
fn sequences_rise_over_a_time_without_leases_and_over_restarts() {
    let mut leases = table();
    let first = leases.grant(A, FILE, bits::UPDATE, 0).sequence;
    leases.cancel(A, FILE, bits::UPDATE, false, first);
    let second = leases.grant(A, FILE, bits::UPDATE, 0).sequence;
    assert!(second > first);
    let mut restarted = Leases::new(Epoch(2), 100);
    assert!(restarted.grant(A, FILE, bits::UPDATE, 0).sequence > second);
}

#[test]
fn what_a_request_is_parked_for_goes_to_nobody_else() {
    let mut leases = table();
    leases.park(A, FILE, bits::UPDATE);
    leases.park(A, FILE, bits::UPDATE);
    let grant = leases.grant(B, FILE, bits::UPDATE | bits::PERM, 0);
    assert_eq!(grant.read_bits, bits::PERM);
    assert_eq!(leases.grant(A, FILE, bits::UPDATE, 0).read_bits, bits::UPDATE);
    leases.unpark(A, FILE, bits::UPDATE);
    assert_eq!(leases.grant(B, FILE, bits::UPDATE, 0).read_bits, bits::PERM);
    leases.unpark(A, FILE, bits::UPDATE);
    leases.unpark(A, FILE, bits::UPDATE);
    assert_eq!(leases.grant(B, FILE, bits::UPDATE, 0).read_bits, bits::PERM | bits::UPDATE);
    assert!(leases.parked.len() == 0);
}

fn drop_client(leases: &mut Leases, client: ClientId) {
    for fid in leases.of_client(client) {
        assert!(leases.cancel(client, fid, bits::ALL, false, 0));
    }
}

#[test]
fn a_dropped_client_leaves_nothing() {
    let mut leases = table();
    leases.grant(A, FILE, READABLE, bits::DATA);
    leases.grant(A, OTHER, bits::LOOKUP, 0);
    leases.grant(B, FILE, bits::PERM, 0);
    leases.park(A, OTHER, bits::UPDATE);
    leases.revoke(conflict(A, bits::DATA, false));
    assert_eq!(leases.of_client(A), [FILE, OTHER]);
    drop_client(&mut leases, A);
    assert_eq!((leases.len(), leases.by_age.len()), (1, 1));
    // A change of it may be on its way through the log: until it ended, others get nothing of what it touches.
    assert_eq!(leases.grant(B, OTHER, bits::UPDATE, 0), LeaseGrant::NONE);
    leases.unpark(A, OTHER, bits::UPDATE);
    assert_eq!(leases.forget(FILE), [B]);
    assert!(leases.is_empty() && leases.by_client.is_empty() && leases.parked.len() == 0);
}

#[test]
fn a_full_table_grants_nothing_new() {
    let mut leases = Leases::new(Epoch(1), 100);
    for oid in 1..=5000 {
        let granted = leases.grant(A, Fid::new(0x400, oid), bits::LOOKUP, bits::DATA);
        assert_eq!(granted != LeaseGrant::NONE, oid <= 94, "number {oid}");
    }
    // The last sixteenth is for those who hold less than is free.
    for client in (10..16).map(ClientId) {
        assert_ne!(leases.grant(client, OTHER, bits::LOOKUP, 0), LeaseGrant::NONE);
    }
    assert_eq!((leases.len(), leases.by_client.len(), leases.by_age.len()), (100, 100, 100));
    // More of what it has takes no room, and what is given back makes some.
    let more = leases.grant(A, FILE, bits::PERM, 0);
    assert_eq!(more.read_bits, bits::LOOKUP | bits::PERM);
    assert!(!leases.has_room(B, FILE) && leases.has_room(A, FILE));
    let late = Fid::new(0x400, 5000);
    assert_eq!(leases.grant(B, late, bits::LOOKUP, 0), LeaseGrant::NONE);
    assert!(leases.cancel(A, FILE, bits::ALL, false, 0));
    assert_eq!(leases.grant(B, late, bits::LOOKUP, 0).read_bits, bits::LOOKUP);
    assert_eq!(leases.len(), 100);
}

#[test]
fn the_leases_longest_unused_are_asked_back_before_the_table_is_full() {
    let mut leases = Leases::new(Epoch(1), 32);
    let fid = |oid| Fid::new(0x400, oid);
    for oid in 1..=28 {
        leases.grant(A, fid(oid), bits::LOOKUP, 0);
    }
    assert_eq!(leases.to_make_room(10), []);
    leases.grant(A, fid(29), bits::LOOKUP, 0);
    leases.grant(A, fid(30), bits::LOOKUP, 0);
    leases.grant(A, fid(1), bits::UPDATE, 0);
    let oldest = leases.to_make_room(10);
    let oids: Vec<u32> = oldest.iter().map(|conflict| conflict.fid.oid).collect();
    assert_eq!(oids, [2, 3]);
    assert_eq!(leases.to_make_room(1).len(), 1);
    let revoke = leases.revoke(oldest[0]).unwrap();
    assert_eq!(leases.to_make_room(10), oldest[1..], "one is on its way");
    leases.cancel(A, oldest[0].fid, bits::ALL, false, revoke.sequence);
    leases.cancel(A, oldest[1].fid, bits::ALL, false, 0);
    assert_eq!(leases.to_make_room(10), []);
    // Part of a lease that is asked back is still old.
    let part = Conflict { client: A, fid: fid(1), bits: bits::UPDATE, to_read: false };
    leases.revoke(part).unwrap();
    leases.grant(A, fid(2), bits::LOOKUP, 0);
    assert_eq!(leases.to_make_room(1)[0].fid, fid(4));
}

#[test]
fn what_two_say_they_write_is_the_first_one_s() {
    let mut leases = table();
    assert_eq!(leases.reassert(A, FILE, READABLE, bits::DATA), Ok(vec![]));
    let held = leases.held(A, FILE);
    assert_eq!((held.read_bits, held.write_bits), (READABLE, bits::DATA));
    assert_eq!(leases.reassert(B, FILE, READABLE, bits::DATA), Err(NotHeld::Written));
    assert_eq!(leases.held(B, FILE), LeaseGrant::NONE);
    leases.park(C, OTHER, bits::UPDATE);
    assert_eq!(leases.reassert(B, OTHER, bits::UPDATE, 0), Ok(vec![]));
    assert_eq!(leases.held(B, OTHER).read_bits, bits::UPDATE);
    assert_eq!(leases.parked.len(), 1);
}

#[test]
fn who_says_it_reads_what_another_writes_gives_it_back_whoever_came_first() {
    let asked = |client| Conflict { client, fid: FILE, bits: bits::DATA, to_read: false };
    let mut leases = table();
    assert_eq!(leases.reassert(A, FILE, 0, bits::DATA), Ok(vec![]));
    for _ in 0..2 {
        assert_eq!(leases.reassert(B, FILE, bits::DATA, 0), Ok(vec![asked(B)]), "the second");
    }
    let mut leases = table();
    assert_eq!(leases.reassert(B, FILE, bits::DATA, 0), Ok(vec![]));
    assert_eq!(leases.reassert(C, FILE, bits::DATA, 0), Ok(vec![]));
    assert_eq!(leases.reassert(A, FILE, bits::DATA, bits::DATA), Ok(vec![asked(B), asked(C)]));
    assert_eq!(leases.held(A, FILE).write_bits, bits::DATA);
    let revoke = leases.revoke(asked(B)).unwrap();
    // It says the same again, over its next connection: it is asked already, and is no older for it.
    assert_eq!(leases.reassert(B, FILE, bits::DATA, 0), Ok(vec![asked(B)]));
    assert_eq!(leases.revoke(asked(B)), None);
    assert!(leases.cancel(B, FILE, bits::DATA, false, revoke.sequence));
    leases.revoke(asked(C)).unwrap();
    assert_eq!(leases.reassert(C, FILE, bits::DATA, 0), Ok(vec![asked(C)]));
    let other = Conflict { client: C, fid: FILE, bits: bits::DATA, to_read: false };
    assert!(!leases.to_make_room(usize::MAX).contains(&other));
    assert!(leases.by_age.values().all(|&(client, _)| client != C), "all it has is asked back");
}

#[test]
fn one_that_asserts_the_whole_table_leaves_the_others_theirs() {
    let mut leases = Leases::new(Epoch(2), 32);
    let fid = |oid| Fid::new(0x400, oid);
    let taken = (1..1000).take_while(|&oid| leases.reassert(A, fid(oid), bits::LOOKUP, 0).is_ok());
    assert_eq!(taken.count(), 30, "as many as it can come to by asking");
    assert_eq!(leases.reassert(A, fid(2000), bits::LOOKUP, 0), Err(NotHeld::TooMany));
    for oid in 1..=30 {
        assert_eq!(leases.reassert(B, fid(oid), bits::LOOKUP, 0), Ok(vec![]), "number {oid}");
    }
    assert_eq!(leases.reassert(C, FILE, bits::LOOKUP, 0), Ok(vec![]));
    assert!(!leases.has_room(C, OTHER) && leases.grant(C, OTHER, bits::LOOKUP, 0).read_bits == 0);
    let clients = [10, 11, 12].map(|client| leases.reassert(ClientId(client), FILE, bits::PERM, 0));
    assert_eq!(clients, [Ok(vec![]), Ok(vec![]), Ok(vec![])]);
    assert_eq!(leases.len(), 64);
    assert_eq!(leases.reassert(ClientId(13), FILE, bits::PERM, 0), Err(NotHeld::TooMany));
    assert_eq!(leases.reassert(C, FILE, bits::PERM, 0), Ok(vec![]), "it takes no place");
    // What is too much is asked back, the oldest first.
    let surplus = leases.to_make_room(usize::MAX);
    assert_eq!(surplus.len(), 64 - 28);
    assert!(surplus[..30].iter().all(|conflict| conflict.client == A));
    for conflict in surplus {
        let revoke = leases.revoke(conflict).unwrap();
        leases.cancel(conflict.client, conflict.fid, conflict.bits, false, revoke.sequence);
    }
    assert_eq!((leases.len(), leases.to_make_room(1)), (28, vec![]));
    assert!(leases.has_room(C, OTHER));
}

#[test]
fn an_inode_is_a_resource_of_four_words() {
    let fid = Fid { seq: 5, oid: 6, ver: 7 };
    assert_eq!(resource(fid), [5, (7 << 32) | 6, 0, 0]);
}

/// Random calls: never two holders in conflict, and the three indexes agree.
/// Numbers below a bound each time, the same ones for the same seed.
fn numbers_from(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut at = seed;
    move |bound| {
        at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (at >> 33) % bound
    }
}

#[test]
fn no_history_lets_two_clients_hold_what_excludes_each_other() {
    for seed in 0..20_u64 {
        println!("seed {seed}");
        let mut random = numbers_from(seed);
        let mut leases = Leases::new(Epoch(1), 4);
        for _ in 0..3000 {
            let client = ClientId(1 + random(3));
            let fid = Fid::new(0x400, 1 + u32::try_from(random(3)).unwrap());
            let mask = u32::try_from(random(128)).unwrap();
            let write = if random(3) == 0 { bits::DATA } else { 0 };
            match random(6) {
                0..3 => {
                    leases.grant(client, fid, mask, write);
                }
                3 => {
                    let to_read = random(2) == 0;
                    leases.revoke(Conflict { client, fid, bits: mask, to_read });
                }
                4 => {
                    leases.cancel(client, fid, mask, random(2) == 0, random(2));
                }
                _ if random(20) == 0 => {
                    drop_client(&mut leases, client);
                }
                _ => {}
            }
            for (&(fid, writer), held) in &leases.by_inode {
                assert_ne!(held.read | held.write, 0);
                let others = leases.holders(fid).filter(|(key, _)| key.1 != writer);
                let taken = others.fold(0, |taken, (_, other)| taken | other.read | other.write);
                assert_eq!(held.write & taken, 0);
            }
            assert_eq!(leases.by_inode.len(), leases.by_client.len());
            assert!(leases.by_inode.len() <= 4);
            for (&(fid, client), held) in &leases.by_inode {
                let old = leases.by_age.get(&held.stamp) == Some(&(client, fid));
                assert_eq!(old, !held.is_asked_back());
            }
            assert!(leases.by_age.len() <= leases.by_inode.len());
        }
    }
}

#[test]
fn asserting_nothing_takes_no_place_in_a_full_table() {
    let mut leases = Leases::new(Epoch(1), 1);
    leases.grant(A, FILE, READABLE, 0);
    assert!(!leases.has_room(B, OTHER));
    assert_eq!(leases.reassert(B, OTHER, 0, 0), Ok(vec![]));
    assert_eq!(leases.len(), 1);
}

/// What is counted for an inode with parked requests against what a walk over all finds.
fn check_counts(leases: &Leases, parks: &[(ClientId, Fid, u32)]) {
    for &(client, fid, wanted) in parks {
        let walked = leases.conflicts(client, fid, wanted, LockMode::Exclusive);
        let touched = [(fid, wanted)];
        assert_eq!(leases.in_way(client, &touched), walked.first().map(|_| (fid, wanted)));
        let new = |conflict: &&Conflict| {
            let held = leases.by_inode[&(fid, conflict.client)];
            conflict.bits & !held.revoking != 0
        };
        let walked: Vec<_> = walked.iter().filter(new).map(|conflict| conflict.client).collect();
        let unasked = leases.unasked(client, &touched);
        assert!(walked.iter().all(|one| unasked.iter().any(|other| other.client == *one)));
        let others = parks.iter().filter(|park| park.0 != client && park.1 == fid);
        let wanted_by_others = others.fold(0, |wanted, park| wanted | park.2);
        assert_eq!(leases.wanted_by_others(client, fid), wanted_by_others);
    }
    let fids: BTreeSet<Fid> = parks.iter().map(|park| park.1).collect();
    assert_eq!(leases.parked(), fids.len());
}

#[test]
fn what_is_counted_for_parked_requests_is_what_a_walk_finds() {
    for seed in 0..20_u64 {
        println!("seed {seed}");
        let mut random = numbers_from(seed);
        let mut leases = Leases::new(Epoch(1), 100);
        let mut parks: Vec<(ClientId, Fid, u32)> = Vec::new();
        for _ in 0..2000 {
            let client = ClientId(1 + random(4));
            let fid = Fid::new(0x400, 1 + u32::try_from(random(2)).unwrap());
            let mask = u32::try_from(random(128)).unwrap();
            let write = if random(3) == 0 { bits::DATA } else { 0 };
            match random(9) {
                0..3 => {
                    leases.grant(client, fid, mask, write);
                }
                3 => {
                    let to_read = random(2) == 0;
                    leases.revoke(Conflict { client, fid, bits: mask, to_read });
                }
                4 => {
                    leases.cancel(client, fid, mask, random(2) == 0, random(2));
                }
                5 if parks.len() < 6 => {
                    leases.park(client, fid, mask);
                    parks.push((client, fid, mask));
                    for conflict in leases.unasked(client, &[(fid, mask)]) {
                        leases.revoke(conflict);
                    }
                    let left = leases.unasked(client, &[(fid, mask)]);
                    assert_eq!(left, [], "all others were asked");
                }
                5 | 6 if !parks.is_empty() => {
                    let which = usize::try_from(random(parks.len() as u64)).unwrap();
                    let (client, fid, mask) = parks.swap_remove(which);
                    leases.unpark(client, fid, mask);
                }
                7 if random(10) == 0 => drop_client(&mut leases, client),
                8 if random(20) == 0 => {
                    leases.forget(fid);
                }
                8 => {
                    let _ = leases.reassert(client, fid, mask, write);
                }
                _ => {}
            }
            check_counts(&leases, &parks);
        }
    }
}

#[test]
fn one_request_more_looks_at_no_holder_that_was_asked() {
    let mut leases = Leases::new(Epoch(1), 1000);
    for holder in 1..=500 {
        leases.grant(ClientId(holder), FILE, READABLE, 0);
    }
    let before = leases.looks();
    for waiter in 1..=400 {
        let (client, touched) = (ClientId(waiter), [(FILE, bits::UPDATE)]);
        leases.park(client, FILE, bits::UPDATE);
        for conflict in leases.unasked(client, &touched) {
            leases.revoke(conflict).unwrap();
        }
        assert_eq!(leases.in_way(client, &touched), Some(touched[0]));
    }
    for holder in 1..=500 {
        assert!(leases.cancel(ClientId(holder), FILE, bits::UPDATE, false, 0));
        let held = leases.held_by(FILE, bits::UPDATE);
        assert_eq!(held == HeldBy::Nobody, holder == 500);
        assert_eq!(held == HeldBy::Only(ClientId(500)), holder == 499);
    }
    assert_eq!(leases.looks() - before, 2 * 500, "counted once, asked once");
}
