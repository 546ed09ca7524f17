//! Requests of a connection that wait for their reply, as the server knows them.

/// What the fabric must remember of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OpenRequest {
    pub(crate) payload_bytes: u32,
    pub(crate) payload_checksum: u32,
    /// Bytes of reply payload the client takes.
    pub(crate) room_bytes: usize,
    /// Shared memory: where the payload lies; checked.
    pub(crate) payload_offset: u64,
    /// Shared memory: where the reply's payload goes; checked.
    pub(crate) room_offset: u64,
}

/// The open requests of a connection, by slot.
#[derive(Debug)]
pub(crate) struct OpenTable {
    slots: Box<[Option<OpenRequest>]>,
    count: usize,
}

impl OpenTable {
    pub(crate) fn new(slots: u32) -> Self {
        Self { slots: vec![None; slots as usize].into_boxed_slice(), count: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// Whether `slot` exists at all.
    pub(crate) fn has(&self, slot: u32) -> bool {
        (slot as usize) < self.slots.len()
    }

    pub(crate) fn get(&self, slot: u32) -> Option<&OpenRequest> {
        self.slots.get(slot as usize)?.as_ref()
    }

    /// # Panics
    /// When the slot is open or does not exist: the caller checks what came from a peer.
    pub(crate) fn insert(&mut self, slot: u32, request: OpenRequest) {
        let old = self.slots[slot as usize].replace(request);
        assert!(old.is_none(), "slot {slot} is open");
        self.count += 1;
    }

    pub(crate) fn remove(&mut self, slot: u32) -> Option<OpenRequest> {
        let taken = self.slots.get_mut(slot as usize)?.take();
        self.count -= usize::from(taken.is_some());
        taken
    }
}
