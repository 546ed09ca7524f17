//! Programs that are killed while a server does not answer: they end at once, what they began goes on.

use std::{
    sync::{Arc, mpsc},
    time::Duration,
};

use sheen_ports::Cancel;
use sheen_types::Errno;
use sheen_wire::{
    Opcode,
    flock::{LockFamily, LockType},
    lease::bits,
};

use crate::{
    Access, Changes, Client, Inode, LockWanted, VolumeStatistics, WriteOptions,
    fake::{FILE, Fake, new_directory},
    scenarios::{READ, WRITE, connect_with, start},
};

const AT_ONCE: Duration = Duration::from_secs(1);

pub(crate) type Outcome = mpsc::Receiver<Result<(), Errno>>;

/// Starts `work`, waits until the server has its request of kind `opcode` and does not answer it.
pub(crate) fn stuck(
    fake: &Fake,
    client: &Arc<Client>,
    opcode: Opcode,
    work: impl FnOnce(Arc<Client>, &Cancel) -> Result<(), Errno> + Send + 'static,
) -> (Outcome, Cancel) {
    let before = fake.sent(opcode).len();
    fake.change(|state| state.hold = Some(opcode));
    let (client, cancel, (sender, outcome)) = (client.clone(), Cancel::new(), mpsc::channel());
    let cancelled = cancel.clone();
    std::thread::spawn(move || sender.send(work(client, &cancelled)));
    fake.wait_until("the request", |state| {
        state.log.iter().filter(|sent| sent.opcode == opcode).count() > before
    });
    (outcome, cancel)
}

fn kill((outcome, cancel): (Outcome, Cancel)) -> Result<(), Errno> {
    cancel.cancel();
    outcome.recv_timeout(AT_ONCE).expect("a killed program ends at once")
}

pub(crate) fn all_ended(client: &Client) {
    for _ in 0..1000 {
        if client.requests_left() == 0 {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("{} requests were left for ever", client.requests_left());
}

pub(crate) fn make(client: &Arc<Client>, name: &[u8], cancel: &Cancel) -> Result<(), Errno> {
    let root = client.inode(client.root());
    client.create(&root, &new_directory(name), None, cancel).map(drop)
}

pub(crate) fn write(
    client: &Arc<Client>,
    file: &Arc<Inode>,
    fake: &Fake,
    cancel: &Cancel,
) -> Result<(), Errno> {
    let options = WriteOptions { append: false, durable: false, access: Access::Direct };
    client.write(file, 0, fake.buffer(4096), &options, cancel).map(drop)
}

fn lock(wait: bool) -> LockWanted {
    LockWanted {
        family: LockFamily::Posix,
        kind: LockType::Write,
        owner: 7,
        pid: 1,
        start: 0,
        end: 9,
        wait,
    }
}

#[test]
fn whatever_it_waits_for_a_killed_program_ends_at_once() {
    type Work = fn(Arc<Client>, &Fake, &Cancel) -> Result<(), Errno>;
    let read: Work = |client, fake, cancel| {
        let file = client.inode(FILE);
        client.read(&file, 0, fake.buffer(4096), Access::Direct, cancel).map(drop)
    };
    let change: Work = |client, fake, cancel| write(&client, &client.inode(FILE), fake, cancel);
    let truncate: Work = |client, _, cancel| {
        let changes = Changes { size: Some(3), ..Changes::default() };
        client.set_attributes(&client.inode(FILE), &changes, cancel).map(drop)
    };
    let open: Work = |client, _, cancel| client.open(&client.inode(FILE), READ, cancel).map(drop);
    let cases: [(Opcode, Work); 12] = [
        (Opcode::GetAttributes, read),
        (Opcode::LeaseRequest, read),
        (Opcode::Attach, read),
        (Opcode::ObjectRead, read),
        (Opcode::ObjectWrite, change),
        (Opcode::InstantiateLayout, change),
        (Opcode::ObjectTruncate, truncate),
        (Opcode::SetAttributes, truncate),
        (Opcode::Open, open),
        (Opcode::ObjectSync, |client, _, cancel| {
            let file = client.inode(FILE);
            client.sync(&file, &file.error_cursor(), cancel)
        }),
        (Opcode::Create, |client, _, cancel| make(&client, b"x", cancel)),
        (Opcode::LockSet, |client, _, cancel| {
            client.set_lock(&client.inode(FILE), &lock(false), cancel, cancel)
        }),
    ];
    for (opcode, work) in cases {
        let (fake, client) = start();
        let objects = !matches!(opcode, Opcode::InstantiateLayout | Opcode::GetAttributes);
        fake.change(|state| state.instantiated = objects);
        let other = fake.clone();
        let stuck =
            stuck(&fake, &client, opcode, move |client, cancel| work(client, &other, cancel));
        assert_eq!(kill(stuck), Err(Errno::EINTR), "{opcode:?}");
        fake.change(|state| state.hold = None);
        all_ended(&client);
        client.disconnect();
    }
}

#[test]
fn a_change_whose_caller_was_killed_is_carried_out_once_though_the_connection_is_lost() {
    let (fake, client) = start();
    let killed =
        stuck(&fake, &client, Opcode::Create, |client, cancel| make(&client, b"x", cancel));
    assert_eq!(kill(killed), Err(Errno::EINTR));
    assert_eq!(client.requests_left(), 1);
    fake.lose_all();
    fake.wait_until("it is sent again", |state| {
        state.log.iter().filter(|sent| sent.opcode == Opcode::Create).count() == 2
    });
    fake.change(|state| state.hold = None);
    all_ended(&client);
    let sent = fake.sent(Opcode::Create);
    assert_eq!((sent[0].xid, sent[0].tag), (sent[1].xid, sent[1].tag));
    assert_eq!((sent[0].resent, sent[1].resent), (false, true));
    assert_eq!(fake.lock().created.len(), 1);
    client.disconnect();
}

#[test]
fn changes_left_keep_their_slots_and_who_comes_later_can_be_killed_too() {
    let (fake, client) = start();
    client.new_fid(&Cancel::new()).unwrap();
    // The fake's session has eight slots, of which one is kept.
    let killed: Vec<_> = (0..7)
        .map(|_| stuck(&fake, &client, Opcode::Create, |c, cancel| make(&c, b"x", cancel)))
        .collect();
    for one in killed {
        assert_eq!(kill(one), Err(Errno::EINTR));
    }
    assert_eq!(client.requests_left(), 7);
    let (sender, outcome) = mpsc::channel();
    let (late, cancel) = (client.clone(), Cancel::new());
    let cancelled = cancel.clone();
    std::thread::spawn(move || sender.send(make(&late, b"y", &cancelled)));
    assert_eq!(kill((outcome, cancel)), Err(Errno::EINTR));
    assert_eq!(fake.sent(Opcode::Create).len(), 7, "it found no slot");
    fake.change(|state| state.hold = None);
    all_ended(&client);
    make(&client, b"z", &Cancel::new()).unwrap();
    client.disconnect();
}

#[test]
fn numbers_of_changes_grow_in_each_slot_however_many_wait_for_it() {
    let fake = Fake::new();
    let client = connect_with(&fake, |config| config.slots = 1);
    client.new_fid(&Cancel::new()).unwrap();
    std::thread::scope(|scope| {
        for program in 0..4 {
            let client = &client;
            scope.spawn(move || {
                for file in 0..100 {
                    let name = format!("{program}-{file}");
                    assert_eq!(make(client, name.as_bytes(), &Cancel::new()), Ok(()));
                }
            });
        }
    });
    client.disconnect();
}

#[test]
fn the_lease_is_held_until_a_write_whose_caller_was_killed_has_ended() {
    let (fake, client) = start();
    fake.change(|state| state.instantiated = true);
    let file = client.inode(FILE);
    let other = fake.clone();
    let killed = stuck(&fake, &client, Opcode::ObjectWrite, move |client, cancel| {
        write(&client, &client.inode(FILE), &other, cancel)
    });
    assert_eq!(kill(killed), Err(Errno::EINTR));
    assert_eq!(file.lock().data.users, 1);
    fake.revoke(FILE, bits::DATA, false);
    for _ in 0..1000 {
        if file.lock().data.revoking {
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(fake.cancels().is_empty(), "the write may still be carried out");
    fake.change(|state| state.hold = None);
    fake.wait_until("the lease is given back", |state| {
        state.log.iter().any(|sent| sent.opcode == Opcode::LeaseCancel)
    });
    assert_eq!(file.lock().data.users, 0);
    client.disconnect();
}

/// Asks for the lease of the file, and sees that it is not given back before a connection to the OSTs was introduced anew.
fn kept_until_attached(fake: &Fake, client: &Arc<Client>) {
    let file = client.inode(FILE);
    fake.revoke(FILE, bits::DATA, false);
    std::thread::sleep(Duration::from_millis(500));
    assert!(fake.cancels().is_empty(), "the write may lie at the server");
    assert_eq!(file.lock().data.users, 1);
    fake.change(|state| {
        state.hold = None;
        state.hold_attach = false;
    });
    fake.wait_until("the lease is given back", |state| {
        state.log.iter().any(|sent| sent.opcode == Opcode::LeaseCancel)
    });
    assert_eq!(file.lock().data.users, 0);
    all_ended(client);
}

#[test]
fn the_lease_is_held_until_a_write_that_was_left_and_lost_can_not_be_carried_out() {
    let (fake, client) = start();
    fake.change(|state| state.instantiated = true);
    let other = fake.clone();
    let killed = stuck(&fake, &client, Opcode::ObjectWrite, move |client, cancel| {
        write(&client, &client.inode(FILE), &other, cancel)
    });
    assert_eq!(kill(killed), Err(Errno::EINTR));
    fake.change(|state| state.hold_attach = true);
    fake.lose_osts();
    kept_until_attached(&fake, &client);
    client.disconnect();
}

#[test]
fn so_is_it_for_one_whose_caller_was_killed_when_the_connection_was_lost() {
    let (fake, client) = start();
    fake.change(|state| state.instantiated = true);
    let other = fake.clone();
    let killed = stuck(&fake, &client, Opcode::ObjectWrite, move |client, cancel| {
        write(&client, &client.inode(FILE), &other, cancel)
    });
    fake.change(|state| state.hold_attach = true);
    fake.lose_osts();
    fake.wait_until("a new connection", |state| {
        state.log.last().is_some_and(|sent| sent.opcode == Opcode::Attach)
    });
    assert_eq!(kill(killed), Err(Errno::EINTR));
    kept_until_attached(&fake, &client);
    client.disconnect();
}

#[test]
fn a_lock_granted_to_nobody_is_given_back() {
    let (fake, client) = start();
    let file = client.inode(FILE);
    let killed = stuck(&fake, &client, Opcode::LockSet, |client, cancel| {
        client.set_lock(&client.inode(FILE), &lock(true), cancel, cancel)
    });
    assert_eq!(kill(killed), Err(Errno::EINTR));
    assert!(!fake.sent(Opcode::LockCancel).is_empty());
    // Its owner ends before the lock is granted.
    client.release_locks(&file, LockFamily::Posix, 7, &Cancel::new());
    assert_eq!(fake.sent(Opcode::LockRelease).len(), 1);
    fake.change(|state| state.hold = None);
    fake.wait_until("the lock is given back", |state| {
        state.log.iter().filter(|sent| sent.opcode == Opcode::LockRelease).count() == 2
    });
    client.disconnect();
}

#[test]
fn a_program_that_got_a_signal_is_not_told_that_it_has_no_lock_before_that_is_certain() {
    let (fake, client) = start();
    let signal = Cancel::new();
    let signalled = signal.clone();
    let (outcome, _) = stuck(&fake, &client, Opcode::LockSet, move |client, cancel| {
        client.set_lock(&client.inode(FILE), &lock(true), &signalled, cancel)
    });
    signal.cancel();
    fake.wait_until("the wait is given up", |state| {
        state.log.iter().any(|sent| sent.opcode == Opcode::LockCancel)
    });
    let early = outcome.recv_timeout(Duration::from_millis(500));
    assert!(early.is_err(), "{early:?} before the server said anything");
    // The lock was granted before the server heard of the signal.
    fake.change(|state| state.hold = None);
    assert_eq!(outcome.recv_timeout(AT_ONCE), Ok(Ok(())));
    assert_eq!(fake.sent(Opcode::LockCancel).len(), 1);
    client.disconnect();
}

#[test]
fn a_file_opened_for_nobody_is_closed() {
    let (fake, client) = start();
    let killed = stuck(&fake, &client, Opcode::Open, |client, cancel| {
        client.open(&client.inode(FILE), WRITE, cancel).map(drop)
    });
    assert_eq!(kill(killed), Err(Errno::EINTR));
    fake.change(|state| state.hold = None);
    fake.wait_until("it is closed", |state| {
        state.log.iter().any(|sent| sent.opcode == Opcode::Close)
    });
    client.disconnect();
}

#[test]
fn space_is_told_as_it_was_last_known_when_nobody_answers() {
    let (fake, client) = start();
    fake.change(|state| state.hold = Some(Opcode::FilesystemStatistics));
    let (sender, outcome) = mpsc::channel();
    let asking = client.clone();
    std::thread::spawn(move || sender.send(asking.recent_volume_statistics(&Cancel::new())));
    let told = outcome.recv_timeout(Duration::from_secs(2)).expect("umount does not wait");
    assert_eq!(told, Ok(VolumeStatistics::default()));
    client.disconnect();
}
