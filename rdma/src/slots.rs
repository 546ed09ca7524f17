//! Which slots of a link are free, and waiting for one; and what both kinds of link do to a call.

use std::{
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use sheen_dma::Buffer;
use sheen_ports::{Call, CallResult, LinkError};
use sheen_types::{Xid, checksum::crc32c};
use sheen_wire::{DecodeError, Frame, Kind, frame::PAYLOAD_BYTES_MAX};

/// How long a caller without a slot waits before it looks at cancellation again. Slots rarely run out.
const SLOT_WAIT: Duration = Duration::from_millis(10);

/// Locks; a caller that panicked elsewhere left nothing half-done in our tables.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The free slots of a link.
#[derive(Debug)]
pub(crate) struct SlotTable {
    free: Mutex<Vec<u32>>,
    /// Who waits for a slot; counted under the lock. Most often nobody, and then giving one back costs no system call.
    waiting: AtomicUsize,
    available: Condvar,
}

impl SlotTable {
    pub(crate) fn new(slots: u32) -> Self {
        let free = Mutex::new((0..slots).rev().collect());
        Self { free, waiting: AtomicUsize::new(0), available: Condvar::new() }
    }

    /// Takes a slot, waiting for one. `ended` says why to give up; `reap` frees what abandoned calls held.
    pub(crate) fn take(
        &self,
        ended: impl Fn() -> Option<LinkError>,
        reap: impl Fn(),
    ) -> Result<u32, LinkError> {
        loop {
            if let Some(error) = ended() {
                return Err(error);
            }
            if let Some(slot) = lock(&self.free).pop() {
                return Ok(slot);
            }
            reap();
            let free = lock(&self.free);
            if free.is_empty() {
                self.waiting.fetch_add(1, Ordering::Relaxed);
                let _woken = self.available.wait_timeout(free, SLOT_WAIT);
                self.waiting.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    /// Takes a slot if one is free.
    pub(crate) fn try_take(&self) -> Option<u32> {
        lock(&self.free).pop()
    }

    pub(crate) fn give_back(&self, slot: u32) {
        let mut free = lock(&self.free);
        debug_assert!(!free.contains(&slot), "slot {slot} is given back twice");
        free.push(slot);
        let somebody_waits = self.waiting.load(Ordering::Relaxed) > 0;
        drop(free);
        if somebody_waits {
            self.available.notify_one();
        }
    }

    pub(crate) fn wake_all(&self) {
        self.available.notify_all();
    }
}

/// The frame of a call with what the link fills in: payload length and, if the caller left it zero, checksum; room.
pub(crate) fn request_frame(call: &Call) -> Frame {
    let mut frame = call.frame;
    assert_eq!(frame.kind, Kind::Request, "calls are requests");
    frame.payload_bytes = 0;
    if let Some((buffer, bytes)) = &call.payload {
        assert!(*bytes <= buffer.len() && *bytes <= PAYLOAD_BYTES_MAX, "payload of {bytes} bytes");
        frame.payload_bytes = u32::try_from(*bytes).unwrap_or(0);
        if frame.payload_checksum == 0 {
            frame.payload_checksum = crc32c(&buffer.as_slice()[..*bytes]);
        }
    } else {
        frame.payload_checksum = 0;
    }
    frame.committed = call.room.as_ref().map_or(0, |room| room.len().min(PAYLOAD_BYTES_MAX) as u64);
    frame
}

/// Whether a frame answers request `xid` and its payload fits into `room_bytes`.
pub(crate) fn check_reply(frame: &Frame, xid: Xid, room_bytes: usize) -> Result<(), DecodeError> {
    if frame.kind != Kind::Reply {
        return Err(DecodeError::Value("kind of a reply"));
    }
    if frame.xid != xid {
        return Err(DecodeError::Value("xid of a reply"));
    }
    if frame.payload_bytes as usize > room_bytes {
        return Err(DecodeError::Value("payload_bytes of a reply"));
    }
    Ok(())
}

/// Whether `payload` is what the frame says.
pub(crate) fn check_payload(frame: &Frame, payload: &[u8]) -> Result<(), DecodeError> {
    let (expected, found) = (frame.payload_checksum, crc32c(payload));
    if payload.is_empty() || expected == found {
        Ok(())
    } else {
        Err(DecodeError::Checksum { expected, found })
    }
}

/// The result of a call that was never sent.
pub(crate) fn unsent(call: Call, error: LinkError) -> CallResult {
    let payload: Option<Buffer> = call.payload.map(|(buffer, _)| buffer);
    CallResult { reply: Err(error), payload, room: call.room }
}

#[cfg(test)]
mod test {
    use std::time::Instant;

    use super::*;

    #[test]
    fn who_waits_for_a_slot_has_it_as_soon_as_one_is_given_back() {
        let table = SlotTable::new(1);
        let waits = |table: &SlotTable| table.waiting.load(Ordering::Relaxed) > 0;
        // One that comes late may have been late for its own core, so that one that is in time is enough.
        let in_time = (0..200).any(|_| {
            let slot = table.take(|| None, || {}).unwrap();
            std::thread::scope(|scope| {
                let other = scope.spawn(|| {
                    let slot = table.take(|| None, || {}).unwrap();
                    (slot, Instant::now())
                });
                while !waits(&table) {
                    std::thread::yield_now();
                }
                let given_back = Instant::now();
                table.give_back(slot);
                let (slot, taken) = other.join().unwrap();
                table.give_back(slot);
                taken.duration_since(given_back) < SLOT_WAIT / 4
            })
        });
        assert!(in_time, "woken by the clock only");
        assert!(!waits(&table));
    }
}
