//! Names, files and transfers.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Seek, SeekFrom, Write},
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, symlink},
    process::Command,
    sync::{Arc, atomic::Ordering},
    thread,
    time::Duration,
};

use sheen_fuse::kernel::mountpoint::MountPoint;

use crate::{
    actor::{get_xattr, list_xattrs, open_by_handle, set_xattr},
    memory,
    memory::Memory,
    mounted::Mounted,
    wait_for,
};

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
    let path = mount.path("x");
    let long = vec![b'v'; 60_000];
    set_xattr(&path, "user.short", b"1");
    set_xattr(&path, "user.long", &long);
    assert_eq!(get_xattr(&path, "user.long", 65536).unwrap(), long);
    assert_eq!(get_xattr(&path, "user.long", 0).unwrap().len(), 60_000, "its size alone");
    let refused = get_xattr(&path, "user.long", 100).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::ERANGE));
    assert_eq!(get_xattr(&path, "user.none", 9).unwrap_err().raw_os_error(), Some(libc::ENODATA));
    assert_eq!(list_xattrs(&path), b"user.long\0user.short\0");
}

#[test]
fn a_file_is_opened_by_its_handle_when_the_kernel_has_forgotten_it() {
    let (_memory, mount) = memory();
    fs::create_dir(mount.path("d")).unwrap();
    fs::write(mount.path("d/f"), b"by handle").unwrap();
    let forget = || fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
    let mut file = open_by_handle(&mount.path, &mount.path("d/f"), forget).unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "by handle");
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
fn a_panic_in_the_file_system_is_an_error_of_that_request_only() {
    let (_memory, mount) = memory();
    let error = fs::metadata(mount.path("panic")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    fs::write(mount.path("fine"), b"").unwrap();
}
