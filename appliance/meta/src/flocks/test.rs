//! Tests of the table of file locks.

use super::*;

const A: ClientId = ClientId(1);
const B: ClientId = ClientId(2);
const C: ClientId = ClientId(3);
const FILE: Fid = Fid::new(0x400, 1);
const OTHER: Fid = Fid::new(0x400, 2);

fn record(fid: Fid, kind: LockType, start: u64, end: u64) -> FileLock {
    FileLock { fid, family: LockFamily::Posix, kind, owner: 7, pid: 70, start, end }
}

fn flock(kind: LockType) -> FileLock {
    FileLock { family: LockFamily::Flock, ..record(FILE, kind, 3, 4) }
}

fn table() -> FileLocks {
    FileLocks::new(LockLimits { locks_max: 100, waiters_max: 10, ..LockLimits::default() })
}

/// Sets without waiting; nobody's wait may end by it.
fn set(locks: &mut FileLocks, client: ClientId, lock: &FileLock) -> Result<(), Errno> {
    let mut ended = Vec::new();
    let answer = locks.set(client, lock, None, &mut ended);
    assert_eq!(ended, []);
    match answer {
        LockAnswer::Granted => Ok(()),
        LockAnswer::Refused(errno) => Err(errno),
        LockAnswer::Waiting => panic!("waits unasked"),
    }
}

fn held(locks: &FileLocks, fid: Fid) -> Vec<(u64, u64, u64, LockType)> {
    let resource = locks.resources.get(&(fid, LockFamily::Posix));
    let ranges = resource.iter().flat_map(|resource| resource.held.iter());
    ranges.map(|r| (r.owner.client.0, r.start, r.end, r.kind)).collect()
}

#[test]
fn ranges_of_an_owner_split_and_merge() {
    use LockType::{Read, Unlock, Write};
    let mut locks = table();
    set(&mut locks, A, &record(FILE, Write, 0, 99)).unwrap();
    set(&mut locks, A, &record(FILE, Read, 40, 59)).unwrap();
    assert_eq!(held(&locks, FILE), [(1, 0, 39, Write), (1, 40, 59, Read), (1, 60, 99, Write)]);
    set(&mut locks, A, &record(FILE, Unlock, 10, 19)).unwrap();
    assert_eq!(locks.len(), 4);
    set(&mut locks, A, &record(FILE, Write, 5, 80)).unwrap();
    assert_eq!(held(&locks, FILE), [(1, 0, 99, Write)]);
    set(&mut locks, A, &record(FILE, Write, 100, RANGE_END)).unwrap();
    assert_eq!(held(&locks, FILE), [(1, 0, RANGE_END, Write)]);
    set(&mut locks, A, &record(FILE, Unlock, 0, u64::MAX)).unwrap();
    assert!(locks.is_empty() && locks.resources.is_empty() && locks.by_client.is_empty());
}

#[test]
fn readers_share_and_a_writer_does_not() {
    use LockType::{Read, Write};
    let mut locks = table();
    set(&mut locks, A, &record(FILE, Read, 0, 9)).unwrap();
    set(&mut locks, B, &record(FILE, Read, 5, 14)).unwrap();
    assert_eq!(set(&mut locks, B, &record(FILE, Write, 9, 20)), Err(Errno::EAGAIN));
    set(&mut locks, B, &record(FILE, Write, 10, 20)).unwrap();
    let seen = locks.test(A, &record(FILE, Read, 0, RANGE_END)).unwrap();
    assert_eq!((seen.kind, seen.start, seen.end, seen.pid), (Write, 10, 20, 70));
    assert_eq!(locks.test(B, &record(FILE, Read, 0, RANGE_END)), None);
    // Another owner of the same client is another.
    let other = FileLock { owner: 8, ..record(FILE, Read, 15, 15) };
    assert_eq!(set(&mut locks, B, &other), Err(Errno::EAGAIN));
}

#[test]
fn the_families_do_not_see_each_other() {
    let mut locks = table();
    set(&mut locks, A, &record(FILE, LockType::Write, 0, RANGE_END)).unwrap();
    set(&mut locks, B, &flock(LockType::Write)).unwrap();
    assert_eq!(set(&mut locks, A, &flock(LockType::Read)), Err(Errno::EAGAIN));
}

#[test]
fn those_who_wait_are_served_longest_first() {
    use LockType::{Read, Unlock, Write};
    let mut locks = table();
    let mut ended = Vec::new();
    set(&mut locks, A, &record(FILE, Write, 0, 9)).unwrap();
    for (client, kind) in [(B, Write), (C, Read)] {
        let answer = locks.set(client, &record(FILE, kind, 0, 9), Some(Xid(5)), &mut ended);
        assert_eq!(answer, LockAnswer::Waiting);
    }
    let unlock = record(FILE, Unlock, 0, 9);
    assert_eq!(locks.set(A, &unlock, None, &mut ended), LockAnswer::Granted);
    assert_eq!(ended, [LockGrant { client: B, xid: Xid(5), result: Ok(()) }]);
    ended.clear();
    // Going down to reading lets the reader in.
    assert_eq!(locks.set(B, &record(FILE, Read, 0, 9), None, &mut ended), LockAnswer::Granted);
    assert_eq!(ended, [LockGrant { client: C, xid: Xid(5), result: Ok(()) }]);
    assert_eq!(locks.waiting(), 0);
}

#[test]
fn a_cancelled_wait_is_never_granted() {
    let mut locks = table();
    let mut ended = Vec::new();
    set(&mut locks, A, &flock(LockType::Write)).unwrap();
    let answer = locks.set(B, &flock(LockType::Write), Some(Xid(9)), &mut ended);
    assert_eq!(answer, LockAnswer::Waiting);
    assert!(locks.cancel(B, Xid(9)));
    assert!(!locks.cancel(B, Xid(9)));
    locks.release(A, FILE, LockFamily::Flock, 7, &mut ended);
    assert_eq!(ended, []);
    assert!(locks.is_empty() && locks.resources.is_empty() && locks.by_client.is_empty());
}

#[test]
fn changing_a_flock_gives_the_old_one_up_first() {
    let mut locks = table();
    let mut ended = Vec::new();
    set(&mut locks, A, &flock(LockType::Read)).unwrap();
    set(&mut locks, B, &flock(LockType::Read)).unwrap();
    assert_eq!(set(&mut locks, A, &flock(LockType::Read)), Ok(()));
    let answer = locks.set(A, &flock(LockType::Write), Some(Xid(1)), &mut ended);
    assert_eq!((answer, locks.len()), (LockAnswer::Waiting, 1));
    // B upgrades: its own lock goes, which lets A in, so it is B that is refused.
    let answer = locks.set(B, &flock(LockType::Write), None, &mut ended);
    assert_eq!(answer, LockAnswer::Refused(Errno::EAGAIN));
    assert_eq!(ended, [LockGrant { client: A, xid: Xid(1), result: Ok(()) }]);
}

#[test]
fn a_ring_of_waits_is_refused() {
    use LockType::Write;
    let mut locks = table();
    let mut ended = Vec::new();
    let third = Fid::new(0x400, 3);
    for (client, fid) in [(A, FILE), (B, OTHER), (C, third)] {
        set(&mut locks, client, &record(fid, Write, 0, 9)).unwrap();
    }
    for (client, fid) in [(A, OTHER), (B, third)] {
        let answer = locks.set(client, &record(fid, Write, 5, 6), Some(Xid(1)), &mut ended);
        assert_eq!(answer, LockAnswer::Waiting);
    }
    let closing = record(FILE, Write, 9, 9);
    let answer = locks.set(C, &closing, Some(Xid(1)), &mut ended);
    assert_eq!(answer, LockAnswer::Refused(Errno::EDEADLK));
    assert_eq!(locks.set(C, &closing, None, &mut ended), LockAnswer::Refused(Errno::EAGAIN));
    // Beside the ring waiting is fine.
    let beside = FileLock { owner: 99, ..closing };
    assert_eq!(locks.set(C, &beside, Some(Xid(2)), &mut ended), LockAnswer::Waiting);
}

#[test]
fn a_full_table_refuses_and_keeps_nothing() {
    use LockType::{Unlock, Write};
    let mut locks =
        FileLocks::new(LockLimits { locks_max: 4, waiters_max: 1, ..LockLimits::default() });
    set(&mut locks, A, &record(FILE, Write, 0, 9)).unwrap();
    set(&mut locks, A, &record(FILE, Write, 20, 29)).unwrap();
    assert_eq!(set(&mut locks, A, &record(FILE, Write, 40, 49)), Err(Errno::ENOLCK), "its share");
    set(&mut locks, B, &record(OTHER, Write, 0, 9)).unwrap();
    set(&mut locks, C, &record(OTHER, Write, 20, 29)).unwrap();
    assert_eq!(set(&mut locks, A, &record(FILE, Unlock, 5, 5)), Err(Errno::ENOLCK));
    assert_eq!(held(&locks, FILE), [(1, 0, 9, Write), (1, 20, 29, Write)]);
    set(&mut locks, A, &record(FILE, Write, 10, 19)).unwrap();
    assert_eq!(locks.len(), 3);
    assert_eq!(set(&mut locks, A, &record(FILE, Write, 9, 8)), Err(Errno::EINVAL));
    let mut ended = Vec::new();
    let lock = record(FILE, Write, 0, 0);
    assert_eq!(locks.set(B, &lock, Some(Xid(1)), &mut ended), LockAnswer::Waiting);
    let answer = locks.set(C, &lock, Some(Xid(1)), &mut ended);
    assert_eq!(answer, LockAnswer::Refused(Errno::ENOLCK));
}

#[test]
fn a_dropped_client_frees_its_locks_and_waits() {
    use LockType::Write;
    let mut locks = table();
    let mut ended = Vec::new();
    set(&mut locks, A, &record(FILE, Write, 0, 9)).unwrap();
    set(&mut locks, B, &record(OTHER, Write, 0, 9)).unwrap();
    let lock = record(FILE, Write, 0, 9);
    assert_eq!(locks.set(C, &lock, Some(Xid(3)), &mut ended), LockAnswer::Waiting);
    let lock = record(OTHER, Write, 0, 9);
    assert_eq!(locks.set(A, &lock, Some(Xid(4)), &mut ended), LockAnswer::Waiting);
    locks.drop_client(A, &mut ended);
    assert_eq!(ended, [LockGrant { client: C, xid: Xid(3), result: Ok(()) }]);
    assert_eq!(locks.waiting(), 0);
    locks.drop_client(B, &mut ended);
    locks.drop_client(C, &mut ended);
    assert_eq!(ended.len(), 1);
    assert!(locks.is_empty() && locks.resources.is_empty() && locks.by_client.is_empty());
}

#[test]
fn waits_on_an_inode_that_goes_end_stale() {
    let mut locks = table();
    let mut ended = Vec::new();
    set(&mut locks, A, &flock(LockType::Write)).unwrap();
    set(&mut locks, A, &record(FILE, LockType::Read, 1, 2)).unwrap();
    locks.set(B, &flock(LockType::Read), Some(Xid(8)), &mut ended);
    locks.forget(FILE, &mut ended);
    assert_eq!(ended, [LockGrant { client: B, xid: Xid(8), result: Err(Errno::ESTALE) }]);
    assert!(locks.is_empty() && locks.resources.is_empty() && locks.by_client.is_empty());
}

#[test]
fn the_first_to_assert_again_wins() {
    let mut locks = table();
    assert_eq!(locks.reassert(A, &flock(LockType::Write)), Ok(()));
    assert_eq!(locks.reassert(A, &flock(LockType::Write)), Ok(()));
    assert_eq!(locks.reassert(B, &flock(LockType::Write)), Err(Errno::EAGAIN));
    assert_eq!(locks.reassert(B, &flock(LockType::Unlock)), Err(Errno::EINVAL));
    assert_eq!(locks.len(), 1);
}

/// Who holds each of a few bytes how: the simplest table.
type Bytes = BTreeMap<(Owner, u64), LockType>;

fn blocked(bytes: &Bytes, owner: Owner, lock: &FileLock) -> bool {
    (lock.start..=lock.end).any(|at| {
        bytes.iter().any(|(&(other, byte), &kind)| {
            let excludes = kind == LockType::Write || lock.kind == LockType::Write;
            byte == at && other != owner && excludes && lock.kind != LockType::Unlock
        })
    })
}

fn put(bytes: &mut Bytes, owner: Owner, lock: &FileLock) {
    for at in lock.start..=lock.end {
        if lock.kind == LockType::Unlock {
            bytes.remove(&(owner, at));
        } else {
            bytes.insert((owner, at), lock.kind);
        }
    }
}

#[test]
fn a_random_history_agrees_with_a_table_of_bytes() {
    const KINDS: [LockType; 4] =
        [LockType::Read, LockType::Write, LockType::Unlock, LockType::Unlock];
    for seed in 0..30_u64 {
        println!("seed {seed}");
        let mut at = seed;
        let mut random = |bound: u64| {
            at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (at >> 33) % bound
        };
        let mut locks = FileLocks::new(LockLimits::default());
        let mut bytes = Bytes::new();
        let mut waits: BTreeMap<(ClientId, Xid), FileLock> = BTreeMap::new();
        for xid in 0..2000 {
            let client = ClientId(1 + random(3));
            let kind = KINDS[usize::try_from(random(4)).unwrap()];
            let start = random(12);
            let range = record(FILE, kind, start, start + random(6));
            let lock = FileLock { owner: random(2), ..range };
            let owner = Owner { client, owner: lock.owner };
            let mut ended = Vec::new();
            let gone = random(200) == 0;
            if gone {
                locks.drop_client(client, &mut ended);
                bytes.retain(|(owner, _), _| owner.client != client);
                waits.retain(|(waiter, _), _| *waiter != client);
            }
            let wait = (random(2) == 0 && waits.len() < 4).then_some(Xid(xid));
            let answer = if gone {
                LockAnswer::Refused(Errno::ENOTCONN)
            } else {
                assert_eq!(locks.test(client, &lock).is_some(), blocked(&bytes, owner, &lock));
                locks.set(client, &lock, wait, &mut ended)
            };
            match answer {
                LockAnswer::Refused(Errno::ENOTCONN) => {}
                LockAnswer::Granted => {
                    assert!(!blocked(&bytes, owner, &lock));
                    put(&mut bytes, owner, &lock);
                }
                LockAnswer::Refused(_) => assert!(blocked(&bytes, owner, &lock)),
                LockAnswer::Waiting => {
                    assert!(blocked(&bytes, owner, &lock));
                    waits.insert((client, Xid(xid)), lock);
                }
            }
            for LockGrant { client, xid, result } in ended {
                let lock = waits.remove(&(client, xid)).unwrap();
                let owner = Owner { client, owner: lock.owner };
                assert!(result == Ok(()) && !blocked(&bytes, owner, &lock));
                put(&mut bytes, owner, &lock);
            }
            // Nobody waits for what is free, and neighbours were merged.
            for ((client, _), lock) in &waits {
                assert!(blocked(&bytes, Owner { client: *client, owner: lock.owner }, lock));
            }
            let joined = bytes.iter().filter(|&(&(owner, at), kind)| {
                at > 0 && bytes.get(&(owner, at - 1)) == Some(kind)
            });
            assert_eq!(locks.len(), bytes.len() - joined.count());
            assert_eq!(locks.waiting(), waits.len());
        }
    }
}

#[test]
fn the_locks_of_one_inode_are_bounded() {
    let mut locks = FileLocks::new(LockLimits { inode_locks_max: 3, ..LockLimits::default() });
    let byte = |kind, at| record(FILE, kind, at, at);
    for at in [0, 2, 4] {
        assert_eq!(set(&mut locks, A, &byte(LockType::Write, at)), Ok(()));
    }
    assert_eq!(set(&mut locks, A, &byte(LockType::Write, 6)), Err(Errno::ENOLCK));
    assert_eq!(set(&mut locks, B, &byte(LockType::Write, 6)), Err(Errno::ENOLCK));
    assert_eq!(set(&mut locks, A, &byte(LockType::Write, 3)), Ok(()), "it joins two");
    assert_eq!(set(&mut locks, A, &byte(LockType::Write, 20)), Ok(()));
    assert_eq!(set(&mut locks, A, &byte(LockType::Unlock, 3)), Ok(()), "what is given back splits");
    assert_eq!(locks.len(), 4);
    assert_eq!(set(&mut locks, A, &record(OTHER, LockType::Write, 0, 0)), Ok(()));
}

#[test]
fn one_that_splits_its_locks_leaves_the_others_their_places() {
    let mut locks =
        FileLocks::new(LockLimits { locks_max: 100, clients_max: 5, ..LockLimits::default() });
    set(&mut locks, A, &record(FILE, LockType::Write, 0, RANGE_END)).unwrap();
    let bytes = (1..1000).map(|at| record(FILE, LockType::Unlock, at * 2, at * 2));
    let done = bytes.take_while(|byte| set(&mut locks, A, byte) == Ok(())).count();
    assert_eq!((done, locks.len()), (42, 43), "as many as it can come to by taking them");
    let all = record(FILE, LockType::Unlock, 0, RANGE_END);
    assert_eq!(set(&mut locks, B, &record(OTHER, LockType::Write, 0, 0)), Ok(()));
    assert_eq!(set(&mut locks, A, &all), Ok(()), "the whole is always given back");
    assert_eq!(locks.len(), 1);
}

#[test]
fn locks_from_before_a_restart_come_back_though_one_asserts_all_it_can() {
    let mut locks =
        FileLocks::new(LockLimits { locks_max: 100, clients_max: 5, ..LockLimits::default() });
    let byte = |fid, at: u64| record(fid, LockType::Write, at * 2, at * 2);
    let asserted = (0..1000).take_while(|&at| locks.reassert(A, &byte(FILE, at)).is_ok());
    assert_eq!(asserted.count(), 43);
    assert_eq!(locks.reassert(A, &byte(FILE, 2000)), Err(Errno::ENOLCK));
    for at in 0..43 {
        assert_eq!(locks.reassert(B, &byte(OTHER, at)), Ok(()), "number {at}");
    }
    for at in 100..124 {
        assert_eq!(locks.reassert(C, &byte(OTHER, at)), Ok(()), "number {at}");
    }
    assert_eq!(locks.reassert(A, &byte(FILE, 0)), Ok(()), "it takes no place");
    assert_eq!(set(&mut locks, C, &byte(FILE, 3000)), Err(Errno::ENOLCK), "nothing new");
    assert_eq!(set(&mut locks, C, &record(OTHER, LockType::Unlock, 0, RANGE_END)), Ok(()));
    assert_eq!(locks.len(), 86);
}

/// Lets `owner` of B wait for what is free of deadlocks.
fn wait(locks: &mut FileLocks, owner: u64, xid: u64, lock: &FileLock) {
    let lock = FileLock { owner, ..lock.clone() };
    assert_eq!(locks.set(B, &lock, Some(Xid(xid)), &mut Vec::new()), LockAnswer::Waiting);
}

#[test]
fn the_search_for_rings_costs_by_owners_and_not_by_their_ranges() {
    use LockType::Write;
    let mut locks = FileLocks::new(LockLimits::default());
    for at in 0..30_000 {
        set(&mut locks, A, &record(FILE, Write, at * 2, at * 2)).unwrap();
    }
    for owner in 0..100 {
        let byte = record(OTHER, Write, owner, owner);
        set(&mut locks, B, &FileLock { owner, ..byte }).unwrap();
        wait(&mut locks, owner, owner, &record(FILE, Write, 0, RANGE_END));
    }
    let asked = record(OTHER, Write, 0, RANGE_END);
    let mut steps = usize::MAX;
    assert!(!locks.finds_ring(Owner { client: B, owner: 1000 }, &asked, &mut steps));
    let taken = usize::MAX - steps;
    assert!(taken < 30_000, "{taken} steps for 100 owners of one range and one of 30,000");
    // Out of steps, it lets the request wait.
    let mut steps = 10;
    assert!(!locks.finds_ring(Owner { client: B, owner: 1000 }, &asked, &mut steps));
    assert_eq!(steps, 0);
    // And a ring is still one: A waits for what the others hold, who wait for A.
    let closing = record(OTHER, Write, 50, 50);
    let answer = locks.set(A, &closing, Some(Xid(1)), &mut Vec::new());
    assert_eq!(answer, LockAnswer::Refused(Errno::EDEADLK));
}

#[test]
fn giving_back_wakes_nobody_who_waits_for_something_else() {
    use LockType::{Read, Unlock, Write};
    let mut locks = FileLocks::new(LockLimits::default());
    for at in 0..30_000 {
        set(&mut locks, A, &record(FILE, Read, at * 2, at * 2)).unwrap();
    }
    set(&mut locks, C, &record(FILE, Write, 1 << 40, 1 << 40)).unwrap();
    for owner in 0..100 {
        wait(&mut locks, owner, owner, &record(FILE, Read, 0, RANGE_END));
    }
    for at in 0..200 {
        set(&mut locks, A, &record(FILE, Unlock, at * 2, at * 2)).unwrap();
    }
    let mut ended = Vec::new();
    locks.set(C, &record(FILE, Unlock, 1 << 40, 1 << 40), None, &mut ended);
    assert_eq!(ended.len(), 100);
}
