//! Asynchronous events: requests that wait, and what they wait for. [NVMe-2.0c §5.2]

use std::collections::VecDeque;

use super::{Controller, Outcome, serve::Deviation};
use crate::{command::Command, status::Status};

/// Event types, which are also what masks further events until the log page is read.
const ERROR: u8 = 0;
const SMART: u8 = 1;
const NOTICE: u8 = 2;
const COMMAND_SET: u8 = 6;

/// Something to tell the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Asynchronous Event Type.
    pub kind: u8,
    /// Asynchronous Event Information.
    pub information: u8,
    /// Log Page Identifier that tells more and, read, lets the next event of this type through.
    pub log_page: u8,
}

impl Event {
    /// Invalid Doorbell Write Value.
    pub const INVALID_DOORBELL: Self = Self { kind: ERROR, information: 1, log_page: 0x01 };
    /// Temperature Threshold.
    pub const TEMPERATURE: Self = Self { kind: SMART, information: 1, log_page: 0x02 };
    /// Available Spare Below Threshold.
    pub const SPARE: Self = Self { kind: SMART, information: 2, log_page: 0x02 };
    /// Attached Namespace Attribute Changed.
    pub const NAMESPACE_CHANGED: Self = Self { kind: NOTICE, information: 0, log_page: 0x04 };
    /// Firmware Activation Starting.
    pub const FIRMWARE_STARTING: Self = Self { kind: NOTICE, information: 1, log_page: 0x03 };
    /// Sanitize Operation Completed.
    pub const SANITIZED: Self = Self { kind: COMMAND_SET, information: 1, log_page: 0x81 };

    fn result(self) -> u64 {
        u64::from(self.kind) | (u64::from(self.information) << 8) | (u64::from(self.log_page) << 16)
    }
}

/// Requests and events.
#[derive(Debug, Default)]
pub(super) struct Events {
    /// Bound: [`crate::config::Config::event_requests_max`].
    requests: VecDeque<u16>,
    /// Bound: [`EVENTS_MAX`]; the newest are lost beyond.
    waiting: VecDeque<Event>,
    /// Types that were reported and whose log page was not read since.
    masked: u8,
    /// Events that a storm sends whatever is masked.
    storm: u32,
}

const EVENTS_MAX: usize = 1024;

impl Controller {
    pub(super) fn request_event(&mut self, command: &Command) -> Outcome {
        if self.events.requests.len() >= self.config.event_requests_max {
            return Outcome::refused(Status::EVENT_LIMIT);
        }
        self.events.requests.push_back(command.cid());
        Outcome::Later
    }

    /// Something happened that the host may want to know.
    pub fn report(&mut self, event: Event) {
        let mask = self.features.event_mask();
        // [NVMe-2.0c §5.27.1.8, figure 326]
        let is_wanted = match (event.kind, event.information) {
            (SMART, information) => mask & (1 << information.min(7)) != 0,
            (NOTICE, 0) => mask & (1 << 8) != 0,
            (NOTICE, 1) => mask & (1 << 9) != 0,
            _ => true,
        };
        if is_wanted && self.events.waiting.len() < EVENTS_MAX {
            self.events.waiting.push_back(event);
        }
    }

    /// Events that come as fast as they are asked for.
    pub(super) fn storm(&mut self, count: u32) {
        self.events.storm = self.events.storm.saturating_add(count);
    }

    /// Completes waiting requests with waiting events.
    pub(super) fn deliver_events(&mut self) {
        while self.events.storm > 0 {
            let Some(cid) = self.events.requests.pop_front() else { return };
            self.events.storm -= 1;
            self.complete_event(cid, Event::SPARE);
        }
        while !self.events.requests.is_empty() {
            let masked = self.events.masked;
            let next = self.events.waiting.iter().position(|event| masked & (1 << event.kind) == 0);
            let Some(event) = next.and_then(|index| self.events.waiting.remove(index)) else {
                return;
            };
            let Some(cid) = self.events.requests.pop_front() else { return };
            self.events.masked |= 1 << event.kind;
            self.complete_event(cid, event);
        }
    }

    fn complete_event(&mut self, cid: u16, event: Event) {
        self.complete(0, cid, Status::SUCCESS, event.result(), Deviation::default());
    }

    /// The log page was read: the next event that it explains may come.
    pub(super) fn on_log_read(&mut self, page: u8) {
        let kind = match page {
            0x01 => ERROR,
            0x02 => SMART,
            0x03 | 0x04 => NOTICE,
            0x81 => COMMAND_SET,
            _ => return,
        };
        self.events.masked &= !(1 << kind);
    }

    /// A doorbell value outside of the queue: the queue is not looked at any more.
    pub(super) fn on_invalid_doorbell(&mut self, id: u16) {
        if let Some(Some(queue)) = self.submission.get_mut(usize::from(id)) {
            if queue.is_stopped {
                return;
            }
            queue.is_stopped = true;
        }
        self.report(Event::INVALID_DOORBELL);
    }
}
