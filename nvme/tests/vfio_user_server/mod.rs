//! A small vfio-user server for tests, on our codec: a device with one page of doorbells, four MSI-X vectors and a configuration
//! space. It can be told to answer one command wrongly, and to send commands of its own.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "a helper of tests")]

use std::{
    collections::HashMap,
    fs::File,
    io::Write,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{fs::FileExt, net::UnixStream},
    },
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::memfd::{MFdFlags, memfd_create},
};
use sheen_nvme::transport::vfio_user::{
    IrqData, Message, OpenError, Options, Reply, Request, Socket, VfioUser,
    interrupts::{IRQ_EVENTFD, IRQ_MSIX, IRQ_NORESIZE, IRQ_REQUEST},
    message::{
        Command, DEVICE_IS_PCI, DEVICE_RESETS, Header, Kind, REGION_BAR0, REGION_CONFIG,
        RegionAccess,
    },
    region::{Area, REGION_MMAP, REGION_READ, REGION_WRITE, Region},
    request::refuse,
    version::{Capabilities, TwinSocket, Version},
};

/// How a reply is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wrong {
    /// Another id.
    Id,
    /// Another command.
    Command,
    /// One byte of the payload is missing.
    Short,
    /// One byte too many.
    Long,
    /// An errno instead.
    Errno(Errno),
    /// The error bit without an errno.
    ErrorWithoutErrno,
    /// A header that says 4 GiB.
    Oversize,
    /// A header that says 3 bytes.
    Undersize,
    /// A type that does not exist.
    Type,
    /// The connection ends within the header.
    TornHeader,
    /// The connection ends within the payload.
    TornPayload,
    /// The connection ends instead.
    Close,
    /// Descriptors nobody asked for.
    Descriptors(usize),
    /// More descriptors than a message may have, in two parts.
    TooManyDescriptors,
    /// No reply.
    Silence,
    /// The reply comes twice.
    Twice,
    /// The fields of the payload are all ones.
    Ones,
}

/// A command of the server: number and payload.
pub(crate) type Ask = (Command, Vec<u8>);

/// What the server does.
#[derive(Clone, Debug, Default)]
pub(crate) struct Script {
    /// The first such command is answered wrongly.
    pub(crate) wrong: Option<(Command, Wrong)>,
    /// No page of doorbells is offered.
    pub(crate) without_pages: bool,
    /// Vectors are a set.
    pub(crate) as_set: bool,
    /// The server's own commands use a second socket.
    pub(crate) twin: bool,
    /// The server's own commands, sent after each command of this number is received and before it is answered.
    pub(crate) asks_before: Option<(Command, Vec<Ask>)>,
}

/// What a test sees of the server.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) doorbells: File,
    pub(crate) state: Arc<Mutex<State>>,
    /// Answers to the server's own commands.
    pub(crate) answers: Receiver<Message>,
    /// Ask it to send a command now (twin socket only).
    pub(crate) ask: Sender<(Command, Vec<u8>)>,
    thread: Option<JoinHandle<()>>,
    hang_up: UnixStream,
    over: Arc<AtomicBool>,
}

/// What the client did.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) registers: HashMap<u64, u64>,
    pub(crate) config: Vec<u8>,
    pub(crate) maps: Vec<(u64, u64, Option<OwnedFd>)>,
    pub(crate) unmaps: Vec<(u64, u64)>,
    pub(crate) events: HashMap<(u32, u32), OwnedFd>,
    pub(crate) disabled: usize,
    pub(crate) resets: usize,
    pub(crate) posted: Vec<(u64, Vec<u8>)>,
}

fn soon() -> Option<Instant> {
    Some(Instant::now() + Duration::from_secs(10))
}

fn config() -> Vec<u8> {
    let mut bytes = vec![0; 256];
    bytes[..12].copy_from_slice(&[0x36, 0x1b, 0x10, 0, 0, 0, 0x10, 0, 0, 2, 8, 1]);
    bytes[0x34] = 0x40;
    // MSI-X, four vectors.
    bytes[0x40..0x44].copy_from_slice(&[0x11, 0, 3, 0]);
    bytes
}

impl Server {
    /// Starts a server and connects a client.
    pub(crate) fn start(script: Script, options: Options) -> (Self, Result<VfioUser, OpenError>) {
        let (client, stream) = UnixStream::pair().unwrap();
        let descriptor = memfd_create(c"doorbells", MFdFlags::MFD_CLOEXEC).unwrap();
        let doorbells = File::from(descriptor);
        doorbells.set_len(0x2000).unwrap();
        let state = Arc::new(Mutex::new(State { config: config(), ..State::default() }));
        let (sender, answers) = channel();
        let (ask, asked) = channel();
        let hang_up = stream.try_clone().unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let mut serving = Serving {
            socket: Socket::new(stream),
            raw: hang_up.try_clone().unwrap(),
            script,
            doorbells: doorbells.try_clone().unwrap(),
            state: state.clone(),
            sender,
            twin: None,
            over: over.clone(),
        };
        let thread = std::thread::spawn(move || serving.run(&asked));
        let client = VfioUser::over(client, Path::new("test"), options);
        let thread = Some(thread);
        (Self { doorbells, state, answers, ask, thread, hang_up, over }, client)
    }

    /// The process of the server dies.
    pub(crate) fn die(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let _ = self.hang_up.shutdown(std::net::Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }

    /// A doorbell's value in the server's page.
    pub(crate) fn doorbell(&self, offset: u64) -> u32 {
        let mut bytes = [0; 4];
        self.doorbells.read_exact_at(&mut bytes, offset).unwrap();
        u32::from_le_bytes(bytes)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.die();
    }
}

struct Serving {
    socket: Socket,
    raw: UnixStream,
    script: Script,
    doorbells: File,
    state: Arc<Mutex<State>>,
    sender: Sender<Message>,
    twin: Option<Socket>,
    over: Arc<AtomicBool>,
}

impl Serving {
    fn run(&mut self, asked: &Receiver<(Command, Vec<u8>)>) {
        while !self.over.load(Ordering::Relaxed) {
            while let Ok((command, payload)) = asked.try_recv() {
                self.ask(command, &payload);
            }
            match self.socket.is_readable(Duration::from_millis(2)) {
                Ok(true) => {}
                Ok(false) => continue,
                Err(_) => return,
            }
            let Ok(message) = self.socket.receive(soon()) else { return };
            if !self.serve(message) {
                return;
            }
        }
    }

    /// Sends a command of the server and keeps its answer for the test.
    fn ask(&mut self, command: Command, payload: &[u8]) {
        let socket = self.twin.as_ref().unwrap_or(&self.socket);
        socket.send((0x5555, command.number(), Kind::Command), payload, &[], soon()).unwrap();
        if let Ok(answer) = socket.receive(soon()) {
            let _ = self.sender.send(answer);
        }
    }

    fn serve(&mut self, message: Message) -> bool {
        let header = message.header;
        let command = Command::from_number(header.command);
        if let Some((before, asks)) = self.script.asks_before.clone()
            && command == Some(before)
        {
            self.script.asks_before = None;
            asks.iter().for_each(|(command, payload)| self.ask(*command, payload));
        }
        if let Some((wrong, how)) = self.script.wrong
            && command == Some(wrong)
        {
            self.script.wrong = None;
            return self.misbehave(message, how);
        }
        match self.act(message) {
            Ok((payload, descriptor)) => {
                let with: Vec<BorrowedFd<'_>> = descriptor.iter().map(AsFd::as_fd).collect();
                if header.kind == Kind::Command {
                    let what = (header.id, header.command, Kind::Reply);
                    return self.socket.send(what, &payload, &with, soon()).is_ok();
                }
                true
            }
            Err(errno) => refuse(&self.socket, &header, errno, soon()).is_ok(),
        }
    }

    /// The right payload and descriptor.
    fn act(&mut self, message: Message) -> Result<(Vec<u8>, Option<OwnedFd>), Errno> {
        let kind = message.header.kind;
        let mut payload = Vec::new();
        let mut descriptor = None;
        match Request::decode(message)? {
            Request::Version(version) => {
                assert_eq!((version.major, version.minor), (0, 0));
                let mut capabilities =
                    Capabilities { max_msg_fds: Some(8), ..Capabilities::default() };
                if self.script.twin {
                    assert!(version.capabilities.twin_socket.unwrap().supported);
                    let (ours, theirs) = UnixStream::pair().unwrap();
                    self.twin = Some(Socket::new(ours));
                    descriptor = Some(theirs.into());
                    let twin = TwinSocket { supported: true, fd_index: Some(0) };
                    capabilities.twin_socket = Some(twin);
                }
                Reply::Version(Version { capabilities, ..version }).encode(&mut payload);
            }
            Request::DeviceInfo => {
                let flags = DEVICE_IS_PCI | DEVICE_RESETS;
                Reply::DeviceInfo { flags, num_regions: 9, num_irqs: 5 }.encode(&mut payload);
            }
            Request::RegionInfo { index, argsz } => {
                let region = self.region(index);
                if (Reply::Region { region: &region, argsz }).encode(&mut payload)
                    && !region.mappable.is_empty()
                {
                    descriptor = Some(self.doorbells.try_clone().unwrap().into());
                }
            }
            Request::IrqInfo { index } => {
                let count = match index {
                    IRQ_MSIX => 4,
                    IRQ_REQUEST => 1,
                    _ => 0,
                };
                let set = if self.script.as_set { IRQ_NORESIZE } else { 0 };
                Reply::IrqInfo { index, flags: IRQ_EVENTFD | set, count }.encode(&mut payload);
            }
            other => payload = self.act_on_device(other, kind)?,
        }
        Ok((payload, descriptor))
    }

    fn act_on_device(&mut self, request: Request, kind: Kind) -> Result<Vec<u8>, Errno> {
        let mut payload = Vec::new();
        let mut state = self.state.lock().unwrap();
        match request {
            Request::DmaMap(map, descriptor) => {
                assert_eq!((map.flags, map.offset), (3, 0));
                state.maps.push((map.address, map.size, descriptor));
            }
            Request::DmaUnmap(unmap) => {
                state.unmaps.push((unmap.address, unmap.size));
                Reply::DmaUnmap(unmap).encode(&mut payload);
            }
            Request::SetIrqs(set) => {
                let range = set.start..set.start + set.count;
                match set.data {
                    IrqData::Eventfds(events) if events.is_empty() => {
                        range.for_each(|vector| drop(state.events.remove(&(set.index, vector))));
                    }
                    IrqData::Eventfds(events) => range.zip(events).for_each(|(vector, event)| {
                        state.events.insert((set.index, vector), event);
                    }),
                    IrqData::None if set.count == 0 => {
                        state.disabled += 1;
                        state.events.retain(|(index, _), _| *index != set.index);
                    }
                    IrqData::None | IrqData::Bools(_) => return Err(Errno::EINVAL),
                }
            }
            Request::RegionRead(access) => {
                let data = read(&state, access)?;
                Reply::RegionRead(access, &data).encode(&mut payload);
            }
            Request::RegionWrite(access, data) => {
                if kind == Kind::Posted {
                    state.posted.push((access.offset, data.clone()));
                }
                write(&mut state, access, &data)?;
                Reply::RegionWrite(access).encode(&mut payload);
            }
            Request::Reset => state.resets += 1,
            _ => return Err(Errno::ENOTSUP),
        }
        Ok(payload)
    }

    fn region(&self, index: u32) -> Region {
        let flags = REGION_READ | REGION_WRITE;
        match index {
            REGION_BAR0 if self.script.without_pages => {
                Region { index, flags, size: 0x2000, ..Region::default() }
            }
            REGION_BAR0 => Region {
                index,
                flags: flags | REGION_MMAP,
                size: 0x2000,
                offset: 0,
                mappable: vec![Area { offset: 0x1000, size: 0x1000 }],
            },
            REGION_CONFIG => Region { index, flags, size: 256, ..Region::default() },
            _ => Region { index, ..Region::default() },
        }
    }

    /// Answers wrongly. False: the connection is over.
    fn misbehave(&mut self, message: Message, how: Wrong) -> bool {
        let Header { id, command, .. } = message.header;
        let (mut payload, descriptor) = self.act(message).unwrap_or_default();
        let mut with: Vec<OwnedFd> = descriptor.into_iter().collect();
        let mut what = (id, command, Kind::Reply);
        match how {
            Wrong::Id => what.0 = id.wrapping_add(1),
            Wrong::Command => what.1 = if command == 9 { 10 } else { 9 },
            Wrong::Short => drop(payload.pop()),
            Wrong::Long => payload.push(0),
            Wrong::Errno(errno) => {
                let errno = (errno as i32).unsigned_abs();
                what.2 = Kind::Failure(errno);
                payload.clear();
            }
            Wrong::ErrorWithoutErrno => {
                what.2 = Kind::Failure(0);
                payload.clear();
            }
            Wrong::Oversize => return self.header(id, command, u32::MAX, 1),
            Wrong::Undersize => return self.header(id, command, 3, 1),
            Wrong::Type => return self.header(id, command, 16, 7),
            Wrong::TornHeader => {
                self.raw.write_all(&[0; 7]).unwrap();
                return self.hang_up();
            }
            Wrong::TornPayload => {
                self.header(id, command, 16 + 100, 1);
                self.raw.write_all(&[0; 50]).unwrap();
                return self.hang_up();
            }
            Wrong::Close => return self.hang_up(),
            Wrong::Descriptors(count) => {
                with.extend((0..count).map(|_| self.doorbells.try_clone().unwrap().into()));
            }
            Wrong::TooManyDescriptors => return self.two_parts(id, command),
            Wrong::Silence => return true,
            Wrong::Twice => {
                let borrowed: Vec<BorrowedFd<'_>> = with.iter().map(AsFd::as_fd).collect();
                self.socket.send(what, &payload, &borrowed, soon()).unwrap();
            }
            Wrong::Ones => payload.fill(0xff),
        }
        let borrowed: Vec<BorrowedFd<'_>> = with.iter().map(AsFd::as_fd).collect();
        // The client may have hung up after the first of two.
        let _ = self.socket.send(what, &payload, &borrowed, soon());
        true
    }

    fn hang_up(&self) -> bool {
        let _ = self.raw.shutdown(std::net::Shutdown::Both);
        false
    }

    fn header(&mut self, id: u16, command: u16, size: u32, flags: u32) -> bool {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&id.to_le_bytes());
        bytes.extend_from_slice(&command.to_le_bytes());
        bytes.extend_from_slice(&size.to_le_bytes());
        bytes.extend_from_slice(&flags.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        self.raw.write_all(&bytes).unwrap();
        true
    }

    /// 32 descriptors with the header and 32 with the payload.
    fn two_parts(&mut self, id: u16, command: u16) -> bool {
        use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
        use std::os::fd::AsRawFd;
        let many = vec![self.doorbells.as_raw_fd(); 32];
        let mut bytes = Vec::new();
        let header = Header { id, command, payload_bytes: 4, kind: Kind::Reply };
        header.encode(&mut bytes);
        for part in [&bytes[..], &[0; 4]] {
            let rights = [ControlMessage::ScmRights(&many)];
            let iov = [std::io::IoSlice::new(part)];
            let flags = MsgFlags::empty();
            let _ = sendmsg::<()>(self.raw.as_raw_fd(), &iov, &rights, flags, None);
        }
        true
    }
}

fn read(state: &State, access: RegionAccess) -> Result<Vec<u8>, Errno> {
    let count = usize::try_from(access.count).unwrap();
    match access.region {
        REGION_CONFIG => {
            let start = usize::try_from(access.offset).unwrap();
            state.config.get(start..start + count).map(<[u8]>::to_vec).ok_or(Errno::EINVAL)
        }
        REGION_BAR0 if access.offset + u64::from(access.count) <= 0x2000 && count <= 8 => {
            let value = state.registers.get(&access.offset).copied().unwrap_or_default();
            Ok(value.to_le_bytes()[..count].to_vec())
        }
        _ => Err(Errno::EINVAL),
    }
}

fn write(state: &mut State, access: RegionAccess, data: &[u8]) -> Result<(), Errno> {
    match access.region {
        REGION_CONFIG => {
            let start = usize::try_from(access.offset).unwrap();
            let target = state.config.get_mut(start..start + data.len()).ok_or(Errno::EINVAL)?;
            target.copy_from_slice(data);
        }
        REGION_BAR0 if data.len() <= 8 => {
            let mut bytes = [0; 8];
            bytes[..data.len()].copy_from_slice(data);
            state.registers.insert(access.offset, u64::from_le_bytes(bytes));
        }
        _ => return Err(Errno::EINVAL),
    }
    Ok(())
}
