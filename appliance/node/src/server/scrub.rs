//! The scrub as an operator sees it: orders to the threads that own the OSTs, and where each stands.
//!
//! An order goes through the mailbox of each thread and is waited for a moment; where a scrub stands is read from its counters
//! and asks no thread.

use std::{
    sync::mpsc,
    time::{Duration, Instant},
};

use serde::Serialize;
use sheen_types::OstIndex;

use super::{Node, NodeError};
use crate::{
    ost::{OstStats, ScrubOrder, ScrubState},
    service_thread::Order,
};

/// How long a thread may take to see an order: a turn takes well below a millisecond.
const ORDER_MAX: Duration = Duration::from_secs(5);

/// Where the scrub of an OST stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ScrubStatus {
    /// The OST's index.
    pub ost: u32,
    /// off, resting, objects, logs or paused.
    pub state: &'static str,
    /// Passes that went through all objects since the device was formatted; the one under way is the next.
    pub passes: u64,
    /// Of what is stored now, how many percent the pass under way, or the last, verified since the node started.
    pub percent: u64,
    /// Bytes verified in it.
    pub pass_bytes: u64,
    /// Bytes verified since the node started.
    pub bytes: u64,
    /// Faults met since the node started; one that stays is met by each pass.
    pub faults: ScrubFaults,
    /// When the last pass ended, in seconds since 1970. None: none did since the node started.
    pub ended: Option<u64>,
    /// Milliseconds it took.
    pub took_milliseconds: Option<u64>,
}

/// What a scrub found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ScrubFaults {
    /// Blocks whose checksum is not the stored one.
    pub damaged: u64,
    /// Blocks the device cannot read.
    pub unreadable: u64,
    /// Batches of journal and checkpoint.
    pub log_batches: u64,
}

impl ScrubStatus {
    fn of(stats: &OstStats) -> Self {
        let state = ScrubState::of(stats.scrub_state.get());
        let ended = Some(stats.scrub_ended_seconds.get()).filter(|&at| at > 0);
        Self {
            ost: stats.index.0,
            state: state.name(),
            passes: stats.scrub_passes.get(),
            percent: percent(stats, state),
            pass_bytes: stats.scrub_pass_bytes.get(),
            bytes: stats.scrub_bytes.get(),
            faults: ScrubFaults {
                damaged: stats.scrub_rotten.get(),
                unreadable: stats.scrub_unreadable.get(),
                log_batches: stats.scrub_log_faults.get(),
            },
            ended,
            took_milliseconds: ended.map(|_| stats.scrub_pass_nanoseconds.get() / 1_000_000),
        }
    }
}

/// Of what is stored now; a pass is at 100 when it has ended.
fn percent(stats: &OstStats, state: ScrubState) -> u64 {
    let (read, stored) = (stats.scrub_pass_bytes.get(), stats.physical_bytes.get());
    let share = u128::from(read) * 100 / u128::from(stored.max(1));
    match (stats.scrub_in_pass.get() > 0, state) {
        (false, _) if stats.scrub_ended_seconds.get() > 0 => 100,
        (false, _) => 0,
        (true, ScrubState::Logs) => 99,
        (true, _) => u64::try_from(share.min(99)).unwrap_or(99),
    }
}

impl Node {
    /// Where the scrub of one OST, or of each, stands; in order of index.
    ///
    /// # Errors
    /// [`NodeError::NoOst`].
    pub fn scrub_status(&self, ost: Option<OstIndex>) -> Result<Vec<ScrubStatus>, NodeError> {
        let targets = self.osts.iter().flat_map(|stats| &stats.targets);
        let asked = targets.filter(|target| ost.is_none_or(|ost| ost == target.index));
        let mut all: Vec<ScrubStatus> = asked.map(|target| ScrubStatus::of(target)).collect();
        all.sort_unstable_by_key(|status| status.ost);
        match ost {
            Some(ost) if all.is_empty() => Err(NodeError::NoOst(ost.0)),
            Some(_) | None => Ok(all),
        }
    }

    /// Has the scrub of one OST, or of each, do as the operator says; it has heard so when this returns.
    ///
    /// # Errors
    /// [`NodeError::NoOst`]; [`NodeError::NoScrub`] when a pass is ordered and there is no bandwidth for it;
    /// [`NodeError::Deaf`] when a thread does not take the order, others may have then.
    pub fn order_scrub(&self, ost: Option<OstIndex>, order: ScrubOrder) -> Result<(), NodeError> {
        self.scrub_status(ost)?;
        if order == ScrubOrder::Start && self.config.scrub.bandwidth.0 == 0 {
            return Err(NodeError::NoScrub);
        }
        let deadline = Instant::now() + ORDER_MAX;
        // The MDT's is the first service.
        for (service, stats) in self.services.iter().skip(1).zip(&self.osts) {
            let is_owner = |ost| stats.targets.iter().any(|target| target.index == ost);
            if ost.is_some_and(|ost| !is_owner(ost)) {
                continue;
            }
            let (done, heard) = mpsc::sync_channel(1);
            let deaf = || NodeError::Deaf(service.name.clone());
            service.orders.post(Order::Scrub { ost, order, done }).map_err(|_| deaf())?;
            let left = deadline.saturating_duration_since(Instant::now());
            heard.recv_timeout(left).map_err(|_| deaf())?;
        }
        Ok(())
    }
}
