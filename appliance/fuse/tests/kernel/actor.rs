//! Other processes that use a mount: this test program again, told by its environment what to do. They can be killed,
//! and they hold what only a process holds.

use std::{
    ffi::CString,
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, Read, Write},
    os::{fd::AsRawFd, unix::ffi::OsStrExt},
    path::Path,
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
};

use nix::{
    fcntl::{FcntlArg, Flock, FlockArg, fcntl},
    sys::mman::{MapFlags, ProtFlags, mmap},
};

const WHAT: &str = "SHEEN_FUSE_ACTOR";
const WHERE: &str = "SHEEN_FUSE_ACTOR_PATH";

/// A process; killed when dropped.
#[derive(Debug)]
pub(crate) struct Actor {
    child: Child,
    input: Option<ChildStdin>,
}

impl Actor {
    /// Starts one that does `what` (see [`acts_if_asked_to`]) with `path`.
    pub(crate) fn start(what: &str, path: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "actor::acts_if_asked_to", "--nocapture", "--test-threads=1"])
            .env(WHAT, what)
            .env(WHERE, path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let input = child.stdin.take();
        Self { child, input }
    }

    /// Waits until it has done it; it then keeps what it has until [`Actor::end`].
    pub(crate) fn done(mut self) -> Self {
        let output = self.child.stdout.as_mut().unwrap();
        let done = BufReader::new(output).lines().any(|line| line.unwrap().ends_with("done"));
        assert!(done, "the actor failed");
        self
    }

    /// Waits until it has got a signal that it cannot take yet.
    pub(crate) fn wait_for_signal(&self) {
        let path = format!("/proc/{}/status", self.child.id());
        crate::wait_for("a signal", || {
            let status = std::fs::read_to_string(&path).unwrap();
            let pending = status.lines().filter(|line| {
                (line.starts_with("SigPnd:") || line.starts_with("ShdPnd:"))
                    && line.bytes().any(|byte| (b'1'..=b'9').contains(&byte))
            });
            pending.count() > 0
        });
    }

    /// Lets it end.
    pub(crate) fn end(mut self) -> ExitStatus {
        drop(self.input.take());
        self.child.wait().unwrap()
    }

    /// Kills it.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Says it is done, and waits for the end of its input.
fn done_until_told() {
    let mut output = std::io::stdout();
    output.write_all(b"\ndone\n").unwrap();
    output.flush().unwrap();
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}

fn open(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}

/// No test of its own: what an [`Actor`] runs.
#[test]
fn acts_if_asked_to() {
    let (Ok(what), Some(path)) = (std::env::var(WHAT), std::env::var_os(WHERE)) else { return };
    let path = Path::new(&path);
    match what.as_str() {
        "flock" => {
            let _lock = Flock::lock(open(path), FlockArg::LockExclusive).unwrap();
            done_until_told();
        }
        "fcntl" => {
            let file = open(path);
            let lock = libc::flock {
                l_type: libc::F_WRLCK as i16,
                l_whence: libc::SEEK_SET as i16,
                l_start: 0,
                l_len: 0,
                l_pid: 0,
            };
            fcntl(&file, FcntlArg::F_SETLKW(&lock)).unwrap();
            done_until_told();
        }
        "stat" => assert!(std::fs::metadata(path).is_ok()),
        "mkdir" => std::fs::create_dir(path).unwrap(),
        "read" => {
            let mut content = Vec::new();
            File::open(path).unwrap().read_to_end(&mut content).unwrap();
        }
        "timer" => {
            start_timer();
            assert!(std::fs::metadata(path).is_ok());
            done_until_told();
        }
        "map" => dirty_a_page(&open(path)),
        "stay" => {
            std::env::set_current_dir(path).unwrap();
            done_until_told();
            assert_eq!(std::env::current_dir().unwrap(), path);
            std::fs::write("new", b"").unwrap();
        }
        other => panic!("no such act: {other}"),
    }
}

/// A signal every few milliseconds, handled by doing nothing; calls are not restarted after it.
fn start_timer() {
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
    extern "C" fn ignore(_: libc::c_int) {}
    let action = SigAction::new(SigHandler::Handler(ignore), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler does nothing, which is safe at any time.
    unsafe { sigaction(Signal::SIGALRM, &action) }.unwrap();
    let every = libc::timeval { tv_sec: 0, tv_usec: 5000 };
    let timer = libc::itimerval { it_interval: every, it_value: every };
    // SAFETY: the timer is live for the call, which keeps no reference to it.
    let result =
        unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, std::ptr::null_mut()) };
    assert_eq!(result, 0);
}

/// Byte 5000 of a mapping becomes 77.
fn dirty_a_page(file: &File) {
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    let length = std::num::NonZeroUsize::new(8192).unwrap();
    // SAFETY: a fresh shared mapping at an address the kernel picks, of a file at least as long; unmapped by the end
    // of the process.
    let address = unsafe { mmap(None, length, protection, MapFlags::MAP_SHARED, file, 0) }.unwrap();
    // SAFETY: 5000 lies within the mapping's 8192 bytes.
    let byte = unsafe { address.cast::<u8>().add(5000) };
    // SAFETY: the byte is mapped writable, and nobody else in this process knows of it.
    unsafe { byte.write(77) };
    done_until_told();
}

/// Sets an extended attribute of this process's own accord.
pub(crate) fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    let (path, name) = (terminated(path), CString::new(name).unwrap());
    // SAFETY: path and name end in NUL, the value is as long as is said, and none is kept.
    let result = unsafe {
        libc::setxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0)
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

/// Its value; the error if `room` bytes are not enough for it.
pub(crate) fn get_xattr(path: &Path, name: &str, room: usize) -> std::io::Result<Vec<u8>> {
    let (path, name) = (terminated(path), CString::new(name).unwrap());
    let mut value = vec![0; room];
    // SAFETY: path and name end in NUL, the value's room is as long as is said, and none is kept.
    let result = unsafe {
        libc::getxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len())
    };
    let length = usize::try_from(result).map_err(|_| std::io::Error::last_os_error())?;
    value.truncate(length.min(room));
    if room == 0 { Ok(vec![0; length]) } else { Ok(value) }
}

/// All their names, each followed by NUL.
pub(crate) fn list_xattrs(path: &Path) -> Vec<u8> {
    let path = terminated(path);
    let mut names = vec![0; 65536];
    // SAFETY: the path ends in NUL, the room is as long as is said, and neither is kept.
    let result = unsafe { libc::listxattr(path.as_ptr(), names.as_mut_ptr().cast(), names.len()) };
    names.truncate(usize::try_from(result).unwrap());
    names
}

#[repr(C)]
struct Handle {
    bytes: u32,
    kind: i32,
    data: [u8; 128],
}

/// Opens a file by the handle an NFS server would keep of it, without its name.
pub(crate) fn open_by_handle(
    mount: &Path,
    path: &Path,
    before: impl FnOnce(),
) -> std::io::Result<File> {
    use std::os::fd::FromRawFd;
    let (name, mut id) = (terminated(path), 0);
    let mut handle = Handle { bytes: 128, kind: 0, data: [0; 128] };
    let pointer = (&raw mut handle).cast();
    // SAFETY: the path ends in NUL; the handle is as long as it says and laid out as the kernel wants; `id` is live.
    let result =
        unsafe { libc::name_to_handle_at(libc::AT_FDCWD, name.as_ptr(), pointer, &raw mut id, 0) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    before();
    let root = File::open(mount).unwrap();
    // SAFETY: the handle was made by the kernel above, `root` is open.
    let result = unsafe { libc::open_by_handle_at(root.as_raw_fd(), pointer, libc::O_RDONLY) };
    if result < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: the descriptor was made by the call above for us alone.
    Ok(unsafe { File::from_raw_fd(result) })
}

fn terminated(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap()
}
