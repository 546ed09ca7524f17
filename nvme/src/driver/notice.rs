//! What a controller's owner can see of it from outside: its state, what happened, counts.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use super::{
    admin::{ADMIN_WAIT, Reply, page},
    error::QueueFault,
    supervisor::Supervisor,
};
use crate::spec::{
    AdminOpcode, Sqe,
    command::GetLogPageDword10,
    entry::NSID_ALL,
    feature::{AsyncEvent, event},
    log::lid,
};

/// Notices kept; older ones are dropped.
const NOTICES_MAX: usize = 64;

/// How a controller stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControllerState {
    /// It works, or is being reset.
    Live,
    /// It could not be brought back by resets. It is disabled, or our memory was taken from it.
    GivenUp,
    /// It was taken away.
    Gone,
}

/// Something that happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The controller was reset and works again.
    WasReset,
    /// It reported a fatal error (CSTS.CFS) and is reset.
    Fatal,
    /// It broke the rules of a queue (0: admin), which was stopped.
    QueueStopped {
        /// The queue pair.
        queue: u16,
        /// The rule.
        fault: QueueFault,
    },
    /// Its health changed: read the SMART log. [NVMe-2.0c §5.2.1]
    Health {
        /// 0 reliability, 1 temperature, 2 spare.
        information: u8,
    },
    /// It reported an error: read the error log.
    Error {
        /// 0, 1 doorbells, 2 diagnostic, 3 persistent, 4 transient, 5 firmware image.
        information: u8,
    },
    /// Namespaces were attached, detached, resized: read the changed namespace list.
    NamespacesChanged,
    /// It begins to activate firmware, and pauses.
    FirmwareActivation,
    /// An event we do not know.
    Other(AsyncEvent),
}

impl Notice {
    /// What an asynchronous event means.
    #[must_use]
    pub fn of_event(found: AsyncEvent) -> Self {
        let information = found.information();
        match (found.event_type(), information) {
            (event::ERROR, _) => Self::Error { information },
            (event::SMART, _) => Self::Health { information },
            (event::NOTICE, event::NOTICE_NAMESPACE) => Self::NamespacesChanged,
            (event::NOTICE, event::NOTICE_FIRMWARE_ACTIVATION) => Self::FirmwareActivation,
            _ => Self::Other(found),
        }
    }
}

/// Counts since the controller was attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ControllerCounts {
    /// Controller resets.
    pub resets: u64,
    /// Commands aborted.
    pub aborts: u64,
}

/// Written by the supervisor, read by the handle.
#[derive(Debug)]
pub(crate) struct Watch {
    state: Mutex<ControllerState>,
    notices: Mutex<VecDeque<Notice>>,
    resets: AtomicU64,
    aborts: AtomicU64,
    /// The controller may still write to our memory.
    is_lost: AtomicBool,
}

impl Watch {
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::new(ControllerState::Live),
            notices: Mutex::new(VecDeque::with_capacity(NOTICES_MAX)),
            resets: AtomicU64::new(0),
            aborts: AtomicU64::new(0),
            is_lost: AtomicBool::new(false),
        }
    }

    pub(crate) fn state(&self) -> ControllerState {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_state(&self, state: ControllerState) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.is_lost.load(Ordering::Relaxed)
    }

    pub(crate) fn set_lost(&self) {
        self.is_lost.store(true, Ordering::Relaxed);
    }

    pub(crate) fn notify(&self, notice: Notice) {
        let mut notices = self.notices.lock().unwrap_or_else(PoisonError::into_inner);
        if notices.len() == NOTICES_MAX {
            notices.pop_front();
        }
        notices.push_back(notice);
    }

    pub(crate) fn take_notices(&self) -> Vec<Notice> {
        self.notices.lock().unwrap_or_else(PoisonError::into_inner).drain(..).collect()
    }

    pub(crate) fn count_reset(&self) {
        self.resets.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_abort(&self) {
        self.aborts.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn counts(&self) -> ControllerCounts {
        ControllerCounts {
            resets: self.resets.load(Ordering::Relaxed),
            aborts: self.aborts.load(Ordering::Relaxed),
        }
    }
}

impl Supervisor {
    /// An asynchronous event. The next of its type comes when its log page was read: errors and health are read for that alone,
    /// since reading them loses nothing; the list of changed namespaces is the owner's to read.
    pub(crate) fn on_controller_event(&mut self, event: AsyncEvent) {
        let notice = Notice::of_event(event);
        tracing::warn!(device = %self.device.transport.describe(), ?notice, "nvme: event");
        self.watch.notify(notice);
        if !matches!(event.lid(), lid::ERROR | lid::SMART) {
            return;
        }
        // 512 bytes: 128 dwords, zero-based.
        let dword10 = GetLogPageDword10::default().with_lid(event.lid()).with_numdl(127);
        let sqe = Sqe::admin(AdminOpcode::GET_LOG_PAGE, NSID_ALL).with_dword(10, dword10.0);
        if let Ok(page) = page(&self.device.arena) {
            let _ = self.device.admin.submit(sqe, Some(page), Some(ADMIN_WAIT), Reply::Nobody);
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn an_event_is_told_by_what_its_owner_reads_next() {
        let of = |bits| Notice::of_event(AsyncEvent(bits));
        assert_eq!(of(0x0002_0101), Notice::Health { information: 1 });
        assert_eq!(of(0x0001_0300), Notice::Error { information: 3 });
        assert_eq!(of(0x0004_0002), Notice::NamespacesChanged);
        assert!(matches!(of(0x0070_0007), Notice::Other(_)));
    }

    #[test]
    fn old_notices_make_room_for_new_ones() {
        let watch = Watch::new();
        (0..100).for_each(|_| watch.notify(Notice::Fatal));
        watch.notify(Notice::WasReset);
        let notices = watch.take_notices();
        assert_eq!((notices.len(), notices.last()), (NOTICES_MAX, Some(&Notice::WasReset)));
    }
}
