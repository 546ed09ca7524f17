//! Mounting and unmounting.

use std::{
    fs::{self, File},
    io::Write,
    sync::{Arc, atomic::Ordering},
    thread,
    time::{Duration, Instant},
};

use sheen_fuse::kernel::{
    NodeId, NotifyError,
    mountpoint::{
        AttachError, Detach, DetachError, MountOptions, MountPoint, attach, detach, remount,
    },
};

use crate::{actor::Actor, memory, memory::Memory, mounted::Mounted, wait_for};

#[test]
fn a_reader_of_a_stuck_file_system_is_freed_by_force() {
    let mut memory = Memory::new();
    memory.read_delay = Duration::from_secs(3);
    let memory = Arc::new(memory);
    let mount = Mounted::new(memory.clone());
    fs::write(mount.path("f"), b"x").unwrap();
    thread::scope(|scope| {
        let reader = scope.spawn(|| fs::read(mount.path("f")));
        wait_for("the read", || memory.reads_now.load(Ordering::SeqCst) == 1);
        let start = Instant::now();
        detach(&mount.path, Detach::Force).unwrap();
        assert!(reader.join().unwrap().is_err());
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
        assert!(!mount.session.wait_for(Duration::ZERO), "the call itself does not look");
    });
    mount.session.wait();
}

#[test]
fn an_idle_mount_unmounts_and_its_session_ends() {
    let (memory, mount) = memory();
    fs::write(mount.path("f"), b"").unwrap();
    detach(&mount.path, Detach::Normal).unwrap();
    mount.session.wait();
    assert_eq!(memory.ended.load(Ordering::SeqCst), 1);
    assert!(matches!(detach(&mount.path, Detach::Normal), Err(DetachError::NotMounted(_))));
    assert_eq!(mount.notifier.invalidate_attributes(NodeId::ROOT), Err(NotifyError::Gone));
}

#[test]
fn a_busy_mount_unmounts_lazily_or_by_force() {
    let (memory, mount) = memory();
    let file = File::create(mount.path("f")).unwrap();
    assert!(matches!(detach(&mount.path, Detach::Normal), Err(DetachError::Busy(_))));
    detach(&mount.path, Detach::Lazy).unwrap();
    assert!(MountPoint::at(&mount.path).unwrap().is_none());
    (&file).write_all(b"still works").unwrap();
    assert_eq!(memory.ended.load(Ordering::SeqCst), 0);
    drop(file);
    mount.session.wait();

    let (memory, mount) = crate::memory();
    let file = File::create(mount.path("l")).unwrap();
    let holder = Actor::start("flock", &mount.path("l")).done();
    let waiter = Actor::start("flock", &mount.path("l"));
    wait_for("the waiter", || mount.session.serving() == 1);
    detach(&mount.path, Detach::Force).unwrap();
    mount.session.wait();
    assert!((&file).write_all(b"x").is_err());
    assert_eq!(memory.ended.load(Ordering::SeqCst), 1);
    assert!(!waiter.end().success());
    holder.end();
}

#[test]
fn the_mount_table_shows_source_type_and_flags_and_a_remount_changes_them() {
    let memory = Arc::new(Memory::new());
    let mount = Mounted::with(memory, "fsname=node1:/big one,noatime,nosuid", |_| {});
    let found = MountPoint::at(&mount.path).unwrap().unwrap();
    assert_eq!((found.source.as_str(), found.type_name.as_str()), ("node1:/big one", "fuse.sheen"));
    assert!(found.options.contains("nosuid") && found.options.contains("noatime"));
    assert!(found.super_options.contains("allow_other"));
    fs::write(mount.path("f"), b"").unwrap();
    remount(&mount.path, &MountOptions::parse("remount,ro", &[]).unwrap()).unwrap();
    let error = fs::write(mount.path("g"), b"").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EROFS));
    let found = MountPoint::at(&mount.path).unwrap().unwrap();
    assert!(found.options.contains("nosuid") && found.options.contains("noatime"));
    remount(&mount.path, &MountOptions::parse("remount,rw", &[]).unwrap()).unwrap();
    fs::write(mount.path("g"), b"").unwrap();
}

#[test]
fn a_mount_point_that_will_not_do_is_refused_with_its_reason() {
    let (_memory, mount) = memory();
    let options = MountOptions::default();
    let refused = |path: &std::path::Path| attach(path, &options).unwrap_err().to_string();
    assert!(refused(&mount.path).contains("mounted there already"));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, b"").unwrap();
    assert!(refused(&file).contains("not a directory"));
    assert!(refused(directory.path()).contains("not empty"));
    assert!(refused(&directory.path().join("none")).contains("no such directory"));
}

#[test]
fn a_dead_mount_is_told_from_a_living_one_and_unmounts() {
    let directory = tempfile::tempdir().unwrap();
    let options = MountOptions::default();
    drop(attach(directory.path(), &options).unwrap());
    let refused = attach(directory.path(), &options).unwrap_err();
    detach(directory.path(), Detach::Normal).unwrap();
    assert!(matches!(refused, AttachError::Dead(_)), "{refused:?}");
    assert!(MountPoint::at(directory.path()).unwrap().is_none());
}
