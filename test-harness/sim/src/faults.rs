//! What goes wrong in a run: the node dies, clients hang up, clients die.

use sheen_types::Tick;
use sheen_wire::{Field, metadata::SequenceGrantReply};

use crate::{
    node::Death,
    operation::Operation,
    world::{MILLISECOND, World},
};

/// How often a client dies between two rounds.
pub(crate) const REPLACE_PERCENT: u64 = 25;
/// Faults, and requests of each actor, while a dead client is not evicted yet.
const FAULTS_WHILE_EVICTING: u32 = 4;
const REQUESTS_WHILE_EVICTING: u32 = 10;

impl World {
    /// A client goes without a word; a new one takes over its directory and files.
    pub(crate) fn replace_client(&mut self) -> Result<(), String> {
        let number = self.chance.index(self.players.len());
        let fresh = self.new_actor("fs");
        let mut gone = std::mem::replace(&mut self.players[number].actor, fresh);
        gone.hang_up();
        self.counts.resends += gone.resends;
        self.counts.dead_clients += 1;
        self.note(|| format!("the client of actor {number} is gone"));
        self.namespace.forget_opens(number);
        if let Some(worker) = &mut self.players[number].worker {
            worker.files.retain(|file| file.name.is_some());
            worker.files.iter_mut().for_each(|file| file.open = false);
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
            player.requests = REQUESTS_WHILE_EVICTING;
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
                None => {}
            }
            match self.chance.below(100) {
                0..40 => self.die(Death::Process),
                40..75 => self.die(Death::Power),
                _ => {
                    let unlucky = self.chance.index(self.players.len());
                    self.players[unlucky].actor.hang_up();
                    self.note(|| format!("actor {unlucky} hangs up"));
                    self.counts.hang_ups += 1;
                    self.plan_fault();
                }
            }
        }
    }

    pub(crate) fn die(&mut self, death: Death) {
        match death {
            Death::Process => self.counts.kills += 1,
            Death::Power => self.counts.power_cuts += 1,
        }
        self.node.die(death);
        self.note(|| format!("death: {death:?}"));
        for player in &mut self.players {
            player.actor.drop_probe();
            if let Some(worker) = &mut player.worker {
                worker.node_died(death);
            }
        }
        let pause = 1 + self.chance.below(50 * MILLISECOND);
        self.restart_at = Some(Tick(self.clock.tick().0 + pause));
    }
}
