//! A service for tests: one thread that owns a fabric and answers every request by what its opcode stands for here.
//!
//! ObjectWrite: pulls and answers with the payload's length in the body. ObjectRead: answers with `reply_room` bytes of a
//! pattern. Ping: answers at once. LockSet: parked until a LockCancel. LeaseRequest: answers, then sends callbacks.
#![allow(dead_code, reason = "not every test file uses all of it")]

pub(crate) mod identities;

use std::{
    net::TcpListener,
    os::{fd::BorrowedFd, unix::net::UnixListener},
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use sheen_dma::{Arena, Buffer};
use sheen_ports::{CloseReason, ConnectionId, Fabric, FabricEvent, RequestId};
use sheen_rdma::{
    Acceptor, AcceptorConfig, AcceptorCounters, ConnectionLimits, FabricCounters, Gate,
    NewConnection, PayloadCheck, ServerFabric,
};
use sheen_types::{Xid, checksum::crc32c};
use sheen_wire::{Frame, Kind, Opcode};

#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) counters: FabricCounters,
    pub(crate) closed: Vec<CloseReason>,
    pub(crate) sleeps: u64,
    /// Requests found after a sleep that nobody ended.
    pub(crate) overslept: u64,
}

pub(crate) struct Server {
    pub(crate) unix: String,
    pub(crate) tcp: String,
    pub(crate) seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    acceptor: Option<Acceptor>,
    pub(crate) counters: Arc<AcceptorCounters>,
    _directory: tempfile::TempDir,
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::with_limits(ConnectionLimits::default())
    }

    /// A server whose connections may take so much.
    pub(crate) fn with_limits(limits: ConnectionLimits) -> Self {
        Self::with(limits, None)
    }

    /// A server that lets in over TCP whom `gate` does.
    pub(crate) fn with_gate(gate: Arc<dyn Gate>) -> Self {
        Self::with(ConnectionLimits::default(), Some(gate))
    }

    fn with(limits: ConnectionLimits, gate: Option<Arc<dyn Gate>>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path: PathBuf = directory.path().join("socket");
        let unix = UnixListener::bind(&path).unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = tcp.local_addr().unwrap();
        let (sender, receiver) = mpsc::channel();
        let config = AcceptorConfig { unix: Some(unix), tcp: Some(tcp), services: 2, limits };
        let hand_over = move |connection| sender.send(connection).unwrap_or(());
        let acceptor = match gate {
            None => Acceptor::start(config, hand_over, None),
            Some(gate) => Acceptor::start_guarded(config, gate, hand_over, None),
        }
        .unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (thread_stop, thread_seen) = (stop.clone(), seen.clone());
        let thread =
            thread::spawn(move || Service::new().run(&receiver, &thread_stop, &thread_seen));
        Self {
            unix: format!("unix:{}", path.display()),
            tcp: format!("tcp:{address}"),
            seen,
            stop,
            thread: Some(thread),
            counters: acceptor.counters().clone(),
            acceptor: Some(acceptor),
            _directory: directory,
        }
    }

    /// Ends the service thread; its fabric closes every connection.
    pub(crate) fn kill(&mut self) {
        self.acceptor = None;
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }

    /// Waits until `found` of what the service saw.
    pub(crate) fn wait_for(&self, what: &str, found: impl Fn(&Seen) -> bool) {
        let started = std::time::Instant::now();
        while !found(&self.seen.lock().unwrap()) {
            assert!(started.elapsed() < Duration::from_secs(20), "waiting for {what}");
            thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

pub(crate) fn pattern(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..bytes)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        })
        .collect()
}

struct Service {
    fabric: ServerFabric,
    arena: Arena,
    pulls: Vec<(u64, RequestId, Frame)>,
    parked: Vec<(RequestId, Frame)>,
    /// Requests whose buffer is not there yet.
    hungry: Vec<(RequestId, Frame)>,
    tokens: u64,
    callbacks: u64,
    /// Callbacks still to send.
    owed: Vec<(ConnectionId, u64)>,
}

impl Service {
    fn new() -> Self {
        Self {
            fabric: ServerFabric::new(PayloadCheck::Fabric).unwrap(),
            arena: Arena::anonymous(16 << 20).unwrap(),
            pulls: Vec::new(),
            parked: Vec::new(),
            hungry: Vec::new(),
            tokens: 0,
            callbacks: 0,
            owed: Vec::new(),
        }
    }

    fn run(
        mut self,
        connections: &mpsc::Receiver<NewConnection>,
        stop: &AtomicBool,
        seen: &Mutex<Seen>,
    ) {
        let mut events = Vec::new();
        let mut idle = 0;
        let mut timed_out = false;
        while !stop.load(Ordering::SeqCst) {
            let mut came = 0;
            for connection in connections.try_iter() {
                self.fabric.add(connection).unwrap();
                came += 1;
            }
            came += self.fabric.poll(64, &mut events);
            let requests =
                events.iter().filter(|event| matches!(event, FabricEvent::Request { .. }));
            seen.lock().unwrap().overslept += u64::from(timed_out && requests.count() > 0);
            timed_out = false;
            for event in events.drain(..) {
                self.on_event(event, seen);
            }
            for (request, frame) in std::mem::take(&mut self.hungry) {
                self.serve(request, frame);
            }
            self.pay_callbacks();
            seen.lock().unwrap().counters = self.fabric.counters();
            idle = if came == 0 { idle + 1 } else { 0 };
            if idle > 50 {
                timed_out = self.sleep(seen);
                idle = 0;
            }
        }
    }

    /// Returns whether nothing ended the sleep.
    fn sleep(&mut self, seen: &Mutex<Seen>) -> bool {
        if self.fabric.prepare_sleep() {
            seen.lock().unwrap().sleeps += 1;
            let mut descriptors = Vec::new();
            self.fabric.wake_descriptors(&mut descriptors);
            // SAFETY: the fabric, which outlives the call, owns the descriptor.
            let descriptor = unsafe { BorrowedFd::borrow_raw(descriptors[0]) };
            let mut polled = [PollFd::new(descriptor, PollFlags::POLLIN)];
            let ready = poll(&mut polled, PollTimeout::from(5_u8)).unwrap();
            self.fabric.end_sleep();
            return ready == 0;
        }
        false
    }

    fn on_event(&mut self, event: FabricEvent, seen: &Mutex<Seen>) {
        match event {
            FabricEvent::Request { request, message } => {
                let (frame, _body) = Frame::decode_with(&message).unwrap();
                self.serve(request, frame);
            }
            FabricEvent::Pulled { token, buffer, result } => {
                let at = self.pulls.iter().position(|(pull, ..)| *pull == token).unwrap();
                let (_, request, frame) = self.pulls.swap_remove(at);
                if result.is_ok() {
                    let found = crc32c(&buffer.as_slice()[..frame.payload_bytes as usize]);
                    assert_eq!(found, frame.payload_checksum);
                    self.answer(
                        request,
                        &frame,
                        0,
                        &frame.payload_bytes.to_le_bytes(),
                        Some(buffer),
                    );
                }
            }
            FabricEvent::Closed { reason, connection } => {
                self.parked.retain(|(request, _)| request.connection != connection);
                seen.lock().unwrap().closed.push(reason);
            }
            FabricEvent::Opened { .. } | FabricEvent::Sent { .. } => {}
        }
    }

    fn serve(&mut self, request: RequestId, frame: Frame) {
        match frame.opcode {
            Opcode::ObjectWrite => match self.arena.allocate(frame.payload_bytes as usize) {
                Some(buffer) => {
                    self.tokens += 1;
                    self.pulls.push((self.tokens, request, frame));
                    self.fabric.pull(request, self.tokens, buffer);
                }
                None => self.hungry.push((request, frame)),
            },
            Opcode::ObjectRead => match self.arena.allocate(frame.reply_room()) {
                Some(mut buffer) => {
                    let bytes = pattern(frame.xid.0, frame.reply_room());
                    buffer.as_mut_slice().copy_from_slice(&bytes);
                    self.answer(request, &frame, frame.reply_room(), b"read", Some(buffer));
                }
                None => self.hungry.push((request, frame)),
            },
            // Answers without pulling: the payload is dropped.
            Opcode::ObjectPunch => self.answer(request, &frame, 0, b"dropped", None),
            // More than the room holds.
            Opcode::ReadLink => {
                let buffer = self.arena.allocate(8192);
                self.answer(request, &frame, 8192, b"", buffer);
            }
            Opcode::LockSet => self.parked.push((request, frame)),
            Opcode::LockCancel => {
                for (parked, frame) in std::mem::take(&mut self.parked) {
                    self.answer_parked(parked, &frame);
                }
                self.answer(request, &frame, 0, b"", None);
            }
            Opcode::LeaseRequest => {
                self.answer(request, &frame, 0, b"", None);
                self.owed.push((request.connection, u64::from(frame.tag.0)));
            }
            _ => self.answer(request, &frame, 0, b"", None),
        }
    }

    /// A parked request is answered with payload, if it has room.
    fn answer_parked(&mut self, request: RequestId, frame: &Frame) {
        let mut buffer = Buffer::standalone(frame.reply_room().max(1));
        buffer.as_mut_slice().fill(0x5a);
        self.answer(request, frame, frame.reply_room(), b"", Some(buffer));
    }

    fn answer(
        &mut self,
        request: RequestId,
        frame: &Frame,
        bytes: usize,
        body: &[u8],
        payload: Option<Buffer>,
    ) {
        let mut reply = frame.reply(0);
        reply.payload_bytes = u32::try_from(bytes).unwrap();
        let mut message = Vec::new();
        reply.encode_with(body, &mut message);
        self.fabric.reply(request, &message, payload);
    }

    fn pay_callbacks(&mut self) {
        for (connection, count) in &mut self.owed {
            while *count > 0 {
                let mut message = Vec::new();
                let mut frame = Frame::request(Opcode::LeaseRevoke, Xid(self.callbacks));
                frame.kind = Kind::Callback;
                frame.encode_with(&pattern(self.callbacks, 40), &mut message);
                match self.fabric.notify(*connection, &message) {
                    Ok(()) => self.callbacks += 1,
                    Err(sheen_ports::NotifyError::Busy) => break,
                    Err(sheen_ports::NotifyError::Closed) => {
                        *count = 0;
                        break;
                    }
                }
                *count -= 1;
            }
        }
        self.owed.retain(|(_, count)| *count > 0);
    }
}
