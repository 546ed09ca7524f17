//! The client against a fake server and a clock of the test: leases that end, sessions that are ended, other nodes.

use std::{
    ops::Range,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use sheen_ports::{Cancel, Clock};
use sheen_types::{ClientId, Errno, Fid, Tick, Timespec};
use sheen_wire::{
    Field, Opcode,
    lease::bits,
    metadata::{Connect, Ping, Reassert},
};

use crate::{
    Access, CacheSink, Client, ClientConfig, Inode, WriteOptions,
    fake::{FILE, Fake},
    scenarios::WRITE,
};

/// Time goes on when the test says so.
#[derive(Debug, Default)]
pub(crate) struct TestClock(pub(crate) AtomicU64);

impl Clock for TestClock {
    fn now(&self) -> Tick {
        Tick(self.0.load(Ordering::SeqCst))
    }

    fn wall(&self) -> Timespec {
        Timespec { seconds: 1_700_000_000, nanoseconds: 0 }
    }
}

struct World {
    fake: Fake,
    client: Arc<Client>,
    clock: Arc<TestClock>,
    file: Arc<Inode>,
}

/// The fake's lease is 60 s, of which the client keeps 3 s as margin; it waits 5 s for a client that hung up.
fn start() -> World {
    let fake = Fake::new();
    let config = ClientConfig::new("fake", "fs", "test").unwrap();
    let clock = Arc::new(TestClock::default());
    let client = Client::connect(config, Arc::new(fake.clone()), clock.clone()).unwrap();
    let file = client.inode(FILE);
    let world = World { fake, client, clock, file };
    world.fake.change(|state| state.write_as_another(0, b"content"));
    assert_eq!(world.read(&Cancel::new()).unwrap(), b"content");
    world.client.attributes(&world.file, &Cancel::new()).unwrap();
    world
}

fn cancelled() -> Cancel {
    let cancel = Cancel::new();
    cancel.cancel();
    cancel
}

impl World {
    fn pass(&self, milliseconds: u64) {
        self.clock.0.fetch_add(milliseconds * 1_000_000, Ordering::SeqCst);
        self.client.session.poke();
    }

    /// Neither this connection nor a new one is answered.
    fn cut(&self) {
        self.fake.change(|state| {
            state.gone = true;
            state.hold = Some(Opcode::Ping);
        });
    }

    fn heal(&self) {
        self.fake.change(|state| {
            state.gone = false;
            state.hold = None;
        });
    }

    fn read(&self, cancel: &Cancel) -> Result<Vec<u8>, Errno> {
        let room = self.fake.buffer(7);
        let outcome = self.client.read(&self.file, 0, room, Access::Direct, cancel)?;
        Ok(outcome.buffer.map_or(Vec::new(), |buffer| buffer.as_slice()[..outcome.bytes].to_vec()))
    }

    /// What a program gets that does not want to wait.
    fn attributes(&self) -> Result<u64, Errno> {
        let observed = self.client.attributes(&self.file, &cancelled())?;
        Ok(observed.attributes.size)
    }

    /// Something that must not happen does not happen for a tenth of a second.
    fn stays(&self, what: &str, is: impl Fn() -> bool) {
        let start = std::time::Instant::now();
        while start.elapsed() < Duration::from_millis(100) {
            assert!(is(), "{what}");
            std::thread::yield_now();
        }
    }

    fn asked(&self) -> usize {
        let log = &self.fake.lock().log;
        log.iter().filter(|sent| !matches!(sent.opcode, Opcode::Ping | Opcode::Connect)).count()
    }

    fn connects(&self) -> Vec<ClientId> {
        let sent = self.fake.sent(Opcode::Connect);
        sent.iter().map(|sent| Connect::from_bytes(&sent.body).unwrap().client).collect()
    }
}

/// The kernel's caches: what was taken back, and a hand on the page that takes long.
#[derive(Default)]
struct Kernel {
    entries: AtomicUsize,
    state: Mutex<KernelState>,
    changed: Condvar,
}

#[derive(Default)]
struct KernelState {
    dropped: Vec<Fid>,
    /// Connects sent when content was dropped.
    connects: Vec<usize>,
    stuck: bool,
    during: Option<Box<dyn FnOnce() + Send>>,
    server: Option<Fake>,
}

impl Kernel {
    fn wait_for(&self, what: &str, is: impl Fn(&KernelState) -> bool) {
        let state = self.state.lock().unwrap();
        let (_state, outcome) = self
            .changed
            .wait_timeout_while(state, Duration::from_secs(10), |state| !is(state))
            .unwrap();
        assert!(!outcome.timed_out(), "{what}");
    }

    fn release(&self) {
        self.state.lock().unwrap().stuck = false;
        self.changed.notify_all();
    }
}

impl CacheSink for Kernel {
    fn invalidate_data(&self, fid: Fid, _: Range<u64>) {
        let mut state = self.state.lock().unwrap();
        let connects = state.server.as_ref().map_or(0, |fake| fake.sent(Opcode::Connect).len());
        state.connects.push(connects);
        state.dropped.push(fid);
        self.changed.notify_all();
        if let Some(during) = state.during.take() {
            drop(state);
            during();
            state = self.state.lock().unwrap();
        }
        while state.stuck {
            state = self.changed.wait(state).unwrap();
        }
    }

    fn invalidate_attributes(&self, _: Fid) {}

    fn invalidate_entries(&self) {
        self.entries.fetch_add(1, Ordering::SeqCst);
    }
}

fn kernel_of(world: &World) -> Arc<Kernel> {
    let kernel = Arc::new(Kernel::default());
    kernel.state.lock().unwrap().server = Some(world.fake.clone());
    world.client.set_sink(kernel.clone());
    kernel
}

#[test]
fn after_its_lease_ended_a_client_serves_nothing_from_its_caches() {
    let world = start();
    let kernel = kernel_of(&world);
    world.cut();
    world.pass(56_900);
    assert_eq!(world.attributes(), Ok(7), "the lease has not ended");
    assert_eq!(world.client.lease_left(), Duration::from_millis(100));
    world.pass(200);
    assert_eq!(world.client.lease_left(), Duration::ZERO);
    assert_eq!(world.attributes(), Err(Errno::EINTR), "it waits, and can be killed");
    assert_eq!(world.read(&cancelled()).unwrap_err(), Errno::EINTR);
    let root = world.client.inode(world.client.root());
    let found = world.client.lookup(&root, Some(b"name"), &cancelled()).unwrap_err();
    assert_eq!(found, Errno::EINTR);
    kernel.wait_for("the kernel's pages go", |state| state.dropped.contains(&FILE));
    assert_eq!(kernel.entries.load(Ordering::SeqCst), 1);
    world.client.disconnect();
}

/// Its connection ends with it, and others wait for `reconnect` from then.
#[test]
fn the_kernel_of_a_process_that_is_killed_believes_nothing_when_others_get_its_leases() {
    let world = start();
    assert_eq!(world.client.kernel_time(), Duration::from_secs(4), "of 5");
    world.cut();
    world.pass(56_000);
    assert_eq!(world.client.kernel_time(), Duration::from_secs(1), "of the lease");
    world.client.disconnect();
}

#[test]
fn a_lapse_makes_nothing_void_that_the_server_kept() {
    let world = start();
    let kernel = kernel_of(&world);
    world.cut();
    world.pass(57_100);
    kernel.wait_for("the lease ends", |state| !state.dropped.is_empty());
    let asked = world.asked();
    world.heal();
    world.client.attributes(&world.file, &Cancel::new()).unwrap();
    assert_eq!(world.asked(), asked, "what is cached is true again: the session was taken up");
    assert_eq!(world.client.lease_left(), Duration::from_secs(57));
    assert_eq!(world.client.statistics().evictions, 0);
    world.client.disconnect();
}

/// The invalidation would write them back, and wait for the server where no signal is heard.
#[test]
fn a_lapse_leaves_pages_alone_that_may_be_dirty() {
    let world = start();
    world.client.open(&world.file, WRITE, &Cancel::new()).unwrap();
    let other = world.client.inode(Fid::new(FILE.seq, 77));
    let kernel = kernel_of(&world);
    world.cut();
    world.pass(57_100);
    kernel.wait_for("the kernel's pages go", |state| state.dropped.contains(&other.fid));
    assert!(!kernel.state.lock().unwrap().dropped.contains(&FILE));
    world.client.disconnect();
}

#[test]
fn a_ping_counts_from_when_it_was_sent() {
    let world = start();
    world.fake.change(|state| state.hold = Some(Opcode::Ping));
    let client = world.client.clone();
    world.pass(10_000);
    let lane = client.session.lock().lane.clone().unwrap();
    let held = world.fake.lock().held;
    let ping = std::thread::spawn(move || client.ping_once(&lane));
    world.fake.wait_until("the ping is on its way", |state| state.held == held + 1);
    world.pass(20_000);
    world.fake.change(|state| state.hold = None);
    assert!(ping.join().unwrap());
    assert_eq!(world.client.lease_left(), Duration::from_secs(37));
    world.client.disconnect();
}

#[test]
fn after_its_connection_ended_a_client_caches_no_longer_than_others_wait_for_it() {
    let world = start();
    world.cut();
    world.fake.lose_all();
    // Whoever finds the connection lost starts the time.
    while world.client.session.lock().lane.is_some() {
        std::thread::yield_now();
    }
    world.pass(3_900);
    assert_eq!(world.attributes(), Ok(7));
    world.pass(200);
    assert_eq!(world.attributes(), Err(Errno::EINTR));
    world.client.disconnect();
}

#[test]
fn an_evicted_client_drops_its_caches_before_it_says_so() {
    let world = start();
    let kernel = kernel_of(&world);
    world.fake.change(|state| state.evicting = true);
    world.fake.lose_all();
    world.fake.wait_until("the new session", |state| {
        state.log.iter().filter(|sent| sent.opcode == Opcode::Connect).count() == 4
    });
    let (old, none) = (ClientId(1), ClientId(0));
    assert_eq!(world.connects(), [none, old, none, none]);
    assert_eq!(world.read(&Cancel::new()).unwrap(), b"content");
    let state = kernel.state.lock().unwrap();
    let dropped = state.dropped.iter().position(|fid| *fid == FILE).unwrap();
    assert_eq!(state.connects[dropped], 2, "before the Connect that names no session");
    assert_eq!(world.client.statistics().evictions, 1);
    drop(state);
    world.client.disconnect();
}

#[test]
fn a_new_session_serves_nobody_before_the_caches_of_the_old_are_void() {
    let world = start();
    let kernel = kernel_of(&world);
    kernel.state.lock().unwrap().stuck = true;
    world.fake.change(|state| state.unknown_session = true);
    world.fake.lose_all();
    kernel.wait_for("its caches are being dropped", |state| !state.dropped.is_empty());
    assert_eq!(world.attributes(), Err(Errno::EINTR));
    world.stays("nobody is served", || world.client.session.lock().lane.is_none());
    kernel.release();
    assert_eq!(world.read(&Cancel::new()).unwrap(), b"content");
    world.client.disconnect();
}

/// An invalidation writes dirty pages back, and waits for that.
#[test]
fn dirty_pages_of_an_ended_session_are_refused_and_never_waited_for() {
    let world = start();
    world.client.open(&world.file, WRITE, &Cancel::new()).unwrap();
    let kernel = kernel_of(&world);
    let (client, file, fake) = (world.client.clone(), world.file.clone(), world.fake.clone());
    let (told, result) = std::sync::mpsc::channel();
    let write = move || {
        let options = WriteOptions { append: false, durable: false, access: Access::Writeback };
        let payload = fake.buffer(100);
        told.send(client.write(&file, 0, payload, &options, &Cancel::new()).map(drop)).unwrap();
    };
    kernel.state.lock().unwrap().during = Some(Box::new(write));
    world.fake.change(|state| state.unknown_session = true);
    world.fake.lose_all();
    let result = result.recv_timeout(Duration::from_secs(10)).unwrap();
    assert_eq!(result, Err(Errno::EIO));
    assert_eq!(world.fake.sent(Opcode::ObjectWrite), []);
    world.client.disconnect();
}

/// Dirty pages of a lease that only ended by the clock may be written once it is known to be ours still.
#[test]
fn write_back_of_a_lapsed_lease_waits_and_goes_out_when_the_session_is_taken_up() {
    let world = start();
    world.client.open(&world.file, WRITE, &Cancel::new()).unwrap();
    let options = WriteOptions { append: false, durable: false, access: Access::Writeback };
    world.cut();
    world.pass(57_100);
    std::thread::scope(|scope| {
        let write = scope.spawn(|| {
            let payload = world.fake.buffer(100);
            world.client.write(&world.file, 0, payload, &options, &Cancel::new()).map(drop)
        });
        world.stays("not under an ended lease", || world.fake.sent(Opcode::ObjectWrite).is_empty());
        world.heal();
        assert_eq!(write.join().unwrap(), Ok(()));
    });
    world.client.disconnect();
}

#[test]
fn a_session_found_again_after_its_caches_were_dropped_asserts_nothing() {
    let world = start();
    // It was ended, and made anew by a Connect whose answer was lost.
    world.fake.change(|state| {
        state.unknown_session = true;
        state.lose_after = Some(Opcode::Connect);
    });
    world.fake.lose_all();
    world.fake.wait_until("the new session", |state| {
        state.log.iter().any(|sent| sent.opcode == Opcode::Reassert)
    });
    let held = Reassert::from_bytes(&world.fake.sent(Opcode::Reassert)[0].payload).unwrap();
    assert!(held.complete && held.leases.0.is_empty(), "{held:?}");
    assert_eq!(world.client.statistics().evictions, 1);
    world.client.disconnect();
}

#[test]
fn what_is_being_given_back_is_asserted_until_its_pages_are_clean() {
    let world = start();
    let kernel = kernel_of(&world);
    kernel.state.lock().unwrap().stuck = true;
    world.fake.revoke(FILE, bits::DATA, false);
    kernel.wait_for("its pages are being dropped", |state| !state.dropped.is_empty());
    let (read, write) = world.file.lock().held_bits();
    assert_ne!((read | write) & bits::DATA, 0);
    kernel.release();
    world.fake.wait_until("the revoke is answered", |state| {
        state.log.iter().any(|sent| sent.opcode == Opcode::LeaseCancel)
    });
    let (read, write) = world.file.lock().held_bits();
    assert_eq!((read | write) & bits::DATA, 0);
    world.client.disconnect();
}

#[test]
fn another_node_at_the_same_address_is_refused_and_ours_is_taken_up_again() {
    refuses_another(|state, another| state.node = [if another { 9 } else { 0 }; 16]);
}

#[test]
fn another_file_system_of_the_same_name_is_refused_and_ours_is_taken_up_again() {
    refuses_another(|state, another| state.made_anew = another);
}

#[test]
fn a_file_system_that_was_deleted_is_not_waited_for() {
    refuses_another(|state, another| {
        state.refuse = another.then_some((Opcode::Connect, Errno::ENOENT));
    });
}

/// `answers` says whether another one answers.
fn refuses_another(answers: fn(&mut crate::fake::State, bool)) {
    let world = start();
    world.fake.change(|state| {
        answers(state, true);
        state.log.clear();
    });
    world.fake.lose_all();
    let start = std::time::Instant::now();
    let errno = loop {
        match world.client.read_link(&world.file, &Cancel::new()) {
            // The old connection's last answer.
            Ok(_) => assert!(start.elapsed() < Duration::from_secs(5), "another one answers"),
            Err(errno) => break errno,
        }
    };
    assert_eq!(errno, Errno::EIO, "not another's data, and no wait");
    world.pass(57_100);
    assert_eq!(world.read(&Cancel::new()).unwrap_err(), Errno::EIO);
    assert_eq!(world.fake.sent(Opcode::ObjectRead), []);
    world.fake.change(|state| answers(state, false));
    while world.client.session.is_astray() {
        std::thread::yield_now();
    }
    assert_eq!(world.read(&Cancel::new()).unwrap(), b"content");
    world.client.disconnect();
}

#[test]
fn a_client_whose_node_is_another_ends_in_time() {
    let world = start();
    world.fake.change(|state| state.node = [9; 16]);
    world.fake.lose_all();
    let (client, (ended, end)) = (world.client.clone(), std::sync::mpsc::channel());
    std::thread::spawn(move || {
        client.disconnect();
        ended.send(()).unwrap();
    });
    end.recv_timeout(Duration::from_secs(10)).expect("it ends");
}

#[test]
fn write_back_under_a_revoke_is_told_as_progress() {
    let world = start();
    world.client.open(&world.file, WRITE, &Cancel::new()).unwrap();
    world.fake.change(|state| state.hold = Some(Opcode::ObjectWrite));
    let (client, file, fake) = (world.client.clone(), world.file.clone(), world.fake.clone());
    let write = std::thread::spawn(move || {
        let options = WriteOptions { append: false, durable: false, access: Access::Direct };
        let payload = fake.buffer(100);
        client.write(&file, 0, payload, &options, &Cancel::new()).map(drop)
    });
    world.fake.wait_until("the write is on its way", |state| {
        state.log.iter().any(|sent| sent.opcode == Opcode::ObjectWrite)
    });
    world.fake.revoke(FILE, bits::DATA, false);
    while !world.file.lock().data.revoking {
        std::thread::yield_now();
    }
    assert_eq!(world.client.cleaned.load(Ordering::SeqCst), 0);
    world.fake.change(|state| state.hold = None);
    write.join().unwrap().unwrap();
    assert_eq!(world.client.cleaned.load(Ordering::SeqCst), 1);
    let lane = world.client.session.lock().lane.clone().unwrap();
    assert!(world.client.ping_once(&lane));
    let pings = world.fake.sent(Opcode::Ping);
    let told = Ping::from_bytes(&pings.last().unwrap().body).unwrap();
    assert_eq!(told.cleaned, 1, "the server hears of it");
    world.client.disconnect();
}
