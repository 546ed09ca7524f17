//! Three replicas over a network that loses, doubles and reorders, with power failures: no acknowledged command is
//! lost, all apply the same commands in the same order, and one always leads again.

use std::collections::BTreeMap;

use super::device::{Chance, Device, Replica, formatted};
use sheen_consensus::GroupConfig;
use sheen_types::Tick;

const MILLISECOND: u64 = 1_000_000;

struct Cluster {
    devices: Vec<Device>,
    replicas: Vec<Option<Replica>>,
    /// Sender, receiver, message.
    network: Vec<(usize, Vec<u8>)>,
    now: u64,
    /// What each index held when it was first applied anywhere.
    agreed: Vec<Vec<u8>>,
    acknowledged: usize,
}

impl Cluster {
    fn new() -> Self {
        let voters = [1, 2, 3];
        let mut cluster = Self {
            devices: voters.iter().map(|&id| formatted(id, &voters)).collect(),
            replicas: vec![None, None, None],
            network: Vec::new(),
            now: 0,
            agreed: Vec::new(),
            acknowledged: 0,
        };
        (0..3).for_each(|at| cluster.start(at));
        cluster
    }

    fn start(&mut self, at: usize) {
        let id = at as u64 + 1;
        let seed = id * 7919 + self.now;
        let config = GroupConfig { id, seed, ..GroupConfig::default() };
        let replica = Replica::start(&mut self.devices[at], config, Tick(self.now)).unwrap();
        self.replicas[at] = Some(replica);
        self.collect(at);
    }

    /// Takes messages and applied commands from a replica.
    fn collect(&mut self, at: usize) {
        let Some(replica) = &mut self.replicas[at] else { return };
        replica.run(&mut self.devices[at]);
        for (to, message) in replica.sent.drain(..) {
            self.network.push((usize::try_from(to - 1).unwrap(), message));
        }
        let leads = replica.group.is_leading();
        for (index, command) in replica.applied.iter().enumerate() {
            match self.agreed.get(index) {
                Some(agreed) => {
                    assert_eq!(agreed, command, "replica {at} applies another command at {index}")
                }
                None => self.agreed.push(command.clone()),
            }
        }
        if leads {
            self.acknowledged = self.acknowledged.max(replica.applied.len());
        }
    }

    fn leader(&self) -> Option<usize> {
        let leads = |at: &usize| self.replicas[*at].as_ref().is_some_and(|r| r.group.is_leading());
        (0..3).filter(leads).max_by_key(|&at| self.replicas[at].as_ref().unwrap().group.term())
    }

    fn crash(&mut self, at: usize, chance: &mut Chance) {
        if self.replicas[at].take().is_some() {
            self.devices[at].crash(chance);
        }
    }

    fn step(&mut self, chance: &mut Chance, loss: u64) {
        let at = usize::try_from(chance.below(3)).unwrap();
        match chance.below(10) {
            0..=3 if !self.network.is_empty() => {
                let which = usize::try_from(chance.below(self.network.len() as u64)).unwrap();
                let (to, message) = self.network.swap_remove(which);
                if chance.below(20) == 0 {
                    self.network.push((to, message.clone()));
                }
                if chance.below(100) >= loss
                    && let Some(replica) = &mut self.replicas[to]
                {
                    replica.group.on_message(&message).unwrap();
                }
                self.collect(to);
            }
            4..=7 => {
                if let Some(replica) = &mut self.replicas[at]
                    && let Some(io) = self.devices[at].complete_one(chance)
                {
                    replica.group.on_io_complete(io, true);
                }
                self.collect(at);
            }
            _ => {
                self.now += MILLISECOND;
                for replica in self.replicas.iter_mut().flatten() {
                    replica.group.on_timer(Tick(self.now));
                }
                (0..3).for_each(|at| self.collect(at));
            }
        }
        if self.network.len() > 2000 {
            self.network.clear();
        }
    }

    /// Runs without faults until one leads.
    fn settle(&mut self, chance: &mut Chance) {
        for at in 0..3 {
            if self.replicas[at].is_none() {
                self.start(at);
            }
        }
        for _ in 0..20_000 {
            if self.leader().is_some() {
                return;
            }
            self.step(chance, 0);
        }
        panic!("nobody leads");
    }
}

fn run(seed: u64) -> usize {
    let mut chance = Chance(seed);
    let mut cluster = Cluster::new();
    let mut proposed = 0_u64;
    for _ in 0..6 {
        cluster.settle(&mut chance);
        for _ in 0..1500 {
            let at = usize::try_from(chance.below(3)).unwrap();
            match chance.below(200) {
                0 => cluster.crash(at, &mut chance),
                1 | 2 if cluster.replicas[at].is_none() => cluster.start(at),
                3..=20 => {
                    if let Some(at) = cluster.leader() {
                        let replica = cluster.replicas[at].as_mut().unwrap();
                        if replica.group.propose(format!("{proposed}").into_bytes()).is_ok() {
                            proposed += 1;
                        }
                    }
                }
                21 => {
                    if let Some(replica) = &mut cluster.replicas[at]
                        && at == 0
                    {
                        replica.snapshot();
                    }
                }
                _ => cluster.step(&mut chance, 10),
            }
        }
    }
    let acknowledged = cluster.acknowledged;
    for at in 0..3 {
        cluster.crash(at, &mut chance);
    }
    cluster.settle(&mut chance);
    let leader = cluster.leader().unwrap();
    let applied = &cluster.replicas[leader].as_ref().unwrap().applied;
    assert!(applied.len() >= acknowledged, "{} of {acknowledged} are left", applied.len());
    let once: BTreeMap<&Vec<u8>, usize> = applied.iter().zip(0..).collect();
    assert_eq!(once.len(), applied.len(), "applied twice");
    acknowledged
}

#[test]
fn replicas_agree_through_loss_and_power_failures() {
    let mut acknowledged = 0;
    for seed in 0..16 {
        let result = std::panic::catch_unwind(|| run(seed));
        acknowledged += result.unwrap_or_else(|_| panic!("seed {seed}"));
    }
    assert!(acknowledged > 500, "only {acknowledged} commands");
}
