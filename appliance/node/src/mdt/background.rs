//! Work nobody waits for: releasing orphans, deleting file systems, fencing; destroying objects is in `destroys`.
//!
//! Everything here is listed in the replicated state and begins again after a restart. Jobs for the OSTs are repeated
//! until they are done.

use std::collections::{BTreeMap, BTreeSet};

use sheen_meta::{Operation, operation::Reap};
use sheen_types::{ClientId, Fid, OstIndex, Tick};

use super::{
    core::{Mdt, Phase},
    fencing::Fencing,
    gateway::{OstJob, OstJobEnd},
    lingering::Lingering,
    mutation::Task,
    removal::RELEASED_PER_TURN,
    request::Output,
    room::RoomSeekers,
    unsettled::ENDED_BEFORE,
};

/// Inodes removed by one step of deleting a file system.
const REAP_STEPS_MAX: u32 = 256;
/// Leases asked back in one tick to make room for others: 20,000 a second.
const LEASES_ASKED_PER_TICK: usize = 1024;

/// Why a job was given to the OSTs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Job {
    /// Objects on the list of that OST.
    Destroy {
        /// The OST.
        ost: OstIndex,
    },
    /// Its space is wanted.
    Space {
        /// The OST.
        ost: OstIndex,
    },
    /// Sessions that ended before this start are to change nothing any more.
    Drain,
    /// A session ended, or is being evicted.
    Dismiss {
        /// The session.
        client: ClientId,
    },
}

/// What is under way and due.
#[derive(Debug, Default)]
pub(crate) struct Background {
    next_token: u64,
    jobs: BTreeMap<u64, (Job, OstJob)>,
    /// Jobs that failed and are tried again at the next tick.
    retry: BTreeSet<u64>,
    pub destroys_due: BTreeSet<OstIndex>,
    /// Orphans of before the start behind this one do not linger yet; None: all that are not open do.
    pub orphans_after: Option<Fid>,
    /// When serving began.
    pub began: Tick,
    /// Until then nothing that lingers goes early.
    pub users_back: Tick,
    /// Orphans whose release is under way, and where they have objects.
    pub releasing: BTreeMap<Fid, Box<[OstIndex]>>,
    /// Of them, those that wait for the log alone.
    pub releases_ready: usize,
    /// Releases that may begin in this turn yet.
    pub releases_left: usize,
    /// Sessions that are being fenced.
    pub fencing: BTreeMap<ClientId, Fencing>,
    /// Of them, those that ended.
    pub fences: usize,
    /// File systems being deleted step by step.
    reaping: BTreeSet<Fid>,
    /// File systems whose deletion begins when these sessions are fenced: they may have had them mounted.
    pub reaps_due: BTreeMap<Fid, BTreeSet<ClientId>>,
    next_tick: Tick,
    /// Inodes without a name that nobody has open yet.
    pub lingering: Lingering,
    /// Requests that wait for room on an OST.
    pub room: RoomSeekers,
    /// While it is later than now, inodes that lingered are giving room.
    pub room_comes_until: Tick,
    /// While it is later than now, the log takes only what makes room.
    pub log_short_until: Tick,
}

#[cfg(test)]
impl Background {
    pub(crate) fn jobs_held(&self) -> usize {
        self.jobs.len() + self.retry.len()
    }
}

impl Mdt {
    /// Serving begins: what was left over from before is taken up.
    pub(crate) fn begin_background(&mut self) {
        for (ost, _) in self.state.osts() {
            self.background.destroys_due.insert(ost);
            self.note_destroys(ost);
        }
        self.background.began = self.now;
        self.background.orphans_after = Some(Fid::NONE);
        self.begin_reaping();
    }

    /// Tells the OSTs of sessions; no end comes back.
    pub(crate) fn tell_osts(&mut self, job: OstJob) {
        self.background.next_token += 1;
        self.outputs.push_back(Output::Ost { token: self.background.next_token, job });
    }

    pub(crate) fn submit_ost(&mut self, job: OstJob, why: Job) {
        self.background.next_token += 1;
        let token = self.background.next_token;
        self.background.jobs.insert(token, (why, job.clone()));
        self.outputs.push_back(Output::Ost { token, job });
    }

    /// The mailbox to the OSTs was full.
    pub(crate) fn ost_refused(&mut self, token: u64) {
        if let Some((Job::Space { ost }, _)) = self.background.jobs.get(&token) {
            let ost = *ost;
            self.background.jobs.remove(&token);
            return self.space_not_asked(ost);
        }
        self.not_done(token);
    }

    /// A job is to be done again.
    fn not_done(&mut self, token: u64) {
        match self.background.jobs.get(&token) {
            // Not repeated as it was: the list has another number by then.
            Some(&(Job::Dismiss { client }, _)) => {
                self.background.jobs.remove(&token);
                self.dismissal_refused(client);
            }
            Some(_) => {
                self.background.retry.insert(token);
            }
            None => {}
        }
    }

    /// A job of the OSTs ended.
    pub(crate) fn on_ost_end(&mut self, end: OstJobEnd) {
        if let Some((Job::Space { ost }, _)) = self.background.jobs.get(&end.token) {
            let ost = *ost;
            self.background.jobs.remove(&end.token);
            return self.learn_space(ost, end.space);
        }
        if let Some(ost) = end.part {
            match self.background.jobs.get(&end.token) {
                Some(&(Job::Dismiss { client }, _)) => self.fenced_at(client, ost),
                Some((Job::Drain, _)) => self.drained_at(ost),
                Some((Job::Destroy { .. } | Job::Space { .. }, _)) | None => {}
            }
            return self.settle();
        }
        if !end.done {
            return self.not_done(end.token);
        }
        let Some((why, job)) = self.background.jobs.remove(&end.token) else { return };
        match (why, job) {
            (Job::Destroy { ost }, OstJob::Destroy { objects, .. }) => self.destroyed(ost, objects),
            (Job::Dismiss { client }, _) => self.fenced(client),
            (Job::Drain, _) => self.drained(),
            (Job::Destroy { .. } | Job::Space { .. }, _) => {}
        }
        self.settle();
    }

    pub(crate) fn begin_reaping(&mut self) {
        for info in self.state.filesystems() {
            if info.deleting && self.background.reaping.insert(info.root) {
                // What its clients have on their way would make objects anew after they are destroyed.
                let ended = self.background.fencing.iter().filter(|(_, fencing)| fencing.ended);
                let mut clients: BTreeSet<ClientId> = ended.map(|(&client, _)| client).collect();
                clients.extend(self.unsettled.is_draining().then_some(ENDED_BEFORE));
                if clients.is_empty() {
                    self.reap(info.root);
                } else {
                    self.background.reaps_due.insert(info.root, clients);
                }
            }
        }
    }

    /// Nothing of a session, or of [`ENDED_BEFORE`], is under way any more: deletes what waited for that alone.
    pub(crate) fn reap_without(&mut self, client: ClientId) {
        for clients in self.background.reaps_due.values_mut() {
            clients.remove(&client);
        }
        let due = self.background.reaps_due.extract_if(.., |_, clients| clients.is_empty());
        let due: Vec<Fid> = due.map(|(root, _)| root).collect();
        for root in due {
            self.reap(root);
        }
    }

    fn reap(&mut self, root: Fid) {
        let reap = Reap { root, steps_max: REAP_STEPS_MAX };
        self.submit_own(Operation::Reap(reap), Task::Reap(root));
    }

    pub(crate) fn reaped(&mut self, root: Fid, finished: bool) {
        if finished {
            self.background.reaping.remove(&root);
        } else {
            self.reap(root);
        }
    }

    /// Does what is due. Called every turn.
    pub(crate) fn work_in_background(&mut self) {
        self.background.releases_left = RELEASED_PER_TURN;
        if self.phase == Phase::Serving {
            self.destroy_objects();
            self.adopt_orphans();
        }
        self.give_room();
        if matches!(self.phase, Phase::Serving | Phase::Grace { .. }) {
            self.end_lingering();
        }
        if self.phase == Phase::Serving {
            self.ask_in_hurry();
        }
        if self.now < self.background.next_tick {
            return;
        }
        self.background.next_tick = self.now.after(self.times.tick);
        for token in std::mem::take(&mut self.background.retry) {
            if let Some((_, job)) = self.background.jobs.get(&token) {
                let job = job.clone();
                self.outputs.push_back(Output::Ost { token, job });
            }
        }
        if matches!(self.phase, Phase::Serving | Phase::Grace { .. }) {
            self.tell_sessions_again();
            self.background.room.note_time();
            self.close_strangers();
            self.check_promise();
            self.check_sessions();
            self.trim_leases();
            self.watch_osts();
            self.end_grace_if_all_back();
        }
        self.count_levels();
        self.settle();
    }

    /// When [`Mdt::work_in_background`] has something to do although nothing came.
    pub(crate) fn next_tick(&self) -> Tick {
        let is_serving = self.phase == Phase::Serving;
        if self.has_due_plans()
            || is_serving && (self.has_orphans_to_adopt() || self.has_due_lingerers())
        {
            return self.now;
        }
        self.background.next_tick
    }

    /// The leases longest unused go before there are too many.
    fn trim_leases(&mut self) {
        for conflict in self.leases.to_make_room(LEASES_ASKED_PER_TICK) {
            self.ask_back(conflict);
        }
    }

    fn count_levels(&self) {
        let stats = &self.stats;
        stats.sessions.set(self.sessions.len() as u64);
        stats.reply_slots.set(self.state.reply_slots() as u64);
        stats.inodes.set(self.state.inodes());
        stats.state_bytes.set(self.state.snapshot_size().total());
        stats.state_bytes_max.set(self.admission.items_max());
        stats.leases.set(self.leases.len() as u64);
        stats.opens.set(self.opens.len() as u64);
        stats.locks.set(self.locks.len() as u64);
        stats.requests_held.set(self.held as u64);
        let destroys: usize = self.destroying.values().map(|window| window.under_way.len()).sum();
        stats.destroys_in_flight.set(destroys as u64);
        stats.destroys_pending.set(self.state.destroys_pending() as u64);
    }
}
