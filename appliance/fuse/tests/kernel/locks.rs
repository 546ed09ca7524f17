//! Two families of file locks, and waits that end.

use std::{fs, sync::Arc};

use sheen_fuse::kernel::LockFamily;

use crate::{actor::Actor, memory, memory::Memory, mounted::Mounted, wait_for};

fn locker(mount: &Mounted, family: &str) -> Actor {
    Actor::start(family, &mount.path("l"))
}

#[test]
fn flock_and_fcntl_locks_are_two_families() {
    let (memory, mount) = memory();
    fs::write(mount.path("l"), b"").unwrap();
    let one = locker(&mount, "flock").done();
    let two = locker(&mount, "fcntl").done();
    let families: Vec<_> = memory.locks.held().iter().map(|held| held.family).collect();
    assert_eq!(families, [LockFamily::Flock, LockFamily::Posix]);
    for actor in [one, two] {
        assert!(actor.end().success());
    }
    wait_for("locks to be dropped", || memory.locks.held().is_empty());
}

#[test]
fn a_process_that_waits_for_a_lock_can_be_killed() {
    for family in ["flock", "fcntl"] {
        let (memory, mount) = memory();
        fs::write(mount.path("l"), b"").unwrap();
        let holder = locker(&mount, family).done();
        let waiter = locker(&mount, family);
        wait_for("the waiter", || mount.session.serving() == 1);
        waiter.kill();
        wait_for("the wait to end", || mount.session.serving() == 0);
        assert_eq!(memory.locks.held().len(), 1, "the holder keeps its lock");
        assert!(holder.end().success());
    }
}

#[test]
fn a_waiter_gets_the_lock_when_its_holder_ends() {
    let (_memory, mount) = memory();
    fs::write(mount.path("l"), b"").unwrap();
    let holder = locker(&mount, "fcntl").done();
    let waiter = locker(&mount, "fcntl");
    wait_for("the waiter", || mount.session.serving() == 1);
    assert!(holder.end().success());
    assert!(waiter.done().end().success());
}

#[test]
fn waits_for_locks_beyond_the_threads_are_parked_and_free_locks_are_taken() {
    let memory = Arc::new(Memory::new());
    let mount = Mounted::with(memory, "", |options| options.waiters_max = 2);
    for name in ["l", "other", "free"] {
        fs::write(mount.path(name), b"").unwrap();
    }
    let locker = |name| Actor::start("fcntl", &mount.path(name));
    let (holder, other) = (locker("l").done(), locker("other").done());
    let waiters = [locker("l"), locker("l")];
    wait_for("the waiters", || mount.session.serving() == 2);
    let parked = locker("other");
    wait_for("one without a thread", || mount.session.parked() == 1);
    let killed = locker("other");
    wait_for("another", || mount.session.parked() == 2);
    assert!(locker("free").done().end().success(), "nobody holds that lock");
    killed.kill();
    wait_for("one to be killed", || mount.session.parked() == 1);
    // No thread that waits gets free, but the lock does.
    assert!(other.end().success());
    assert!(parked.done().end().success());
    for waiter in waiters {
        waiter.kill();
    }
    assert!(holder.end().success());
}
