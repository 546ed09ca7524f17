//! When the kernel asks before it shows what it has.

use std::{
    fs::{self, File},
    os::unix::fs::{FileExt, MetadataExt},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use sheen_fuse::kernel::NodeId;
use sheen_types::Timespec;

use crate::{memory, memory::Memory, mounted::Mounted};

/// A file whose page the kernel has, and whose attributes are out of date at once.
fn cached() -> (Arc<Memory>, Mounted, File, NodeId) {
    let (memory, mount) = memory();
    memory.tree().valid = Duration::ZERO;
    fs::write(mount.path("f"), [7; 4096]).unwrap();
    let file = File::open(mount.path("f")).unwrap();
    let node = NodeId(file.metadata().unwrap().ino());
    read(&file);
    (memory, mount, file, node)
}

fn read(file: &File) {
    let mut page = [0; 4096];
    file.read_exact_at(&mut page, 0).unwrap();
    assert_eq!(page, [7; 4096]);
}

/// Requests for attributes and for content while `run` runs.
fn asked(memory: &Memory, run: impl FnOnce()) -> (usize, usize) {
    let now = || (memory.getattrs.load(Ordering::SeqCst), memory.reads.load(Ordering::SeqCst));
    let before = now();
    run();
    let after = now();
    (after.0 - before.0, after.1 - before.1)
}

#[test]
fn attributes_that_are_out_of_date_are_asked_for_before_cached_pages_are_read() {
    let (memory, _mount, file, _) = cached();
    assert_eq!(asked(&memory, || read(&file)), (1, 0));
    memory.tree().valid = Duration::from_secs(3600);
    assert_eq!(asked(&memory, || read(&file)), (1, 0));
    assert_eq!(asked(&memory, || read(&file)), (0, 0), "they are in time now");
}

#[test]
fn a_new_time_of_change_drops_the_pages_unless_a_notification_overtakes_the_answer() {
    let (memory, mount, file, node) = cached();
    let change = |seconds| {
        memory.tree().node(node).unwrap().mtime = Timespec { seconds, nanoseconds: 0 };
    };
    change(100);
    assert_eq!(asked(&memory, || read(&file)), (1, 1));
    let notifier = mount.notifier.clone();
    let overtake = move |node| notifier.invalidate_attributes(node).unwrap();
    *memory.on_getattr.lock().unwrap() = Some(Arc::new(overtake));
    change(200);
    assert_eq!(asked(&memory, || read(&file)), (1, 0), "the pages stay");
    assert_eq!(file.metadata().unwrap().mtime(), 200, "whoever asks is told the truth");
    assert_eq!(asked(&memory, || read(&file)), (1, 0), "but nothing was taken in");
    *memory.on_getattr.lock().unwrap() = None;
    assert_eq!(asked(&memory, || read(&file)), (1, 1));
}
