//! The power lane: the node's device loses what was not flushed, again and again, while clients live on.
//!
//! A node on a drive with a volatile write cache, three mounts, and writers as two users that sync in every way there
//! is. A round: they write, the node is killed and the drive forgets, the node starts again, they go on and settle. Then
//! every writer finds through its own mount, and through one that has nothing cached, what it was promised; and all
//! mounts show the same bytes, sizes and attributes.

mod commit;
mod device;
mod ledger;
mod slot_file;
mod view;
mod writer;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

use super::LaneContext;
use crate::actor::{Actor, program_for_all};
use crate::cluster::{Cluster, ClusterOptions, Mount};
use crate::random::Random;
use crate::report::line;
use device::VolatileDevice;
use view::{require_same, view_of};

/// The first word of a call of this program as a writer (see [`run_writer`]).
pub const WRITER: &str = "power-writer";

const CHECK: &str = "power";
const DEVICE_BYTES: u64 = 1 << 30;
const DIRECTORY: &str = "power";
/// A user with no rights of its own.
const NOBODY: u32 = 65534;
/// Steps of every writer before and after a cut.
const STEPS: u64 = 25;

/// (way, user, number of the mount) of each writer.
const WRITERS: [(&str, u32, usize); 9] = [
    ("synced", 0, 0),
    ("mapped", NOBODY, 0),
    ("synced", NOBODY, 1),
    ("append", 0, 1),
    ("commit", 0, 0),
    ("commit", NOBODY, 1),
    ("dsync", NOBODY, 1),
    ("late", NOBODY, 0),
    ("late", 0, 1),
];
/// (user, number of the mount) of the two writers of the same files.
const SHARERS: [(u32, usize); 2] = [(0, 0), (NOBODY, 1)];

/// A writer of this lane: `power-writer DIRECTORY WAY SEED`.
///
/// # Errors
/// When it found what may not be.
pub fn run_writer(directory: &str, way: &str, seed: &str) -> anyhow::Result<()> {
    writer::run(directory, way, seed)
}

/// Runs the check on a cluster of its own.
pub fn run(context: &mut LaneContext<'_>) {
    let rounds = context.rounds.unwrap_or(context.effort.pick(10, 100));
    let (seed, scratch) = (context.seed, context.scratch.join(CHECK));
    let name = format!("{rounds} losses of power under living clients, seed {seed}");
    context.report.case(CHECK, &name, || {
        fs::create_dir_all(&scratch)?;
        fs::set_permissions(&scratch, Permissions::from_mode(0o755))?;
        let mut lane = Lane::start(&scratch, seed)?;
        let mut sums = Sums::default();
        for number in 1..=rounds {
            lane.round(&mut sums).with_context(|| format!("round {number}"))?;
            line(format_args!("power: round {number} of {rounds}: {sums}"));
        }
        lane.end()?;
        Ok(sums.to_string())
    });
}

/// What all rounds did.
#[derive(Debug, Default)]
struct Sums {
    at_risk: usize,
    reverted: usize,
    records: usize,
    told: u64,
    longest: Duration,
}

impl std::fmt::Display for Sums {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} blocks at risk, {} reverted, {} records judged, {} losses told, longest gap {} ms",
            self.at_risk,
            self.reverted,
            self.records,
            self.told,
            self.longest.as_millis()
        )
    }
}

/// A writer and where it writes.
#[derive(Debug)]
struct Placed {
    actor: Actor,
    is_late: bool,
    mount: usize,
    below: PathBuf,
}

#[derive(Debug)]
struct Lane {
    // Ended in this order: writers, mounts, node.
    writers: Vec<Placed>,
    mounts: Vec<Mount>,
    cluster: Cluster,
    device: VolatileDevice,
    random: Random,
}

impl Lane {
    fn start(scratch: &Path, seed: u64) -> anyhow::Result<Self> {
        let device = VolatileDevice::start(&scratch.join("drive"), DEVICE_BYTES)?;
        let mut options = ClusterOptions::new(scratch);
        options.device = Some(device.name());
        let mut cluster = Cluster::start(options)?;
        let tcp = cluster.identified_source("tcp")?;
        let mounts = vec![cluster.mount()?, cluster.mount_from(&tcp)?, cluster.mount()?];
        let random = Random::new(seed);
        let mut lane = Self { writers: Vec::new(), mounts, cluster, device, random };
        lane.start_writers(scratch, seed)?;
        Ok(lane)
    }

    fn start_writers(&mut self, scratch: &Path, seed: u64) -> anyhow::Result<()> {
        let program = program_for_all(scratch)?;
        let top = self.mounts[0].directory().join(DIRECTORY);
        fs::create_dir(&top)?;
        let shared = PathBuf::from("shared");
        fs::create_dir(top.join(&shared))?;
        fs::set_permissions(top.join(&shared), Permissions::from_mode(0o777))?;
        let mut all = Vec::new();
        for (number, (way, uid, mount)) in WRITERS.into_iter().enumerate() {
            let below = PathBuf::from(format!("{way}-{number}"));
            fs::create_dir(top.join(&below))?;
            std::os::unix::fs::chown(top.join(&below), Some(uid), Some(uid))?;
            all.push((way.to_owned(), uid, mount, below));
        }
        for (number, (uid, mount)) in SHARERS.into_iter().enumerate() {
            all.push((format!("shared-{number}"), uid, mount, shared.clone()));
        }
        for (number, (way, uid, mount, below)) in (1_u64..).zip(all) {
            let directory = self.mounts[mount].directory().join(DIRECTORY).join(&below);
            let seed = seed.wrapping_mul(1000).wrapping_add(number);
            let words = [WRITER, &directory.to_string_lossy(), &way, &seed.to_string()];
            let mut actor = Actor::start(&program, &words, uid)?;
            actor.do_now("go", "going")?;
            if below == shared {
                // Both must be able to write what one of them made.
                open_to_all(&directory)?;
            }
            self.writers.push(Placed { actor, is_late: way == "late", mount, below });
        }
        Ok(())
    }

    fn round(&mut self, sums: &mut Sums) -> anyhow::Result<()> {
        for writer in &mut self.writers {
            writer.actor.do_now("go", "going")?;
        }
        self.run_all(|_| true, STEPS).context("before the cut")?;
        self.calm()?;
        let cuts = 1 + self.random.below(3) / 2;
        let begun = Instant::now();
        for _ in 0..cuts {
            let cut = self.device.cut_power(self.random.next_u64());
            // The node notices nothing before it is gone, as its machine does.
            self.cluster.kill()?;
            sums.at_risk += cut.at_risk;
            sums.reverted += cut.reverted;
            self.device.power_on();
            self.cluster.restart()?;
        }
        self.go_on()?;
        self.run_all(|writer| !writer.is_late, 1).context("after the restart")?;
        sums.longest = sums.longest.max(begun.elapsed());
        self.run_all(|writer| !writer.is_late, STEPS).context("after the restart")?;
        self.judge(sums)
    }

    /// Before the cut, by chance: all go on; or only those that do not sync, since every sync empties the drive's cache;
    /// or nobody. What the latter wrote stays unsynced over the cut, and is cached by a mount that did not write it.
    fn calm(&mut self) -> anyhow::Result<()> {
        let choice = self.random.below(4);
        for writer in self.writers.iter_mut().filter(|writer| choice > 0 && !writer.is_late) {
            writer.actor.do_now("hold", "held")?;
        }
        std::thread::sleep(Duration::from_millis(50 + self.random.below(250)));
        for writer in self.writers.iter_mut().filter(|writer| choice != 1 && writer.is_late) {
            writer.actor.do_now("hold", "held")?;
            view_of(&self.mounts[2].directory().join(DIRECTORY).join(&writer.below))?;
        }
        Ok(())
    }

    /// After the restart: all go on but those that do not sync, whose files stay as the cut left them.
    fn go_on(&mut self) -> anyhow::Result<()> {
        for writer in &mut self.writers {
            let (order, answer) = if writer.is_late { ("hold", "held") } else { ("go", "going") };
            writer.actor.do_now(order, answer)?;
        }
        Ok(())
    }

    /// Waits until the chosen writers took `steps` steps more.
    fn run_all(&mut self, is_chosen: impl Fn(&Placed) -> bool, steps: u64) -> anyhow::Result<()> {
        for writer in self.writers.iter_mut().filter(|writer| is_chosen(writer)) {
            writer.actor.order(&format!("run {steps}"))?;
        }
        for writer in self.writers.iter_mut().filter(|writer| is_chosen(writer)) {
            writer.actor.answer("ran")?;
        }
        Ok(())
    }

    fn judge(&mut self, sums: &mut Sums) -> anyhow::Result<()> {
        for writer in &mut self.writers {
            writer.actor.order("settle")?;
        }
        sums.told = 0;
        for writer in &mut self.writers {
            sums.told += writer.actor.answer("settled")?.parse::<u64>()?;
        }
        // First what each one's own mount caches, before others ask for it.
        for number in 0..self.writers.len() {
            let own = self.mounts[self.writers[number].mount].directory().to_path_buf();
            sums.records += self.check(number, &own).context("through its own mount")?;
        }
        let mut views = Vec::new();
        for number in [2, 1, 0] {
            let name = format!("mount {number}");
            views.push((name, view_of(&self.mounts[number].directory().join(DIRECTORY))?));
        }
        let fresh = self.cluster.mount()?;
        let shown = view_of(&fresh.directory().join(DIRECTORY))?;
        for number in 0..self.writers.len() {
            sums.records +=
                self.check(number, fresh.directory()).context("through a fresh mount")?;
        }
        for (name, view) in &views {
            require_same((name, view), ("a fresh mount", &shown))?;
        }
        fresh.unmount()?;
        self.cluster.assert_running()
    }

    fn check(&mut self, number: usize, mount: &Path) -> anyhow::Result<usize> {
        let writer = &mut self.writers[number];
        let directory = mount.join(DIRECTORY).join(&writer.below);
        let order = format!("check {}", directory.display());
        let records = writer.actor.do_now(&order, "right")?;
        Ok(records.parse()?)
    }

    /// Ends everything in order, and requires that the device is sound.
    fn end(mut self) -> anyhow::Result<()> {
        self.writers.clear();
        for mount in self.mounts {
            mount.unmount()?;
        }
        self.cluster.stop()?;
        let mut check = self.cluster.command();
        check.arg("fsck").arg(self.device.name());
        let said = crate::process::run(&mut check, Duration::from_secs(60)).context("fsck")?;
        ensure!(!said.is_empty(), "fsck said nothing");
        Ok(())
    }
}

fn open_to_all(directory: &Path) -> anyhow::Result<()> {
    for entry in fs::read_dir(directory)? {
        fs::set_permissions(entry?.path(), Permissions::from_mode(0o666))?;
    }
    Ok(())
}
