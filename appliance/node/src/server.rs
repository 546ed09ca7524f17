//! A running node: its threads, from a formatted device to serving and back.
//!
//! Owns the device's lock, the service threads, the acceptor. Services are numbered: 0 is the MDT, 1.. are reactors.
//! Invariants: connections are accepted only when every store has recovered; the device stays locked until every
//! thread has ended. Deliberately absent: HTTP, signals (their owners call [`Node::status`] and [`Node::stop`]).

use std::{
    io,
    net::{SocketAddr, TcpListener},
    os::unix::net::UnixListener,
    path::PathBuf,
    sync::{Arc, mpsc},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use nix::errno::Errno;
use sheen_dma::ArenaError;
use sheen_firmware_config::{PinningPlan, Topology, pinning::reactors_for};
use sheen_ports::Entropy;
use sheen_rdma::{Acceptor, AcceptorConfig, NewConnection};
use sheen_reactor::{Load, Postman, SystemEntropy, mailbox, thread::ThreadPlan};
use sheen_types::OstIndex;
use thiserror::Error;

use crate::{
    config::Config,
    device::{Device, DeviceError, FormatPlan, ZoneKind, format::Force, format_device},
    mdt::MdtStats,
    memory_plan::{MemoryPlan, OverLimit},
    ost::{OstServiceStats, local_gateway},
    service_thread::{ORDERS_MAX, Order},
};

mod listen;
mod spawn;
pub mod status;

use spawn::{MdtThread, OstThread};
pub use status::{NodeState, NodeStatus, OstStatus, ThreadStatus};

/// How long recovery may take before the start fails. A million objects take well below a second.
const RECOVERY_MAX: Duration = Duration::from_secs(120);
/// How long a stop waits for the threads: flushing takes a second at most on a device that works.
const STOP_MAX: Duration = Duration::from_secs(30);

/// Why a node did not start or stop.
#[derive(Debug, Error)]
pub enum NodeError {
    /// The device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The memory plan is over its limit.
    #[error(transparent)]
    Memory(#[from] OverLimit),
    /// The socket or address cannot be listened on.
    #[error("{key} {place}: {source}")]
    Listen {
        /// The key of the configuration.
        key: &'static str,
        /// Path or address.
        place: String,
        /// What the system said.
        source: io::Error,
    },
    /// The system refuses a thread, descriptor or chance.
    #[error("{doing}: {source}")]
    System {
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The system refuses memory for buffers.
    #[error(transparent)]
    Arena(#[from] ArenaError),
    /// A thread ended by itself.
    #[error("service thread {0} ended unexpectedly")]
    ThreadEnded(String),
    /// A thread's recovery, or its end, takes too long.
    #[error("service thread {name} has not {awaited} within {limit:?}")]
    Late {
        /// The thread.
        name: String,
        /// What did not come.
        awaited: &'static str,
        /// How long was waited.
        limit: Duration,
    },
}

impl From<Errno> for NodeError {
    fn from(errno: Errno) -> Self {
        Self::System { doing: "starting a thread", source: errno.into() }
    }
}

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
    };
    format_device(&config.device.path, &plan, &mut entropy()?)?;
    Ok(())
}

fn entropy() -> Result<SystemEntropy, NodeError> {
    SystemEntropy::open()
        .map_err(|source| NodeError::System { doing: "opening the source of chance", source })
}

/// One service thread, seen from outside.
#[derive(Debug)]
struct ServiceHandle {
    name: String,
    orders: Postman<Order>,
    load: Arc<Load>,
    thread: Option<JoinHandle<Result<(), NodeError>>>,
}

/// A running node. Dropping it stops it.
#[derive(Debug)]
pub struct Node {
    config: Config,
    listen: SocketAddr,
    acceptor: Option<Acceptor>,
    /// By service number.
    services: Vec<ServiceHandle>,
    mdt: Arc<MdtStats>,
    /// By service number less one.
    osts: Vec<Arc<OstServiceStats>>,
    memory: MemoryPlan,
    pinning: PinningPlan,
    started: Instant,
    start_took: Duration,
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
        let started = Instant::now();
        let device = Device::open(&config.device.path)?;
        let (reactors, pinning) = threads_for(&config, device.osts());
        let blocks = device.superblock().device_blocks;
        let memory = MemoryPlan::new(&config, reactors, device.osts(), blocks).check()?;
        let unix = listen::unix(&config.socket)?;
        let tcp = listen::tcp(config.listen)?;
        let listen = tcp.local_addr().map_err(|source| NodeError::Listen {
            key: "listen",
            place: config.listen.to_string(),
            source,
        })?;
        let mut node = Self {
            config,
            listen,
            acceptor: None,
            services: Vec::new(),
            mdt: Arc::default(),
            osts: Vec::new(),
            memory,
            pinning,
            started,
            start_took: Duration::ZERO,
            stopping: false,
            device,
        };
        node.spawn(reactors)?;
        node.await_recovery()?;
        node.accept(unix, tcp)?;
        node.start_took = started.elapsed();
        tracing::info!(
            name = node.config.name,
            socket = %node.config.socket.display(),
            listen = %node.listen,
            osts = node.device.osts(),
            reactors,
            took = ?node.start_took,
            "node serves"
        );
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
            device: self.config.device.path.clone(),
            zone: self.device.zone(ZoneKind::Mdt)?,
            config: self.config.clone(),
            osts: addresses,
            gateway,
            orders,
            seed: entropy.next_u64(),
        };
        let (report, reported) = mpsc::channel();
        self.services[0].thread = Some(spawn::mdt(plan, mdt, report)?);
        self.mdt = self.reported(0, &reported)?;
        // The stop of an OST goes by its orders; the desk's own way to it is for tests of the service.
        for (number, ((desk, _), osts)) in (1..).zip(desks.into_iter().zip(assignment)) {
            let (plan, orders) = self.thread(number)?;
            let zones = osts.iter().map(|&ost| Ok((ost, self.device.zone(ZoneKind::Ost(ost.0))?)));
            let ost = OstThread {
                device: self.config.device.path.clone(),
                zones: zones.collect::<Result<_, DeviceError>>()?,
                config: self.config.clone(),
                desk,
                orders,
            };
            let (report, reported) = mpsc::channel();
            self.services[number].thread = Some(spawn::ost(plan, ost, report)?);
            let stats = self.reported(number, &reported)?;
            self.osts.push(stats);
        }
        Ok(())
    }

    /// Makes the handle of service `number`, and what its thread needs.
    fn thread(
        &mut self,
        number: usize,
    ) -> Result<(ThreadPlan, sheen_reactor::Mailbox<Order>), NodeError> {
        let (postman, orders) = mailbox(ORDERS_MAX)?;
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
        self.services.push(ServiceHandle { name, orders: postman, load, thread: None });
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

    fn await_recovery(&mut self) -> Result<(), NodeError> {
        let deadline = Instant::now() + RECOVERY_MAX;
        loop {
            let recovered = |stats: &Arc<OstServiceStats>| {
                stats.targets.iter().all(|ost| ost.ready.get() + ost.failed.get() > 0)
            };
            // The MDT takes requests while it recovers and answers them when it has, so it is not waited for.
            let Some(late) = self.osts.iter().position(|stats| !recovered(stats)) else {
                return Ok(());
            };
            let name = self.services[late + 1].name.clone();
            if self.services.iter().any(ServiceHandle::has_ended) {
                return Err(NodeError::ThreadEnded(name));
            }
            if Instant::now() > deadline {
                return Err(NodeError::Late { name, awaited: "recovered", limit: RECOVERY_MAX });
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn accept(&mut self, unix: UnixListener, tcp: TcpListener) -> Result<(), NodeError> {
        let services = u32::try_from(self.services.len()).unwrap_or(u32::MAX);
        let config = AcceptorConfig { unix: Some(unix), tcp: Some(tcp), services };
        let orders: Vec<_> = self.services.iter().map(|service| service.orders.clone()).collect();
        let hand_over = move |connection: NewConnection| {
            let service = usize::try_from(connection.service).unwrap_or(usize::MAX);
            let Some(orders) = orders.get(service) else { return };
            if orders.post(Order::Connect(Box::new(connection))).is_err() {
                tracing::warn!(service, "a connection is refused: the service takes none now");
            }
        };
        let acceptor = Acceptor::start(config, hand_over)
            .map_err(|source| NodeError::System { doing: "starting the acceptor", source })?;
        self.acceptor = Some(acceptor);
        Ok(())
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
        self.acceptor = None;
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

    /// Whether every thread runs. If not, stop the process: a restart recovers.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        !self.services.iter().any(ServiceHandle::has_ended)
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

    /// Counters of each data reactor, in order of number.
    #[must_use]
    pub fn ost_stats(&self) -> &[Arc<OstServiceStats>] {
        &self.osts
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

impl ServiceHandle {
    fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    fn order_stop(&self, deadline: Instant) {
        // Full of connections to be taken in, or the thread is gone.
        while !self.has_ended()
            && self.orders.post(Order::Stop).is_err()
            && Instant::now() < deadline
        {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn join(&mut self, deadline: Instant) -> Result<(), NodeError> {
        while !self.has_ended() {
            if Instant::now() > deadline {
                let name = self.name.clone();
                return Err(NodeError::Late { name, awaited: "ended", limit: STOP_MAX });
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(NodeError::ThreadEnded(self.name.clone())),
            None => Ok(()),
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
