//! The client against a fake server: lost connections, restarts, revokes, stripes.

use std::{
    ops::Range,
    sync::{Arc, mpsc},
    time::Duration,
};

use sheen_ports::Cancel;
use sheen_types::{Errno, Fid, FileKind};
use sheen_wire::{
    Field, Opcode,
    flock::{LockFamily, LockType},
    lease::bits,
    metadata::Reassert,
};

use crate::{
    Access, CacheSink, Changes, Client, ClientConfig, Inode, LockWanted, NewInode, NewOpen,
    SystemClock, WriteOptions,
    fake::{FILE, Fake},
};

pub(crate) const READ: NewOpen = NewOpen { read: true, write: false, append: false };
pub(crate) const WRITE: NewOpen = NewOpen { read: true, write: true, append: false };

pub(crate) fn start() -> (Fake, Arc<Client>) {
    let fake = Fake::new();
    let client = connect_to(&fake);
    (fake, client)
}

pub(crate) fn connect_to(fake: &Fake) -> Arc<Client> {
    connect_with(fake, |_| {})
}

pub(crate) fn connect_with(fake: &Fake, change: impl FnOnce(&mut ClientConfig)) -> Arc<Client> {
    let mut config = ClientConfig::new("fake", "fs", "test").unwrap();
    change(&mut config);
    let clock = Arc::new(SystemClock::default());
    Client::connect(config, Arc::new(fake.clone()), clock).unwrap()
}

pub(crate) fn buffer_with(fake: &Fake, bytes: &[u8]) -> sheen_dma::Buffer {
    let mut buffer = fake.buffer(bytes.len().max(1));
    buffer.truncate(bytes.len());
    buffer.as_mut_slice().copy_from_slice(bytes);
    buffer
}

pub(crate) fn write(fake: &Fake, client: &Arc<Client>, file: &Arc<Inode>, at: u64, bytes: &[u8]) {
    let options = WriteOptions { append: false, durable: false, access: Access::Direct };
    let payload = buffer_with(fake, bytes);
    let (written, _) = client.write(file, at, payload, &options, &Cancel::new()).unwrap();
    assert_eq!(written, bytes.len());
}

pub(crate) fn read(
    fake: &Fake,
    client: &Arc<Client>,
    file: &Arc<Inode>,
    at: u64,
    length: usize,
) -> Vec<u8> {
    let room = fake.buffer(length);
    let outcome = client.read(file, at, room, Access::Direct, &Cancel::new()).unwrap();
    outcome.buffer.map_or(Vec::new(), |buffer| buffer.as_slice()[..outcome.bytes].to_vec())
}

fn new_file(name: &[u8]) -> NewInode<'_> {
    NewInode {
        name: Some(name),
        kind: FileKind::Regular,
        permissions: 0o644,
        umask: 0,
        rdev: 0,
        target: &[],
        owner: (0, 0),
        exclusive: true,
    }
}

#[test]
fn more_osts_than_fit_the_answer_to_connect_are_asked_for() {
    let fake = Fake::new();
    fake.change(|state| state.more_osts = 1000);
    let client = connect_to(&fake);
    assert_eq!(fake.sent(Opcode::OstList).len(), 10);
    let services = client.session.lock().services.clone();
    assert!(services.keys().map(|ost| ost.0).eq(0..1002), "{} OSTs", services.len());
}

#[test]
fn a_request_whose_answer_was_lost_is_sent_again_with_its_tag_and_number() {
    let (fake, client) = start();
    let root = client.inode(client.root());
    fake.change(|state| state.lose_after = Some(Opcode::Create));
    let open = Some(WRITE);
    let created = client.create(&root, &new_file(b"x"), open, &Cancel::new()).unwrap();
    assert!(created.is_new);
    let sent = fake.sent(Opcode::Create);
    assert_eq!(sent.len(), 2);
    assert_eq!((sent[0].xid, sent[0].tag), (sent[1].xid, sent[1].tag));
    assert_eq!((sent[0].resent, sent[1].resent), (false, true));
    assert_eq!(fake.lock().created, [created.found.inode.fid], "carried out once");
    client.disconnect();
}

#[test]
fn a_restarted_server_is_told_what_is_held_before_anything_else() {
    let (fake, client) = start();
    let never = Cancel::new();
    let file = client.inode(FILE);
    client.open(&file, WRITE, &never).unwrap();
    write(&fake, &client, &file, 0, b"content");
    let lock = LockWanted {
        family: LockFamily::Posix,
        kind: LockType::Write,
        owner: 7,
        pid: 1,
        start: 0,
        end: 9,
        wait: false,
    };
    client.set_lock(&file, &lock, &never, &never).unwrap();
    fake.change(|state| {
        state.server_epoch += 1;
        state.log.clear();
    });
    fake.lose_all();
    client.set_xattr(&file, b"user.x", b"y", 0, false, &never).unwrap_err();
    let log: Vec<Opcode> = fake.lock().log.iter().map(|sent| sent.opcode).collect();
    let told = log.iter().position(|opcode| *opcode == Opcode::Reassert).unwrap();
    let asked = log.iter().position(|opcode| *opcode == Opcode::SetXattr).unwrap();
    assert!(told < asked, "{log:?}");
    let held = Reassert::from_bytes(&fake.sent(Opcode::Reassert)[0].payload).unwrap();
    assert!(held.complete);
    assert!(held.opens.0.iter().any(|open| open.fid == FILE && open.write));
    assert!(held.leases.0.iter().any(|lease| lease.write_bits & bits::DATA != 0));
    assert_eq!(held.locks.0[0].owner, 7);
    client.disconnect();
}

#[test]
fn after_an_eviction_files_are_opened_again_and_lost_locks_fail() {
    let (fake, client) = start();
    let never = Cancel::new();
    let (locked, plain) = (client.inode(FILE), client.inode(Fid::new(FILE.seq, 2)));
    client.open(&locked, WRITE, &never).unwrap();
    client.open(&plain, READ, &never).unwrap();
    let lock = LockWanted {
        family: LockFamily::Flock,
        kind: LockType::Write,
        owner: 7,
        pid: 1,
        start: 0,
        end: u64::MAX >> 1,
        wait: false,
    };
    client.set_lock(&locked, &lock, &never, &never).unwrap();
    let opens = fake.sent(Opcode::Open).len();
    fake.change(|state| state.unknown_session = true);
    fake.lose_all();
    fake.wait_until("both are opened again", |state| {
        state.log.iter().filter(|sent| sent.opcode == Opcode::Open).count() == opens + 2
    });
    assert!(locked.is_failed());
    let room = fake.buffer(10);
    let refused = client.read(&locked, 0, room, Access::Direct, &never).unwrap_err();
    assert_eq!(refused, Errno::EIO);
    assert!(read(&fake, &client, &plain, 0, 10).is_empty());
    client.disconnect();
}

#[test]
fn a_revoke_is_answered_after_writes_in_flight_and_tells_what_was_learned() {
    let (fake, client) = start();
    let file = client.inode(FILE);
    client.open(&file, WRITE, &Cancel::new()).unwrap();
    client
        .set_attributes(&file, &Changes { size: Some(3), ..Changes::default() }, &Cancel::new())
        .unwrap();
    fake.change(|state| state.hold = Some(Opcode::ObjectWrite));
    let (done, writes) = mpsc::channel();
    let (writer, other, server) = (client.clone(), file.clone(), fake.clone());
    let thread = std::thread::spawn(move || {
        write(&server, &writer, &other, 0, b"12345");
        done.send(()).unwrap();
    });
    fake.wait_until("the write is in flight", |state| {
        state.log.iter().any(|sent| sent.opcode == Opcode::ObjectWrite)
    });
    fake.revoke(FILE, bits::DATA, false);
    assert!(writes.recv_timeout(Duration::from_millis(100)).is_err());
    assert!(fake.cancels().is_empty(), "answered while a write was in flight");
    fake.change(|state| state.hold = None);
    fake.wait_until("the revoke is answered", |state| {
        state.log.iter().any(|sent| sent.opcode == Opcode::LeaseCancel)
    });
    let learned = fake.cancels()[0].learned.clone().unwrap();
    assert_eq!(learned.size, 5);
    thread.join().unwrap();
    client.disconnect();
}

#[test]
fn a_name_whose_lease_is_held_is_not_asked_for_again() {
    let (fake, client) = start();
    let root = client.inode(client.root());
    let look_up = || match client.lookup(&root, Some(b"file"), &Cancel::new()).unwrap() {
        crate::LookedUp::Found(found) => assert_eq!(found.inode.fid, FILE),
        crate::LookedUp::Absent(_) => panic!("the name is there"),
    };
    let asked = || fake.sent(Opcode::Lookup).len();
    look_up();
    look_up();
    assert_eq!(asked(), 1);
    fake.revoke(FILE, bits::LOOKUP, false);
    fake.wait_until("the revoke is answered", |state| {
        state.log.iter().any(|sent| sent.opcode == Opcode::LeaseCancel)
    });
    look_up();
    assert_eq!(asked(), 2);
    client.unlink(&root, b"file", false, (0, 0), &Cancel::new()).unwrap();
    look_up();
    assert_eq!(asked(), 3, "what this client removes is not remembered");
    client.disconnect();
}

/// A rename of another client waits for LOOKUP while the name is looked up; the file's layout is asked for after the rename.
/// That answer grants LOOKUP on an inode the name no longer leads to, and nobody would ever ask it back.
#[test]
fn a_name_found_without_its_lease_is_not_kept_under_one_granted_later() {
    let (fake, client) = start();
    let root = client.inode(client.root());
    fake.change(|state| state.lookup_grants = Some(bits::PERM));
    let look_up = || match client.lookup(&root, Some(b"file"), &Cancel::new()).unwrap() {
        crate::LookedUp::Found(found) => found,
        crate::LookedUp::Absent(_) => panic!("the name is there"),
    };
    let found = look_up();
    assert_eq!(fake.sent(Opcode::GetAttributes).len(), 1, "the layout was asked for");
    let losses = found.name.losses();
    assert!(losses.and_then(|losses| found.inode.name_window(losses)).is_none(), "{losses:?}");
    look_up();
    assert_eq!(fake.sent(Opcode::Lookup).len(), 2);
    client.disconnect();
}

/// The revoke of what an answer grants may be taken in before the answer, when the inode is not even known.
#[test]
fn a_revoke_that_comes_before_the_answer_that_grants_is_not_forgotten() {
    let (fake, client) = start();
    let root = client.inode(client.root());
    fake.change(|state| state.delay = Some(Opcode::Lookup));
    let (asker, directory) = (client.clone(), root.clone());
    let look_up = std::thread::spawn(move || {
        match asker.lookup(&directory, Some(b"file"), &Cancel::new()).unwrap() {
            crate::LookedUp::Found(found) => found,
            crate::LookedUp::Absent(_) => panic!("the name is there"),
        }
    });
    fake.wait_until("the answer is on its way", |state| state.delayed == 1);
    fake.revoke(FILE, bits::LOOKUP, false);
    fake.wait_until("the revoke is answered", |state| {
        state.log.iter().any(|sent| sent.opcode == Opcode::LeaseCancel)
    });
    fake.change(|state| state.delay = None);
    let found = look_up.join().unwrap();
    let losses = found.name.losses();
    assert!(losses.and_then(|losses| found.inode.name_window(losses)).is_none(), "{losses:?}");
    assert!(found.observed.caching.losses().is_none(), "attributes came with the same grant");
    client.disconnect();
}

/// Counts how often the kernel was made to forget every name it knows.
#[derive(Default)]
struct Names(std::sync::atomic::AtomicUsize);

impl CacheSink for Names {
    fn invalidate_data(&self, _: Fid, _: Range<u64>) {}

    fn invalidate_attributes(&self, _: Fid) {}

    fn invalidate_entries(&self) {
        self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    }
}

#[test]
fn what_this_client_removed_costs_no_name_when_the_server_clears_it_away() {
    let (fake, client) = start();
    let root = client.inode(client.root());
    let names = Arc::new(Names::default());
    client.set_sink(names.clone());
    for (removed, forgotten) in [(false, 1), (true, 1)] {
        // The answer to the last revoke is sent before it is settled here; what is looked up in between is not kept.
        let kept = (0..10_000).find_map(|_| {
            std::thread::yield_now();
            let found = match client.lookup(&root, Some(b"file"), &Cancel::new()).unwrap() {
                crate::LookedUp::Found(found) => found,
                crate::LookedUp::Absent(_) => panic!("the name is there"),
            };
            found.name.losses().map(|losses| found.inode.name_window(losses).is_some())
        });
        assert_eq!(kept, Some(true), "a name looked up is kept in the end");
        if removed {
            client.unlink(&root, b"file", false, (0, 0), &Cancel::new()).unwrap();
        }
        let sequence = fake.revoke(FILE, bits::METADATA, false);
        fake.wait_until("the revoke is answered", |state| {
            let cancels = state.log.iter().filter(|sent| sent.opcode == Opcode::LeaseCancel);
            cancels.into_iter().any(|sent| {
                sheen_wire::lease::LeaseCancel::from_bytes(&sent.body).unwrap().sequence == sequence
            })
        });
        assert_eq!(names.0.load(std::sync::atomic::Ordering::SeqCst), forgotten);
    }
    client.disconnect();
}

#[test]
fn an_open_without_a_place_waits_a_while_and_says_so() {
    let (fake, client) = start();
    let file = client.inode(FILE);
    for _ in 0..3 {
        let refused = (Opcode::Open, Errno::ENFILE.0);
        fake.change(|state| state.refuse_next.push_back(refused));
    }
    client.open(&file, WRITE, &Cancel::new()).unwrap();
    client.close(&file, true, &Cancel::new());
    fake.change(|state| state.refuse = Some((Opcode::Open, Errno::ENFILE)));
    let begun = std::time::Instant::now();
    assert_eq!(client.open(&file, WRITE, &Cancel::new()), Err(Errno::ENFILE));
    let waited = begun.elapsed();
    assert!(waited >= crate::request::PLACE_WAIT && waited < crate::request::PLACE_WAIT * 5);
    client.disconnect();
}

#[test]
fn an_append_goes_behind_what_another_wrote() {
    let (fake, client) = start();
    let file = client.inode(FILE);
    client.open(&file, WRITE, &Cancel::new()).unwrap();
    let append = |bytes: &[u8]| {
        let options = WriteOptions { append: true, durable: false, access: Access::Direct };
        let payload = buffer_with(&fake, bytes);
        client.write(&file, 0, payload, &options, &Cancel::new()).unwrap();
    };
    append(b"one");
    append(b"two");
    fake.revoke(FILE, bits::DATA, false);
    fake.wait_until("the revoke is answered", |state| {
        state.log.iter().any(|sent| sent.opcode == Opcode::LeaseCancel)
    });
    fake.change(|state| state.write_as_another(0, b"onetwoTHREE"));
    append(b"four");
    assert_eq!(read(&fake, &client, &file, 0, 100), b"onetwoTHREEfour");
    client.disconnect();
}

#[test]
fn reads_writes_and_truncates_over_stripes_give_what_a_plain_file_would() {
    let seed = std::process::id();
    let mut random = u64::from(seed) | 1;
    let mut next = |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    let (fake, client) = start();
    let file = client.inode(FILE);
    client.open(&file, WRITE, &Cancel::new()).unwrap();
    let mut model: Vec<u8> = Vec::new();
    for step in 0..300_u64 {
        let at = next(500_000);
        let length = usize::try_from(next(200_000) + 1).unwrap();
        match next(8) {
            0 => {
                let size = Some(at);
                let changes = Changes { size, ..Changes::default() };
                client.set_attributes(&file, &changes, &Cancel::new()).unwrap();
                model.resize(usize::try_from(at).unwrap(), 0);
            }
            1 => {
                fake.revoke(FILE, bits::DATA, false);
            }
            2..=4 => {
                let byte = u8::try_from(step % 251).unwrap();
                write(&fake, &client, &file, at, &vec![byte; length]);
                let start = usize::try_from(at).unwrap();
                model.resize(model.len().max(start + length), 0);
                model[start..start + length].fill(byte);
            }
            _ => {
                let start = usize::try_from(at).unwrap().min(model.len());
                let end = (start + length).min(model.len());
                let found = read(&fake, &client, &file, at, length);
                assert!(found == model[start..end], "seed {seed}, step {step}");
            }
        }
        let shown = client.attributes(&file, &Cancel::new()).unwrap().attributes;
        assert_eq!(shown.size, model.len() as u64, "seed {seed}, step {step}");
    }
    client.disconnect();
}

#[test]
fn a_sync_asks_what_was_written_since_the_last_and_everything_if_others_may_have_written() {
    let (fake, client) = start();
    let file = client.inode(FILE);
    client.open(&file, WRITE, &Cancel::new()).unwrap();
    let synced = || {
        client.sync(&file, &file.error_cursor(), &Cancel::new()).unwrap();
        let count = fake.sent(Opcode::ObjectSync).len();
        fake.change(|state| state.log.clear());
        count
    };
    write(&fake, &client, &file, 0, b"x");
    assert_eq!(synced(), 2, "nothing is known yet: both objects");
    assert_eq!(synced(), 0);
    write(&fake, &client, &file, 70_000, b"x");
    assert_eq!(synced(), 1, "the second stripe only");
    fake.revoke(FILE, bits::DATA, false);
    fake.wait_until("the revoke is answered", |state| {
        state.log.iter().any(|sent| sent.opcode == Opcode::LeaseCancel)
    });
    assert_eq!(synced(), 2, "another may have written");
    client.disconnect();
}

#[test]
fn locks_of_an_owner_that_is_killed_are_released_all_the_same() {
    let (fake, client) = start();
    let file = client.inode(FILE);
    client.open(&file, WRITE, &Cancel::new()).unwrap();
    let lock = LockWanted {
        family: LockFamily::Posix,
        kind: LockType::Write,
        owner: 7,
        pid: 1,
        start: 0,
        end: 9,
        wait: false,
    };
    let killed = Cancel::new();
    client.set_lock(&file, &lock, &killed, &killed).unwrap();
    killed.cancel();
    client.release_locks(&file, LockFamily::Posix, 7, &killed);
    assert_eq!(fake.sent(Opcode::LockSet).len(), 1);
    fake.wait_until("the release is sent", |state| {
        state.log.iter().any(|sent| sent.opcode == Opcode::LockRelease)
    });
    client.disconnect();
}

/// Notes an access as soon as the client knows the server's time.
pub(crate) fn note_once_known(client: &Arc<Client>, inode: &Arc<Inode>) {
    while inode.lock().accessed.is_none() {
        client.note_access(inode);
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A client that has an access time to tell.
fn with_an_access_to_tell() -> (Fake, Arc<Client>) {
    let (fake, client) = start();
    let file = client.inode(FILE);
    client.open(&file, READ, &Cancel::new()).unwrap();
    note_once_known(&client, &file);
    (fake, client)
}

/// Disconnects, and expects that to end within ten seconds.
fn disconnect_in_time(client: &Arc<Client>) {
    let (ended, end) = mpsc::channel();
    let client = client.clone();
    std::thread::spawn(move || {
        client.disconnect();
        ended.send(()).unwrap();
    });
    end.recv_timeout(Duration::from_secs(10)).expect("a client ends in time");
}

#[test]
fn a_client_ends_though_the_server_goes_away_while_access_times_are_told() {
    let (fake, client) = with_an_access_to_tell();
    fake.change(|state| {
        state.lose_after = Some(Opcode::TellAccesses);
        state.gone = true;
    });
    disconnect_in_time(&client);
    assert_eq!(fake.sent(Opcode::TellAccesses).len(), 1, "it was under way");
    assert!(client.is_ended());
}

#[test]
fn a_client_ends_though_the_server_does_not_answer_its_access_times() {
    let (fake, client) = with_an_access_to_tell();
    fake.change(|state| state.hold = Some(Opcode::TellAccesses));
    disconnect_in_time(&client);
    assert_eq!(fake.sent(Opcode::TellAccesses).len(), 1, "it was under way");
}

#[test]
fn a_client_ends_though_the_server_lets_it_come_back_and_does_not_answer() {
    let (fake, client) = start();
    fake.change(|state| {
        state.log.clear();
        state.hold = Some(Opcode::Connect);
    });
    fake.lose_all();
    fake.wait_until("it comes back", |state| {
        state.log.iter().any(|sent| sent.opcode == Opcode::Connect)
    });
    disconnect_in_time(&client);
}
