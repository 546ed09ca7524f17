//! Signals to programs that wait for the file system: those that end a program do, others do not show.

use std::{
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use sheen_fuse::kernel::{NodeId, OpenedAs};

use crate::{actor::Actor, memory, memory::Memory, mounted::Mounted, wait_for};

/// Far less than a program would notice, far more than it takes.
const AT_ONCE: Duration = Duration::from_secs(1);

/// A file system whose reads are its programs' own, not of the page cache.
fn direct() -> (Arc<Memory>, Mounted) {
    let mut memory = Memory::new();
    memory.opened_as = OpenedAs { direct_io: true, ..OpenedAs::default() };
    let memory = Arc::new(memory);
    let mounted = Mounted::new(memory.clone());
    fs::write(mounted.path("file"), b"content").unwrap();
    (memory, mounted)
}

#[test]
fn a_program_that_waits_can_be_killed_at_once() {
    let (memory, mount) = direct();
    for (act, name) in [("read", "file"), ("stat", "new"), ("mkdir", "new")] {
        let gate = if act == "stat" { &memory.door } else { &memory.gate };
        let closed = gate.close();
        let actor = Actor::start(act, &mount.path(name));
        wait_for("the program to wait", || mount.session.serving() == 1);
        let killed = Instant::now();
        actor.kill();
        assert!(killed.elapsed() < AT_ONCE, "{act}: {:?}", killed.elapsed());
        wait_for("the request to end", || mount.session.serving() == 0);
        drop(closed);
    }
}

#[test]
fn a_timer_does_not_show() {
    let (memory, mount) = memory();
    fs::write(mount.path("file"), b"content").unwrap();
    mount.notifier.invalidate_entry(NodeId::ROOT, b"file").unwrap();
    let closed = memory.door.close();
    let actor = Actor::start("timer", &mount.path("file"));
    wait_for("the program to wait", || mount.session.serving() == 1);
    actor.wait_for_signal();
    drop(closed);
    assert!(actor.done().end().success(), "stat succeeded");
}

#[test]
fn a_program_that_got_a_harmless_signal_before_can_be_killed_all_the_same() {
    let (memory, mount) = memory();
    let _closed = memory.door.close();
    let actor = Actor::start("timer", &mount.path("file"));
    wait_for("the program to wait", || mount.session.serving() == 1);
    actor.wait_for_signal();
    assert_eq!(mount.session.serving(), 1);
    let killed = Instant::now();
    actor.kill();
    assert!(killed.elapsed() < AT_ONCE, "{:?}", killed.elapsed());
}

#[test]
fn many_that_wait_are_all_killed_and_the_others_go_on() {
    let (memory, mount) = direct();
    let closed = memory.gate.close();
    let readers: Vec<_> = (0..8).map(|_| Actor::start("read", &mount.path("file"))).collect();
    wait_for("all to wait", || mount.session.serving() == 8);
    for reader in readers {
        let killed = Instant::now();
        reader.kill();
        assert!(killed.elapsed() < AT_ONCE, "{:?}", killed.elapsed());
    }
    fs::write(mount.path("other"), b"goes on").unwrap();
    drop(closed);
    assert_eq!(fs::read(mount.path("file")).unwrap(), b"content");
}
