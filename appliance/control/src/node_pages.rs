//! The pages of a running node.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use sheen_node::{
    Node,
    mdt::REFUSED_REASONS,
    ost::{NOT_ADMITTED_REASONS, OstStats},
    server::{NodeState, identities},
    stats::{LATENCY_BUCKETS, LATENCY_FLOOR_NANOSECONDS, OperationStats, Operations},
};

use crate::{
    metrics::{Distribution, Families, Labels, snake_case},
    pages::{Page, Pages},
};

/// Media type of Prometheus' text format.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A node's pages.
#[derive(Debug)]
pub struct NodePages {
    node: Arc<Node>,
    started: Duration,
}

impl NodePages {
    /// The pages of `node`, which has just started.
    #[must_use]
    pub fn new(node: Arc<Node>) -> Self {
        let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { node, started }
    }

    fn families(&self) -> Families {
        let mut families = Families::default();
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        families.gauge("sheen_build_info", "The program's version.", &version, 1);
        families.level(
            "sheen_start_time_seconds",
            "When the node started, in seconds since 1970.",
            &[],
            self.started.as_secs_f64(),
        );
        self.threads(&mut families);
        self.connections(&mut families);
        self.metadata(&mut families);
        self.identity(&mut families);
        self.tables(&mut families);
        self.objects(&mut families);
        self.reactors(&mut families);
        families
    }

    fn threads(&self, families: &mut Families) {
        for (name, load) in self.node.loads() {
            let load = load.snapshot();
            let labels = [("reactor", name)];
            for (metric, help, nanoseconds) in [
                ("sheen_reactor_busy_seconds_total", "Time spent working.", load.busy_nanoseconds),
                (
                    "sheen_reactor_polling_seconds_total",
                    "Time spent polling in vain.",
                    load.idle_nanoseconds,
                ),
                ("sheen_reactor_sleeping_seconds_total", "Time asleep.", load.sleep_nanoseconds),
            ] {
                families.seconds(
                    metric,
                    help,
                    &labels,
                    Duration::from_nanos(nanoseconds).as_secs_f64(),
                );
            }
        }
    }

    fn connections(&self, families: &mut Families) {
        if let Some(counters) = self.node.acceptor_counters() {
            families.counter(
                "sheen_connections_accepted_total",
                "Connections taken in.",
                &[],
                counters.accepted(),
            );
            families.counter(
                "sheen_connections_refused_total",
                "Connections closed because they did not begin as ours do.",
                &[],
                counters.refused(),
            );
            for (reason, count) in counters.refusals() {
                families.counter(
                    "sheen_connections_not_let_in_total",
                    "Connections over TCP that were not let in, where clients must have an identity.",
                    &[("reason", reason)],
                    count,
                );
            }
            families.counter(
                "sheen_connections_refused_memory_total",
                "Connections refused because of limits.window or limits.connections.",
                &[],
                counters.refused_memory(),
            );
            families.gauge(
                "sheen_connection_memory_bytes",
                "Memory that the connections open may take.",
                &[],
                counters.bytes(),
            );
            families.gauge(
                "sheen_connection_memory_bytes_max",
                "What limits.connections allows.",
                &[],
                self.node.config().limits.connections.0,
            );
        }
        let metadata = ("mdt".to_owned(), &self.node.mdt_stats().connections);
        let objects = (0..).zip(self.node.ost_stats());
        let objects = objects
            .map(|(number, service): (u32, _)| (format!("reactor{number}"), &service.connections));
        for (name, connections) in std::iter::once(metadata).chain(objects) {
            let reactor = [("reactor", name.as_str())];
            families.gauge(
                "sheen_connections",
                "Connections open.",
                &reactor,
                connections.open.get(),
            );
            families.counter(
                "sheen_connection_errors_total",
                "Connections closed for what the peer sent.",
                &reactor,
                connections.protocol_errors.get(),
            );
        }
    }

    fn identity(&self, families: &mut Families) {
        let Some(identities) = self.node.identities() else { return };
        let status = identities.status(identities::now());
        families.gauge(
            "sheen_identity_serving",
            "Whether the node has an identity: 1, else 0.",
            &[],
            u64::from(status.fault.is_none()),
        );
        families.gauge(
            "sheen_identity_clients",
            "Clients that were not revoked.",
            &[],
            status.clients,
        );
        families.gauge(
            "sheen_identity_clients_ending",
            "Clients that are over or end within 30 days.",
            &[],
            status.clients_ending,
        );
        for end in &status.ends {
            families.gauge(
                "sheen_identity_expiry_timestamp_seconds",
                "When a certificate ends, in seconds since 1970.",
                &[("kind", end.kind.as_str()), ("name", end.name.as_str())],
                end.expires,
            );
        }
    }

    fn tables(&self, families: &mut Families) {
        for table in self.node.tables() {
            let labels = [("table", table.name)];
            let help = "Entries of a table of the metadata service.";
            families.gauge("sheen_table_entries", help, &labels, table.entries);
        }
        for table in self.node.tables() {
            let labels = [("table", table.name)];
            let help = "Entries a table of the metadata service may have.";
            families.gauge("sheen_table_entries_max", help, &labels, table.entries_max);
        }
    }

    fn metadata(&self, families: &mut Families) {
        let stats = self.node.mdt_stats();
        let target = [("target", "MDT0000")];
        operations(families, "MDT0000", &stats.operations);
        for (name, help, value) in [
            ("sheen_clients", "Sessions of the metadata group.", &stats.sessions),
            ("sheen_inodes", "Inodes of all file systems.", &stats.inodes),
            ("sheen_metadata_bytes", "Bytes of the namespace.", &stats.state_bytes),
            ("sheen_metadata_bytes_max", "Bytes there is room for.", &stats.state_bytes_max),
            ("sheen_leases", "Inodes clients hold leases on.", &stats.leases),
            ("sheen_opens", "Inodes clients hold open.", &stats.opens),
            ("sheen_file_locks", "File locks programs hold.", &stats.locks),
            ("sheen_queue_depth", "Requests in work.", &stats.requests_held),
            (
                "sheen_messages_waiting",
                "Callbacks clients do not take yet, and what waits behind them.",
                &stats.messages_waiting,
            ),
            ("sheen_raft_log_bytes", "Bytes of the Raft log in use.", &stats.log_bytes),
            ("sheen_raft_term", "The Raft term.", &stats.term),
            ("sheen_serving", "Whether the target serves: 1, else 0.", &stats.serving),
        ] {
            families.gauge(name, help, &target, value.get());
        }
        for (name, help, value) in [
            ("sheen_change_plans_total", "Looks at what is in the way of a change.", &stats.plans),
            ("sheen_lease_revokes_total", "Leases asked back from clients.", &stats.revokes),
            ("sheen_evictions_total", "Clients evicted.", &stats.evictions),
            ("sheen_raft_entries_total", "Metadata changes applied.", &stats.entries),
            ("sheen_raft_proposals_total", "Proposals to the Raft log.", &stats.proposals),
            ("sheen_raft_snapshots_total", "Snapshots completed.", &stats.snapshots),
        ] {
            families.counter(name, help, &target, value.get());
        }
        for (reason, count) in REFUSED_REASONS.iter().zip(&stats.refused) {
            families.counter(
                "sheen_metadata_refused_total",
                "Metadata requests refused because of who asks.",
                &[("target", "MDT0000"), ("reason", *reason)],
                count.get(),
            );
        }
    }

    fn objects(&self, families: &mut Families) {
        for service in self.node.ost_stats() {
            for ost in &service.targets {
                let name = format!("OST{:04}", ost.index.0);
                let target = [("target", name.as_str())];
                operations(families, &name, &ost.operations);
                for (metric, help, value) in [
                    ("sheen_serving", "Whether the target serves: 1, else 0.", &ost.ready),
                    ("sheen_capacity_bytes", "Bytes users can fill.", &ost.total_bytes),
                    ("sheen_free_bytes", "Bytes free.", &ost.free_bytes),
                    (
                        "sheen_logical_bytes",
                        "Bytes of objects before compression.",
                        &ost.logical_bytes,
                    ),
                    ("sheen_physical_bytes", "Bytes objects take.", &ost.physical_bytes),
                    ("sheen_objects", "Objects.", &ost.objects),
                    (
                        "sheen_device_queue_depth",
                        "Device commands waiting or in flight.",
                        &ost.device_queue,
                    ),
                ] {
                    families.gauge(metric, help, &target, value.get());
                }
                scrub(families, &target, ost);
                for (metric, help, value) in [
                    (
                        "sheen_checksum_errors_total",
                        "Blocks read that were damaged.",
                        &ost.checksum_errors,
                    ),
                    (
                        "sheen_device_errors_total",
                        "Device commands that failed for good.",
                        &ost.device_errors,
                    ),
                    (
                        "sheen_device_retries_total",
                        "Device commands tried again.",
                        &ost.device_retries,
                    ),
                    (
                        "sheen_device_data_written_bytes_total",
                        "Data written to the device.",
                        &ost.data_bytes_written,
                    ),
                    (
                        "sheen_device_journal_written_bytes_total",
                        "Journal written to the device.",
                        &ost.journal_bytes_written,
                    ),
                    (
                        "sheen_device_checkpoint_written_bytes_total",
                        "Checkpoints written to the device.",
                        &ost.checkpoint_bytes_written,
                    ),
                    ("sheen_device_flushes_total", "Flushes of the device.", &ost.flushes),
                ] {
                    families.counter(metric, help, &target, value.get());
                }
            }
        }
    }

    fn reactors(&self, families: &mut Families) {
        for (number, service) in (0..).zip(self.node.ost_stats()) {
            let name = format!("reactor{number}");
            let reactor = [("reactor", name.as_str())];
            families.gauge(
                "sheen_requests_in_flight",
                "Object requests being carried out by a reactor.",
                &reactor,
                service.in_flight.get(),
            );
            families.gauge(
                "sheen_sessions_admitted",
                "Sessions a reactor serves.",
                &reactor,
                service.sessions.get(),
            );
            for (reason, count) in NOT_ADMITTED_REASONS.iter().zip(&service.not_admitted) {
                families.counter(
                    "sheen_object_not_admitted_total",
                    "Object requests not carried out because of whose they are.",
                    &[("reactor", name.as_str()), ("reason", *reason)],
                    count.get(),
                );
            }
            for (metric, help, value) in [
                ("sheen_busy_answers_total", "Requests refused for want of room.", &service.busy),
                (
                    "sheen_malformed_requests_total",
                    "Requests that make no sense.",
                    &service.malformed,
                ),
                (
                    "sheen_damaged_payloads_total",
                    "Payloads that arrived damaged.",
                    &service.payload_mismatches,
                ),
            ] {
                families.counter(metric, help, &reactor, value.get());
            }
        }
    }
}

/// What an OST does in the background: its scrub and its tidying.
fn scrub(families: &mut Families, target: Labels<'_>, ost: &OstStats) {
    families.gauge(
        "sheen_scrub_pass_read_bytes",
        "Bytes verified in the scrub's pass under way, or the last.",
        target,
        ost.scrub_pass_bytes.get(),
    );
    families.level(
        "sheen_scrub_pass_duration_seconds",
        "How long the scrub's last pass took.",
        target,
        Duration::from_nanos(ost.scrub_pass_nanoseconds.get()).as_secs_f64(),
    );
    families.gauge(
        "sheen_scrub_last_pass_timestamp_seconds",
        "When the scrub's last pass since the node's start ended, in seconds since 1970; 0: none did.",
        target,
        ost.scrub_ended_seconds.get(),
    );
    for (metric, help, value) in [
        (
            "sheen_scrub_read_bytes_total",
            "Stored bytes verified in the background.",
            &ost.scrub_bytes,
        ),
        (
            "sheen_scrub_passes_total",
            "Times everything stored was verified, since it was formatted.",
            &ost.scrub_passes,
        ),
        (
            "sheen_scrub_damaged_blocks_total",
            "Stored blocks the scrub found damaged.",
            &ost.scrub_rotten,
        ),
        (
            "sheen_scrub_unreadable_blocks_total",
            "Stored blocks the scrub could not read.",
            &ost.scrub_unreadable,
        ),
        (
            "sheen_scrub_damaged_batches_total",
            "Damaged batches of journal and checkpoint the scrub found.",
            &ost.scrub_log_faults,
        ),
        (
            "sheen_tidied_slabs_total",
            "Scattered slabs stored anew because they were read in order.",
            &ost.tidied_slabs,
        ),
        ("sheen_tidied_bytes_total", "Bytes stored anew so.", &ost.tidied_bytes),
    ] {
        families.counter(metric, help, target, value.get());
    }
}

/// Families of one target's operations; operations that never came are left out.
fn operations(families: &mut Families, target: &str, operations: &Operations) {
    for (opcode, stats) in operations.iter().filter(|(_, stats)| stats.count.get() > 0) {
        let operation = snake_case(opcode.name());
        let labels = [("target", target), ("operation", operation.as_str())];
        for (name, help, value) in [
            ("sheen_operations_total", "Requests answered.", &stats.count),
            ("sheen_operation_errors_total", "Requests answered with an error.", &stats.errors),
            ("sheen_received_bytes_total", "Payload received.", &stats.bytes_in),
            ("sheen_sent_bytes_total", "Payload sent.", &stats.bytes_out),
        ] {
            families.counter(name, help, &labels, value.get());
        }
        families.histogram(
            "sheen_operation_duration_seconds",
            "Time from arrival to reply.",
            &labels,
            &distribution(stats),
        );
    }
}

fn distribution(stats: &OperationStats) -> Distribution {
    let buckets = (0..LATENCY_BUCKETS - 1)
        .map(|index| {
            let edge = Duration::from_nanos(LATENCY_FLOOR_NANOSECONDS << index);
            (edge.as_secs_f64(), stats.latency_buckets[index].get())
        })
        .collect();
    Distribution {
        buckets,
        above: stats.latency_buckets[LATENCY_BUCKETS - 1].get(),
        sum: Duration::from_nanos(stats.latency_nanoseconds.get()).as_secs_f64(),
    }
}

impl Pages for NodePages {
    fn metrics(&self) -> Page {
        Page { content_type: METRICS_TYPE, body: self.families().to_text() }
    }

    fn status(&self) -> Page {
        let body = serde_json::to_string_pretty(&self.node.status())
            .unwrap_or_else(|error| format!("{{\"error\": \"{error}\"}}"));
        Page { content_type: "application/json", body: body + "\n" }
    }

    fn health(&self) -> Page {
        let body = match self.node.status().state {
            NodeState::Serving => "ok\n",
            NodeState::Starting => "starting\n",
            NodeState::Degraded => "degraded\n",
        };
        Page { content_type: "text/plain; charset=utf-8", body: body.to_owned() }
    }
}
