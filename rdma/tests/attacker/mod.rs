//! A program of another user, played by a thread: its user and its table of descriptors are its own.

use std::{
    io::{IoSlice, Read, Write},
    net::{SocketAddr, TcpStream},
    os::{
        fd::{AsRawFd, OwnedFd, RawFd},
        unix::net::UnixStream,
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::{
    fcntl::{FcntlArg, SealFlag, fcntl},
    sched::{CloneFlags, unshare},
    sys::{
        memfd::{MFdFlags, memfd_create},
        socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg, setsockopt, sockopt},
    },
    unistd::ftruncate,
};
use sheen_wire::PROTOCOL_VERSION;

/// Most descriptors that the kernel lets one message carry.
pub(crate) const MESSAGE_DESCRIPTORS_MAX: usize = 253;
/// Longest wait for the server.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// Size of either memory that an honest hello here offers: enough for a message area.
const MEMORY_BYTES: i64 = 1 << 20;

/// Does `work` as user `uid` (this process's own: none) in a thread whose descriptors nobody else has.
pub(crate) fn attack<T: Send + 'static>(
    uid: Option<u32>,
    work: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    thread::spawn(move || {
        unshare(CloneFlags::CLONE_FILES).unwrap();
        if let Some(uid) = uid {
            // SAFETY: changes the user of this thread alone, as the system call itself does; the library's function would change all.
            let result = unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) };
            assert_eq!(result, 0, "the tests need root");
        }
        work()
    })
}

/// A hello for service 1.
pub(crate) fn hello() -> Vec<u8> {
    let mut bytes = b"SHEENFAB".to_vec();
    bytes.extend(PROTOCOL_VERSION.to_le_bytes());
    bytes.extend(1_u16.to_le_bytes());
    bytes.extend(1_u32.to_le_bytes());
    bytes.extend(MEMORY_BYTES.to_le_bytes());
    bytes
}

/// Connects to `address` of a server.
pub(crate) fn peer(address: &str) -> UnixStream {
    let socket = UnixStream::connect(address.strip_prefix("unix:").unwrap()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Sends `bytes` with a control message for each of `groups`.
pub(crate) fn send(socket: &UnixStream, bytes: &[u8], groups: &[&[RawFd]]) {
    send_with(socket.as_raw_fd(), bytes, groups, MsgFlags::empty());
}

fn send_with(socket: RawFd, bytes: &[u8], groups: &[&[RawFd]], flags: MsgFlags) {
    let flags = flags | MsgFlags::MSG_NOSIGNAL;
    let control: Vec<_> = groups.iter().map(|group| ControlMessage::ScmRights(group)).collect();
    let pieces = [IoSlice::new(bytes)];
    // One that the server has closed before is as good.
    if let Ok(sent) = sendmsg::<UnixAddr>(socket, &pieces, &control, flags, None) {
        assert_eq!(sent, bytes.len());
    }
}

/// What the server answers before it closes the connection; without an answer: none.
pub(crate) fn refusal(mut socket: &UnixStream) -> Option<u16> {
    let mut answer = Vec::new();
    // A reset is an end as well: what the server did not read.
    let _end_or_reset = socket.read_to_end(&mut answer);
    answer.get(10..12).map(|number| u16::from_le_bytes(number.try_into().unwrap()))
}

/// Makes a connection that the server takes in.
pub(crate) fn taken_in(address: &str) -> UnixStream {
    let mut socket = peer(address);
    let memory = || -> OwnedFd {
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let memory = memfd_create(c"test", flags).unwrap();
        ftruncate(&memory, MEMORY_BYTES).unwrap();
        fcntl(&memory, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK)).unwrap();
        memory
    };
    let (area, arena) = (memory(), memory());
    send(&socket, &hello(), &[&[area.as_raw_fd(), arena.as_raw_fd()]]);
    let mut answer = [0; 16];
    socket.read_exact(&mut answer).unwrap();
    assert_eq!(answer[10..12], [0, 0]);
    socket
}

/// Sends `bytes` with a socket whose last close waits for a day, since `far` takes nothing; and keeps none of it, so that the last close is
/// the server's.
pub(crate) fn pass_lingering(socket: &UnixStream, bytes: &[u8], flags: MsgFlags, far: SocketAddr) {
    let (number, bytes) = (socket.as_raw_fd(), bytes.to_vec());
    let passing = attack(None, move || {
        let near = TcpStream::connect(far).unwrap();
        near.set_nonblocking(true).unwrap();
        while (&near).write(&[0; 65_536]).is_ok() {}
        near.set_nonblocking(false).unwrap();
        setsockopt(&near, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 86_400 }).unwrap();
        send_with(number, &bytes, &[&[near.as_raw_fd()]], flags);
        // The end of a thread closes without waiting for the other end.
        std::mem::forget(near);
    });
    passing.join().unwrap();
    // Joined is a little before its descriptors are closed.
    thread::sleep(Duration::from_millis(20));
}
