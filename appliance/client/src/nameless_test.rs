//! What the kernel goes on to use without a name stays open, and what it has forgotten costs no request.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use sheen_ports::Cancel;
use sheen_types::Fid;
use sheen_wire::{
    Field, Opcode,
    lease::bits,
    metadata::{Close, Open, Reassert},
};

use crate::{
    CacheSink, Client,
    fake::{FILE, Fake},
    scenarios::{WRITE, start},
};

/// A kernel that uses the file, and may have it only cached.
#[derive(Default)]
struct Kernel {
    uses: AtomicBool,
    only_cached: AtomicBool,
    asked_to_drop: AtomicUsize,
    /// It uses the directory by nothing but what it caches below it.
    only_caches_below: AtomicBool,
    told_of_removed: AtomicUsize,
}

impl CacheSink for Kernel {
    fn invalidate_data(&self, _: Fid, _: Range<u64>) {}
    fn invalidate_attributes(&self, _: Fid) {}
    fn invalidate_entries(&self) {}

    fn uses(&self, fid: Fid) -> bool {
        fid == FILE && self.uses.load(Ordering::SeqCst)
    }

    fn drop_unused(&self, fids: &[Fid]) -> bool {
        assert_eq!(fids, [FILE]);
        self.asked_to_drop.fetch_add(1, Ordering::SeqCst);
        if self.only_cached.load(Ordering::SeqCst) {
            self.uses.store(false, Ordering::SeqCst);
        }
        true
    }

    fn drop_removed_directory(&self, fid: Fid) -> bool {
        assert_eq!(fid, FILE);
        self.told_of_removed.fetch_add(1, Ordering::SeqCst);
        if self.only_caches_below.load(Ordering::SeqCst) {
            self.uses.store(false, Ordering::SeqCst);
        }
        true
    }
}

fn begin(uses: bool) -> (Fake, Arc<Client>, Arc<Kernel>) {
    let (fake, client) = start();
    let kernel = Arc::new(Kernel::default());
    kernel.uses.store(uses, Ordering::SeqCst);
    client.set_sink(kernel.clone());
    (fake, client, kernel)
}

fn remove(fake: &Fake, client: &Arc<Client>) {
    let root = client.inode(client.root());
    client.unlink(&root, b"file", false, (0, 0), &Cancel::new()).unwrap();
    fake.change(|state| state.nameless = true);
}

fn wait_for(fake: &Fake, opcode: Opcode, times: usize) {
    fake.wait_until("it is asked", |state| {
        state.log.iter().filter(|sent| sent.opcode == opcode).count() == times
    });
}

/// Longer than an inode is looked at after it lost its name.
const LONG: Duration = Duration::from_millis(900);

#[test]
fn what_is_used_without_a_name_is_open_until_the_kernel_forgets_it() {
    let (fake, client, kernel) = begin(true);
    let file = client.inode(FILE);
    remove(&fake, &client);
    wait_for(&fake, Opcode::Open, 1);
    let open = Open::from_bytes(&fake.sent(Opcode::Open)[0].body).unwrap();
    assert_eq!(open, Open { fid: FILE, write: false, append: false });
    assert_eq!(kernel.asked_to_drop.load(Ordering::SeqCst), 0, "it dropped the name itself");
    while !file.lock().kept {
        std::thread::yield_now();
    }
    // A restart of the server is told.
    fake.change(|state| state.server_epoch += 1);
    fake.lose_mdt();
    fake.wait_until("it is asserted", |state| {
        let mut asserted = state.log.iter().filter(|sent| sent.opcode == Opcode::Reassert);
        asserted.any(|sent| Reassert::from_bytes(&sent.payload).unwrap().opens.0.len() == 1)
    });
    // Opens and closes of programs leave it open.
    client.open(&file, WRITE, &Cancel::new()).unwrap();
    client.close(&file, true, &Cancel::new());
    wait_for(&fake, Opcode::Close, 1);
    assert!(Close::from_bytes(&fake.sent(Opcode::Close)[0].body).unwrap().write_only);
    kernel.uses.store(false, Ordering::SeqCst);
    client.forget(FILE);
    wait_for(&fake, Opcode::Close, 2);
    assert!(!Close::from_bytes(&fake.sent(Opcode::Close)[1].body).unwrap().write_only);
    client.disconnect();
}

#[test]
fn what_the_kernel_forgot_with_its_name_costs_no_request() {
    let (fake, client, kernel) = begin(false);
    drop(client.inode(FILE));
    remove(&fake, &client);
    std::thread::sleep(LONG);
    assert_eq!(fake.sent(Opcode::Open).len() + fake.sent(Opcode::GetAttributes).len(), 0);
    assert_eq!(kernel.asked_to_drop.load(Ordering::SeqCst), 0);
    client.disconnect();
}

#[test]
fn what_another_client_removed_is_dropped_where_it_is_only_cached_and_kept_where_it_is_used() {
    for only_cached in [true, false] {
        let (fake, client, kernel) = begin(true);
        kernel.only_cached.store(only_cached, Ordering::SeqCst);
        let file = client.inode(FILE);
        client.attributes(&file, &Cancel::new()).unwrap();
        fake.revoke(FILE, bits::LOOKUP | bits::UPDATE, false);
        fake.change(|state| state.nameless = true);
        if only_cached {
            std::thread::sleep(LONG);
            assert_eq!(kernel.asked_to_drop.load(Ordering::SeqCst), 1);
        } else {
            wait_for(&fake, Opcode::Open, 1);
        }
        let kept = !only_cached;
        assert_eq!(fake.sent(Opcode::Open).len(), usize::from(kept));
        assert_eq!(kernel.told_of_removed.load(Ordering::SeqCst), 0, "it is no directory");
        client.disconnect();
    }
}

#[test]
fn a_directory_another_client_removed_is_kept_only_if_a_program_uses_it() {
    for only_caches_below in [true, false] {
        let (fake, client, kernel) = begin(true);
        kernel.only_caches_below.store(only_caches_below, Ordering::SeqCst);
        fake.change(|state| state.is_directory = true);
        let directory = client.inode(FILE);
        client.metadata_attributes(&directory, &Cancel::new()).unwrap();
        fake.revoke(FILE, bits::LOOKUP | bits::UPDATE, false);
        fake.change(|state| state.nameless = true);
        if only_caches_below {
            std::thread::sleep(LONG + LONG);
        } else {
            wait_for(&fake, Opcode::Open, 1);
        }
        assert_eq!(fake.sent(Opcode::Open).len(), usize::from(!only_caches_below));
        assert_eq!(kernel.told_of_removed.load(Ordering::SeqCst), 1);
        client.disconnect();
    }
}

#[test]
fn what_still_has_a_name_is_not_opened() {
    let (fake, client, _) = begin(true);
    let file = client.inode(FILE);
    client.attributes(&file, &Cancel::new()).unwrap();
    fake.revoke(FILE, bits::LOOKUP | bits::UPDATE, false);
    wait_for(&fake, Opcode::GetAttributes, 2);
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(fake.sent(Opcode::Open).len(), 0);
    client.disconnect();
}

#[test]
fn a_file_that_is_closed_without_a_name_is_looked_at_again() {
    let (fake, client, _) = begin(true);
    let file = client.inode(FILE);
    client.open(&file, WRITE, &Cancel::new()).unwrap();
    remove(&fake, &client);
    client.close(&file, true, &Cancel::new());
    wait_for(&fake, Opcode::Open, 2);
    client.disconnect();
}
