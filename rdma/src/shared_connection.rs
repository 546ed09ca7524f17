//! The server's side of shared memory: one client, its message area and its payload arena.
//!
//! Everything in that memory may change at any time and hold anything. So a request is copied out and only the copy is
//! decoded; offsets are checked against the mapping's length once and kept here; words the client writes are compared,
//! never used as an index. The worst a client can do is spoil its own replies and be closed.

use std::{
    os::{fd::OwnedFd, unix::net::UnixStream},
    sync::atomic::{Ordering, fence},
};

use sheen_dma::Buffer;
use sheen_ports::{ConnectionId, FabricEvent, NotifyError, RequestId};
use sheen_wire::{DecodeError, Frame, Kind};

use crate::{
    area::{Area, CALLBACKS, DOORBELLS, SLOTS, state},
    budget::Reserved,
    futex,
    open::{OpenRequest, OpenTable},
    peer_socket::PeerSocket,
    region::Region,
};

/// What the acceptor made of a client on this host.
#[derive(Debug)]
pub(crate) struct SharedParts {
    pub(crate) area: Area,
    pub(crate) arena: Region,
    /// Wakes the service.
    pub(crate) event: OwnedFd,
    pub(crate) socket: PeerSocket,
}

#[derive(Debug)]
pub(crate) struct SharedConnection {
    id: ConnectionId,
    open: OpenTable,
    /// Doorbells taken from the area and not served yet.
    rung: [u64; DOORBELLS],
    callback_head: u32,
    // Dropped in this order: the mappings go before the socket, whose end tells the client that we let go of its memory.
    parts: SharedParts,
    _reserved: Reserved,
}

impl SharedConnection {
    pub(crate) fn new(id: ConnectionId, parts: SharedParts, reserved: Reserved) -> Self {
        let open = OpenTable::new(SLOTS);
        let _reserved = reserved;
        Self { id, open, rung: [0; DOORBELLS], callback_head: 0, parts, _reserved }
    }

    pub(crate) fn socket(&self) -> &UnixStream {
        &self.parts.socket
    }

    pub(crate) fn event(&self) -> &OwnedFd {
        &self.parts.event
    }

    /// Path: D4. Takes up to about `budget` requests.
    pub(crate) fn poll(
        &mut self,
        budget: usize,
        events: &mut Vec<FabricEvent>,
    ) -> Result<(), DecodeError> {
        let mut left = budget;
        for word in 0..DOORBELLS {
            let doorbell = self.parts.area.doorbell(word);
            // A plain look first: an exchange would take the cache line from the client at every turn.
            if doorbell.load(Ordering::Relaxed) != 0 {
                self.rung[word] |= doorbell.swap(0, Ordering::SeqCst);
            }
            while self.rung[word] != 0 && left > 0 {
                let bit = self.rung[word].trailing_zeros();
                self.rung[word] &= self.rung[word] - 1;
                let slot = u32::try_from(word * 64).unwrap_or(0) + bit;
                events.push(self.take(slot)?);
                left -= 1;
            }
        }
        Ok(())
    }

    fn take(&mut self, slot: u32) -> Result<FabricEvent, DecodeError> {
        if self.open.get(slot).is_some() {
            return Err(DecodeError::Value("slot: a request is open there"));
        }
        let area = &self.parts.area;
        let message = area.read_request(slot)?;
        let (frame, _body) = Frame::decode_with(&message)?;
        if frame.kind != Kind::Request {
            return Err(DecodeError::Value("kind of a request"));
        }
        let payload_offset = area.payload_offset(slot).load(Ordering::Relaxed);
        let room_offset = area.room_offset(slot).load(Ordering::Relaxed);
        let open = OpenRequest {
            payload_bytes: frame.payload_bytes,
            payload_checksum: frame.payload_checksum,
            room_bytes: frame.reply_room(),
            payload_offset,
            room_offset,
        };
        if open.payload_bytes > 0
            && !self.parts.arena.holds(payload_offset, open.payload_bytes as usize)
        {
            return Err(DecodeError::Value("payload offset"));
        }
        if open.room_bytes > 0 && !self.parts.arena.holds(room_offset, open.room_bytes) {
            return Err(DecodeError::Value("room offset"));
        }
        self.open.insert(slot, open);
        Ok(FabricEvent::Request { request: RequestId { connection: self.id, slot }, message })
    }

    /// Copies the payload of an open request out; None: no such request.
    pub(crate) fn pull(&self, slot: u32, buffer: &mut Buffer) -> Option<OpenRequest> {
        let open = *self.open.get(slot)?;
        let bytes = open.payload_bytes as usize;
        if bytes > 0 {
            let offset = usize::try_from(open.payload_offset).ok()?;
            self.parts.arena.read_payload(offset, bytes, buffer);
        }
        Some(open)
    }

    pub(crate) fn open(&self, slot: u32) -> Option<&OpenRequest> {
        self.open.get(slot)
    }

    /// Path: D12. Payload first, then the reply, then the word the caller waits for.
    pub(crate) fn reply(&mut self, slot: u32, message: &[u8], payload: &[u8]) {
        let Some(open) = self.open.remove(slot) else { return };
        assert!(
            payload.len() <= open.room_bytes,
            "{} bytes for a room of {}",
            payload.len(),
            open.room_bytes
        );
        if !payload.is_empty() {
            let offset = usize::try_from(open.room_offset).unwrap_or(usize::MAX);
            self.parts.arena.write(offset, payload);
        }
        self.parts.area.write_reply(slot, message);
        let word = self.parts.area.state(slot);
        if word.swap(state::REPLIED, Ordering::SeqCst) == state::SLEEPING {
            futex::wake(word);
        }
    }

    pub(crate) fn notify(
        &mut self,
        message: &[u8],
    ) -> Result<Result<(), NotifyError>, DecodeError> {
        let area = &self.parts.area;
        let unread = self.callback_head.wrapping_sub(area.callback_tail().load(Ordering::Acquire));
        if unread > CALLBACKS {
            return Err(DecodeError::Value("callback tail"));
        }
        if unread == CALLBACKS {
            return Ok(Err(NotifyError::Busy));
        }
        area.write_callback(self.callback_head, message);
        self.callback_head = self.callback_head.wrapping_add(1);
        area.callback_head().store(self.callback_head, Ordering::Release);
        area.callback_signal().fetch_add(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        if area.reader_sleeping().load(Ordering::SeqCst) != 0 {
            futex::wake(area.callback_signal());
        }
        Ok(Ok(()))
    }

    /// Says that we sleep; false if a request came meanwhile.
    pub(crate) fn prepare_sleep(&self) -> bool {
        let area = &self.parts.area;
        area.server_sleeping().store(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        self.rung.iter().all(|&word| word == 0)
            && (0..DOORBELLS).all(|word| area.doorbell(word).load(Ordering::SeqCst) == 0)
    }

    pub(crate) fn end_sleep(&self) {
        self.parts.area.server_sleeping().store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod test {
    use sheen_dma::Arena;
    use sheen_ports::{CloseReason, Fabric, Peer, Principal};
    use sheen_types::Xid;
    use sheen_wire::Opcode;

    use super::*;
    use crate::{
        acceptor::{NewConnection, Transport},
        fabric::{PayloadCheck, ServerFabric},
        peer_socket::Unclosed,
    };

    const ARENA_BYTES: usize = 1 << 16;

    /// A client that may write whatever it likes.
    struct Hostile {
        area: Area,
        fabric: ServerFabric,
        id: ConnectionId,
        _socket: UnixStream,
    }

    impl Hostile {
        fn new() -> Self {
            let (area, area_descriptor) = Area::create().unwrap();
            let arena = Arena::shared(ARENA_BYTES).unwrap();
            let arena_descriptor = arena.descriptor().unwrap().try_clone_to_owned().unwrap();
            let (socket, server) = UnixStream::pair().unwrap();
            let parts = SharedParts {
                area: Area::map(&area_descriptor).unwrap(),
                arena: Region::map(&arena_descriptor, ARENA_BYTES).unwrap(),
                event: nix::sys::eventfd::EventFd::new().unwrap().into(),
                socket: PeerSocket::new(server, 0, Unclosed::new(None)),
            };
            let mut fabric = ServerFabric::new(PayloadCheck::Fabric).unwrap();
            let transport = Transport::Shared(Box::new(parts));
            let peer = Peer { label: String::new(), principal: Principal::Owner };
            let reserved = Reserved::default();
            let new = NewConnection { service: 0, peer, transport, reserved };
            let id = fabric.add(new).unwrap();
            Self { area, fabric, id, _socket: socket }
        }

        fn put(&self, slot: u32, frame: &Frame) {
            let mut message = Vec::new();
            frame.encode_with(b"body", &mut message);
            self.area.write_request(slot, &message);
            self.ring(slot);
        }

        fn ring(&self, slot: u32) {
            self.area.doorbell(slot as usize / 64).fetch_or(1 << (slot % 64), Ordering::SeqCst);
        }

        fn poll(&mut self) -> Vec<FabricEvent> {
            let mut events = Vec::new();
            self.fabric.poll(1000, &mut events);
            events.retain(|event| !matches!(event, FabricEvent::Opened { .. }));
            events
        }

        fn assert_closed(mut self, expected: DecodeError) {
            let events = self.poll();
            assert!(
                events
                    .iter()
                    .any(|event| matches!(event, FabricEvent::Closed { connection, reason }
                    if *connection == self.id && *reason == CloseReason::Protocol(expected))),
                "{expected:?} expected, {events:?} found"
            );
            assert_eq!(self.fabric.counters().protocol_errors, 1);
            assert_eq!(self.fabric.connections(), 0);
        }
    }

    fn ping() -> Frame {
        Frame::request(Opcode::Ping, Xid(1))
    }

    #[test]
    fn offsets_outside_the_arena_close_the_connection() {
        for offset in [ARENA_BYTES as u64 - 99, ARENA_BYTES as u64, u64::MAX, u64::MAX - 99] {
            let hostile = Hostile::new();
            hostile.area.payload_offset(7).store(offset, Ordering::SeqCst);
            hostile.put(7, &Frame { payload_bytes: 100, ..ping() });
            hostile.assert_closed(DecodeError::Value("payload offset"));
            let hostile = Hostile::new();
            hostile.area.room_offset(7).store(offset, Ordering::SeqCst);
            hostile.put(7, &Frame { committed: 100, ..ping() });
            hostile.assert_closed(DecodeError::Value("room offset"));
        }
    }

    #[test]
    fn offsets_changed_after_the_request_was_taken_change_nothing() {
        let mut hostile = Hostile::new();
        hostile.put(7, &Frame { committed: 100, ..ping() });
        let request = match hostile.poll().remove(0) {
            FabricEvent::Request { request, .. } => request,
            other => panic!("{other:?}"),
        };
        hostile.area.room_offset(7).store(u64::MAX, Ordering::SeqCst);
        hostile.area.payload_offset(7).store(u64::MAX, Ordering::SeqCst);
        hostile.area.state(7).store(u32::MAX, Ordering::SeqCst);
        let mut message = Vec::new();
        Frame { payload_bytes: 100, ..ping().reply(0) }.encode_with(&[], &mut message);
        hostile.fabric.reply(request, &message, Some(Buffer::standalone(100)));
        assert_eq!(hostile.area.state(7).load(Ordering::SeqCst), state::REPLIED);
        assert_eq!(hostile.fabric.connections(), 1);
    }

    #[test]
    fn lengths_beyond_the_protocol_close_the_connection() {
        let hostile = Hostile::new();
        let mut message = Vec::new();
        ping().encode_with(b"body", &mut message);
        message[32..36].copy_from_slice(&u32::MAX.to_le_bytes());
        hostile.area.write_request(3, &message);
        hostile.ring(3);
        hostile.assert_closed(DecodeError::Value("body_bytes"));
        let hostile = Hostile::new();
        hostile.put(3, &Frame { payload_bytes: (1 << 20) + 1, ..ping() });
        hostile.assert_closed(DecodeError::Value("payload_bytes"));
        let hostile = Hostile::new();
        hostile.put(3, &Frame { committed: u64::MAX, ..ping() });
        hostile.assert_closed(DecodeError::Value("reply room"));
    }

    #[test]
    fn a_slot_rung_twice_or_without_a_request_closes_the_connection() {
        let mut hostile = Hostile::new();
        hostile.put(255, &ping());
        assert_eq!(hostile.poll().len(), 1);
        hostile.put(255, &ping());
        hostile.assert_closed(DecodeError::Value("slot: a request is open there"));
        let hostile = Hostile::new();
        hostile.ring(9);
        hostile.assert_closed(DecodeError::Version(0));
        let hostile = Hostile::new();
        hostile.put(9, &ping().reply(0));
        hostile.assert_closed(DecodeError::Value("kind of a request"));
    }

    #[test]
    fn a_callback_tail_that_cannot_be_closes_the_connection() {
        let mut hostile = Hostile::new();
        let mut message = Vec::new();
        Frame { kind: Kind::Callback, ..ping() }.encode_with(&[], &mut message);
        for _ in 0..CALLBACKS {
            assert_eq!(hostile.fabric.notify(hostile.id, &message), Ok(()));
        }
        assert_eq!(hostile.fabric.notify(hostile.id, &message), Err(NotifyError::Busy));
        hostile.area.callback_tail().store(1, Ordering::SeqCst);
        assert_eq!(hostile.fabric.notify(hostile.id, &message), Ok(()));
        hostile.area.callback_tail().store(12_345, Ordering::SeqCst);
        assert_eq!(hostile.fabric.notify(hostile.id, &message), Err(NotifyError::Closed));
        hostile.assert_closed(DecodeError::Value("callback tail"));
    }

    #[test]
    fn whatever_the_memory_holds_nothing_panics_and_it_is_answered_or_closed() {
        let seed = 0x5eed_u64;
        let mut state = seed;
        let mut chance = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        for round in 0..300 {
            let mut hostile = Hostile::new();
            for slot in 0..SLOTS {
                let mut message = Vec::new();
                let frame = Frame {
                    payload_bytes: u32::try_from(chance() % (1 << 21)).unwrap(),
                    committed: chance() % (1 << 21),
                    ..ping()
                };
                frame.encode_with(&[0; 300], &mut message);
                if chance() % 4 == 0 {
                    let at = usize::try_from(chance() % 364).unwrap();
                    message[at] ^= 1 << (chance() % 8);
                }
                hostile.area.write_request(slot, &message);
                hostile.area.payload_offset(slot).store(chance() % (1 << 17), Ordering::SeqCst);
                hostile.area.room_offset(slot).store(chance(), Ordering::SeqCst);
                hostile.area.doorbell(slot as usize / 64).store(chance(), Ordering::SeqCst);
            }
            let events = hostile.poll();
            let closed = events.iter().any(|event| matches!(event, FabricEvent::Closed { .. }));
            assert!(closed, "seed {seed:#x}, round {round}: a random offset is outside");
        }
    }
}
