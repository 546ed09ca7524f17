//! Features. [NVMe-2.0c §5.16, §5.27]

use super::{Controller, Outcome};
use crate::{
    bytes::{high16, low8, low16},
    command::Command,
    config::Lie,
    status::Status,
};

const ARBITRATION: u8 = 0x01;
const POWER: u8 = 0x02;
const TEMPERATURE: u8 = 0x04;
const ERROR_RECOVERY: u8 = 0x05;
const CACHE: u8 = 0x06;
const QUEUES: u8 = 0x07;
const COALESCING: u8 = 0x08;
const VECTOR: u8 = 0x09;
const ATOMICITY: u8 = 0x0a;
const EVENTS: u8 = 0x0b;

/// What was set. None is saveable.
#[derive(Debug)]
pub(super) struct Features {
    has_cache: bool,
    is_cache_enabled: bool,
    arbitration: u32,
    power: u32,
    temperature: u32,
    recovery: u32,
    coalescing: u32,
    atomicity: u32,
    events: u32,
    /// I/O queues of each kind, as granted; None before it was asked.
    queues: Option<u16>,
}

const TEMPERATURE_DEFAULT: u32 = 343;

impl Features {
    pub(super) fn new(has_cache: bool) -> Self {
        Self {
            has_cache,
            is_cache_enabled: has_cache,
            arbitration: 0,
            power: 0,
            temperature: TEMPERATURE_DEFAULT,
            recovery: 0,
            coalescing: 0,
            atomicity: 0,
            events: 0,
            queues: None,
        }
    }

    /// A controller reset sets what is not saved to its default. [NVMe-2.0c §4.4]
    pub(super) fn forget(&mut self) {
        *self = Self::new(self.has_cache);
    }

    /// Whether completed writes may be lost until a flush.
    #[inline]
    pub(super) fn is_cached(&self) -> bool {
        self.is_cache_enabled
    }

    pub(super) fn event_mask(&self) -> u32 {
        self.events
    }

    /// Highest queue identifier granted; all before the host asked.
    pub(super) fn queues_granted(&self) -> u16 {
        self.queues.unwrap_or(u16::MAX)
    }

    /// The place of a feature that is nothing but a value.
    fn plain(&mut self, feature: u8) -> Option<&mut u32> {
        Some(match feature {
            ARBITRATION => &mut self.arbitration,
            POWER => &mut self.power,
            TEMPERATURE => &mut self.temperature,
            ERROR_RECOVERY => &mut self.recovery,
            COALESCING => &mut self.coalescing,
            ATOMICITY => &mut self.atomicity,
            EVENTS => &mut self.events,
            _ => return None,
        })
    }
}

impl Controller {
    pub(super) fn set_features(&mut self, command: &Command) -> Outcome {
        let (feature, value) = (low8(command.dword(10)), command.dword(11));
        if command.dword(10) & (1 << 31) != 0 {
            return Outcome::refused(Status::NOT_SAVEABLE);
        }
        match feature {
            QUEUES => self.grant_queues(value),
            CACHE if self.config.has_cache => {
                self.features.is_cache_enabled = value & 1 != 0;
                if !self.features.is_cache_enabled {
                    self.flush_all();
                }
                Outcome::SUCCESS
            }
            VECTOR => Outcome::SUCCESS,
            _ => match self.features.plain(feature) {
                Some(place) => {
                    *place = value;
                    Outcome::SUCCESS
                }
                None => Outcome::refused(Status::INVALID_FIELD),
            },
        }
    }

    /// Number of Queues: granted is at most what there is; both numbers are zero-based. [NVMe-2.0c §5.27.1.5]
    fn grant_queues(&mut self, value: u32) -> Outcome {
        let (submission, completion) = (low16(value), high16(value));
        if submission == u16::MAX || completion == u16::MAX {
            return Outcome::refused(Status::INVALID_FIELD);
        }
        if self.submission.iter().skip(1).any(Option::is_some) {
            return Outcome::refused(Status::SEQUENCE);
        }
        let lie = self.config.lies.iter().find_map(|lie| match lie {
            Lie::QueuesGranted(value) => Some(*value),
            _ => None,
        });
        if let Some(value) = lie {
            return Outcome::Done(Status::SUCCESS, granted(value, value));
        }
        let most = self.config.queue_pairs_max.saturating_sub(1);
        let (submission, completion) = (submission.min(most), completion.min(most));
        self.features.queues = Some(submission.max(completion).saturating_add(1));
        Outcome::Done(Status::SUCCESS, granted(submission, completion))
    }

    pub(super) fn get_features(&mut self, command: &Command) -> Outcome {
        let (feature, select) = (low8(command.dword(10)), (command.dword(10) >> 8) & 7);
        let mut defaults = Features::new(self.config.has_cache);
        let features = match select {
            0 => &mut self.features,
            1 | 2 => &mut defaults,
            // Supported capabilities: changeable, neither saveable nor of a namespace.
            3 => return Outcome::Done(Status::SUCCESS, 1 << 2),
            _ => return Outcome::refused(Status::INVALID_FIELD),
        };
        let value = match feature {
            QUEUES => {
                let most = self.config.queue_pairs_max.saturating_sub(1);
                let count = features.queues.map_or(most, |count| count.saturating_sub(1));
                return Outcome::Done(Status::SUCCESS, granted(count, count));
            }
            CACHE if features.has_cache => u32::from(features.is_cache_enabled),
            VECTOR => command.dword(11) & 0xffff,
            _ => match features.plain(feature) {
                Some(place) => *place,
                None => return Outcome::refused(Status::INVALID_FIELD),
            },
        };
        Outcome::Done(Status::SUCCESS, u64::from(value))
    }
}

fn granted(submission: u16, completion: u16) -> u64 {
    u64::from(submission) | (u64::from(completion) << 16)
}
