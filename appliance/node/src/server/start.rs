//! The part of a start that may be long: what it waits for, how far that is, and how it is given up.
//!
//! A start never fails for being long: a large namespace, or a journal of many gigabytes, takes the time it takes. Whoever
//! waits is told what for, and may end the wait.

use std::{
    fmt,
    ops::ControlFlow,
    sync::Arc,
    time::{Duration, Instant},
};

use serde::Serialize;

use super::{Node, NodeError, ServiceHandle, identities};
use crate::{
    mdt::{MdtStats, RecoveryPart},
    ost::OstServiceStats,
};

/// How often recovery is looked after.
const LOOK: Duration = Duration::from_millis(1);
/// How often whoever waits is told.
const TELL: Duration = Duration::from_millis(100);

/// One thing a start waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StartStep {
    /// The service.
    pub service: String,
    /// What it does.
    pub doing: String,
    /// How much of that is done, if that is known.
    pub percent: Option<u64>,
}

impl fmt::Display for StartStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { service, doing, percent } = self;
        match percent {
            Some(percent) => write!(f, "{service}: {doing}, {percent} %"),
            None => write!(f, "{service}: {doing}"),
        }
    }
}

impl Node {
    /// What the start waits for; nothing once it is done.
    #[must_use]
    pub fn starting(&self) -> Vec<StartStep> {
        if self.start_took.get().is_some() {
            return Vec::new();
        }
        let mut steps = Vec::new();
        if self.mdt.term.get() == 0 {
            steps.push(metadata_step(&self.mdt));
        }
        let targets = || self.osts.iter().flat_map(|stats| &stats.targets);
        let opened = targets().filter(|ost| ost.ready.get() + ost.failed.get() > 0).count();
        let all = targets().count();
        if opened < all {
            let doing = format!("{opened} of {all} opened");
            steps.push(StartStep { service: "OSTs".to_owned(), doing, percent: None });
        }
        steps
    }

    /// Waits until every service serves or can tell that it never will, then accepts connections. An MDT that cannot serve is
    /// fatal; an OST is not while others have data to give. `watch` is told ten times a second what is waited for, and may end the
    /// wait.
    ///
    /// # Errors
    /// [`NodeError`]: a service cannot serve, or the wait was ended. Drop the node then.
    pub fn await_start(
        &self,
        watch: impl FnMut(&[StartStep]) -> ControlFlow<()>,
    ) -> Result<(), NodeError> {
        let begun = Instant::now();
        self.await_start_by(|| begun.elapsed(), std::thread::sleep, watch)
    }

    /// As [`Node::await_start`], by another clock: `now` tells the time since the start began, `pause` lets some pass.
    pub(super) fn await_start_by(
        &self,
        now: impl Fn() -> Duration,
        mut pause: impl FnMut(Duration),
        mut watch: impl FnMut(&[StartStep]) -> ControlFlow<()>,
    ) -> Result<(), NodeError> {
        let mut told: Option<Duration> = None;
        while let Some(late) = self.services_recovering().next() {
            if let Some(ended) = self.services.iter().find(|service| service.has_ended()) {
                return Err(NodeError::ThreadEnded(ended.name.clone()));
            }
            if let Some(reason) = late.failure.get() {
                let name = late.name.clone();
                return Err(NodeError::Failed { name, reason: reason.clone() });
            }
            if told.is_none_or(|told| now().saturating_sub(told) >= TELL) {
                told = Some(now());
                if watch(&self.starting()).is_break() {
                    return Err(NodeError::Interrupted);
                }
            }
            pause(LOOK);
        }
        if self.osts.iter().flat_map(|stats| &stats.targets).all(|ost| ost.failed.get() > 0) {
            let reason = "no OST can be opened; the log says why of each".to_owned();
            return Err(NodeError::Failed { name: "OSTs".to_owned(), reason });
        }
        if let Some(identities) = &self.identities {
            identities.begin(identities::now());
        }
        self.accept()?;
        self.note_started();
        Ok(())
    }

    fn services_recovering(&self) -> impl Iterator<Item = &ServiceHandle> {
        let osts = |stats: &Arc<OstServiceStats>| {
            stats.targets.iter().all(|ost| ost.ready.get() + ost.failed.get() > 0)
        };
        // The MDT counts its term when it leads; clients that were there before may still have to come back.
        let recovered = std::iter::once(self.mdt.term.get() > 0).chain(self.osts.iter().map(osts));
        self.services
            .iter()
            .zip(recovered)
            .filter(|(_, recovered)| !recovered)
            .map(|(service, _)| service)
    }
}

fn metadata_step(stats: &MdtStats) -> StartStep {
    let (done, total) = (stats.recovery_done.get(), stats.recovery_total.get());
    let doing = match RecoveryPart::of_number(stats.recovery_part.get()) {
        None => "opening the zone".to_owned(),
        Some(RecoveryPart::Snapshot) => "reading the snapshot".to_owned(),
        Some(RecoveryPart::Log) => format!("reading the log, {} MiB so far", done >> 20),
        Some(RecoveryPart::Replay) => "applying the log".to_owned(),
    };
    let percent = done.saturating_mul(100).checked_div(total).map(|percent| percent.min(100));
    StartStep { service: "metadata".to_owned(), doing, percent }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_step_tells_part_and_percentage_where_it_is_known() {
        let stats = MdtStats::default();
        assert_eq!(metadata_step(&stats).to_string(), "metadata: opening the zone");
        stats.recovery_part.set(RecoveryPart::Snapshot.number());
        stats.recovery_total.set(200);
        stats.recovery_done.set(86);
        assert_eq!(metadata_step(&stats).to_string(), "metadata: reading the snapshot, 43 %");
        stats.recovery_part.set(RecoveryPart::Log.number());
        stats.recovery_total.set(0);
        stats.recovery_done.set(5 << 20);
        assert_eq!(metadata_step(&stats).to_string(), "metadata: reading the log, 5 MiB so far");
    }
}
