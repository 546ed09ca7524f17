//! Starting the service threads: everything a service owns is made on its own thread.

use std::{
    sync::{Arc, OnceLock, mpsc::Sender},
    thread::JoinHandle,
};

use sheen_consensus::GroupConfig;
use sheen_dma::Arena;
use sheen_meta::flocks::LockLimits;
use sheen_ports::Block;
use sheen_rdma::{PayloadCheck, ServerFabric};
use sheen_reactor::{
    Mailbox, Service, SystemClock,
    thread::{ThreadPlan, spawn},
};
use sheen_types::{Lba, OstIndex};
use sheen_wire::metadata::OstAddress;

use super::{NodeError, entropy};
use crate::{
    config::Config,
    device::{DeviceError, DeviceHandle, ZoneEntry},
    mdt::{
        LOG_BUFFER_BYTES, MdtConfig, MdtLimits, MdtPorts, MdtService, MdtStats, MdtTimes,
        PublishedIdentities,
    },
    ost::{LocalGateway, OstConfig, OstService, OstServiceStats, ServiceDesk},
    service_thread::{Order, Served, ServiceThread},
};

/// Requests an OST service carries out at a time. With buffers for 1 MiB each the arena is the tighter bound; small
/// requests reach this one. Chosen by eye.
pub(crate) const OPERATIONS_MAX: usize = 512;
/// Commands the MDT has in flight: two log writes, a snapshot's writes.
const MDT_QUEUE_DEPTH: u32 = 64;

/// A thread under way.
pub(super) type ServiceJoin = JoinHandle<Result<(), NodeError>>;

/// A thread's side of its handle.
pub(super) struct Orders {
    pub(super) mailbox: Mailbox<Order>,
    pub(super) failure: Arc<OnceLock<String>>,
}

impl Orders {
    fn serve<S: Served + 'static>(self, service: S) -> Vec<Box<dyn Service>> {
        vec![Box::new(ServiceThread::new(service, self.mailbox, self.failure))]
    }
}

/// What the MDT's thread needs.
pub(super) struct MdtThread {
    pub(super) device: DeviceHandle,
    pub(super) zone: ZoneEntry,
    pub(super) config: Config,
    pub(super) osts: Vec<OstAddress>,
    pub(super) gateway: LocalGateway,
    pub(super) orders: Orders,
    /// The device's uuid.
    pub(super) node: [u8; 16],
    pub(super) seed: u64,
}

/// What the MDT's thread reports when its service is made.
pub(super) struct MdtReport {
    pub(super) stats: Arc<MdtStats>,
    pub(super) identities: Arc<PublishedIdentities>,
}

/// What a data reactor's thread needs.
pub(super) struct OstThread {
    pub(super) device: DeviceHandle,
    pub(super) zones: Vec<(OstIndex, ZoneEntry)>,
    pub(super) config: Config,
    pub(super) desk: ServiceDesk,
    pub(super) orders: Orders,
    /// See [`OstConfig::incarnation`].
    pub(super) incarnation: u64,
}

/// Where clients find each OST, given those of each reactor.
pub(super) fn addresses(assignment: &[Vec<OstIndex>]) -> Vec<OstAddress> {
    let of = |(service, osts): (u16, &Vec<OstIndex>)| -> Vec<OstAddress> {
        osts.iter().map(|&ost| OstAddress { ost, service }).collect()
    };
    let mut addresses: Vec<_> = (1..).zip(assignment).flat_map(of).collect();
    addresses.sort_unstable_by_key(|address| address.ost);
    addresses
}

fn fabric() -> Result<ServerFabric, NodeError> {
    // Services check payloads themselves: per block on the way to the device, whole in the MDT.
    ServerFabric::new(PayloadCheck::Service)
        .map_err(|source| NodeError::System { doing: "making a fabric", source })
}

/// Starts the MDT's thread. It reports when the service is made.
pub(super) fn mdt(
    plan: ThreadPlan,
    thread: MdtThread,
    report: Sender<MdtReport>,
) -> Result<ServiceJoin, NodeError> {
    let make = move || {
        let stats = Arc::new(MdtStats::default());
        let ports = MdtPorts {
            block: thread.device.open_zone(thread.zone, MDT_QUEUE_DEPTH)?,
            fabric: fabric()?,
            clock: SystemClock,
            entropy: entropy()?,
            osts: thread.gateway,
            arena: thread.device.arena(LOG_BUFFER_BYTES)?,
            payloads: Arena::anonymous(buffer_bytes(&thread.config))?,
        };
        let config =
            mdt_config(&thread.config, thread.zone, thread.osts, thread.node, thread.seed)?;
        let service = MdtService::new(config, ports, stats.clone());
        let identities = service.identities().clone();
        // Nobody listens when the start failed meanwhile.
        let _ = report.send(MdtReport { stats, identities });
        Ok(thread.orders.serve(service))
    };
    spawn(plan, make)
        .map_err(|source| NodeError::System { doing: "starting the MDT's thread", source })
}

fn mdt_config(
    config: &Config,
    zone: ZoneEntry,
    osts: Vec<OstAddress>,
    node: [u8; 16],
    seed: u64,
) -> Result<MdtConfig, NodeError> {
    let (limits, times) = (&config.limits, &config.times);
    let leases = limits.leases as usize;
    let locks = LockLimits { locks_max: limits.locks as usize, ..LockLimits::default() };
    let cut = sheen_consensus::Zone::new(zone.blocks).ok_or_else(|| DeviceError::Format {
        path: config.device.path.clone(),
        kind: zone.kind,
        reason: format!("{} blocks are too few", zone.blocks),
    })?;
    Ok(MdtConfig {
        // The device is narrowed to the zone already.
        zone_start: Lba(0),
        zone: cut,
        group: GroupConfig { seed, ..GroupConfig::default() },
        node,
        osts,
        times: MdtTimes {
            lease: times.lease,
            revoke_max: times.revoke,
            revoke_limit: times.revoke * 10,
            grace: times.grace,
            reconnect: MdtTimes::default().reconnect.min(times.lease),
            ..MdtTimes::default()
        },
        limits: MdtLimits { leases_max: leases, opens_max: leases, locks, ..MdtLimits::default() },
        state_limits: sheen_meta::Limits {
            inodes_max: limits.inodes,
            filesystems_max: limits.filesystems,
            sessions_max: limits.clients,
            ..sheen_meta::Limits::default()
        },
    })
}

/// Starts a data reactor's thread. It reports its counters when the service is made.
pub(super) fn ost(
    plan: ThreadPlan,
    thread: OstThread,
    report: Sender<Arc<OstServiceStats>>,
) -> Result<ServiceJoin, NodeError> {
    let make = move || {
        let depth = thread.config.device.queue_depth;
        let arena = arena(&thread.config, &thread.device)?;
        let open = |(ost, zone)| {
            let mut block = thread.device.open_zone(zone, depth)?;
            // The controller reaches it already; for a file this spares work and may be refused.
            let _ = block.register(&arena);
            Ok((ost, block))
        };
        let targets =
            thread.zones.into_iter().map(open).collect::<Result<Vec<_>, DeviceError>>()?;
        let config = OstConfig {
            arena,
            operations_max: OPERATIONS_MAX,
            store: store_limits(),
            scrub: thread.config.scrub.into(),
            tidy: thread.config.tidying.enabled,
            incarnation: thread.incarnation,
        };
        let service = OstService::new(config, targets, fabric()?, SystemClock, Some(thread.desk))?;
        let _ = report.send(service.stats());
        Ok(thread.orders.serve(service))
    };
    spawn(plan, make)
        .map_err(|source| NodeError::System { doing: "starting a reactor's thread", source })
}

/// A flush every 16 MiB: blocks come back early, so that on a sparse file the same ones are written over again, which
/// costs the file system below no allocation. At 10,000 small writes a second that is a flush every 0.4 s.
fn store_limits() -> sheen_store::Limits {
    sheen_store::Limits { unflushed_blocks_max: 4 << 10, ..sheen_store::Limits::default() }
}

fn arena(config: &Config, device: &DeviceHandle) -> Result<Arena, NodeError> {
    Ok(device.arena(buffer_bytes(config))?)
}

fn buffer_bytes(config: &Config) -> usize {
    usize::try_from(config.limits.buffers.0).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn every_ost_is_found_at_the_reactor_that_owns_it() {
        let assignment = [vec![OstIndex(0), OstIndex(2)], vec![OstIndex(1)]];
        let found: Vec<_> =
            addresses(&assignment).iter().map(|at| (at.ost.0, at.service)).collect();
        assert_eq!(found, [(0, 1), (1, 2), (2, 1)]);
    }
}
