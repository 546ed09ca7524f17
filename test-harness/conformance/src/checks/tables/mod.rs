//! The tables lane: after many sessions, leases, opens, removals and on a full device, every table of the node is within
//! its bound, so is its memory, and service goes on, also after a restart.

mod clients;
mod directories;
mod fullness;
mod levels;
mod removal;
mod sessions;

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};

use super::LaneContext;
use crate::cluster::{Cluster, ClusterOptions, FILE_SYSTEM, Mount};
use levels::{Levels, Node};

const CHECK: &str = "tables";

/// The first word of calls of this program as an actor (see [`run_actor`]).
pub const ACTOR: &str = "tables-sessions";

/// Sessions the lane's nodes have room for.
const SESSIONS_MAX: u64 = 128;
/// Leases, and opens, the lane's nodes have room for.
const LEASES_MAX: u64 = 8192;
/// Memory the lane's nodes may take.
const MEMORY_BYTES: u64 = 4 << 30;
/// Inodes the lane's nodes have room for: a million files and their directories.
const INODES_MAX: u64 = 1_200_000;
/// No round of work on a healthy mount takes this long meanwhile, on a busy machine either.
const SERVICE: Duration = Duration::from_secs(5);

/// An actor of this lane: it opens sessions and waits.
///
/// # Errors
/// When it gets none.
pub fn run_actor(address: &str, filesystem: &str, count: &str) -> anyhow::Result<()> {
    clients::run_actor(address, filesystem, count)
}

/// Runs the check on clusters of its own.
pub fn run(context: &mut LaneContext<'_>) {
    let devices = context.devices.clone();
    let effort = context.effort;
    let report = &mut *context.report;
    report.case(CHECK, "sessions", || {
        let mut scene = Scene::start(&devices, 8 << 30)?;
        let told = sessions::come_and_go(&mut scene, effort.pick(300, 10_000))?;
        scene.end(&told)
    });
    report.case(CHECK, "leases and opens", || {
        let mut scene = Scene::start(&devices, 8 << 30)?;
        let files = effort.pick(4000, 50_000);
        let told = sessions::ask_leases(&mut scene, files, effort.pick(5, 20))?;
        scene.end(&told)
    });
    report.case(CHECK, "directories removed at another mount", || {
        let mut scene = Scene::start(&devices, 8 << 30)?;
        let told = directories::removed_elsewhere(&mut scene)?;
        scene.end(&told)
    });
    report.case(CHECK, "rm -rf", || {
        let mut scene = Scene::start(&devices, 64 << 30)?;
        let told = removal::remove_all(&mut scene, effort.pick(4000, 1_000_000))?;
        scene.end(&told)
    });
    report.case(CHECK, "a device full of data", || {
        let mut scene = Scene::start(&devices, 512 << 20)?;
        let told = fullness::data(&mut scene)?;
        scene.end(&told)
    });
    report.case(CHECK, "a metadata zone full of files", || {
        let mut scene = Scene::start(&devices, 1 << 30)?;
        let told = fullness::metadata(&mut scene)?;
        scene.end(&told)
    });
}

/// A node with small tables, and one mount.
#[derive(Debug)]
struct Scene {
    mount: Mount,
    cluster: Cluster,
}

impl Scene {
    fn start(devices: &Path, device_bytes: u64) -> anyhow::Result<Self> {
        let mut options = ClusterOptions::new(devices);
        options.device_bytes = device_bytes;
        options.sections = format!(
            "[limits]\nmemory = {MEMORY_BYTES}\ninodes = {INODES_MAX}\nclients = {SESSIONS_MAX}\nleases = {LEASES_MAX}\n\n\
             [times]\nlease = \"2s\"\nrevoke = \"3s\"\ngrace = \"3s\"\n"
        );
        let mut cluster = Cluster::start(options)?;
        let mount = cluster.mount()?;
        Ok(Self { mount, cluster })
    }

    fn node(&self) -> anyhow::Result<Node> {
        let pid = self.cluster.node_pid().context("no node runs")?;
        Ok(Node { admin: self.cluster.admin_address(), pid })
    }

    fn address(&self) -> String {
        self.cluster.node_address()
    }

    fn filesystem() -> &'static str {
        FILE_SYSTEM.trim_start_matches('/')
    }

    /// Waits until a table has at most so many entries.
    fn wait_for(&self, table: &str, most: u64, time: Duration) -> anyhow::Result<Duration> {
        let node = self.node()?;
        let what = format!("{most} {table} or less");
        crate::process::wait_for(&what, time, || {
            Levels::read(node).and_then(|levels| levels.of(table)).is_ok_and(|held| held <= most)
        })
        .with_context(|| Levels::read(node).map_or_else(|e| e.to_string(), |l| l.to_string()))
    }

    /// The node is killed and started again; the mount lives on.
    fn restart(&mut self) -> anyhow::Result<Duration> {
        self.cluster.kill()?;
        let took = self.cluster.restart()?;
        self.require_service()?;
        Ok(took)
    }

    /// Requires that files can be made, read and removed.
    fn require_service(&self) -> anyhow::Result<()> {
        let path = self.mount.directory().join("service");
        fs::write(&path, "served").context("making a file")?;
        ensure!(fs::read(&path)? == b"served", "what was written is not there");
        fs::remove_file(&path).context("removing a file")
    }

    /// Restarts, requires service and memory within its bound, and ends.
    fn end(mut self, told: &str) -> anyhow::Result<String> {
        self.require_service()?;
        let took = self.restart()?;
        let levels = Levels::read(self.node()?)?;
        levels.require_bounded()?;
        ensure!(
            levels.resident_bytes() <= MEMORY_BYTES,
            "the node has {} MiB",
            levels.resident_bytes() >> 20
        );
        self.mount.unmount()?;
        self.cluster.stop()?;
        Ok(format!("{told}; restarted in {} ms: {levels}", took.as_millis()))
    }
}
