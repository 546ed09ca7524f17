//! What becomes of a file whose locks a restarted MDT did not take.

use std::{
    ops::Range,
    sync::{Arc, Mutex},
};

use sheen_ports::Cancel;
use sheen_types::{Errno, Fid};
use sheen_wire::{
    Field, Opcode,
    flock::{FileLock, LockFamily, LockType},
    metadata::Reassert,
};

use crate::{
    Access, CacheSink, Client, LockWanted, WriteOptions,
    fake::{FILE, Fake},
    scenarios::{WRITE, buffer_with, read, start, write},
};

const OTHER: Fid = Fid::new(FILE.seq, 2);

fn wanted(owner: u64) -> LockWanted {
    let (family, kind, pid) = (LockFamily::Posix, LockType::Write, 1);
    LockWanted { family, kind, owner, pid, start: 0, end: 9, wait: false }
}

/// Files of which pages were taken back.
#[derive(Default)]
struct Dropped(Mutex<Vec<Fid>>);

impl CacheSink for Dropped {
    fn invalidate_data(&self, fid: Fid, _: Range<u64>) {
        self.0.lock().unwrap().push(fid);
    }

    fn invalidate_attributes(&self, _: Fid) {}

    fn invalidate_entries(&self) {}
}

/// The MDT restarts and takes no lock of `refused`; what it was told at last of each batch.
fn restart(fake: &Fake, client: &Arc<Client>, refused: &[Fid]) -> Vec<Reassert> {
    fake.change(|state| {
        state.refuses_locks_of = refused.to_vec();
        state.server_epoch += 1;
        state.log.clear();
    });
    fake.lose_mdt();
    fake.wait_until("it is through with the handshake", |state| {
        state.log.iter().any(|sent| sent.opcode == Opcode::Ping)
    });
    assert_eq!(fake.lock().ended_sessions, 0);
    assert!(client.session.lock().lane.is_some());
    let sent = fake.sent(Opcode::Reassert);
    sent.iter().map(|sent| Reassert::from_bytes(&sent.payload).unwrap()).collect()
}

#[test]
fn locks_that_another_has_cost_their_file_and_nothing_else() {
    let (fake, client) = start();
    let never = Cancel::new();
    let dropped = Arc::new(Dropped::default());
    client.set_sink(dropped.clone());
    let files = [FILE, OTHER].map(|fid| client.inode(fid));
    for file in &files {
        client.open(file, WRITE, &never).unwrap();
        client.set_lock(file, &wanted(7), &never, &never).unwrap();
        write(&fake, &client, file, 0, b"before");
    }
    let told = restart(&fake, &client, &[FILE]);
    let [first, second] = &told[..] else { panic!("{told:?}") };
    assert_eq!(first.locks.0.len(), 2);
    assert!(second.locks.0.is_empty() && second.complete, "{second:?}");
    let [lost, kept] = &files;
    assert!(lost.is_failed() && !kept.is_failed());
    assert_eq!(*dropped.0.lock().unwrap(), [FILE], "what is dirty was written under the lock");
    let options = WriteOptions { append: false, durable: false, access: Access::Writeback };
    let late = client.write(lost, 0, buffer_with(&fake, b"late"), &options, &never);
    assert_eq!(late.map(|_| ()), Err(Errno::EIO));
    assert_eq!(read(&fake, &client, kept, 0, 6), b"before");
    assert_eq!(kept.lock().locks.held(OTHER).len(), 1);
    let sets = fake.sent(Opcode::LockSet).len();
    assert_eq!(client.set_lock(lost, &wanted(7), &never, &never), Err(Errno::EIO));
    assert_eq!(fake.sent(Opcode::LockSet).len(), sets);
    client.disconnect();
}

#[test]
fn of_a_file_that_lost_its_locks_no_more_of_them_are_asserted() {
    let (fake, client) = start();
    let lock = |fid, number: u64| FileLock {
        fid,
        family: LockFamily::Posix,
        kind: LockType::Write,
        owner: number,
        pid: 1,
        start: number,
        end: number,
    };
    for fid in [FILE, OTHER] {
        let inode = client.inode(fid);
        let mut state = inode.lock();
        (0..5000).for_each(|number| state.locks.apply(&lock(fid, number)));
    }
    let told = restart(&fake, &client, &[FILE]);
    let of = |fid| {
        let locks = told.iter().flat_map(|batch| &batch.locks.0);
        locks.filter(|lock| lock.fid == fid).count()
    };
    assert_eq!(of(OTHER), 5000);
    assert!(of(FILE) <= 4096, "{} after it was told", of(FILE));
    let complete: Vec<bool> = told.iter().map(|batch| batch.complete).collect();
    assert!(complete.ends_with(&[true]), "{complete:?}");
    assert!(!client.inode(FILE).is_failed(), "nobody has it open");
    assert!(client.inode(FILE).lock().locks.is_empty());
    client.disconnect();
}
