//! One OST of a service: its store, or the way there, and its device.

use std::{sync::Arc, time::Duration};

use sheen_ports::Block;
use sheen_store::{Command, IoToken, JournalEnd, Limits, Opening, Progress, Store, Unmarked, Zone};
use sheen_types::{Lba, OstIndex, Tick, units::BLOCK_BYTES_U64};

use crate::resting::Resting;

use super::{
    device::{Device, Finished},
    scrub::{Scrub, ScrubConfig},
    statistics::OstStats,
    tidying::Tidying,
};

/// How often the host of a device that is a file is asked for its room.
const HOST_ASK: Duration = Duration::from_secs(1);

/// Opening → Ready, or Failed from either.
#[derive(Debug)]
pub(crate) enum State {
    /// Recovering; None while the store looks at a completion.
    Opening(Option<Box<Opening>>),
    Ready(Box<Store>),
    /// It cannot serve until it is repaired and the node started anew.
    Failed,
}

impl State {
    pub(crate) fn ready(&mut self) -> Option<&mut Store> {
        match self {
            Self::Ready(store) => Some(store),
            Self::Opening(_) | Self::Failed => None,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Target<B> {
    pub(crate) index: OstIndex,
    pub(crate) device: Device<B>,
    pub(crate) state: State,
    pub(crate) stats: Arc<OstStats>,
    pub(crate) scrub: Scrub,
    pub(crate) tidying: Tidying,
    /// Whether the journal is.
    pub(crate) resting: Resting<Unmarked>,
    started: Option<Tick>,
    /// What its host could still give it, and when it was asked.
    host: Option<(Tick, Option<u64>)>,
}

impl<B: Block> Target<B> {
    /// Begins recovery: the first commands go to `commands`.
    pub(crate) fn open(
        index: OstIndex,
        device: Device<B>,
        stats: Arc<OstStats>,
        (limits, (scrub, tidy)): (Limits, (ScrubConfig, bool)),
        commands: &mut Vec<Command>,
    ) -> Self {
        let zone = Zone { first: Lba(0), blocks: device.geometry().blocks };
        let opening = Opening::new(zone, limits, commands);
        let state = State::Opening(Some(opening));
        let scrub = Scrub::new(scrub, stats.clone());
        let tidying = Tidying::new(tidy, stats.clone());
        Self {
            index,
            device,
            state,
            stats,
            scrub,
            tidying,
            resting: Resting::default(),
            started: None,
            host: None,
        }
    }

    pub(crate) fn store(&mut self) -> Option<&mut Store> {
        self.state.ready()
    }

    /// Blocks that can still be filled: of the `free` ones of its store, as many as its host has. The host is asked once a second.
    pub(crate) fn fillable_blocks(&mut self, now: Tick, free: u64) -> u64 {
        let host = match self.host {
            Some((asked, host)) if now.since(asked) < HOST_ASK => host,
            Some(_) | None => {
                let host = self.device.host_blocks_free();
                self.host = Some((now, host));
                host
            }
        };
        host.map_or(free, |host| free.min(host))
    }

    /// Number of the last change that, with all before it, survives a loss of power: what replies carry as `committed`.
    pub(crate) fn durable_sequence(&self) -> u64 {
        match &self.state {
            State::Ready(store) if self.device.is_volatile() => store.changes_durable(),
            State::Ready(store) => store.changes_applied(),
            State::Opening(_) | State::Failed => 0,
        }
    }

    /// Number of the last change.
    pub(crate) fn changes_applied(&self) -> u64 {
        match &self.state {
            State::Ready(store) => store.changes_applied(),
            State::Opening(_) | State::Failed => 0,
        }
    }

    pub(crate) fn is_opening(&self) -> bool {
        matches!(self.state, State::Opening(_))
    }

    /// Gives up an opening that is under way, as a crash would: the next start begins again.
    pub(crate) fn give_up_opening(&mut self) {
        if self.is_opening() {
            self.state = State::Failed;
        }
    }

    /// A command of recovery ended.
    pub(crate) fn on_opening(
        &mut self,
        now: Tick,
        io: IoToken,
        finished: Finished,
        commands: &mut Vec<Command>,
    ) {
        let opening = match &mut self.state {
            State::Opening(opening) => opening.take(),
            State::Ready(_) | State::Failed => None,
        };
        if let Some(opening) = opening {
            self.go_on_opening(now, opening, (io, &finished), commands);
        }
        for buffer in finished.pieces.into_iter().flatten() {
            // Those of others return to their arenas by themselves.
            let _ = self.device.give_back(buffer);
        }
    }

    fn go_on_opening(
        &mut self,
        now: Tick,
        opening: Box<Opening>,
        (io, finished): (IoToken, &Finished),
        commands: &mut Vec<Command>,
    ) {
        let started = *self.started.get_or_insert(now);
        let joined: Vec<u8>;
        let bytes = match finished.pieces.as_slice() {
            [] => &[][..],
            [only] => only.as_ref().map_or(&[][..], |piece| piece.as_slice()),
            pieces => {
                let pieces = pieces.iter().flatten();
                joined = pieces.flat_map(|piece| piece.as_slice()).copied().collect();
                &joined
            }
        };
        let result = finished.result.map(|()| bytes);
        self.state = match opening.on_io(io, result, commands) {
            Ok(Progress::Working(opening)) => State::Opening(Some(opening)),
            Ok(Progress::Ready(store)) => {
                let took = now.since(started);
                self.stats
                    .recovery_nanoseconds
                    .set(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
                self.stats.ready.set(1);
                log_healed(self.index, &store);
                log_end(self.index, store.journal_end());
                tracing::info!(
                    ost = self.index.0,
                    ?took,
                    objects = store.statistics().objects,
                    "OST serves"
                );
                State::Ready(store)
            }
            Ok(Progress::Inspected(_)) => unreachable!("a target is opened to serve"),
            Err(error) => {
                // Once: it is opened once.
                let _ = self.stats.failure.set(format!("it cannot be opened: {error}"));
                self.stats.failed.set(1);
                tracing::error!(ost = self.index.0, %error, "OST cannot be opened and does not serve");
                State::Failed
            }
        };
    }

    /// Ends a turn of the store.
    pub(crate) fn pump(&mut self, commands: &mut Vec<Command>) {
        let State::Ready(store) = &mut self.state else { return };
        while let Some(bytes) = self.device.take_spent() {
            store.recycle(bytes);
        }
        store.pump(commands);
        if let Some(cause) = store.stop_cause()
            && self.stats.failure.get().is_none()
        {
            // Only this thread fills it.
            let _ = self.stats.failure.set(cause.to_string());
            self.stats.failed.set(1);
            self.stats.ready.set(0);
            tracing::error!(
                ost = self.index.0,
                %cause,
                "OST stopped after a device failure: every request fails until restart"
            );
        }
    }

    /// Shows the store's numbers to whoever reads the statistics.
    pub(crate) fn publish(&self) {
        let State::Ready(store) = &self.state else { return };
        let now = store.statistics();
        let stats = &self.stats;
        stats.total_bytes.set(now.total_blocks * BLOCK_BYTES_U64);
        stats.free_bytes.set(now.free_blocks * BLOCK_BYTES_U64);
        stats.logical_bytes.set(now.logical_blocks * BLOCK_BYTES_U64);
        stats.physical_bytes.set(now.used_blocks * BLOCK_BYTES_U64);
        stats.objects.set(now.objects);
        stats.data_bytes_written.set(now.data_blocks_written * BLOCK_BYTES_U64);
        stats.journal_bytes_written.set(now.journal_blocks_written * BLOCK_BYTES_U64);
        stats.checkpoint_bytes_written.set(now.checkpoint_blocks_written * BLOCK_BYTES_U64);
        stats.checkpoints.set(now.checkpoints);
        stats.flushes.set(now.flushes);
    }
}

/// What the journal ended with.
fn log_end(index: OstIndex, end: &JournalEnd) {
    if end.is_torn() {
        tracing::warn!(
            ost = index.0,
            %end,
            "journal tail torn: a change that was not acknowledged is gone; an acknowledged one has rotted"
        );
    } else {
        tracing::info!(ost = index.0, %end, "journal read");
    }
}

/// What was bad in one of two copies, and is made good again.
fn log_healed(index: OstIndex, store: &Store) {
    if let Some(bad) = store.healed_anchor() {
        tracing::warn!(ost = index.0, %bad, "a copy of the anchor was bad and is written anew");
    }
    let batches = store.statistics().healed_batches;
    if batches > 0 {
        tracing::warn!(
            ost = index.0,
            batches,
            "batches of the checkpoint were bad in one copy; a new base is written"
        );
    }
}
