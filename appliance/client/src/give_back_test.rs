//! Giving leases back while programs go on to use what they stand for.

use std::{
    ops::Range,
    sync::{Arc, Mutex, mpsc},
    time::{Duration, Instant},
};

use sheen_ports::Cancel;
use sheen_types::Fid;
use sheen_wire::{Opcode, lease::bits};

use crate::{
    Access, CacheSink, Client,
    fake::{FILE, Fake},
    inode::Inode,
    scenarios::{read, start},
};

/// Does what the kernel does: an invalidation waits for a page that a read in flight holds locked.
struct PageLock {
    swept: Mutex<Vec<Range<u64>>>,
    during: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl CacheSink for PageLock {
    fn invalidate_data(&self, _: Fid, range: Range<u64>) {
        self.swept.lock().unwrap().push(range);
        let during = self.during.lock().unwrap().take();
        if let Some(during) = during {
            during();
        }
    }

    fn invalidate_attributes(&self, _: Fid) {}

    fn invalidate_entries(&self) {}
}

#[test]
fn a_read_whose_page_a_sweep_waits_for_is_served_and_swept_again() {
    let (fake, client) = start();
    fake.change(|state| state.write_as_another(0, b"old content"));
    let file = client.inode(FILE);
    assert_eq!(read(&fake, &client, &file, 0, 3), b"old");
    let (reader, other, server) = (client.clone(), file.clone(), fake.clone());
    let during: Box<dyn FnOnce() + Send> = Box::new(move || {
        let room = server.buffer(4096);
        let outcome = reader.read(&other, 0, room, Access::Cached, &Cancel::new()).unwrap();
        assert_eq!(outcome.bytes, 11);
    });
    let sink = Arc::new(PageLock { swept: Mutex::default(), during: Mutex::new(Some(during)) });
    client.set_sink(sink.clone());
    let sequence = fake.revoke(FILE, bits::DATA, false);
    fake.wait_until("the revoke is answered", |state| {
        state.log.iter().any(|sent| sent.opcode == Opcode::LeaseCancel)
    });
    assert_eq!(fake.cancels()[0].sequence, sequence);
    let swept = sink.swept.lock().unwrap().clone();
    assert_eq!(swept, [0..u64::MAX, 0..4096]);
    client.disconnect();
}

/// A program with many threads: whenever pages are dropped, one of them faults some in again, next to those.
struct Faults {
    client: Arc<Client>,
    file: Arc<Inode>,
    fake: Fake,
    swept: Mutex<Vec<Range<u64>>>,
}

impl CacheSink for Faults {
    fn invalidate_data(&self, _: Fid, range: Range<u64>) {
        let mut swept = self.swept.lock().unwrap();
        swept.push(range);
        let number = u64::try_from(swept.len()).unwrap();
        drop(swept);
        if number > 50 {
            return;
        }
        let (client, file, room) = (self.client.clone(), self.file.clone(), self.fake.buffer(4096));
        let (done, served) = mpsc::channel();
        std::thread::spawn(move || {
            let at = number * 4096;
            let _ = done.send(client.read(&file, at, room, Access::Cached, &Cancel::new()));
        });
        // What a sweep of a dirty page takes.
        let _ = served.recv_timeout(Duration::from_millis(5));
    }

    fn invalidate_attributes(&self, _: Fid) {}

    fn invalidate_entries(&self) {}
}

#[test]
fn a_program_that_faults_pages_in_all_the_time_does_not_keep_the_lease() {
    let (fake, client) = start();
    fake.change(|state| state.write_as_another(0, &[1; 1 << 16]));
    let file = client.inode(FILE);
    read(&fake, &client, &file, 0, 3);
    let (other, inode, server) = (client.clone(), file.clone(), fake.clone());
    let sink =
        Arc::new(Faults { client: other, file: inode, fake: server, swept: Mutex::default() });
    client.set_sink(sink.clone());
    fake.revoke(FILE, bits::DATA, false);
    fake.wait_until("the revoke is answered", |state| {
        state.log.iter().any(|sent| sent.opcode == Opcode::LeaseCancel)
    });
    let swept = sink.swept.lock().unwrap().clone();
    assert!(swept.len() < 10, "{} sweeps", swept.len());
    client.disconnect();
}

/// The kernel takes the end in with the answer, unless a notification overtakes that.
#[test]
fn no_sweep_overtakes_the_answer_of_a_read_that_met_the_end() {
    let (fake, client) = start();
    fake.change(|state| state.write_as_another(0, b"old content"));
    let file = client.inode(FILE);
    assert_eq!(read(&fake, &client, &file, 0, 3), b"old");
    let (reader, other, server) = (client.clone(), file.clone(), fake.clone());
    let (sender, answers) = mpsc::channel();
    let during: Box<dyn FnOnce() + Send> = Box::new(move || {
        let room = server.buffer(4096);
        sender.send(reader.read(&other, 0, room, Access::Cached, &Cancel::new())).unwrap();
    });
    let sink = Arc::new(PageLock { swept: Mutex::default(), during: Mutex::new(Some(during)) });
    client.set_sink(sink.clone());
    fake.revoke(FILE, bits::DATA, false);
    let answer = answers.recv_timeout(Duration::from_secs(10)).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(sink.swept.lock().unwrap().as_slice(), std::slice::from_ref(&(0..u64::MAX)));
    drop(answer);
    fake.wait_until("the revoke is answered", |state| {
        state.log.iter().any(|sent| sent.opcode == Opcode::LeaseCancel)
    });
    assert_eq!(sink.swept.lock().unwrap().as_slice(), [0..u64::MAX, 0..4096]);
    client.disconnect();
}

/// A lock file: one client polls its name while another wants to remove it.
#[test]
fn a_program_that_looks_a_name_up_all_the_time_does_not_keep_its_lease() {
    let (fake, client) = start();
    fake.change(|state| state.lookup_grants = Some(bits::METADATA));
    let root = client.inode(client.root());
    let look = || client.lookup(&root, Some(b"file"), &Cancel::new()).unwrap();
    look();
    // The removal waits: nobody gets new leases on the file.
    fake.change(|state| state.lookup_grants = Some(0));
    fake.revoke(FILE, bits::METADATA, false);
    let begun = Instant::now();
    while fake.cancels().is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(2), "the revoke waits for the next look");
        look();
    }
    client.disconnect();
}
