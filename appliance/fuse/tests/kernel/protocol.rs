//! A session against a kernel that is played by the test, over a socket that keeps message boundaries: other versions,
//! orders of arrival a real kernel rarely shows, and nonsense.

use std::{
    io::{Read, Write},
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use crate::memory::Memory;
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{
        AddressFamily, SockFlag, SockType, setsockopt, socketpair,
        sockopt::{ReceiveTimeout, SendTimeout},
    },
};
use sheen_dma::Arena;
use sheen_fuse::kernel::{Device, Session, SessionOptions};

/// The kernel's end.
struct Kernel {
    socket: std::fs::File,
    session: Session,
    memory: Arc<Memory>,
}

struct Answer {
    error: i32,
    unique: u64,
    body: Vec<u8>,
}

impl Kernel {
    fn new() -> Self {
        let (ours, theirs): (OwnedFd, OwnedFd) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
                .unwrap();
        let patience = nix::sys::time::TimeVal::new(10, 0);
        setsockopt(&ours, ReceiveTimeout, &patience).unwrap();
        setsockopt(&ours, SendTimeout, &patience).unwrap();
        let memory = Arc::new(Memory::new());
        let arena = Arena::anonymous(32 << 20).unwrap();
        let mut options = SessionOptions::new(Arc::new(move |bytes| arena.allocate(bytes)));
        options.transfer_bytes_max = 64 << 10;
        let session = Session::start(Device::new(theirs), memory.clone(), options).unwrap();
        Self { socket: ours.into(), session, memory }
    }

    fn send(&self, opcode: u32, unique: u64, node: u64, body: &[u8]) {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&(40 + body.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&opcode.to_le_bytes());
        bytes.extend_from_slice(&unique.to_le_bytes());
        bytes.extend_from_slice(&node.to_le_bytes());
        bytes.extend_from_slice(&[0; 16]);
        bytes.extend_from_slice(body);
        (&self.socket).write_all(&bytes).unwrap();
    }

    fn receive(&self) -> Answer {
        let mut bytes = vec![0; 128 << 10];
        let length = (&self.socket).read(&mut bytes).unwrap();
        bytes.truncate(length);
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        assert_eq!(word(0) as usize, length, "the length is the message's");
        let unique = u64::from_le_bytes(bytes[8..16].try_into().unwrap());
        let error = word(4).cast_signed();
        bytes.drain(..16);
        Answer { error, unique, body: bytes }
    }

    fn init(&self, minor: u32, flags: u64) -> Answer {
        let mut body = Vec::new();
        for word in [7, minor, 1 << 17, flags as u32, (flags >> 32) as u32] {
            body.extend_from_slice(&word.to_le_bytes());
        }
        body.resize(64, 0);
        self.send(26, 2, 0, &body);
        self.receive()
    }

    fn end(self) {
        drop(self.socket);
        self.session.wait();
        assert_eq!(self.memory.ended.load(Ordering::SeqCst), 1);
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// All bits a kernel of this version offers; the extension bit must be among them for the upper ones.
const OFFERED_BY_6_1: u64 = 0x0000_000b_73ff_fffb;

#[test]
fn a_kernel_of_6_1_is_served_in_its_own_version() {
    let kernel = Kernel::new();
    let answer = kernel.init(38, OFFERED_BY_6_1 & !(1 << 16));
    assert_eq!((answer.error, answer.unique, answer.body.len()), (0, 2, 64));
    assert_eq!((word(&answer.body, 0), word(&answer.body, 4)), (7, 38));
    let taken = u64::from(word(&answer.body, 12)) | u64::from(word(&answer.body, 32)) << 32;
    assert_eq!(taken & !OFFERED_BY_6_1, 0, "only what was offered");
    assert_eq!(taken & 1 << 16, 0, "no write-back cache");
    let negotiated = kernel.memory.negotiated.lock().unwrap().unwrap();
    assert!(!negotiated.epochs && !negotiated.direct_io_mmap && negotiated.expiry);
    kernel.send(1, 4, 1, b"nothing\0");
    let answer = kernel.receive();
    assert_eq!((answer.error, answer.unique), (-libc::ENOENT, 4));
    kernel.end();
}

#[test]
fn a_newer_major_version_is_asked_to_come_down() {
    let kernel = Kernel::new();
    let mut body = vec![0; 64];
    body[0] = 8;
    kernel.send(26, 2, 0, &body);
    let answer = kernel.receive();
    assert_eq!((answer.error, word(&answer.body, 0)), (0, 7));
    assert!(kernel.memory.negotiated.lock().unwrap().is_none());
    assert_eq!(kernel.init(45, 0).error, 0);
    kernel.end();
}

#[test]
fn a_kernel_too_old_is_told_so() {
    let kernel = Kernel::new();
    assert_eq!(kernel.init(30, 0).error, -libc::EPROTO);
    kernel.end();
}

#[test]
fn an_operation_nobody_knows_is_not_implemented() {
    let kernel = Kernel::new();
    kernel.init(45, 0);
    for (opcode, unique) in [(48, 4), (54, 6), (4096, 8)] {
        kernel.send(opcode, unique, 1, &[0; 100]);
        let answer = kernel.receive();
        assert_eq!((answer.error, answer.unique), (-libc::ENOSYS, unique));
    }
    kernel.end();
}

fn lock_body(owner: u8) -> Vec<u8> {
    let mut body = vec![0; 48];
    body[8] = owner;
    body[24..32].copy_from_slice(&i64::MAX.to_le_bytes());
    body[32] = libc::F_WRLCK as u8;
    body
}

#[test]
fn an_interrupt_ends_a_wait_whether_it_comes_early_or_late() {
    let kernel = Kernel::new();
    kernel.init(45, 0);
    kernel.send(33, 4, 1, &lock_body(1));
    assert_eq!(kernel.receive().error, 0);
    // Before its request.
    kernel.send(36, 7, 0, &6_u64.to_le_bytes());
    kernel.send(33, 6, 1, &lock_body(2));
    let answer = kernel.receive();
    assert_eq!((answer.error, answer.unique), (-libc::EINTR, 6));
    // After it.
    kernel.send(33, 8, 1, &lock_body(2));
    while kernel.session.serving() == 0 {
        std::thread::yield_now();
    }
    kernel.send(36, 9, 0, &8_u64.to_le_bytes());
    let answer = kernel.receive();
    assert_eq!((answer.error, answer.unique), (-libc::EINTR, 8));
    // For one that is long answered: no answer, no harm.
    kernel.send(36, 5, 0, &4_u64.to_le_bytes());
    kernel.send(17, 10, 1, b"");
    assert_eq!(kernel.receive().unique, 10);
    kernel.end();
}

#[test]
fn interrupts_and_forgets_get_through_thousands_of_requests_that_wait() {
    const REQUESTS: u64 = 2000;
    let kernel = Kernel::new();
    kernel.init(45, 0);
    kernel.send(9, 4, 1, &[&[0xff, 0x41, 0, 0, 0, 0, 0, 0][..], b"d\0"].concat());
    assert_eq!(kernel.receive().error, 0);
    let node = *kernel.memory.tree().nodes.keys().last().unwrap();
    let closed = kernel.memory.door.close();
    for number in 0..REQUESTS {
        kernel.send(1, 1000 + 2 * number, 1, b"d\0");
    }
    // Forgets the directory's lookup, and interrupts the first, the last and one that is parked.
    kernel.send(2, 6, node, &1_u64.to_le_bytes());
    crate::wait_for("the forget", || kernel.memory.tree().nodes[&node].lookups == 0);
    for number in [0, REQUESTS / 2, REQUESTS - 1] {
        kernel.send(36, 1001 + 2 * number, 0, &(1000 + 2 * number).to_le_bytes());
        let answer = kernel.receive();
        assert_eq!((answer.error, answer.unique), (-libc::EINTR, 1000 + 2 * number));
    }
    assert!(kernel.session.threads() < 300, "{}", kernel.session.threads());
    assert!(kernel.session.parked() > 1500);
    drop(closed);
    for _ in 0..REQUESTS - 3 {
        assert_eq!(kernel.receive().error, 0);
    }
    kernel.end();
}

#[test]
fn the_end_of_the_connection_ends_waits() {
    let kernel = Kernel::new();
    kernel.init(45, 0);
    kernel.send(33, 4, 1, &lock_body(1));
    kernel.receive();
    kernel.send(33, 6, 1, &lock_body(2));
    while kernel.session.serving() == 0 {
        std::thread::yield_now();
    }
    kernel.end();
}

#[test]
fn a_write_whose_size_is_not_its_payloads_is_refused() {
    let kernel = Kernel::new();
    kernel.init(45, 0);
    let mut body = vec![0; 40 + 100];
    body[16] = 101;
    kernel.send(16, 4, 1, &body);
    assert_eq!(kernel.receive().error, -libc::EIO);
    body[16] = 100;
    kernel.send(16, 6, 1, &body);
    let answer = kernel.receive();
    assert_eq!((answer.error, word(&answer.body, 0)), (0, 100));
    kernel.end();
}

#[test]
fn what_is_kept_until_the_answer_is_dropped_after_it() {
    let kernel = Kernel::new();
    kernel.init(45, 0);
    let (sender, receiver) = std::sync::mpsc::channel();
    let socket = kernel.socket.try_clone().unwrap();
    let readable = move || {
        let mut one = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
        sender.send(poll(&mut one, PollTimeout::ZERO).unwrap() == 1).unwrap();
    };
    *kernel.memory.on_answered.lock().unwrap() = Some(Arc::new(readable));
    kernel.send(1, 4, 1, b"nothing\0");
    assert!(receiver.recv_timeout(Duration::from_secs(10)).unwrap(), "the answer was there first");
    assert_eq!(kernel.receive().unique, 4);
    *kernel.memory.on_answered.lock().unwrap() = None;
    kernel.end();
}

#[test]
fn a_read_larger_than_agreed_is_refused() {
    let kernel = Kernel::new();
    kernel.init(45, 0);
    let mut body = vec![0; 40];
    body[16..20].copy_from_slice(&(1_u32 << 20).to_le_bytes());
    kernel.send(15, 4, 1, &body);
    assert_eq!(kernel.receive().error, -libc::EINVAL);
    kernel.end();
}

#[test]
fn nonsense_does_not_end_a_session() {
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    let mut state = seed;
    let mut random = move || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 33
    };
    let kernel = Kernel::new();
    kernel.init(45, 0);
    // The longest that still fits; the answer to the question after it shows that the session lives.
    for round in 0..3000_u64 {
        let length = (random() % 300) as usize;
        let body: Vec<u8> =
            (0..length).map(|_| ((random() % 3) * (random() % 128)) as u8).collect();
        // Not the handshake, and nothing that forgets: the file system rightly objects to forgetting too much.
        let opcode = match (random() % 56) as u32 {
            2 | 26 | 42 => 1,
            other => other,
        };
        let unique = 1000 + round * 4;
        kernel.send(opcode, unique, random() % 3, &body);
        kernel.send(17, unique + 2, 1, b"");
        loop {
            let answer = kernel.receive();
            if answer.unique == unique + 2 {
                assert_eq!(answer.error, 0);
                break;
            }
        }
    }
    // A header that lies about its length is passed over.
    (&kernel.socket).write_all(&[1; 200]).unwrap();
    (&kernel.socket).write_all(&[1; 7]).unwrap();
    kernel.send(17, 20, 1, b"");
    while kernel.receive().unique != 20 {}
    assert!(kernel.session.threads() > 0);
    assert!(!kernel.session.wait_for(Duration::ZERO));
}
