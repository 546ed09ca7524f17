//! One program's changes take all the room there is on the connection to the MDT: what other clients wait for gets through.

use std::{
    ops::Range,
    sync::{Arc, Mutex},
    thread::JoinHandle,
};

use sheen_ports::Cancel;
use sheen_types::{Errno, Fid};
use sheen_wire::{Opcode, lease::bits};

use crate::{
    Access, CacheSink, Changes, Client, WriteOptions,
    fake::{FILE, Fake},
    kills::make,
    request::ORDINARY_MAX,
    scenarios::{WRITE, start, write},
};

type Work = Box<dyn FnOnce() -> Result<(), Errno> + Send>;

/// A kernel that gives pages back when some work of a program has ended.
struct Busy(Mutex<Option<Work>>);

impl CacheSink for Busy {
    fn invalidate_data(&self, _: Fid, _: Range<u64>) {
        let work = self.0.lock().unwrap().take();
        if let Some(work) = work {
            work().unwrap();
        }
    }

    fn invalidate_attributes(&self, _: Fid) {}

    fn invalidate_entries(&self) {}
}

/// Changes that are not answered, more than there is room for.
fn fill(fake: &Fake, client: &Arc<Client>, cancel: &Cancel) -> Vec<JoinHandle<Result<(), Errno>>> {
    client.new_fid(&Cancel::new()).unwrap();
    fake.change(|state| state.hold = Some(Opcode::Create));
    let threads = (0..ORDINARY_MAX + 10).map(|_| {
        let (client, cancel) = (client.clone(), cancel.clone());
        std::thread::spawn(move || make(&client, b"x", &cancel))
    });
    let threads = threads.collect();
    while client.gate.inside() < ORDINARY_MAX || fake.sent(Opcode::Create).len() < 7 {
        std::thread::yield_now();
    }
    threads
}

/// Has the lease on a file's content asked back while its kernel waits for `work`, and expects it to be given back.
fn gives_back(fake: &Fake, client: &Arc<Client>, work: Work) {
    let cancel = Cancel::new();
    let threads = fill(fake, client, &cancel);
    client.set_sink(Arc::new(Busy(Mutex::new(Some(work)))));
    fake.revoke(FILE, bits::DATA | bits::LAYOUT, false);
    fake.wait_until("the lease is given back", |state| {
        state.log.iter().any(|sent| sent.opcode == Opcode::LeaseCancel)
    });
    cancel.cancel();
    fake.change(|state| state.hold = None);
    threads.into_iter().for_each(|thread| drop(thread.join()));
    client.disconnect();
}

#[test]
fn a_truncation_that_keeps_pages_from_being_given_back_is_let_in() {
    let (fake, client) = start();
    let file = client.inode(FILE);
    client.open(&file, WRITE, &Cancel::new()).unwrap();
    write(&fake, &client, &file, 0, b"content");
    let truncating = client.clone();
    let work = move || {
        let changes = Changes { size: Some(3), ..Changes::default() };
        truncating.set_attributes(&file, &changes, &Cancel::new()).map(drop)
    };
    gives_back(&fake, &client, Box::new(work));
    assert_eq!(fake.sent(Opcode::SetAttributes).len(), 1);
    assert_eq!(fake.sent(Opcode::ObjectTruncate).len(), 2);
}

#[test]
fn a_write_back_that_needs_objects_is_let_in() {
    let (fake, client) = start();
    let file = client.inode(FILE);
    client.open(&file, WRITE, &Cancel::new()).unwrap();
    write(&fake, &client, &file, 0, b"content");
    fake.change(|state| state.instantiated = false);
    let (writing, other) = (client.clone(), fake.clone());
    let work = move || {
        let options = WriteOptions { append: false, durable: false, access: Access::Writeback };
        writing.write(&file, 0, other.buffer(10), &options, &Cancel::new()).map(drop)
    };
    gives_back(&fake, &client, Box::new(work));
    assert_eq!(fake.sent(Opcode::InstantiateLayout).len(), 2);
}
