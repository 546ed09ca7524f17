//! The edge to the kernel against the kernel of this machine: a file system in memory, mounted for real. Needs root
//! and `/dev/fuse`.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test stops where it is wrong"
)]

mod memory;
mod mounted;

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Seek, SeekFrom, Write},
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, symlink},
    process::Command,
    sync::{Arc, atomic::Ordering},
    thread,
    time::{Duration, Instant},
};

use memory::Memory;
use mounted::Mounted;
use sheen_fuse::kernel::{
    LockFamily, NodeId, NotifyError,
    mountpoint::{Detach, DetachError, MountOptions, MountPoint, attach, detach, remount},
};

fn memory() -> (Arc<Memory>, Mounted) {
    let memory = Arc::new(Memory::new());
    let mounted = Mounted::new(memory.clone());
    (memory, mounted)
}

fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(10), "waited in vain for {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn names_files_and_links_work_as_on_any_file_system() {
    let (memory, mount) = memory();
    fs::create_dir(mount.path("d")).unwrap();
    fs::write(mount.path("d/a"), b"hello").unwrap();
    assert_eq!(fs::read(mount.path("d/a")).unwrap(), b"hello");
    fs::rename(mount.path("d/a"), mount.path("b")).unwrap();
    fs::hard_link(mount.path("b"), mount.path("c")).unwrap();
    assert_eq!(fs::metadata(mount.path("c")).unwrap().nlink(), 2);
    symlink("b", mount.path("s")).unwrap();
    assert_eq!(fs::read(mount.path("s")).unwrap(), b"hello");
    assert_eq!(fs::read_link(mount.path("s")).unwrap().to_str(), Some("b"));
    fs::remove_file(mount.path("b")).unwrap();
    fs::remove_dir(mount.path("d")).unwrap();
    assert!(!mount.path("b").exists());
    let created = fs::metadata(mount.path("c")).unwrap().created().unwrap();
    assert_eq!(created.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs(), 1234);
    let file = File::options().write(true).open(mount.path("c")).unwrap();
    file.set_len(2).unwrap();
    assert_eq!(fs::read(mount.path("c")).unwrap(), b"he");
    let negotiated = memory.negotiated.lock().unwrap().unwrap();
    assert!(negotiated.minor >= 31 && negotiated.posix_acl);
}

#[test]
fn a_file_without_a_name_can_be_written_and_read() {
    let (_memory, mount) = memory();
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_TMPFILE)
        .open(&mount.path)
        .unwrap();
    file.write_all(b"unnamed").unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "unnamed");
}

#[test]
fn a_listing_of_thousands_is_complete_and_counts_its_lookups() {
    let (_memory, mount) = memory();
    for index in 0..3000 {
        File::create(mount.path(&format!("file-with-a-longer-name-{index:05}"))).unwrap();
    }
    for _ in 0..2 {
        let mut names: Vec<_> = fs::read_dir(&mount.path)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names.len(), 3000);
        assert_eq!(names[2999], "file-with-a-longer-name-02999");
    }
    let status = Command::new("ls").arg("-l").arg(&mount.path).output().unwrap();
    assert_eq!(status.stdout.iter().filter(|&&byte| byte == b'\n').count(), 3001);
    // Forgets everything; the file system panics if it is forgotten more often than looked up.
    fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
    assert!(fs::metadata(mount.path("file-with-a-longer-name-00000")).is_ok());
}

#[test]
fn large_transfers_come_in_whole_megabytes() {
    let (memory, mount) = memory();
    let content: Vec<u8> =
        (0..8_u32 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    fs::write(mount.path("big"), &content).unwrap();
    assert!(fs::read(mount.path("big")).unwrap() == content);
    let direct = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_DIRECT)
        .open(mount.path("big"))
        .unwrap();
    let mut buffer = sheen_dma::Buffer::standalone(4 << 20);
    direct.read_exact_at(buffer.as_mut_slice(), 1 << 20).unwrap();
    assert!(buffer.as_slice() == &content[1 << 20..5 << 20]);
    direct.write_all_at(buffer.as_slice(), 0).unwrap();
    assert_eq!(memory.largest_write.load(Ordering::SeqCst), 1 << 20);
    assert!(fs::read(mount.path("big")).unwrap()[..4 << 20] == content[1 << 20..5 << 20]);
}

#[test]
fn sequential_reads_are_large_once_readahead_is_raised() {
    let mut memory = Memory::new();
    memory.opened_as.keep_cache = false;
    let memory = Arc::new(memory);
    let mount = Mounted::new(memory.clone());
    MountPoint::at(&mount.path).unwrap().unwrap().set_readahead(4 << 20).unwrap();
    fs::write(mount.path("f"), vec![3; 16 << 20]).unwrap();
    assert_eq!(fs::read(mount.path("f")).unwrap().len(), 16 << 20);
    assert_eq!(memory.largest_read.load(Ordering::SeqCst), 1 << 20);
}

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
fn a_working_directory_outlives_an_epoch() {
    let (_memory, mount) = memory();
    fs::create_dir_all(mount.path("a/b")).unwrap();
    let mut shell = Command::new("sh")
        .args(["-c", "echo locked; read line; stat . >/dev/null && pwd -P && ls .. && : > new"])
        .current_dir(mount.path("a/b"))
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    locked(&mut shell);
    mount.notifier.raise_epoch().unwrap();
    assert!(mount.path("a/b").is_dir());
    shell.stdin.take().unwrap().write_all(b"\n").unwrap();
    let output = shell.wait_with_output().unwrap();
    let expected = format!("{}\nb\n", mount.path("a/b").display());
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
    assert!(mount.path("a/b/new").exists());
}

#[test]
fn sixteen_readers_are_served_side_by_side() {
    let mut memory = Memory::new();
    memory.read_delay = Duration::from_millis(50);
    memory.opened_as.direct_io = true;
    let memory = Arc::new(memory);
    let mount = Mounted::new(memory.clone());
    fs::write(mount.path("f"), vec![7; 1 << 20]).unwrap();
    thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                let file = File::open(mount.path("f")).unwrap();
                let mut bytes = vec![0; 65536];
                file.read_exact_at(&mut bytes, 4096).unwrap();
                assert!(bytes.iter().all(|&byte| byte == 7));
            });
        }
    });
    assert!(memory.reads_most.load(Ordering::SeqCst) >= 12);
    wait_for("idle threads to leave", || mount.session.threads() <= 9);
}

#[test]
fn xattrs_of_all_sizes_come_back() {
    let (_memory, mount) = memory();
    fs::write(mount.path("x"), b"").unwrap();
    let long = "v".repeat(60_000);
    for (name, value) in [("user.short", "1"), ("user.long", long.as_str())] {
        let set = Command::new("python3")
            .args([
                "-c",
                "import os,sys; os.setxattr(sys.argv[1], sys.argv[2], b'v'*int(sys.argv[3]))",
            ])
            .arg(mount.path("x"))
            .args([name, &value.len().to_string()])
            .status()
            .unwrap();
        assert!(set.success());
    }
    let get = "import os,sys; print(len(os.getxattr(sys.argv[1],'user.long')), sorted(os.listxattr(sys.argv[1])))";
    let output = Command::new("python3").args(["-c", get]).arg(mount.path("x")).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "60000 ['user.long', 'user.short']\n");
}

const LOCKER: &str = "
import fcntl, sys, time
f = open(sys.argv[1], 'r+')
if sys.argv[2] == 'flock':
    fcntl.flock(f, fcntl.LOCK_EX)
else:
    fcntl.lockf(f, fcntl.LOCK_EX)
print('locked', flush=True)
sys.stdin.read()
";

fn locker(mount: &Mounted, family: &str) -> std::process::Child {
    Command::new("python3")
        .args(["-c", LOCKER])
        .arg(mount.path("l"))
        .arg(family)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap()
}

fn locked(child: &mut std::process::Child) {
    let mut line = [0; 7];
    child.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
    assert_eq!(&line, b"locked\n");
}

#[test]
fn flock_and_fcntl_locks_are_two_families() {
    let (memory, mount) = memory();
    fs::write(mount.path("l"), b"").unwrap();
    let mut one = locker(&mount, "flock");
    locked(&mut one);
    let mut two = locker(&mount, "fcntl");
    locked(&mut two);
    let families: Vec<_> = memory.locks.held().iter().map(|held| held.family).collect();
    assert_eq!(families, [LockFamily::Flock, LockFamily::Posix]);
    for mut child in [one, two] {
        drop(child.stdin.take());
        child.wait().unwrap();
    }
    wait_for("locks to be dropped", || memory.locks.held().is_empty());
}

#[test]
fn a_process_that_waits_for_a_lock_can_be_killed() {
    for family in ["flock", "fcntl"] {
        let (memory, mount) = memory();
        fs::write(mount.path("l"), b"").unwrap();
        let mut holder = locker(&mount, family);
        locked(&mut holder);
        let mut waiter = locker(&mount, family);
        wait_for("the waiter", || mount.session.serving() == 1);
        waiter.kill().unwrap();
        waiter.wait().unwrap();
        wait_for("the wait to end", || mount.session.serving() == 0);
        assert_eq!(memory.locks.held().len(), 1, "the holder keeps its lock");
        drop(holder.stdin.take());
        holder.wait().unwrap();
    }
}

#[test]
fn a_waiter_gets_the_lock_when_its_holder_ends() {
    let (_memory, mount) = memory();
    fs::write(mount.path("l"), b"").unwrap();
    let mut holder = locker(&mount, "fcntl");
    locked(&mut holder);
    let mut waiter = locker(&mount, "fcntl");
    wait_for("the waiter", || mount.session.serving() == 1);
    drop(holder.stdin.take());
    holder.wait().unwrap();
    locked(&mut waiter);
    drop(waiter.stdin.take());
    assert!(waiter.wait().unwrap().success());
}

#[test]
fn waiting_locks_beyond_the_bound_are_refused_and_others_go_on() {
    let memory = Arc::new(Memory::new());
    let mount = Mounted::with(memory, "", |options| options.waiters_max = 2);
    fs::write(mount.path("l"), b"").unwrap();
    let mut holder = locker(&mount, "fcntl");
    let mut waiters: Vec<_> = Vec::new();
    locked(&mut holder);
    for _ in 0..2 {
        waiters.push(locker(&mount, "fcntl"));
    }
    wait_for("the waiters", || mount.session.serving() == 2);
    let third = locker(&mount, "fcntl").wait_with_output().unwrap();
    assert!(!third.status.success());
    fs::write(mount.path("other"), b"still served").unwrap();
    for mut child in waiters {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    drop(holder.stdin.take());
    holder.wait().unwrap();
}

#[test]
fn more_requests_than_threads_are_queued_and_all_served() {
    let mut memory = Memory::new();
    memory.read_delay = Duration::from_millis(5);
    memory.opened_as.direct_io = true;
    let memory = Arc::new(memory);
    let mount = Mounted::with(memory.clone(), "", |options| {
        options.content_threads_max = 2;
        options.namespace_threads_max = 1;
    });
    fs::write(mount.path("f"), vec![9; 65536]).unwrap();
    thread::scope(|scope| {
        for _ in 0..24 {
            scope.spawn(|| assert_eq!(fs::read(mount.path("f")).unwrap(), vec![9; 65536]));
        }
    });
    assert!(memory.reads_most.load(Ordering::SeqCst) <= 2);
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
    assert_eq!(mount.notifier.invalidate_given(node, || true), Ok(()));
    let asked = std::cell::Cell::new(0);
    let is_given = || asked.replace(asked.get() + 1) < 30;
    assert_eq!(mount.notifier.invalidate_given(unknown, is_given), Err(NotifyError::NotCached));
    assert_eq!(asked.get(), 31, "it asked until the inode was forgotten");
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
fn dirty_pages_of_a_mapping_are_written_back_by_an_invalidation() {
    let (memory, mount) = memory();
    let path = mount.path("m");
    fs::write(&path, vec![0; 8192]).unwrap();
    let node = NodeId(fs::metadata(&path).unwrap().ino());
    let mut mapper = Command::new("python3")
        .args(["-c", "import mmap,sys; f=open(sys.argv[1],'r+b'); m=mmap.mmap(f.fileno(),0); m[5000]=77; print('locked',flush=True); sys.stdin.read()"])
        .arg(&path)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    locked(&mut mapper);
    mount.notifier.invalidate_data(node, 0, 0).unwrap();
    assert_eq!(memory.tree().node(node).unwrap().content[5000], 77);
    drop(mapper.stdin.take());
    mapper.wait().unwrap();
}

#[test]
fn a_panic_in_the_file_system_is_an_error_of_that_request_only() {
    let (_memory, mount) = memory();
    let error = fs::metadata(mount.path("panic")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    fs::write(mount.path("fine"), b"").unwrap();
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

    let (memory, mount) = self::memory();
    let file = File::create(mount.path("l")).unwrap();
    let mut holder = locker(&mount, "flock");
    locked(&mut holder);
    let mut waiter = locker(&mount, "flock");
    wait_for("the waiter", || mount.session.serving() == 1);
    detach(&mount.path, Detach::Force).unwrap();
    mount.session.wait();
    assert!((&file).write_all(b"x").is_err());
    assert_eq!(memory.ended.load(Ordering::SeqCst), 1);
    assert!(!waiter.wait().unwrap().success());
    drop(holder.stdin.take());
    holder.wait().unwrap();
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
