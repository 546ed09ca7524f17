//! `sheen up` and plain `sheen node` straight after `kill -9` of the node: the next node starts, the mount goes on, nothing is
//! lost.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Context;
use crate::cluster::{free_addresses, sheen_program};
use crate::interruption;
use crate::process::{self, pid_of};

const CHECK: &str = "up";
const DEADLINE: Duration = Duration::from_secs(120);

/// Runs the check: a node and a mount of its own, beside the file system under test.
pub fn run(context: &mut Context<'_>) {
    let rounds = context.rounds.unwrap_or(context.effort.pick(5, 25));
    let place = context.scratch.join(CHECK);
    let report = &mut *context.report;
    let started = report.case(CHECK, "it starts and mounts", || {
        fs::create_dir_all(&place)?;
        let (listen, metrics) = free_addresses(None)?;
        let text = format!(
            "socket = \"{place}/node.sock\"\nlisten = \"{listen}\"\nmetrics = \"{metrics}\"\n\
             [device]\npath = \"{place}/device\"\nsize = \"1GiB\"\n",
            place = place.display()
        );
        fs::write(place.join("node.toml"), text)?;
        sheen(&place, "up")?;
        fs::write(place.join("mnt/file"), "0")?;
        Ok(String::new())
    });
    if started {
        report.case(
            CHECK,
            &format!("it starts again at once after a kill, {rounds} times"),
            || {
                let mut longest = Duration::ZERO;
                for round in 0..rounds {
                    let pid = fs::read_to_string(place.join("node.pid"))?.trim().parse()?;
                    kill(Pid::from_raw(pid), Signal::SIGKILL)?;
                    let begun = Instant::now();
                    sheen(&place, "up").with_context(|| format!("round {round}"))?;
                    longest = longest.max(begun.elapsed());
                    let file = place.join("mnt/file");
                    let found = fs::read_to_string(&file)?;
                    ensure!(found == round.to_string(), "round {round}: read {found:?}");
                    fs::write(&file, (round + 1).to_string())?;
                }
                Ok(format!("longest {} ms", longest.as_millis()))
            },
        );
        let name = format!("a plain node starts at once after a kill, {rounds} times");
        report.case(CHECK, &name, || {
            let pid = fs::read_to_string(place.join("node.pid"))?.trim().parse()?;
            kill(Pid::from_raw(pid), Signal::SIGKILL)?;
            let mut node = plain_node(&place)?;
            let mut longest = await_service(&mut node, &place)?;
            for round in 0..rounds {
                // Not waited for: it has its sockets, its ports and the device until it is gone.
                kill(pid_of(&node), Signal::SIGKILL)?;
                let next = plain_node(&place);
                node.wait()?;
                node = next?;
                let took = await_service(&mut node, &place);
                longest = longest.max(took.with_context(|| format!("round {round}"))?);
            }
            kill(pid_of(&node), Signal::SIGTERM)?;
            node.wait()?;
            sheen(&place, "up")?;
            Ok(format!("longest {} ms", longest.as_millis()))
        });
    }
    report.case(CHECK, "it ends", || sheen(&place, "down"));
    // Left there when it did not end: somebody has to look.
    drop(fs::remove_dir_all(place.join("mnt")));
}

/// Starts the node as a service manager does; its log begins anew.
fn plain_node(place: &Path) -> anyhow::Result<Child> {
    let log = File::create(place.join("plain.log"))?;
    let mut command = Command::new(sheen_program());
    command.args(["node", "--config"]).arg(place.join("node.toml"));
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    interruption::spawn(&mut command).context("starting the node")
}

/// Waits until the node says that it serves; returns how long that took.
fn await_service(node: &mut Child, place: &Path) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    loop {
        let log = fs::read_to_string(place.join("plain.log"))?;
        if log.contains("node serves") {
            return Ok(begun.elapsed());
        }
        if let Some(status) = node.try_wait()? {
            bail!("the node ended ({status}): {}", process::tail(&log, 800));
        }
        ensure!(begun.elapsed() < DEADLINE, "it does not serve: {}", process::tail(&log, 800));
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn sheen(place: &Path, what: &str) -> anyhow::Result<String> {
    let mut command = Command::new(sheen_program());
    command.arg(what).arg("--dir").arg(place).arg("--mount").arg(place.join("mnt"));
    if what == "up" {
        command.arg("--no-encryption");
    }
    process::run(&mut command, DEADLINE).map(|_| String::new())
}
