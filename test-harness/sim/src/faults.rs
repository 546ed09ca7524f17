//! What goes wrong in a run: the node dies or pauses, clients hang up or die, links are cut, devices stall and fail.

use sheen_types::Tick;
use sheen_wire::{Field, metadata::SequenceGrantReply};

use crate::{
    coverage::Fault,
    network::Direction,
    node::{Death, LEASE, OSTS},
    operation::Operation,
    world::{MILLISECOND, Player, World, counts_of},
};

/// How often a client dies between two rounds.
pub(crate) const REPLACE_PERCENT: u64 = 25;
/// Faults, and requests of each actor, while a dead client is not evicted yet.
const FAULTS_WHILE_EVICTING: u32 = 4;
const REQUESTS_WHILE_EVICTING: u32 = 10;
/// Faults in a round of work or an audit: a node that never lives long enough to recover answers nobody.
const FAULTS_IN_ROUND_MAX: u32 = 100;
/// More jobs of each actor when one is silent for longer than its lease.
const JOBS_WHILE_SILENT: u32 = 15;
/// Longest time a link is cut, a device stalls, or the node pauses: less than it takes to be evicted.
const OUTAGE_MAX: u64 = 1_500 * MILLISECOND;

/// How a client falls silent.
#[derive(Clone, Copy, Debug)]
enum Hush {
    /// Its process stands still; what it sent arrives late, or does not.
    Pause,
    /// Its link is cut.
    Cut(Direction),
}

/// A client that is about to fall silent for long, or has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Silence {
    hush: Hush,
    length: u64,
    /// Until when, once it has begun.
    pub(crate) until: Option<Tick>,
    /// When everybody gets more to do: after it may have been evicted.
    pub(crate) work_at: Option<Tick>,
}

impl World {
    /// A client goes without a word; a new one takes over its directory and files.
    pub(crate) fn replace_client(&mut self) -> Result<(), String> {
        let number = self.chance.index(self.players.len());
        let fresh = self.new_actor("fs");
        let mut gone = std::mem::replace(&mut self.players[number].actor, fresh);
        gone.hang_up();
        self.files.lose_writer(gone.number);
        self.counts += counts_of(&gone);
        self.counts.coverage.count(Fault::DeadClient);
        self.note(|| format!("the client of actor {number} is gone"));
        self.namespace.forget_opens(number);
        if let Some(worker) = &mut self.players[number].worker {
            worker.close_all();
            worker.dropped.clear();
        }
        self.faults_left = Some(FAULTS_WHILE_EVICTING);
        let granted = self.ask(number, Operation::SequenceGrant)?;
        let reply = SequenceGrantReply::from_bytes(&granted.body).map_err(|e| e.to_string())?;
        if let Some(worker) = &mut self.players[number].worker {
            worker.use_sequence(reply.sequence);
        }
        self.outlive_dead_clients()
    }

    /// Works on until the clients that are gone are evicted. A node that dies all the time never ends its grace period, so
    /// few faults are allowed until then.
    pub(crate) fn outlive_dead_clients(&mut self) -> Result<(), String> {
        self.faults_left = Some(FAULTS_WHILE_EVICTING);
        for player in &mut self.players {
            player.jobs = REQUESTS_WHILE_EVICTING;
        }
        self.finish_round()?;
        while self.node.sessions() != Some(self.players.len() as u64) {
            self.step()?;
        }
        self.faults_left = None;
        self.finish_round()?;
        self.settle()
    }

    pub(crate) fn note(&mut self, what: impl FnOnce() -> String) {
        if self.plan.log == 0 {
            return;
        }
        if self.log.len() >= self.plan.log {
            self.log.pop_front();
        }
        let line = format!("{:>12} {}", self.clock.tick().0, what());
        self.log.push_back(line);
    }

    pub(crate) fn plan_fault(&mut self) {
        let most = if self.chance.percent(30) { 6 } else { 60 };
        let pause = 1 + self.chance.below(most * MILLISECOND);
        self.next_fault = Tick(self.clock.tick().0 + pause);
    }

    pub(crate) fn fault(&mut self) {
        let now = self.clock.tick();
        if let Some(at) = self.restart_at {
            if now >= at {
                self.restart_at = None;
                self.node.start();
                self.note(|| "start".to_owned());
                self.plan_fault();
            }
        } else if self.faults && now >= self.next_fault {
            match &mut self.faults_left {
                Some(0) => return self.plan_fault(),
                Some(left) => *left -= 1,
                None if self.faults_in_round >= FAULTS_IN_ROUND_MAX => return self.plan_fault(),
                None => {}
            }
            self.faults_in_round += 1;
            self.plan_fault();
            match self.chance.below(100) {
                0..20 => self.die(Death::Process),
                20..25 => self.restart_mdt(),
                25..30 => self.restart_osts(),
                30..55 => self.die(Death::Power),
                55..72 => self.hang_up(),
                72..82 => self.cut_link(),
                82..86 => self.stall_device(),
                86..90 => self.pause_node(),
                90..93 => self.plan_silence(),
                _ => self.lose_media(),
            }
        }
    }

    /// A client is to fall silent, as soon as nothing is under way whose outcome nobody could tell afterwards.
    fn plan_silence(&mut self) {
        let number = self.chance.index(self.players.len());
        if self.faults_left.is_some() || self.players[number].silence.is_some() {
            return;
        }
        let hush = match self.chance.below(5) {
            0 => Hush::Cut(Direction::Up),
            1 => Hush::Cut(Direction::Down),
            2 => Hush::Cut(Direction::Both),
            _ => Hush::Pause,
        };
        let lease = u64::try_from(LEASE.as_nanos()).unwrap_or(u64::MAX);
        let length = lease / 4 + self.chance.below(3 * lease);
        self.players[number].silence = Some(Silence { hush, length, until: None, work_at: None });
        self.faults_left = Some(FAULTS_WHILE_EVICTING);
    }

    /// Begins a silence that is due, and ends one that is over.
    pub(crate) fn silence(&mut self, number: usize) {
        let now = self.clock.tick();
        let Player { actor, silence, .. } = &mut self.players[number];
        let Some(Silence { hush, length, until, work_at }) = silence else { return };
        if work_at.is_some_and(|at| at <= now) {
            *work_at = None;
            // An audit reads what stays as it is.
            let jobs = if self.working { JOBS_WHILE_SILENT } else { 0 };
            self.players.iter_mut().for_each(|player| player.jobs += jobs);
            return;
        }
        match *until {
            None if actor.changes_names() => {}
            None => {
                let end = Tick(now.0 + *length);
                *until = Some(end);
                *work_at = Some(now.after(LEASE * 5 / 4));
                actor.may_be_evicted = true;
                let (hush, client) = (*hush, actor.number);
                self.begin_silence(number, hush, client, end);
            }
            Some(end) if end <= now && actor.is_valid() && actor.is_connected() => {
                actor.may_be_evicted = false;
                *silence = None;
                self.faults_left = None;
            }
            Some(_) => {}
        }
    }

    fn begin_silence(&mut self, number: usize, hush: Hush, client: usize, end: Tick) {
        self.note(|| format!("actor {number} falls silent until {}: {hush:?}", end.0));
        match hush {
            Hush::Pause => {
                self.players[number].actor.pause(end);
                if self.chance.percent(50) {
                    let late = Tick(end.0 + self.chance.below(20 * MILLISECOND));
                    self.network.borrow_mut().hold_back(client, late);
                }
                self.counts.coverage.count(Fault::ClientPause);
            }
            Hush::Cut(direction) => {
                self.network.borrow_mut().cut(client, direction, end);
                if self.chance.percent(50) {
                    self.players[number].actor.hang_up();
                }
                self.counts.coverage.count(Fault::LongCut);
            }
        }
    }

    fn hang_up(&mut self) {
        let unlucky = self.chance.index(self.players.len());
        self.players[unlucky].actor.hang_up();
        self.note(|| format!("actor {unlucky} hangs up"));
        self.counts.coverage.count(Fault::HangUp);
    }

    /// How long something is out of order: mostly moments, at times seconds.
    fn outage(&mut self) -> Tick {
        let most = if self.chance.percent(70) { 50 * MILLISECOND } else { OUTAGE_MAX };
        Tick(self.clock.tick().0 + 1 + self.chance.below(most))
    }

    fn cut_link(&mut self) {
        let unlucky = self.chance.index(self.players.len());
        let (direction, fault) = match self.chance.below(3) {
            0 => (Direction::Up, Fault::CutUp),
            1 => (Direction::Down, Fault::CutDown),
            _ => (Direction::Both, Fault::CutBoth),
        };
        let until = self.outage();
        let client = self.players[unlucky].actor.number;
        self.network.borrow_mut().cut(client, direction, until);
        self.note(|| format!("the link of actor {unlucky} is cut {direction:?} until {}", until.0));
        self.counts.coverage.count(fault);
        // Over half of the cuts the connections break: what is on its way is lost.
        if self.chance.percent(50) {
            self.players[unlucky].actor.hang_up();
        }
    }

    fn stall_device(&mut self) {
        let until = self.outage();
        let zone = self.chance.below(u64::from(OSTS) + 1);
        let ost = u32::try_from(zone).ok().and_then(|zone| zone.checked_sub(1));
        self.node.stall(ost, until);
        self.note(|| format!("the device of {ost:?} stalls until {}", until.0));
        let fault = if ost.is_some() { Fault::OstStall } else { Fault::MdtStall };
        self.counts.coverage.count(fault);
    }

    fn pause_node(&mut self) {
        let until = self.outage();
        self.node.pause(until);
        self.note(|| format!("the node pauses until {}", until.0));
        self.counts.coverage.count(Fault::NodePause);
    }

    fn lose_media(&mut self) {
        let ost = u32::try_from(self.chance.below(u64::from(OSTS))).unwrap_or(0);
        if self.node.lose_media(ost) {
            self.note(|| format!("the next read of OST {ost} meets lost media"));
        }
    }

    fn restart_mdt(&mut self) {
        self.node.restart_mdt();
        self.note(|| "the MDT begins anew".to_owned());
        self.counts.coverage.count(Fault::MdtRestart);
    }

    fn restart_osts(&mut self) {
        self.node.restart_osts();
        self.note(|| "the OSTs begin anew".to_owned());
        self.counts.coverage.count(Fault::OstRestart);
    }

    pub(crate) fn die(&mut self, death: Death) {
        match death {
            Death::Process => self.counts.coverage.count(Fault::Kill),
            Death::Power => self.counts.coverage.count(Fault::PowerCut),
        }
        self.node.die(death);
        self.note(|| format!("death: {death:?}"));
        let pause = 1 + self.chance.below(50 * MILLISECOND);
        self.restart_at = Some(Tick(self.clock.tick().0 + pause));
    }
}
