//! What the lane runs on: a node with short times, a client behind a link of its own, and two healthy ones.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

use super::trouble::{Between, times};
use crate::actor::program_for_all;
use crate::background::Background;
use crate::cluster::{Cluster, ClusterOptions, FILE_SYSTEM, Mount, Source};
use crate::devices::MEMORY;
use crate::network::{self, Namespace};
use crate::process;

const DEVICE_BYTES: u64 = 8 << 30;
/// `sheen mount` and `sheen umount` take so long at most.
const MOUNT_DEADLINE: Duration = Duration::from_secs(20);

/// Node, links and mounts; ended in the order of the fields.
#[derive(Debug)]
pub(super) struct Scene {
    /// The one that gets into trouble.
    pub(super) troubled: Mount,
    /// One that shares files with it, over TCP too.
    pub(super) other: Mount,
    pub(super) cluster: Cluster,
    identified: Source,
    pub(super) link: Namespace,
    _other_link: Namespace,
    pub(super) program: PathBuf,
    directories: u32,
}

impl Scene {
    pub(super) fn start(scratch: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(scratch)?;
        fs::set_permissions(scratch, Permissions::from_mode(0o755))?;
        crate::programs::require(&[crate::programs::IPROUTE])?;
        let (link, other_link) = (Namespace::new(1)?, Namespace::new(2)?);
        // In memory always, since the lane measures how long programs wait for each other, and a disk that others write to
        // flushes for seconds.
        let mut options = ClusterOptions::new(Path::new(MEMORY));
        options.device_bytes = DEVICE_BYTES;
        options.listen = Some(network::listen_address());
        options.sections = times();
        let mut cluster = Cluster::start(options)?;
        let identified = cluster.identified_source("machines")?;
        let troubled = cluster.mount_from(&behind(&identified, &link))?;
        let other = cluster.mount_from(&behind(&identified, &other_link))?;
        let program = program_for_all(scratch)?;
        let _other_link = other_link;
        let directories = 0;
        Ok(Self { troubled, other, cluster, identified, link, _other_link, program, directories })
    }

    /// One more client behind the link that gets into trouble.
    pub(super) fn mount_troubled(&mut self) -> anyhow::Result<Mount> {
        self.cluster.mount_from(&behind(&self.identified, &self.link))
    }

    /// `sheen mount` at a place where a dead mount is.
    pub(super) fn mount_over(&self, directory: &Path) -> anyhow::Result<()> {
        let mut command = self.cluster.command();
        command.arg("mount").arg("--log").arg(self.cluster.directory().join("over.log"));
        let source = format!("{}:{FILE_SYSTEM}", self.cluster.node_address());
        command.args(["-o", "allow_other", &source]).arg(directory);
        process::run(&mut command, MOUNT_DEADLINE).map(drop)
    }

    /// `sheen umount`.
    pub(super) fn unmount_at(&self, directory: &Path) -> anyhow::Result<()> {
        let mut command = self.cluster.command();
        process::run(command.arg("umount").arg(directory), MOUNT_DEADLINE).map(drop)
    }

    pub(super) fn between(&self, client: &Mount) -> anyhow::Result<Between<'_>> {
        let node = self.cluster.node_pid().context("no node runs")?;
        Ok(Between { client: client.pid(), node, link: &self.link })
    }

    /// A fresh directory that everybody may write: its name, the same in every mount.
    pub(super) fn directory(&mut self) -> anyhow::Result<String> {
        self.directories += 1;
        let name = format!("scene-{}", self.directories);
        let path = self.other.directory().join(&name);
        fs::create_dir(&path)?;
        fs::set_permissions(&path, Permissions::from_mode(0o777))?;
        Ok(name)
    }

    pub(super) fn end(self) -> anyhow::Result<()> {
        self.troubled.unmount()?;
        self.other.unmount()?;
        let mut cluster = self.cluster;
        cluster.stop()
    }
}

fn behind(source: &Source, link: &Namespace) -> Source {
    Source { namespace: Some(link.name().to_owned()), ..source.clone() }
}

/// A healthy client at work: makes, writes, syncs, renames, lists and removes, and measures how long each round takes.
#[derive(Debug)]
pub(crate) struct Bystander(Background<(u64, Round)>);

/// How long a round took, and the longest of its steps.
#[derive(Debug, Clone, Copy)]
struct Round {
    took: Duration,
    step: &'static str,
    step_took: Duration,
}

impl Round {
    const NONE: Self = Self { took: Duration::ZERO, step: "nothing", step_took: Duration::ZERO };

    /// Takes a step, and its time into account.
    fn step<T>(
        &mut self,
        step: &'static str,
        take: impl FnOnce() -> io::Result<T>,
    ) -> anyhow::Result<T> {
        let begun = Instant::now();
        let taken = take().context(step)?;
        let took = begun.elapsed();
        if took > self.step_took {
            (self.step, self.step_took) = (step, took);
        }
        Ok(taken)
    }
}

impl Bystander {
    pub(crate) fn start(directory: &Path) -> Self {
        let directory = directory.to_path_buf();
        Self(Background::start(move |ending| {
            let (mut count, mut longest) = (0, Round::NONE);
            while !ending.is_due() {
                let begun = Instant::now();
                let mut round = Round::NONE;
                one_of_everything(&directory, &mut round)?;
                round.took = begun.elapsed();
                if round.took > longest.took {
                    longest = round;
                }
                count += 1;
                std::thread::sleep(Duration::from_millis(5));
            }
            Ok((count, longest))
        }))
    }

    /// Requires that no round took as long as `most`; gives how often it went round and its longest round.
    pub(crate) fn end(self, most: Duration) -> anyhow::Result<(u64, Duration)> {
        let (count, longest) = self.0.join().context("a healthy client")?;
        let Round { took, step, step_took } = longest;
        ensure!(
            took < most,
            "a healthy client waited {} ms, {} of them to {step}; it went round {count} times",
            took.as_millis(),
            step_took.as_millis()
        );
        Ok((count, took))
    }
}

fn one_of_everything(directory: &Path, round: &mut Round) -> anyhow::Result<()> {
    let (one, two) = (directory.join("one"), directory.join("two"));
    let file = round.step("create", || File::create(&one))?;
    round.step("write", || (&file).write_all(&[7; 5000]))?;
    round.step("fsync", || file.sync_all())?;
    round.step("close", || {
        drop(file);
        Ok(())
    })?;
    round.step("rename", || fs::rename(&one, &two))?;
    let content = round.step("read", || fs::read(&two))?;
    ensure!(content.len() == 5000, "what was written is not there");
    let listed = round.step("list", || Ok(fs::read_dir(directory)?.count()))?;
    ensure!(listed == 1, "the directory has another file");
    round.step("unlink", || fs::remove_file(&two))
}
