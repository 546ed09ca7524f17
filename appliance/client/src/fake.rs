//! A tiny MDT and OST in memory, for tests: one regular file, striped over two objects, and whatever is created.
//!
//! Grants whatever is asked for; revokes when a test says so. Keeps a log of what it was sent.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, VecDeque},
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, Weak, mpsc},
    time::Duration,
};

use sheen_dma::{Arena, Buffer};
use sheen_ports::{Call, CallResult, Cancel, Kept, LeftCall, Link, LinkError};
use sheen_types::{
    Attributes, ClientId, Epoch, Errno, Fid, OstIndex, Tag, Timespec, Xid, checksum::crc32c,
};
use sheen_wire::{
    Field, Frame, Opcode,
    fields::{AttachKey, List},
    lease::{LeaseCancel, LeaseGrant, LeaseReply, LeaseRequest, LeaseRevoke, bits},
    metadata::*,
};

use crate::{
    connector::Connector,
    fake_objects::{Power, ost_of},
    glimpse,
};

/// The file every test starts with.
pub(crate) const FILE: Fid = Fid::new(Fid::NORMAL_SEQUENCE_FIRST, 1);

/// A request as it was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) opcode: Opcode,
    pub(crate) xid: Xid,
    pub(crate) tag: Tag,
    pub(crate) resent: bool,
    pub(crate) keeps: bool,
    pub(crate) client: ClientId,
    pub(crate) body: Vec<u8>,
    pub(crate) payload: Vec<u8>,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) log: Vec<Sent>,
    pub(crate) objects: BTreeMap<Fid, (Vec<u8>, Timespec)>,
    pub(crate) power: Power,
    /// Refuse the next requests of these kinds, with this errno.
    pub(crate) refuse_next: VecDeque<(Opcode, i32)>,
    pub(crate) created: Vec<Fid>,
    /// Carry the next request of this kind out, then lose the connection instead of answering.
    pub(crate) lose_after: Option<Opcode>,
    /// Nobody listens any more.
    pub(crate) gone: bool,
    /// Requests of this kind wait.
    pub(crate) hold: Option<Opcode>,
    /// Only those to this OST.
    pub(crate) hold_ost: Option<OstIndex>,
    /// No connection to an OST is introduced.
    pub(crate) hold_attach: bool,
    /// How many wait now.
    pub(crate) held: usize,
    /// Answers to requests of this kind are on their way.
    pub(crate) delay: Option<Opcode>,
    /// How many are now.
    pub(crate) delayed: usize,
    pub(crate) server_epoch: u32,
    pub(crate) unknown_session: bool,
    /// OSTs beside the two of the answer to Connect.
    pub(crate) more_osts: u32,
    pub(crate) ended_sessions: u64,
    /// mtime as the MDT decided it, and when.
    decided: Option<(Timespec, Timespec)>,
    /// The MDT's clock shows less than the objects' times.
    pub(crate) set_back: bool,
    /// Names lead to the regular file, and Lookup grants only these bits of it: a change of others waits for the rest.
    pub(crate) lookup_grants: Option<u32>,
    /// The session is being ended: taken up no more, until its client says that its caches are void.
    pub(crate) evicting: bool,
    /// Identity of the node.
    pub(crate) node: [u8; 16],
    /// It has another file system of the same name.
    pub(crate) made_anew: bool,
    /// Requests of this kind are refused so.
    pub(crate) refuse: Option<(Opcode, Errno)>,
    /// Only those to this OST.
    pub(crate) refuse_ost: Option<OstIndex>,
    /// What MakeRoom, and nothing else, ends: refusals for want of space.
    pub(crate) lingers: bool,
    /// Objects destroyed, as MakeRoom tells.
    pub(crate) destroyed: u64,
    /// Files of one object, and where it is; all others are striped.
    pub(crate) narrow: BTreeMap<Fid, OstIndex>,
    /// Inode flags of the file.
    pub(crate) flags: u32,
    /// The file has no name any more.
    pub(crate) nameless: bool,
    /// It is a directory.
    pub(crate) is_directory: bool,
    /// Set-ID bits of the file.
    pub(crate) set_ids: u32,
    /// Its access time, and when that was set by another.
    pub(crate) accessed: Option<(Timespec, Timespec)>,
    /// It has extended attributes.
    pub(crate) has_xattrs: bool,
    /// Replies to changes of a directory tell nothing of it, as those to requests sent again.
    pub(crate) tells_no_directories: bool,
    /// They grant only these bits of it: a change of others waits for the rest.
    pub(crate) directory_grants: Option<u32>,
    /// Files of which the MDT takes no lock that is asserted.
    pub(crate) refuses_locks_of: Vec<Fid>,
    pub(crate) sequence: u64,
    slots: BTreeMap<u16, (Xid, Answer)>,
    links: Vec<Arc<FakeLink>>,
    pub(crate) instantiated: bool,
    pub(crate) nanoseconds: u32,
}

/// The server; also the connector to it.
#[derive(Clone)]
pub(crate) struct Fake(Arc<(Mutex<State>, Condvar)>, Arena);

impl std::fmt::Debug for Fake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Fake")
    }
}

pub(crate) struct FakeLink {
    server: Fake,
    service: u16,
    closed: Mutex<bool>,
    me: Weak<FakeLink>,
    callbacks: Mutex<VecDeque<(Frame, Vec<u8>)>>,
    came: Condvar,
}

pub(crate) type Answer = (i32, Vec<u8>, Vec<u8>);

impl Fake {
    pub(crate) fn new() -> Self {
        let state = State { server_epoch: 1, sequence: 10, ..State::default() };
        Self(Arc::new((Mutex::new(state), Condvar::new())), Arena::anonymous(64 << 20).unwrap())
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.0.lock().unwrap()
    }

    /// Waits until `is` holds, at most ten seconds.
    pub(crate) fn wait_until(&self, what: &str, is: impl Fn(&State) -> bool) {
        let (state, outcome) = self
            .0
            .1
            .wait_timeout_while(self.lock(), Duration::from_secs(10), |state| !is(state))
            .unwrap();
        assert!(!outcome.timed_out(), "{what}: {:?}", state.log.last());
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.0.1.notify_all();
    }

    pub(crate) fn sent(&self, opcode: Opcode) -> Vec<Sent> {
        self.lock().log.iter().filter(|sent| sent.opcode == opcode).cloned().collect()
    }

    pub(crate) fn buffer(&self, bytes: usize) -> Buffer {
        self.1.allocate(bytes).unwrap()
    }

    /// Sends a revoke; returns its number.
    pub(crate) fn revoke(&self, fid: Fid, bits: u32, to_read: bool) -> u64 {
        let mut state = self.lock();
        state.sequence += 1;
        let body = LeaseRevoke { fid, bits, to_read, sequence: state.sequence };
        let sequence = state.sequence;
        let link = state.links.iter().rev().find(|link| link.service == 0).unwrap().clone();
        drop(state);
        let frame = Frame::request(Opcode::LeaseRevoke, Xid(sequence));
        link.callbacks.lock().unwrap().push_back((frame, body.to_vec()));
        link.came.notify_all();
        sequence
    }

    pub(crate) fn cancels(&self) -> Vec<LeaseCancel> {
        let sent = self.sent(Opcode::LeaseCancel);
        sent.iter().map(|sent| LeaseCancel::from_bytes(&sent.body).unwrap()).collect()
    }

    /// The OSTs lose their power: what was not flushed is gone, and so are the connections to them.
    pub(crate) fn lose_power(&self) {
        self.lock().lose_power();
        self.lose_osts();
    }

    /// Ends the connections to the OSTs.
    pub(crate) fn lose_osts(&self) {
        let mut state = self.lock();
        let all = std::mem::take(&mut state.links);
        let (mdt, osts): (Vec<_>, Vec<_>) = all.into_iter().partition(|link| link.service == 0);
        state.links = mdt;
        drop(state);
        for link in osts {
            link.close();
        }
    }

    /// Ends the connections to the MDT.
    pub(crate) fn lose_mdt(&self) {
        let mut state = self.lock();
        let all = std::mem::take(&mut state.links);
        let (mdt, osts): (Vec<_>, Vec<_>) = all.into_iter().partition(|link| link.service == 0);
        state.links = osts;
        drop(state);
        for link in mdt {
            link.close();
        }
    }

    /// Ends every connection.
    pub(crate) fn lose_all(&self) {
        let links = std::mem::take(&mut self.lock().links);
        for link in links {
            link.close();
        }
    }
}

impl Connector for Fake {
    fn connect(&self, _: &str, service: u16) -> io::Result<Arc<dyn Link>> {
        let link = Arc::new_cyclic(|me| FakeLink {
            me: me.clone(),
            server: self.clone(),
            service,
            closed: Mutex::new(false),
            callbacks: Mutex::default(),
            came: Condvar::new(),
        });
        let mut state = self.lock();
        if state.gone {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        state.links.push(link.clone());
        drop(state);
        Ok(link)
    }
}

struct Left(mpsc::Receiver<CallResult>);

impl LeftCall for Left {
    fn poll(&mut self) -> Option<CallResult> {
        self.0.try_recv().ok()
    }
}

impl Link for FakeLink {
    fn call(&self, mut call: Call, cancel: &Cancel) -> CallResult {
        let lost = |call: Call| CallResult {
            reply: Err(LinkError::Lost),
            payload: call.payload.map(|(buffer, _)| buffer),
            room: call.room,
        };
        if *self.closed.lock().unwrap() {
            return lost(call);
        }
        if cancel.is_cancelled() {
            return CallResult { reply: Err(LinkError::Cancelled), payload: None, room: None };
        }
        let opcode = call.frame.opcode;
        let payload =
            call.payload.as_ref().map_or(Vec::new(), |(b, n)| b.as_slice()[..*n].to_vec());
        if !payload.is_empty() {
            assert_eq!(crc32c(&payload), call.frame.payload_checksum, "{opcode:?}");
        }
        let mut state = self.server.lock();
        state.log.push(Sent {
            opcode,
            xid: call.frame.xid,
            tag: call.frame.tag,
            resent: call.frame.flags & Frame::FLAG_RESENT != 0,
            keeps: call.frame.flags & Frame::FLAG_KEEPS != 0,
            client: call.frame.client,
            body: call.body.clone(),
            payload: payload.clone(),
        });
        self.server.0.1.notify_all();
        state.held += 1;
        let closed = || *self.closed.lock().unwrap();
        let ost = ost_of(&call);
        while state.holds(opcode, ost) && !cancel.is_cancelled() && !closed() {
            state = self.server.0.1.wait_timeout(state, Duration::from_millis(5)).unwrap().0;
        }
        state.held -= 1;
        if closed() {
            drop(state);
            return lost(call);
        }
        let (status, body, answer) = state.serve_once(&call, &payload);
        let stamp = state.stamp(&call, status);
        state.delayed += 1;
        self.server.0.1.notify_all();
        while state.delay == Some(opcode) && !cancel.is_cancelled() {
            state = self.server.0.1.wait_timeout(state, Duration::from_millis(5)).unwrap().0;
        }
        state.delayed -= 1;
        if state.lose_after == Some(opcode) {
            state.lose_after = None;
            drop(state);
            self.close();
            return lost(call);
        }
        drop(state);
        let mut frame = call.frame.reply(status);
        (frame.incarnation, frame.transaction, frame.committed) = stamp;
        if let Some(room) = &mut call.room {
            room.as_mut_slice()[..answer.len()].copy_from_slice(&answer);
        }
        frame.payload_bytes = u32::try_from(answer.len()).unwrap();
        let payload = call.payload.map(|(buffer, _)| buffer);
        CallResult { reply: Ok((frame, body)), payload, room: call.room }
    }

    fn call_kept(&self, call: Call, cancel: &Cancel) -> Kept {
        let Some(link) = self.me.upgrade() else { return Kept::Ended(self.call(call, cancel)) };
        let (sender, results) = mpsc::channel();
        std::thread::spawn(move || drop(sender.send(link.call(call, &Cancel::new()))));
        loop {
            match results.recv_timeout(Duration::from_millis(2)) {
                Ok(ended) => return Kept::Ended(ended),
                Err(_) if cancel.is_cancelled() => return Kept::Left(Box::new(Left(results))),
                Err(_) => {}
            }
        }
    }

    fn next_callback(&self) -> Result<(Frame, Vec<u8>), LinkError> {
        let mut callbacks = self.callbacks.lock().unwrap();
        loop {
            if *self.closed.lock().unwrap() {
                return Err(LinkError::Lost);
            }
            if let Some(callback) = callbacks.pop_front() {
                return Ok(callback);
            }
            callbacks = self.came.wait_timeout(callbacks, Duration::from_millis(5)).unwrap().0;
        }
    }

    fn buffer(&self, bytes: usize) -> Option<Buffer> {
        self.server.1.allocate(bytes)
    }

    fn close(&self) {
        *self.closed.lock().unwrap() = true;
        self.came.notify_all();
    }
}

impl State {
    /// Whether a request waits.
    fn holds(&self, opcode: Opcode, ost: OstIndex) -> bool {
        let is_held = self.hold_attach && opcode == Opcode::Attach;
        is_held || self.hold == Some(opcode) && self.hold_ost.is_none_or(|held| held == ost)
    }

    /// Answers a request that uses a slot from the slot if it was carried out before.
    fn serve_once(&mut self, call: &Call, payload: &[u8]) -> Answer {
        if let Some((opcode, errno)) = self.refuse
            && opcode == call.frame.opcode
            && self.refuse_ost.is_none_or(|ost| ost == ost_of(call))
        {
            return (-errno.0, Vec::new(), Vec::new());
        }
        if self.refuse_next.front().is_some_and(|(opcode, _)| *opcode == call.frame.opcode) {
            let errno = self.refuse_next.pop_front().map_or(0, |refusal| refusal.1);
            return (-errno, Vec::new(), Vec::new());
        }
        if !call.frame.opcode.uses_slot() {
            return self.serve(call, payload);
        }
        if let Some((xid, answer)) = self.slots.get(&call.frame.tag.0) {
            match call.frame.xid.cmp(xid) {
                Ordering::Less => return (-Errno::EPROTO.0, Vec::new(), Vec::new()),
                Ordering::Equal => return answer.clone(),
                Ordering::Greater => {}
            }
        }
        let answer = self.serve(call, payload);
        self.slots.insert(call.frame.tag.0, (call.frame.xid, answer.clone()));
        answer
    }

    fn serve(&mut self, call: &Call, payload: &[u8]) -> Answer {
        let ok = |body: Vec<u8>| (0, body, Vec::new());
        match call.frame.opcode {
            Opcode::Connect if self.evicting => {
                let asked = Connect::from_bytes(&call.body).unwrap();
                let errno = match asked.client {
                    ClientId(0) => {
                        self.evicting = false;
                        self.unknown_session = true;
                        Errno::EAGAIN
                    }
                    _ => Errno::ESTALE,
                };
                (-errno.0, Vec::new(), Vec::new())
            }
            Opcode::Connect => ok(self.connect().to_vec()),
            Opcode::OstList => ok(self.ost_list(&call.body).to_vec()),
            Opcode::Ping => ok(PingReply { now: self.now() }.to_vec()),
            Opcode::SequenceGrant => {
                ok(SequenceGrantReply { sequence: Fid::NORMAL_SEQUENCE_FIRST + 1 }.to_vec())
            }
            Opcode::GetAttributes => {
                let lease = self.grant(bits::METADATA, 0);
                let reply = AttributesReply { attributes: self.attributes(FILE), lease };
                let GetAttributes { fid } = GetAttributes::from_bytes(&call.body).unwrap();
                (0, reply.to_vec(), self.layout_of(fid).to_vec())
            }
            Opcode::SetAttributes => {
                self.decide_times(&SetAttributes::from_bytes(&call.body).unwrap());
                let lease = self.grant(bits::METADATA, bits::DATA);
                (
                    0,
                    AttributesReply { attributes: self.attributes(FILE), lease }.to_vec(),
                    Vec::new(),
                )
            }
            Opcode::InstantiateLayout => {
                self.instantiated = true;
                (0, Vec::new(), self.layout().to_vec())
            }
            Opcode::Open => {
                let lease = self.grant(bits::METADATA, 0);
                let reply = OpenReply { attributes: self.attributes(FILE), lease, shared: false };
                (0, reply.to_vec(), self.layout().to_vec())
            }
            Opcode::LeaseRequest => {
                let request = LeaseRequest::from_bytes(&call.body).unwrap();
                let write = request.mode == sheen_wire::lease::LockMode::ProtectedWrite;
                let lease = if write {
                    self.grant(bits::METADATA, bits::DATA)
                } else {
                    self.grant(bits::METADATA | bits::DATA, 0)
                };
                ok(LeaseReply { lease, attributes: self.attributes(FILE), shared: false }.to_vec())
            }
            Opcode::Lookup => ok(self.lookup().to_vec()),
            Opcode::Rename => ok(self.rename(&call.body).to_vec()),
            Opcode::Link => ok(self.link(&call.body).to_vec()),
            Opcode::Unlink => ok(self.unlink(&call.body).to_vec()),
            Opcode::Create => ok(self.create(&call.body).to_vec()),
            Opcode::Attach => self.attach(call),
            Opcode::Reassert => (0, Vec::new(), self.lost_locks(payload)),
            _ => self.serve_object(call, payload),
        }
    }

    fn lost_locks(&self, payload: &[u8]) -> Vec<u8> {
        let held = Reassert::from_bytes(payload).unwrap();
        let mut lost: Vec<Fid> = held.locks.0.iter().map(|lock| lock.fid).collect();
        lost.retain(|fid| self.refuses_locks_of.contains(fid));
        lost.dedup();
        if lost.is_empty() { Vec::new() } else { LostLocks { files: List(lost) }.to_vec() }
    }

    /// The key of the session there is.
    fn attach_key(&self) -> AttachKey {
        AttachKey([u8::try_from(1 + self.ended_sessions).unwrap(); 32])
    }

    fn attach(&self, call: &Call) -> Answer {
        let Attach { key } = Attach::from_bytes(&call.body).unwrap();
        let errno = match call.frame.client {
            ClientId(number) if number != 1 + self.ended_sessions => Errno::ENOTCONN,
            _ if key != self.attach_key() => Errno::EACCES,
            _ => Errno(0),
        };
        (-errno.0, Vec::new(), Vec::new())
    }

    pub(crate) fn make_room(&mut self) -> MakeRoomReply {
        if std::mem::take(&mut self.lingers) {
            self.refuse = None;
            self.destroyed += 1;
        }
        MakeRoomReply { destroyed: self.destroyed }
    }

    fn ost_list(&self, body: &[u8]) -> OstListReply {
        let OstList { from } = OstList::from_bytes(body).unwrap();
        let end = 2 + self.more_osts;
        let next = (from.0 + 100).min(end);
        let osts = (from.0..next).map(|ost| OstAddress { ost: OstIndex(ost), service: 1 });
        OstListReply { osts: List(osts.collect()), more: next < end }
    }

    fn connect(&mut self) -> ConnectReply {
        let resumed = !std::mem::take(&mut self.unknown_session);
        self.ended_sessions += u64::from(!resumed);
        ConnectReply {
            client: ClientId(1 + self.ended_sessions),
            epoch: Epoch(1),
            server_epoch: Epoch(self.server_epoch),
            resumed,
            root: Fid::ROOT,
            slots: 8,
            lease_milliseconds: 60_000,
            reconnect_milliseconds: 5_000,
            node: self.node,
            filesystem: match self.made_anew {
                false => b"fs-0123456789abcdef0".to_vec(),
                true => b"fs-0123456789abcdef1".to_vec(),
            },
            osts: List(vec![
                OstAddress { ost: OstIndex(0), service: 1 },
                OstAddress { ost: OstIndex(1), service: 1 },
            ]),
            more_osts: self.more_osts > 0,
            attach_key: self.attach_key(),
        }
    }

    pub(crate) fn grant(&mut self, read_bits: u32, write_bits: u32) -> LeaseGrant {
        self.sequence += 1;
        LeaseGrant { read_bits, write_bits, sequence: self.sequence }
    }

    pub(crate) fn attributes(&self, fid: Fid) -> Attributes {
        let attributes = glimpse::test::attributes();
        let permissions = attributes.permissions | self.set_ids;
        let nlink = if self.nameless { 0 } else { attributes.nlink };
        let kind =
            if self.is_directory { sheen_types::FileKind::Directory } else { attributes.kind };
        let (flags, has_xattrs) = (self.flags, self.has_xattrs);
        let found = Attributes { fid, size: 0, blocks: 0, flags, permissions, ..attributes };
        let (atime, atime_set) = self.accessed.unwrap_or((found.atime, found.atime_set));
        let (mtime, mtime_set) = self.decided.unwrap_or((found.mtime, found.mtime_set));
        Attributes { kind, nlink, has_xattrs, atime, atime_set, mtime, mtime_set, ..found }
    }

    /// Decides the time of content as the MDT does; by a clock that was set back it is long before what objects have.
    fn decide_times(&mut self, request: &SetAttributes) {
        let has = |flag: u32| request.valid & flag != 0;
        if !has(set::SIZE | set::MTIME | set::MTIME_NOW) {
            return;
        }
        let now = if self.set_back { Timespec { seconds: 50, nanoseconds: 0 } } else { self.now() };
        let before = self.decided.map_or(now, |(_, before)| before);
        let after = if has(set::AFTER) { request.ctime } else { before };
        self.decided = Some((if has(set::MTIME) { request.mtime } else { now }, now.max(after)));
    }
}

/// A directory to be made.
pub(crate) fn new_directory(name: &[u8]) -> crate::NewInode<'_> {
    crate::NewInode {
        name: Some(name),
        kind: sheen_types::FileKind::Directory,
        permissions: 0o755,
        umask: 0,
        rdev: 0,
        target: &[],
        owner: (0, 0),
        exclusive: true,
    }
}

pub(crate) fn object(number: u32) -> Fid {
    Fid::new(Fid::NORMAL_SEQUENCE_FIRST + 9, number + 1)
}
