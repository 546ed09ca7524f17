//! The simulated node: the shipped services on a simulated device and network.
//!
//! Owns the media, which outlives the services: a crash drops those, a start makes new ones that recover.

use std::{cell::RefCell, rc::Rc, sync::Arc, time::Duration};

use sheen_consensus::{Format as MdtFormat, GroupConfig};
use sheen_dma::Arena;
use sheen_node::{
    mdt::{MdtConfig, MdtLimits, MdtPorts, MdtService, MdtStats, MdtTimes},
    ost::{
        LocalGateway, OstConfig, OstMemory, OstService, ScrubConfig, ServiceDesk, local_gateway,
    },
};
use sheen_reactor::Service;
use sheen_types::{Lba, OstIndex, Tick};
use sheen_wire::metadata::OstAddress;

use crate::{
    chance::Chance,
    clock::SimClock,
    coverage::Coverage,
    device::{Media, SimDevice},
    network::{Network, SimFabric},
    shape::Shape,
};

/// OSTs of the node.
pub const OSTS: u32 = 2;
/// Service that serves them.
pub const OST_SERVICE: u16 = 1;
/// Payload buffers of each service.
const ARENA_BYTES: usize = 16 << 20;
/// A client silent for this long may be evicted.
pub const LEASE: Duration = Duration::from_secs(4);
/// A client without a connection for this long may be evicted if it is in somebody's way.
pub const RECONNECT: Duration = Duration::from_secs(3);
/// How long clients have to come back after a restart.
const GRACE: Duration = Duration::from_secs(5);
/// Turns in which nothing may be left to do, before we say a service spins.
const TURNS_MAX: usize = 100_000;

type Mdt = MdtService<SimDevice, SimFabric, SimClock, Chance, LocalGateway>;
type Ost = OstService<SimDevice, SimFabric, SimClock>;

fn osts() -> Vec<OstIndex> {
    (0..OSTS).map(OstIndex).collect()
}

/// The two ends of the way from the MDT to the service of the OSTs.
fn connected() -> (LocalGateway, ServiceDesk) {
    let (gateway, desks) = local_gateway(&[osts()]).expect("descriptors for mailboxes");
    let (desk, _) = desks.into_iter().next().expect("a desk for each service");
    (gateway, desk)
}

/// How a node ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// The process is killed: the device keeps what it was given.
    Process,
    /// Power fails: what was not flushed is kept, lost or torn.
    Power,
}

/// How full tables of the MDT are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tables {
    /// Sessions.
    pub sessions: u64,
    /// Sessions that the OSTs serve.
    pub admitted: u64,
    /// (client, inode) pairs with a lease.
    pub leases: u64,
    /// (client, inode) pairs that are open.
    pub opens: u64,
    /// File locks.
    pub locks: u64,
    /// Requests without an answer.
    pub requests: u64,
}

/// A node and its device.
pub struct SimNode {
    clock: SimClock,
    chance: Chance,
    shape: Shape,
    media: Rc<RefCell<Media>>,
    network: Rc<RefCell<Network>>,
    running: Option<Running>,
    memory: Memory,
    /// Its process does not run before.
    paused_until: Tick,
    /// Of processes that ended.
    snapshots: u64,
}

/// Memory of the services. Kept over their ends: to map it anew at each of some 200 starts was half of a run.
struct Memory {
    mdt: Arena,
    payloads: Arena,
    ost: Arena,
    ost_own: OstMemory,
}

impl Memory {
    fn new(shape: Shape) -> Self {
        let arena = || Arena::anonymous(ARENA_BYTES).expect("memory for buffers");
        let own = OstMemory::new(shape.ost_operations_max, OSTS as usize);
        let ost_own = own.expect("memory for the service");
        Self { mdt: arena(), payloads: arena(), ost: arena(), ost_own }
    }
}

struct Running {
    stats: Arc<MdtStats>,
    mdt: Mdt,
    ost: Ost,
    devices: Vec<SimDevice>,
}

impl std::fmt::Debug for SimNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimNode").field("running", &self.running.is_some()).finish_non_exhaustive()
    }
}

impl SimNode {
    /// A node on a freshly formatted device, not started.
    ///
    /// # Panics
    /// When the machine has no memory.
    #[must_use]
    pub fn new(clock: SimClock, mut chance: Chance, network: Rc<RefCell<Network>>) -> Self {
        let shape = Shape::draw(&mut chance.fork());
        let blocks = shape.mdt_blocks + u64::from(OSTS) * shape.ost_blocks;
        let media = Media::new(blocks, chance.fork());
        let (running, paused_until, snapshots) = (None, Tick(0), 0);
        let memory = Memory::new(shape);
        let node =
            Self { clock, chance, shape, media, network, running, memory, paused_until, snapshots };
        node.format();
        node.media.borrow_mut().retry_one_in = shape.retry_one_in;
        node
    }

    fn format(&self) {
        let identity = 7;
        let format =
            MdtFormat { zone: self.shape.mdt_zone(), identity, replica: 1, voters: vec![1] };
        let mut media = self.media.borrow_mut();
        for (lba, bytes) in format.anchors() {
            media.put(lba.0, &bytes);
        }
        for ost in 0..OSTS {
            let zone = sheen_store::Zone { first: Lba(0), blocks: self.shape.ost_blocks };
            let blocks = sheen_store::format(zone, u64::from(ost) + 1).expect("8 MiB are enough");
            for (lba, bytes) in blocks {
                media.put(self.shape.ost_first(ost) + lba.0, &bytes);
            }
        }
    }

    /// From now on the device only says that it makes things durable.
    pub fn plant_lying_device(&mut self) {
        self.media.borrow_mut().lies = true;
    }

    /// Starts the services; they recover in the turns to come.
    ///
    /// # Panics
    /// When the machine has no memory.
    pub fn start(&mut self) {
        let (gateway, desk) = connected();
        let (mdt, stats, device) = self.make_mdt(gateway);
        let (ost, mut devices) = self.make_ost(desk);
        devices.insert(0, device);
        self.running = Some(Running { stats, mdt, ost, devices });
    }

    fn device(&mut self, first: u64, blocks: u64) -> SimDevice {
        let (clock, chance) = (self.clock.clone(), self.chance.fork());
        SimDevice::new(&self.media, Lba(first), blocks, clock, chance)
    }

    fn make_mdt(&mut self, gateway: LocalGateway) -> (Mdt, Arc<MdtStats>, SimDevice) {
        let device = self.device(0, self.shape.mdt_blocks);
        let ports = MdtPorts {
            block: device.clone(),
            fabric: Network::listen(&self.network, 0),
            clock: self.clock.clone(),
            entropy: self.chance.fork(),
            osts: gateway,
            arena: self.memory.mdt.clone(),
            payloads: self.memory.payloads.clone(),
        };
        let stats = Arc::new(MdtStats::default());
        let config = mdt_config(&osts(), self.shape, self.chance.next());
        (MdtService::new(config, ports, stats.clone()), stats, device)
    }

    fn make_ost(&mut self, desk: ServiceDesk) -> (Ost, Vec<SimDevice>) {
        let zone = |ost: &OstIndex| (self.shape.ost_first(ost.0), self.shape.ost_blocks);
        let zones: Vec<(u64, u64)> = osts().iter().map(zone).collect();
        let devices: Vec<SimDevice> =
            zones.into_iter().map(|(first, blocks)| self.device(first, blocks)).collect();
        let store = sheen_store::Limits {
            unflushed_blocks_max: self.shape.unflushed_blocks_max,
            ..sheen_store::Limits::default()
        };
        let operations_max = self.shape.ost_operations_max;
        let scrub = ScrubConfig::OFF;
        let incarnation = self.chance.next().max(1);
        let (arena, tidy) = (self.memory.ost.clone(), true);
        let config = OstConfig { arena, operations_max, store, scrub, tidy, incarnation };
        let fabric = Network::listen(&self.network, OST_SERVICE);
        let targets = osts().into_iter().zip(devices.iter().cloned()).collect();
        let (memory, clock) = (self.memory.ost_own.clone(), self.clock.clone());
        let ost = OstService::with_memory(config, memory, targets, fabric, clock, Some(desk))
            .expect("a device that reaches all memory");
        (ost, devices)
    }

    /// The MDT ends as if its process were killed, and begins anew; the OSTs serve on.
    ///
    /// # Panics
    /// When the machine has no memory.
    pub fn restart_mdt(&mut self) {
        self.snapshots = self.snapshots();
        let Some(Running { mdt, mut ost, mut devices, .. }) = self.running.take() else { return };
        devices[0].abandon();
        drop(mdt);
        self.network.borrow_mut().service_dies(0);
        let (gateway, desk) = connected();
        ost.set_desk(desk);
        let (mdt, stats, device) = self.make_mdt(gateway);
        devices[0] = device;
        self.running = Some(Running { stats, mdt, ost, devices });
    }

    /// The OSTs end as if their process were killed, and begin anew; the MDT serves on.
    ///
    /// # Panics
    /// When the machine has no memory.
    pub fn restart_osts(&mut self) {
        let Some(Running { stats, mut mdt, ost, mut devices }) = self.running.take() else {
            return;
        };
        for device in devices.drain(1..) {
            device.abandon();
            device.keep_media();
        }
        drop(ost);
        self.network.borrow_mut().service_dies(OST_SERVICE);
        let desk = mdt.osts_mut().restart_service(0).expect("descriptors for mailboxes");
        let (ost, made) = self.make_ost(desk);
        devices.extend(made);
        self.running = Some(Running { stats, mdt, ost, devices });
    }

    /// Whether it runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Ends the process, and the power with it.
    pub fn die(&mut self, death: Death) {
        self.snapshots = self.snapshots();
        self.paused_until = Tick(0);
        let Some(running) = self.running.take() else { return };
        for device in &running.devices {
            device.abandon();
            device.keep_media();
        }
        if death == Death::Power {
            self.media.borrow_mut().cut_power();
        }
        self.network.borrow_mut().node_dies();
    }

    /// Its process does not run until `until`; its device works on, and what it is sent waits.
    pub fn pause(&mut self, until: Tick) {
        self.paused_until = until;
    }

    /// The device completes nothing of the MDT (None) or an OST before `until`, whatever process asks.
    pub fn stall(&mut self, ost: Option<u32>, until: Tick) {
        let first = ost.map_or(0, |ost| self.shape.ost_first(ost));
        self.media.borrow_mut().stall(first, until);
        let running = self.running.as_ref();
        let number = ost.map_or(Ok(0), |ost| usize::try_from(ost + 1)).unwrap_or(0);
        if let Some(device) = running.and_then(|running| running.devices.get(number)) {
            device.stall(until);
        }
    }

    /// The next read of an OST that serves meets lost media. Returns whether there is such an OST.
    pub fn lose_media(&mut self, ost: u32) -> bool {
        let number = usize::try_from(ost).unwrap_or(0);
        let Some(running) = &self.running else { return false };
        let serves = running.ost.stats().targets.get(number).is_some_and(|t| t.ready.get() == 1);
        if serves && let Some(device) = running.devices.get(number + 1) {
            device.lose_media();
        }
        serves
    }

    /// Faults of device commands so far.
    #[must_use]
    pub fn coverage(&self) -> Coverage {
        self.media.borrow().coverage
    }

    /// Lets the services do all there is to do now.
    ///
    /// # Errors
    /// When a service spins without ever being done, or gives up.
    pub fn turn(&mut self) -> Result<(), String> {
        let Some(running) = &mut self.running else { return Ok(()) };
        let mut turns = 0;
        let now = self.clock.tick();
        if now < self.paused_until {
            return Ok(());
        }
        while running.mdt.turn() + running.ost.turn(now) > 0 {
            turns += 1;
            if turns >= TURNS_MAX {
                return Err("a service spins".to_owned());
            }
        }
        if let Some(failure) = running.mdt.failure() {
            return Err(format!("the MDT gave up: {failure}"));
        }
        for target in &running.ost.stats().targets {
            if target.failed.get() != 0 {
                return Err(format!("OST {} failed", target.index));
            }
            if target.checksum_errors.get() != 0 {
                return Err(format!("OST {} met damaged blocks", target.index));
            }
        }
        Ok(())
    }

    /// When something happens in it next.
    #[must_use]
    pub fn next_event(&self) -> Option<Tick> {
        let running = self.running.as_ref()?;
        let devices = running.devices.iter().filter_map(SimDevice::next_completion).min();
        let deadline = running.mdt.next_deadline().map(|at| at.max(Tick(self.clock.tick().0 + 1)));
        let next = devices.into_iter().chain(deadline).min();
        next.map(|at| at.max(self.paused_until))
    }

    /// Snapshots of the metadata completed so far.
    #[must_use]
    pub fn snapshots(&self) -> u64 {
        self.snapshots + self.running.as_ref().map_or(0, |r| r.stats.snapshots.get())
    }

    /// Sessions there are; None while the MDT does not serve.
    #[must_use]
    pub fn sessions(&self) -> Option<u64> {
        let stats = &self.running.as_ref()?.stats;
        (stats.serving.get() == 1).then(|| stats.sessions.get())
    }

    /// How full its tables are; None while it does not run.
    #[must_use]
    pub fn tables(&self) -> Option<Tables> {
        let running = self.running.as_ref()?;
        let stats = &running.stats;
        running.ost.publish();
        Some(Tables {
            sessions: stats.sessions.get(),
            admitted: running.ost.stats().sessions.get(),
            leases: stats.leases.get(),
            opens: stats.opens.get(),
            locks: stats.locks.get(),
            requests: stats.requests_held.get(),
        })
    }

    /// Whether a run can fill its metadata.
    #[must_use]
    pub const fn has_small_mdt(&self) -> bool {
        self.shape.mdt_blocks == sheen_consensus::zone::ZONE_BLOCKS_MIN
    }

    /// Bound of the leases.
    #[must_use]
    pub fn leases_max(&self) -> u64 {
        self.shape.leases_max as u64
    }

    /// Blocks that power cuts took so far.
    #[must_use]
    pub fn lost_blocks(&self) -> u64 {
        self.media.borrow().lost_blocks
    }
}

fn mdt_config(osts: &[OstIndex], shape: Shape, seed: u64) -> MdtConfig {
    let osts = osts.iter().map(|&ost| OstAddress { ost, service: OST_SERVICE }).collect();
    MdtConfig {
        zone_start: Lba(0),
        zone: shape.mdt_zone(),
        group: GroupConfig { seed, ..GroupConfig::default() },
        node: *b"the node of sim.",
        osts,
        times: MdtTimes { lease: LEASE, reconnect: RECONNECT, grace: GRACE, ..MdtTimes::default() },
        // Small, so that short runs meet snapshots too.
        limits: MdtLimits {
            snapshot_ring_part: 512,
            requests_max: shape.requests_max,
            leases_max: shape.leases_max,
            ..MdtLimits::default()
        },
        state_limits: sheen_meta::Limits::default(),
    }
}
