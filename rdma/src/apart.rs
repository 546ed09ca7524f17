//! Threads with a descriptor table of their own: where what a peer passes is received and closed.
//!
//! A peer may pass any descriptor, and closing it may take as long as the peer likes: a file on a FUSE mount is closed when its daemon
//! answers FLUSH, a socket with SO_LINGER when its data is taken. Nothing ends such a wait but the peer or an operator (it is no wait
//! for a signal), so no thread may come into it that others wait for, and no table that others need may hold the descriptor. Even the
//! receipt may block, since the kernel closes what it cannot install.
//!
//! Such a thread begins with a copy of this process's table in which only named sockets are left. Whatever else comes into it goes when
//! the thread ends, and is never closed before: a thread that ends has left the memory of this process by then, so that the memory of
//! one that is stuck there comes back when the process ends.
//!
//! Deliberately absent: how many there may be (see [`crate::places`]).

use std::{
    io,
    mem::ManuallyDrop,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::net::UnixStream,
    },
    sync::mpsc::{self, SyncSender},
    thread,
    time::Duration,
};

use nix::unistd::{getpid, gettid};

/// Stack of such a thread: its buffers are of some KiB.
const STACK_BYTES: usize = 256 << 10;
/// Longest wait for the end of copies that nobody needs. Closing one of a file of ours may take longer where its file system is away.
const CLEAR_WAIT: Duration = Duration::from_millis(50);
/// Lowest number that may be closed: below are the standard streams.
const FIRST: RawFd = 3;

/// A thread that was started; it goes on by itself when this is dropped.
#[derive(Debug)]
pub(crate) struct Apart {
    thread: libc::pid_t,
}

/// A socket in the table of such a thread, under the number it has in ours. Never closed: that may block.
pub(crate) type Kept = ManuallyDrop<UnixStream>;

impl Apart {
    /// Starts a thread that has `sockets` and the standard streams in its table and nothing else, and does `work` with them. Returns when
    /// the table is made: `sockets` may be closed then. Whatever else we close a moment later is closed for all: usually the copies have gone too.
    ///
    /// Nothing that owns a descriptor may be moved into `work` or out of it: the number means another one there.
    ///
    /// # Errors
    /// When the system gives no thread or no table.
    pub(crate) fn start(
        sockets: &[&UnixStream],
        work: impl FnOnce(Vec<Kept>) + Send + 'static,
    ) -> io::Result<Self> {
        let numbers: Vec<RawFd> = sockets.iter().map(|socket| socket.as_raw_fd()).collect();
        let (started, start) = mpsc::sync_channel(2);
        thread::Builder::new()
            .name("local-peer".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || run(&numbers, &started, work))?;
        // The thread says one or the other before it can end.
        let thread = start.recv().unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()))?;
        let _late = start.recv_timeout(CLEAR_WAIT);
        Ok(Self { thread })
    }

    /// Whether the thread has ended and all descriptors of its table are closed.
    pub(crate) fn is_over(&self) -> bool {
        // SAFETY: signal 0 only asks whether the thread is there.
        let found = unsafe { libc::syscall(libc::SYS_tgkill, getpid().as_raw(), self.thread, 0) };
        found != 0
    }
}

/// Closes sockets in a thread of their own: with them goes what of their peers' is unread in them.
///
/// # Errors
/// When there is no such thread; they are given back.
pub(crate) fn close(sockets: Vec<UnixStream>) -> Result<Apart, Vec<UnixStream>> {
    let (closed, wait) = mpsc::channel::<()>();
    let all: Vec<_> = sockets.iter().collect();
    let started = Apart::start(&all, move |_sockets| {
        // Ends when `closed` is dropped: from then on this thread's are the last references.
        let _dropped = wait.recv();
    });
    match started {
        Ok(apart) => {
            drop(sockets);
            drop(closed);
            Ok(apart)
        }
        Err(_) => Err(sockets),
    }
}

fn run(
    numbers: &[RawFd],
    started: &SyncSender<io::Result<libc::pid_t>>,
    work: impl FnOnce(Vec<Kept>),
) {
    let mut kept = numbers.to_vec();
    kept.sort_unstable();
    let thread = gettid().as_raw();
    if let Err(error) = leave_table(&kept) {
        let _asked = started.send(Err(error));
        return;
    }
    let _asked = started.send(Ok(thread));
    if clear_table(&kept).is_err() {
        return;
    }
    let _asked = started.send(Ok(thread));
    let socket = |&number: &RawFd| {
        // SAFETY: this thread's table holds the socket under its number, since the owner waits for `started`; nobody else uses the table.
        ManuallyDrop::new(UnixStream::from(unsafe { OwnedFd::from_raw_fd(number) }))
    };
    work(numbers.iter().map(socket).collect());
}

/// Gives the calling thread a table of its own, with copies of what is numbered up to the last of `kept`, which is sorted.
fn leave_table(kept: &[RawFd]) -> io::Result<()> {
    let beyond = kept.last().map_or(FIRST, |last| FIRST.max(last + 1));
    close_range(beyond, RawFd::MAX, libc::CLOSE_RANGE_UNSHARE)
}

/// Closes all of such a table but the standard streams and `kept`.
fn clear_table(kept: &[RawFd]) -> io::Result<()> {
    let mut from = FIRST;
    for &number in kept {
        if from < number {
            close_range(from, number - 1, 0)?;
        }
        from = from.max(number + 1);
    }
    Ok(())
}

fn close_range(first: RawFd, last: RawFd, flags: libc::c_uint) -> io::Result<()> {
    // SAFETY: without CLOSE_RANGE_UNSHARE this is called in a table that is this thread's alone and in which nothing owns what is closed;
    // with it the kernel leaves the table of others as it is.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod test {
    use std::{
        fs::{read_dir, read_link},
        io::{Read, Write},
        time::Instant,
    };

    use super::*;

    #[test]
    fn a_thread_apart_sees_what_it_keeps_and_closes_nothing_of_ours() {
        let (ours, mut far) = UnixStream::pair().unwrap();
        let (other, mut other_far) = UnixStream::pair().unwrap();
        let number = ours.as_raw_fd();
        let (said, heard) = mpsc::channel();
        let apart = Apart::start(&[&ours], move |sockets| {
            (&*sockets[0]).write_all(b"from apart").unwrap();
            let all = read_dir("/proc/thread-self/fd").unwrap().filter_map(|entry| {
                let name = entry.unwrap().file_name();
                let link = read_link(format!("/proc/thread-self/fd/{}", name.display()));
                let number: RawFd = name.to_str().unwrap().parse().unwrap();
                // The folder itself is open while it is listed, and nowhere any more.
                link.is_ok_and(|to| !to.ends_with("fd")).then_some(number)
            });
            said.send(all.filter(|number| *number > 2).collect::<Vec<_>>()).unwrap();
        })
        .unwrap();
        let mut bytes = [0; 10];
        far.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"from apart");
        assert_eq!(heard.recv().unwrap(), [number]);
        let begun = Instant::now();
        while !apart.is_over() {
            assert!(begun.elapsed() < Duration::from_secs(20));
            thread::yield_now();
        }
        (&ours).write_all(b"still ours").unwrap();
        (&other).write_all(b"and this").unwrap();
        far.read_exact(&mut bytes).unwrap();
        other_far.read_exact(&mut bytes[..8]).unwrap();
        drop((ours, close(vec![other]).unwrap()));
        assert_eq!(far.read(&mut bytes).unwrap(), 0);
        assert_eq!(other_far.read(&mut bytes).unwrap(), 0);
    }
}
