//! What the kernel has cached, taken back.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    sync::{Arc, atomic::Ordering},
    thread,
};

use sheen_dma::FileMapping;
use sheen_fuse::kernel::{NodeId, NotifyError};

use crate::{actor::Actor, memory, memory::Memory, mounted::Mounted, wait_for};

#[test]
fn a_working_directory_outlives_an_epoch() {
    let (_memory, mount) = memory();
    fs::create_dir_all(mount.path("a/b")).unwrap();
    let actor = Actor::start("stay", &mount.path("a/b")).done();
    mount.notifier.raise_epoch().unwrap();
    assert!(mount.path("a/b").is_dir());
    assert!(actor.end().success());
    assert!(mount.path("a/b/new").exists());
}

#[test]
fn what_changed_elsewhere_is_seen_after_a_notification_and_not_before() {
    let (memory, mount) = memory();
    let path = mount.path("f");
    fs::write(&path, b"old").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"old");
    let node = NodeId(fs::metadata(&path).unwrap().ino());
    memory.tree().node(node).unwrap().content = b"newer".to_vec();
    assert_eq!(fs::read(&path).unwrap(), b"old", "attributes and content are cached for ever");
    mount.notifier.invalidate_attributes(node).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), 5);
    mount.notifier.invalidate_data(node, 0, 0).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"newer");
    mount.notifier.store(node, 0, b"store").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"store");
    let unknown = NodeId(999);
    assert_eq!(mount.notifier.invalidate_data(unknown, 0, 0), Err(NotifyError::NotCached));
}

#[test]
fn names_changed_elsewhere_are_seen_after_a_notification_and_not_before() {
    let (memory, mount) = memory();
    for name in ["a", "b", "c", "d"] {
        fs::write(mount.path(name), name).unwrap();
    }
    let root = NodeId::ROOT;
    let gone = |name: &str| {
        let mut tree = memory.tree();
        tree.node(root).unwrap().names.remove(name.as_bytes());
    };
    gone("a");
    assert!(mount.path("a").exists(), "the name is cached for ever");
    mount.notifier.invalidate_entry(root, b"a").unwrap();
    assert!(!mount.path("a").exists());
    gone("b");
    mount.notifier.expire_entry(root, b"b").unwrap();
    assert!(!mount.path("b").exists());
    let child = NodeId(fs::metadata(mount.path("c")).unwrap().ino());
    gone("c");
    mount.notifier.delete_entry(root, child, b"c").unwrap();
    assert!(!mount.path("c").exists());
    gone("d");
    let epochs = memory.negotiated.lock().unwrap().unwrap().epochs;
    match mount.notifier.raise_epoch() {
        Ok(()) => assert!(epochs && !mount.path("d").exists()),
        Err(error) => assert!(!epochs && error == NotifyError::Unsupported),
    }
}

#[test]
fn what_is_only_cached_is_forgotten_when_asked_for_and_what_is_used_is_not() {
    let (memory, mount) = memory();
    fs::write(mount.path("cached"), b"").unwrap();
    fs::create_dir(mount.path("used")).unwrap();
    let number = |name: &str| NodeId(fs::metadata(mount.path(name)).unwrap().ino());
    let (cached, used) = (number("cached"), number("used"));
    let actor = Actor::start("stay", &mount.path("used")).done();
    match mount.notifier.prune(&[cached, used, NodeId(999)]) {
        Ok(()) => {}
        Err(error) => return assert_eq!(error, NotifyError::Unsupported),
    }
    let lookups = |node: NodeId| memory.tree().node(node).unwrap().lookups;
    wait_for("the file to be forgotten", || lookups(cached) == 0);
    assert!(lookups(used) > 0);
    assert!(actor.end().success());
}

#[test]
fn dirty_pages_of_a_mapping_are_written_back_by_an_invalidation() {
    let (memory, mount) = memory();
    let path = mount.path("m");
    fs::write(&path, vec![0; 8192]).unwrap();
    let node = NodeId(fs::metadata(&path).unwrap().ino());
    let mapper = Actor::start("map", &path).done();
    mount.notifier.invalidate_data(node, 0, 0).unwrap();
    assert_eq!(memory.tree().node(node).unwrap().content[5000], 77);
    assert!(mapper.end().success());
}

#[test]
fn what_a_mapping_stores_behind_the_old_end_arrives_once_the_kernel_was_told_the_end() {
    let (memory, mount) = memory();
    let path = mount.path("m");
    fs::write(&path, [1; 100]).unwrap();
    let node = NodeId(fs::metadata(&path).unwrap().ino());
    let file = fs::File::options().read(true).write(true).open(&path).unwrap();
    let mapping = FileMapping::shared(&file, 512).unwrap();
    for told in [false, true] {
        memory.tree().node(node).unwrap().content = vec![2; 2104];
        mount.notifier.invalidate_data(node, 0, 0).unwrap();
        assert_eq!(mapping.load(125), 0x0202_0202_0202_0202);
        if told {
            mount.notifier.raise_size(node, 2104).unwrap();
        }
        mapping.store(125, 7);
        mapping.sync().unwrap();
        let content = memory.tree().node(node).unwrap().content.clone();
        assert_eq!((content[1000], content.len()), (if told { 7 } else { 2 }, 2104), "{told}");
        assert_eq!(content[2103], 2, "the last byte is not touched");
    }
    assert_eq!(mount.notifier.raise_size(NodeId(999), 1), Err(NotifyError::NotCached));
}

#[test]
fn write_back_and_unlocking_get_through_when_all_that_serve_content_are_stuck() {
    let memory = Arc::new(Memory::new());
    let mount = Mounted::with(memory.clone(), "", |options| options.content_threads_max = 2);
    let stuck: Vec<_> = (0..6).map(|index| mount.path(&format!("stuck{index}"))).collect();
    for path in &stuck {
        fs::write(path, vec![1; 4096]).unwrap();
        let node = NodeId(fs::metadata(path).unwrap().ino());
        mount.notifier.invalidate_data(node, 0, 0).unwrap();
    }
    fs::write(mount.path("m"), vec![0; 8192]).unwrap();
    fs::write(mount.path("l"), b"").unwrap();
    let node = NodeId(fs::metadata(mount.path("m")).unwrap().ino());
    let mapper = Actor::start("map", &mount.path("m")).done();
    let lock = nix::fcntl::Flock::lock(
        fs::File::open(mount.path("l")).unwrap(),
        nix::fcntl::FlockArg::LockExclusive,
    )
    .unwrap();
    thread::scope(|scope| {
        let _closed = memory.gate.close();
        for path in &stuck {
            scope.spawn(move || fs::read(path).unwrap());
        }
        wait_for("readers to get stuck", || memory.reads_now.load(Ordering::SeqCst) == 2);
        mount.notifier.invalidate_data(node, 0, 0).unwrap();
        assert_eq!(memory.tree().node(node).unwrap().content[5000], 77);
        // Unlocks and closes.
        drop(lock.unlock().unwrap());
        assert!(memory.locks.held().is_empty());
    });
    assert!(mapper.end().success());
}
