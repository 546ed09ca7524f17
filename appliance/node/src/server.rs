//! A running node: its threads, from a formatted device to serving and back.
//!
//! Owns the device's lock, the service threads, the acceptor. Services are numbered: 0 is the MDT, 1.. are reactors.
//! Invariants: connections are accepted only when every store has recovered; the device stays locked until every
//! thread has ended. Deliberately absent: HTTP, signals (their owners call [`Node::status`] and [`Node::stop`]).

use std::{
    net::{SocketAddr, TcpListener},
    ops::ControlFlow,
    os::unix::net::UnixListener,
    path::PathBuf,
    sync::{Arc, Mutex, OnceLock, mpsc},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use sheen_firmware_config::{PinningPlan, Topology, pinning::reactors_for};
use sheen_keys::{KeyBlock, KeySource};
use sheen_ports::Entropy;
use sheen_rdma::{Acceptor, AcceptorConfig, AcceptorCounters, Gate, NewConnection};
use sheen_reactor::{Load, SystemEntropy, mailbox, thread::ThreadPlan};
use sheen_types::OstIndex;

use crate::{
    config::{Config, TcpClients},
    device::{
        Device, DeviceError, FormatPlan, HostRoom, QueueBudget, ZoneKind, format::Force,
        format_device,
    },
    mdt::MdtStats,
    memory_plan::MemoryPlan,
    ost::{OstServiceStats, local_gateway},
    service_thread::{ORDERS_MAX, Order},
};

pub mod error;
mod gate;
mod handle;
pub mod identities;
mod holder;
pub mod listen;
mod scrub;
mod pages;
mod spawn;
mod start;
pub mod status;
mod tables;

pub use sheen_rdma::{PageRequest, PageSink, Socket as PageSocket};

pub use error::NodeError;
use gate::IdentityGate;
use handle::ServiceHandle;
use identities::{Desk, Identities, NodeKey};
use pages::Pages;
pub use scrub::{ScrubFaults, ScrubStatus};
pub(crate) use spawn::OPERATIONS_MAX;
use spawn::{MdtReport, MdtThread, Orders, OstThread};
pub use start::StartStep;
pub use status::{NodeState, NodeStatus, OstStatus, ThreadStatus};
pub use tables::TableStatus;

/// How long a stop waits for the threads: flushing takes a second at most on a device that works.
const STOP_MAX: Duration = Duration::from_secs(30);

/// Formats the device of `config`.
///
/// # Errors
/// [`NodeError::Device`]; refused if the device holds something, unless forced.
pub fn format(config: &Config, force: Force) -> Result<(), NodeError> {
    let plan = FormatPlan {
        name: &config.name,
        size: config.device.size,
        osts: config.device.osts,
        force,
        key: config.encryption.key(),
    };
    format_device(&config.device.path, &plan, &mut entropy()?)?;
    Ok(())
}

/// Reserves what a device of an earlier release has not, and tells what its host cannot give. The node starts all the same: with it deletes
/// make room.
fn tell_room(config: &Config, device: &Device) {
    if let Err(error) = device.reserve() {
        tracing::warn!("{error}");
    }
    if let Some(warning) = HostRoom::of(&config.device.path, None).and_then(|room| room.warning()) {
        tracing::warn!("{warning}");
    }
}

fn entropy() -> Result<SystemEntropy, NodeError> {
    SystemEntropy::open()
        .map_err(|source| NodeError::System { doing: "opening the source of chance", source })
}

/// A running node. Dropping it stops it.
#[derive(Debug)]
pub struct Node {
    config: Config,
    listen: SocketAddr,
    /// Where it listens, until it accepts.
    sockets: Mutex<Option<(UnixListener, TcpListener)>>,
    acceptor: OnceLock<Acceptor>,
    pages: Pages,
    /// By service number.
    services: Vec<ServiceHandle>,
    mdt: Arc<MdtStats>,
    /// Made with the MDT's thread.
    identities: Option<Arc<Identities>>,
    /// By service number less one.
    osts: Vec<Arc<OstServiceStats>>,
    memory: MemoryPlan,
    pinning: PinningPlan,
    started: Instant,
    start_took: OnceLock<Duration>,
    stopping: bool,
    /// Locked until everything else is gone.
    device: Device,
}

impl Node {
    /// Brings a formatted device to serving: threads are up, stores and log recovered, connections accepted.
    ///
    /// # Errors
    /// [`NodeError`]; what was started is stopped again.
    pub fn start(config: Config) -> Result<Self, NodeError> {
        let node = Self::launch(config, Duration::ZERO)?;
        node.await_start(|_| ControlFlow::Continue(()))?;
        Ok(node)
    }

    /// Starts the threads of a formatted device; [`Node::await_start`] brings it to serving. A device, a socket or an address that
    /// is in use is waited for up to `patience` each: a node that was killed takes a moment to let go.
    ///
    /// # Errors
    /// [`NodeError`]; what was started is stopped again.
    pub fn launch(config: Config, patience: Duration) -> Result<Self, NodeError> {
        let started = Instant::now();
        let budget = QueueBudget::of(&config.device);
        let device = listen::patiently(
            patience,
            |error| matches!(error, DeviceError::InUse(_)),
            |error| tracing::warn!("{error}; waiting up to {patience:?} for it"),
            || Device::open_for(&config.device.path, budget, config.encryption.key()),
        )?;
        tell_room(&config, &device);
        let (reactors, pinning) = threads_for(&config, device.osts());
        let blocks = device.superblock().device_blocks;
        let memory = MemoryPlan::new(&config, reactors, device.osts(), blocks).check()?;
        let unix = listen::unix(&config.socket, patience)?;
        let tcp = listen::tcp("listen", config.listen, patience)?;
        let listen = tcp.local_addr().map_err(|source| NodeError::Listen {
            key: "listen",
            place: config.listen.to_string(),
            source,
        })?;
        let mut node = Self {
            config,
            listen,
            sockets: Mutex::new(Some((unix, tcp))),
            acceptor: OnceLock::new(),
            pages: Pages::default(),
            services: Vec::new(),
            mdt: Arc::default(),
            identities: None,
            osts: Vec::new(),
            memory,
            pinning,
            started,
            start_took: OnceLock::new(),
            stopping: false,
            device,
        };
        node.spawn(reactors)?;
        Ok(node)
    }

    /// Starts the threads. Recovery runs on each of them, side by side.
    fn spawn(&mut self, reactors: u32) -> Result<(), NodeError> {
        let assignment = assign(self.device.osts(), reactors);
        let (gateway, desks) = local_gateway(&assignment)?;
        let addresses = spawn::addresses(&assignment);
        let mut entropy = entropy()?;
        let (plan, orders) = self.thread(0)?;
        let mdt = MdtThread {
            device: self.device.handle(),
            zone: self.device.zone(ZoneKind::Mdt)?,
            config: self.config.clone(),
            osts: addresses,
            gateway,
            orders,
            node: self.device.superblock().uuid,
            seed: entropy.next_u64(),
        };
        let (report, reported) = mpsc::channel();
        self.services[0].thread = Some(spawn::mdt(plan, mdt, report)?);
        let MdtReport { stats, identities } = self.reported(0, &reported)?;
        self.mdt = stats;
        let desk = Desk { orders: self.services[0].orders.clone(), published: identities };
        let key = NodeKey::of(&self.config, &self.device);
        let named = (self.device.superblock().uuid, self.config.name.clone());
        self.identities = Some(Arc::new(Identities::new(named, desk, key)));
        // The stop of an OST goes by its orders; the desk's own way to it is for tests of the service.
        for (number, ((desk, _), osts)) in (1..).zip(desks.into_iter().zip(assignment)) {
            let (plan, orders) = self.thread(number)?;
            let zones = osts.iter().map(|&ost| Ok((ost, self.device.zone(ZoneKind::Ost(ost.0))?)));
            let ost = OstThread {
                device: self.device.handle(),
                zones: zones.collect::<Result<_, DeviceError>>()?,
                config: self.config.clone(),
                desk,
                orders,
                incarnation: entropy.next_u64().max(1),
            };
            let (report, reported) = mpsc::channel();
            self.services[number].thread = Some(spawn::ost(plan, ost, report)?);
            let stats = self.reported(number, &reported)?;
            self.osts.push(stats);
        }
        Ok(())
    }

    /// Makes the handle of service `number`, and what its thread needs.
    fn thread(&mut self, number: usize) -> Result<(ThreadPlan, Orders), NodeError> {
        let (postman, mailbox) = mailbox(ORDERS_MAX)?;
        let (name, cores) = match number.checked_sub(1) {
            None => ("mdt".to_owned(), self.pinning.mdt.clone()),
            Some(reactor) => {
                let cores = self.pinning.reactors.get(reactor).cloned().unwrap_or_default();
                (format!("reactor{reactor}"), cores)
            }
        };
        let load = Arc::new(Load::default());
        let plan = ThreadPlan {
            name: name.clone(),
            cores,
            spin: self.config.threads.spin,
            load: load.clone(),
        };
        let failure = Arc::new(OnceLock::new());
        let orders = Orders { mailbox, failure: failure.clone() };
        self.services.push(ServiceHandle { name, orders: postman, load, failure, thread: None });
        Ok((plan, orders))
    }

    /// What the thread of service `number` reports once its service is made; its error if it could not be.
    fn reported<T>(&mut self, number: usize, report: &mpsc::Receiver<T>) -> Result<T, NodeError> {
        report.recv().map_err(|_| {
            let service = &mut self.services[number];
            match service.thread.take().map(JoinHandle::join) {
                Some(Ok(Err(error))) => error,
                Some(Ok(Ok(())) | Err(_)) | None => NodeError::ThreadEnded(service.name.clone()),
            }
        })
    }

    fn accept(&self) -> Result<(), NodeError> {
        let sockets = self.sockets.lock().ok().and_then(|mut sockets| sockets.take());
        let Some((unix, tcp)) = sockets else { return Ok(()) };
        let services = u32::try_from(self.services.len()).unwrap_or(u32::MAX);
        let limits = self.config.limits.of_connections();
        let config = AcceptorConfig { unix: Some(unix), tcp: Some(tcp), services, limits };
        let orders: Vec<_> = self.services.iter().map(|service| service.orders.clone()).collect();
        let hand_over = move |connection: NewConnection| {
            let service = usize::try_from(connection.service).unwrap_or(usize::MAX);
            let Some(orders) = orders.get(service) else { return };
            if orders.post(Order::Connect(Box::new(connection))).is_err() {
                tracing::warn!(service, "a connection is refused: the service takes none now");
            }
        };
        let pages = self.pages.take();
        let acceptor = match self.gate()? {
            Some(gate) => Acceptor::start_guarded(config, gate, hand_over, pages),
            None => Acceptor::start(config, hand_over, pages),
        };
        let acceptor = acceptor
            .map_err(|source| NodeError::System { doing: "starting the acceptor", source })?;
        // Accepted once: the sockets were there.
        let _ = self.acceptor.set(acceptor);
        Ok(())
    }

    /// Who decides who comes in over TCP. None: everybody does.
    fn gate(&self) -> Result<Option<Arc<dyn Gate>>, NodeError> {
        if self.config.tcp.clients == TcpClients::Anybody {
            return Ok(None);
        }
        let identities = self.identities.clone().ok_or_else(|| NodeError::Failed {
            name: "acceptor".to_owned(),
            reason: "nobody knows the identities of clients".to_owned(),
        })?;
        let node = self.device.superblock().uuid;
        Ok(Some(Arc::new(IdentityGate::new(identities, node, self.config.tcp.transit()))))
    }

    fn note_started(&self) {
        let took = self.start_took.get_or_init(|| self.started.elapsed());
        tracing::info!(
            name = self.config.name,
            socket = %self.config.socket.display(),
            listen = %self.listen,
            tcp = self.config.tcp.label(),
            osts = self.device.osts(),
            reactors = self.osts.len(),
            ?took,
            "node serves"
        );
    }

    /// Stops taking requests, finishes those under way, makes everything durable and ends the threads.
    ///
    /// # Errors
    /// [`NodeError`] when a thread does not end, or ended badly. The data is as after a crash then: nothing is lost.
    pub fn stop(mut self) -> Result<(), NodeError> {
        self.shut_down()
    }

    fn shut_down(&mut self) -> Result<(), NodeError> {
        if std::mem::replace(&mut self.stopping, true) {
            return Ok(());
        }
        let begun = Instant::now();
        drop(self.acceptor.take());
        let deadline = begun + STOP_MAX;
        for service in &self.services {
            service.order_stop(deadline);
        }
        let ends: Vec<_> = self.services.iter_mut().map(|service| service.join(deadline)).collect();
        listen::remove(&self.config.socket);
        ends.into_iter().collect::<Result<(), NodeError>>()?;
        tracing::info!(name = self.config.name, took = ?begun.elapsed(), "node stopped");
        Ok(())
    }

    /// Whether every thread runs and the MDT can serve. If not, stop the process: a restart recovers, or says why not.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        !self.services.iter().any(|service| service.has_ended() || service.failure.get().is_some())
    }

    /// Which thread does not run or cannot serve, and why. None: [`Self::is_healthy`].
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        self.services.iter().find_map(|service| match service.failure.get() {
            Some(reason) => Some(format!("{}: {reason}", service.name)),
            None => service.has_ended().then(|| format!("{}: its thread ended", service.name)),
        })
    }

    /// Wraps the device's data key under `new` while the node serves, and returns the key block as it is then. The configuration still
    /// names the old key; the next start needs the new one there.
    ///
    /// # Errors
    /// [`NodeError::Device`]; see [`Device::rotate_key`].
    pub fn rotate_key(&self, new: &KeySource) -> Result<KeyBlock, NodeError> {
        let block = self.device.rotate_key(new)?;
        tracing::info!(key = %new, generation = block.generation, "the data key is wrapped under another key");
        Ok(block)
    }

    /// The device's key block as it is now. None: not encrypted.
    #[must_use]
    pub fn key_block(&self) -> Option<KeyBlock> {
        self.device.key_block()
    }

    /// The configuration it runs with.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// The TCP address it listens on; differs from the configuration's if that leaves the port open (0).
    #[must_use]
    pub const fn listen(&self) -> SocketAddr {
        self.listen
    }

    /// The UNIX socket it listens on.
    #[must_use]
    pub const fn socket(&self) -> &PathBuf {
        &self.config.socket
    }

    /// The memory plan.
    #[must_use]
    pub const fn memory(&self) -> &MemoryPlan {
        &self.memory
    }

    /// Which thread runs where.
    #[must_use]
    pub const fn pinning(&self) -> &PinningPlan {
        &self.pinning
    }

    /// Counters of the MDT.
    #[must_use]
    pub const fn mdt_stats(&self) -> &Arc<MdtStats> {
        &self.mdt
    }

    /// The node's identity and those of its clients. None: it is not launched.
    #[must_use]
    pub const fn identities(&self) -> Option<&Arc<Identities>> {
        self.identities.as_ref()
    }

    /// Counters of each data reactor, in order of number.
    #[must_use]
    pub fn ost_stats(&self) -> &[Arc<OstServiceStats>] {
        &self.osts
    }

    /// Counters of the acceptor; none before it is up.
    #[must_use]
    pub fn acceptor_counters(&self) -> Option<&Arc<AcceptorCounters>> {
        self.acceptor.get().map(Acceptor::counters)
    }

    /// How busy each service thread is, by name.
    pub fn loads(&self) -> impl Iterator<Item = (&str, &Arc<Load>)> {
        self.services.iter().map(|service| (service.name.as_str(), &service.load))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Err(error) = self.shut_down() {
            tracing::error!(%error, "node did not stop well");
        }
    }
}

/// How many data reactors run, and where everything runs.
fn threads_for(config: &Config, osts: u32) -> (u32, PinningPlan) {
    let topology = match Topology::of_this_machine() {
        Ok(topology) => Some(topology),
        Err(error) => {
            tracing::warn!(%error, "CPUs are not known: threads are not pinned");
            None
        }
    };
    let wanted = match config.threads.reactors {
        0 => topology.as_ref().map_or(1, |topology| reactors_for(topology, osts)),
        given => given,
    };
    let reactors = wanted.clamp(1, osts.max(1));
    let pinning = match topology {
        Some(topology) if config.threads.pin => PinningPlan::new(&topology, reactors as usize),
        Some(_) | None => PinningPlan::floating(reactors as usize),
    };
    (reactors, pinning)
}

/// OSTs of each reactor, dealt out in turn.
fn assign(osts: u32, reactors: u32) -> Vec<Vec<OstIndex>> {
    let of = |reactor| (reactor..osts).step_by(reactors as usize).map(OstIndex).collect();
    (0..reactors).map(of).collect()
}

#[cfg(test)]
mod test;
