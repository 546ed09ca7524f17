//! Commands held back: delayed, reordered, stuck. They are carried out when released, so that a late command touches
//! the host's memory late.

use std::time::Duration;

use super::{Controller, serve::Deviation};
use crate::{bytes::count, command::Command};

/// When a command held back goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Release {
    /// At this time.
    At(Duration),
    /// After so many completions of its queue, or at this time.
    Behind { completions: u32, at: Duration },
    /// When it is aborted.
    Never,
}

/// A reordered command goes on after this time even if nothing overtakes it.
const REORDER_TIME_MAX: Duration = Duration::from_millis(2);

impl Release {
    pub(super) fn after(completions: u32, now: Duration) -> Self {
        Self::Behind { completions, at: now + REORDER_TIME_MAX }
    }
}

#[derive(Clone, Copy, Debug)]
struct HeldCommand {
    queue: u16,
    command: Command,
    release: Release,
}

/// The commands held back. Bound: the entries of all submission queues, since a driver has no more in flight.
#[derive(Debug, Default)]
pub(super) struct Held {
    commands: Vec<HeldCommand>,
    /// The last command identifier completed, by queue.
    last: Vec<Option<u16>>,
}

/// Commands held back at most; beyond, they are carried out at once.
const HELD_MAX: usize = 1 << 16;

impl Held {
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.commands.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.commands.clear();
        self.last.clear();
    }

    #[inline]
    pub(super) fn on_completion(&mut self, queue: u16, cid: u16) {
        let index = usize::from(queue);
        if self.last.len() <= index {
            self.last.resize(index + 1, None);
        }
        self.last[index] = Some(cid);
        if self.commands.is_empty() {
            return;
        }
        for held in &mut self.commands {
            if let Release::Behind { completions, .. } = &mut held.release
                && held.queue == queue
            {
                *completions = completions.saturating_sub(1);
            }
        }
    }

    pub(super) fn last_of(&self, queue: u16) -> Option<u16> {
        self.last.get(usize::from(queue)).copied().flatten()
    }

    fn next_due(&self, now: Duration) -> Option<usize> {
        self.commands.iter().position(|held| match held.release {
            Release::At(at) => now >= at,
            Release::Behind { completions, at } => completions == 0 || now >= at,
            Release::Never => false,
        })
    }

    /// Takes the command out; false if it is not held.
    pub(super) fn take(&mut self, queue: u16, cid: u16) -> bool {
        let before = self.commands.len();
        self.commands.retain(|held| held.queue != queue || held.command.cid() != cid);
        self.commands.len() < before
    }

    /// Takes every command of a queue that goes.
    pub(super) fn take_queue(&mut self, queue: u16) -> Vec<u16> {
        let of_queue = self.commands.iter().filter(|held| held.queue == queue);
        let cids = of_queue.map(|held| held.command.cid()).collect();
        self.commands.retain(|held| held.queue != queue);
        cids
    }
}

impl Controller {
    pub(super) fn hold(&mut self, queue: u16, command: &Command, release: Release) {
        if self.held.commands.len() >= HELD_MAX {
            self.carry_out(queue, command, Deviation::default());
            return;
        }
        self.held.commands.push(HeldCommand { queue, command: *command, release });
    }

    /// Carries out what is due.
    pub(super) fn release_held(&mut self) -> usize {
        let mut released = 0;
        while let Some(index) = self.held.next_due(self.now) {
            let held = self.held.commands.remove(index);
            self.carry_out(held.queue, &held.command, Deviation::default());
            released += 1;
        }
        released
    }

    /// Commands held back now.
    #[must_use]
    pub fn held(&self) -> u64 {
        count(self.held.commands.len())
    }
}
