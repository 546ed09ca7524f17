//! What a node says of itself, as data.

use std::path::PathBuf;

use serde::Serialize;

use super::{
    Node, StartStep, TableStatus,
    identities::{self, IdentityStatus},
};
use crate::{device::HostRoom, stats::Counter};

/// Where a node stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// The MDT recovers, or waits for known clients to come back.
    Starting,
    /// Everything is served.
    Serving,
    /// An OST or a thread failed.
    Degraded,
}

/// What a node says of itself.
#[derive(Clone, Debug, Serialize)]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// Its process.
    pub pid: u32,
    /// Where it stands.
    pub state: NodeState,
    /// Why a service of its threads does not serve.
    pub failure: Option<String>,
    /// Of a device that can become fuller than its host: what there is to know.
    pub room: Option<String>,
    /// What its start waits for; empty once it accepts connections.
    pub starting: Vec<StartStep>,
    /// Its UNIX socket.
    pub socket: PathBuf,
    /// Its TCP address.
    pub listen: String,
    /// Whom it takes there, and whether what travels is encrypted: see [`crate::config::TcpConfig::label`].
    pub tcp: &'static str,
    /// Its device.
    pub device: PathBuf,
    /// The device's uuid.
    pub uuid: String,
    /// Client sessions.
    pub clients: u64,
    /// Inodes.
    pub inodes: u64,
    /// Seconds since the start.
    pub up_seconds: u64,
    /// Milliseconds from start to serving; 0 while it starts.
    pub start_milliseconds: u64,
    /// How its identity and its clients' certificates stand.
    pub identity: IdentityStatus,
    /// Its OSTs, in order of index.
    pub osts: Vec<OstStatus>,
    /// Tables that grow with what clients do.
    pub tables: Vec<TableStatus>,
    /// Its service threads.
    pub threads: Vec<ThreadStatus>,
}

/// What a node says of an OST.
#[derive(Clone, Debug, Serialize)]
pub struct OstStatus {
    /// Its index.
    pub index: u32,
    /// The service that owns it.
    pub service: u32,
    /// Whether it serves.
    pub ready: bool,
    /// Why it never will, before the node is started again.
    pub failure: Option<String>,
    /// Bytes users can fill.
    pub total_bytes: u64,
    /// Of them free.
    pub free_bytes: u64,
    /// Bytes of objects, before compression.
    pub logical_bytes: u64,
    /// Bytes they take.
    pub physical_bytes: u64,
    /// Objects.
    pub objects: u64,
    /// Milliseconds its recovery took.
    pub recovery_milliseconds: u64,
}

/// What a node says of a service thread.
#[derive(Clone, Debug, Serialize)]
pub struct ThreadStatus {
    /// Its name.
    pub name: String,
    /// CPUs it is pinned to; empty: none.
    pub cpus: Vec<usize>,
    /// Nanoseconds in turns with work since the start.
    pub busy_nanoseconds: u64,
    /// Nanoseconds polling without work.
    pub idle_nanoseconds: u64,
    /// Nanoseconds asleep.
    pub sleep_nanoseconds: u64,
}

impl Node {
    /// What the node says of itself now.
    #[must_use]
    pub fn status(&self) -> NodeStatus {
        let mut osts: Vec<OstStatus> = Vec::new();
        for (service, stats) in (1..).zip(&self.osts) {
            osts.extend(stats.targets.iter().map(|ost| OstStatus {
                index: ost.index.0,
                service,
                ready: ost.ready.get() == 1,
                failure: ost.failure.get().cloned(),
                total_bytes: ost.total_bytes.get(),
                free_bytes: ost.free_bytes.get(),
                logical_bytes: ost.logical_bytes.get(),
                physical_bytes: ost.physical_bytes.get(),
                objects: ost.objects.get(),
                recovery_milliseconds: ost.recovery_nanoseconds.get() / 1_000_000,
            }));
        }
        osts.sort_unstable_by_key(|ost| ost.index);
        NodeStatus {
            name: self.config.name.clone(),
            pid: std::process::id(),
            state: self.state(&osts),
            failure: self.failure(),
            room: HostRoom::of(&self.config.device.path, None).and_then(|room| room.warning()),
            starting: self.starting(),
            socket: self.config.socket.clone(),
            listen: self.listen.to_string(),
            tcp: self.config.tcp.label(),
            device: self.config.device.path.clone(),
            uuid: self.device.superblock().uuid_text(),
            clients: self.mdt.sessions.get(),
            inodes: self.mdt.inodes.get(),
            up_seconds: self.started.elapsed().as_secs(),
            start_milliseconds: self
                .start_took
                .get()
                .map_or(0, |took| u64::try_from(took.as_millis()).unwrap_or(u64::MAX)),
            identity: self
                .identities
                .as_ref()
                .map(|identities| identities.status(identities::now()))
                .unwrap_or_default(),
            osts,
            tables: self.tables(),
            threads: self.thread_status(),
        }
    }

    fn state(&self, osts: &[OstStatus]) -> NodeState {
        let is_set = |counter: &Counter| counter.get() == 1;
        let opened = self.start_took.get().is_some();
        if !self.is_healthy() || opened && osts.iter().any(|ost| !ost.ready) {
            NodeState::Degraded
        } else if opened && is_set(&self.mdt.serving) {
            NodeState::Serving
        } else {
            NodeState::Starting
        }
    }

    fn thread_status(&self) -> Vec<ThreadStatus> {
        let cpus = std::iter::once(&self.pinning.mdt).chain(&self.pinning.reactors);
        let status =
            |((name, load), cpus): ((&str, &std::sync::Arc<sheen_reactor::Load>), &Vec<usize>)| {
                let load = load.snapshot();
                ThreadStatus {
                    name: name.to_owned(),
                    cpus: cpus.clone(),
                    busy_nanoseconds: load.busy_nanoseconds,
                    idle_nanoseconds: load.idle_nanoseconds,
                    sleep_nanoseconds: load.sleep_nanoseconds,
                }
            };
        self.loads().zip(cpus).map(status).collect()
    }
}
