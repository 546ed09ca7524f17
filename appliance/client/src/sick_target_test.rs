//! The client while one OST of two does not answer: what touches only the other goes on.

use std::{
    ops::Range,
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

use sheen_ports::Cancel;
use sheen_types::{Errno, Fid, OstIndex};
use sheen_wire::{Opcode, lease::bits};

use crate::{
    Access, CacheSink, Client, Found, LookedUp, WriteOptions,
    durability_test::{STRIPE, open, start_with},
    fake::{FILE, Fake},
    scenarios::{buffer_with, write},
};

const SICK: OstIndex = OstIndex(0);
const HEALTHY: OstIndex = OstIndex(1);

/// The sick OST does not answer requests of this kind.
fn fall_sick(fake: &Fake, opcode: Opcode) {
    fake.change(|state| {
        state.hold = Some(opcode);
        state.hold_ost = Some(SICK);
    });
}

fn recover(fake: &Fake) {
    fake.change(|state| state.hold = None);
}

/// Writes at `at` again and again until it is cancelled, and tells of each write.
fn write_on(fake: &Fake, client: &Arc<Client>, at: u64, cancel: &Cancel) -> mpsc::Receiver<()> {
    let (fake, client, cancel) = (fake.clone(), client.clone(), cancel.clone());
    let (done, written) = mpsc::channel();
    std::thread::spawn(move || {
        let options = WriteOptions { append: false, durable: false, access: Access::Direct };
        let file = client.inode(FILE);
        let write = || client.write(&file, at, buffer_with(&fake, &[1; 4000]), &options, &cancel);
        while write().is_ok() && done.send(()).is_ok() {}
    });
    written
}

#[test]
fn an_ost_that_does_not_flush_leaves_room_to_writers_of_another() {
    let (fake, client) = start_with(|config| config.unstable_bytes_max = 40_000);
    let file = open(&client);
    write(&fake, &client, &file, 0, b"both have objects");
    fall_sick(&fake, Opcode::ObjectSync);
    let cancel = Cancel::new();
    let stuck = write_on(&fake, &client, 0, &cancel);
    while stuck.recv_timeout(Duration::from_millis(200)).is_ok() {}
    let healthy = write_on(&fake, &client, STRIPE, &cancel);
    for _ in 0..20 {
        let written = healthy.recv_timeout(Duration::from_secs(5));
        written.expect("writers of the other one go on");
    }
    assert!(stuck.try_recv().is_err(), "that one waits");
    cancel.cancel();
    recover(&fake);
    client.disconnect();
}

/// Files of one object each, with something that is not durable.
fn written_files(fake: &Fake, client: &Arc<Client>, osts: &[OstIndex]) -> Vec<Fid> {
    let files = (100..).zip(osts).map(|(oid, ost)| {
        let fid = Fid::new(FILE.seq, oid);
        fake.change(|state| {
            state.narrow.insert(fid, *ost);
        });
        write(fake, client, &client.inode(fid), 0, b"not durable");
        fid
    });
    files.collect()
}

#[test]
fn leases_on_a_sick_ost_do_not_keep_one_on_another_from_being_given_back() {
    let (fake, client) = start_with(|_| {});
    let mut osts = vec![SICK; 8];
    osts.push(HEALTHY);
    let files = written_files(&fake, &client, &osts);
    fall_sick(&fake, Opcode::ObjectSync);
    for fid in &files[..8] {
        fake.revoke(*fid, bits::DATA, false);
    }
    fake.wait_until("all of them wait for it", |state| state.held >= 4);
    fake.revoke(files[8], bits::DATA, false);
    fake.wait_until("the ninth lease is given back", |state| {
        state.log.iter().any(|sent| sent.opcode == Opcode::LeaseCancel)
    });
    let given_back: Vec<Fid> = fake.cancels().iter().map(|cancel| cancel.fid).collect();
    assert_eq!(given_back, [files[8]]);
    recover(&fake);
    fake.wait_until("the others are given back", |state| {
        state.log.iter().filter(|sent| sent.opcode == Opcode::LeaseCancel).count() == 9
    });
    client.disconnect();
}

/// A kernel that drops no cache of some files before it is told to.
struct Slow {
    files: Vec<Fid>,
    release: Mutex<mpsc::Receiver<()>>,
}

impl CacheSink for Slow {
    fn invalidate_data(&self, fid: Fid, _: Range<u64>) {
        if self.files.contains(&fid) {
            // Ends with an error when the sender is dropped.
            let _released = self.release.lock().unwrap().recv();
        }
    }

    fn invalidate_attributes(&self, _: Fid) {}

    fn invalidate_entries(&self) {}
}

#[test]
fn caches_that_wait_for_a_sick_ost_do_not_keep_fsync_of_other_files_waiting() {
    let (fake, client) = start_with(|_| {});
    let files = written_files(&fake, &client, &[SICK, SICK, HEALTHY]);
    let (told, release) = mpsc::channel();
    client.set_sink(Arc::new(Slow { files: files[..2].to_vec(), release: Mutex::new(release) }));
    for fid in &files {
        client.note_lost(&client.inode(*fid), Opcode::ObjectWrite, Errno::EIO);
    }
    let (syncer, other) = (client.clone(), client.inode(files[2]));
    let errors = other.error_cursor();
    let (done, synced) = mpsc::channel();
    std::thread::spawn(move || done.send(syncer.sync(&other, &errors, &Cancel::new())));
    let result = synced.recv_timeout(Duration::from_secs(5)).expect("it waits for its own caches");
    assert_eq!(result, Err(Errno::EIO), "it tells of the loss");
    let late = client.inode(files[0]);
    assert!(client.losses.is_dropping(late.fid, Duration::ZERO));
    drop(told);
    client.sync(&late, &late.error_cursor(), &Cancel::new()).unwrap_err();
    client.disconnect();
}

/// Looks the file up, which must not take long.
fn look_up(client: &Arc<Client>) -> Found {
    let client = client.clone();
    let (done, found) = mpsc::channel();
    std::thread::spawn(move || {
        let root = client.inode(client.root());
        drop(done.send(client.lookup(&root, Some(b"file"), &Cancel::new())));
    });
    let found = found.recv_timeout(Duration::from_secs(5));
    match found.expect("a lookup does not wait for the sick one").unwrap() {
        LookedUp::Found(found) => found,
        LookedUp::Absent(_) => panic!("the name is there"),
    }
}

#[test]
fn a_lookup_does_not_wait_for_a_sick_ost() {
    let (fake, client) = start_with(|_| {});
    fake.change(|state| {
        state.write_as_another(0, b"content");
        state.lookup_grants = Some(bits::METADATA);
    });
    fall_sick(&fake, Opcode::ObjectGlimpse);
    let found = look_up(&client);
    assert!(!found.observed.is_complete);
    assert_eq!(found.observed.caching.losses(), None, "nobody may keep the MDT's copy");
    let asked = fake.sent(Opcode::ObjectGlimpse).len();
    assert!(!look_up(&client).observed.is_complete);
    assert_eq!(fake.sent(Opcode::ObjectGlimpse).len(), asked, "known to be slow, not asked again");
    recover(&fake);
    let observed = client.attributes(&found.inode, &Cancel::new()).unwrap();
    assert_eq!((observed.is_complete, observed.attributes.size), (true, 7));
    assert!(look_up(&client).observed.is_complete, "it answers, it is waited for again");
    let left = Cancel::new();
    left.cancel();
    let root = client.inode(client.root());
    let refused = client.lookup(&root, Some(b"file"), &left).unwrap_err();
    assert_eq!(refused, Errno::EINTR);
    client.disconnect();
}
