//! `sheen up` straight after `kill -9` of its node: the next node starts, the mount goes on, nothing is lost.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Context;
use crate::cluster::{free_addresses, sheen_program};
use crate::process;

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
    }
    report.case(CHECK, "it ends", || sheen(&place, "down"));
    // Left there when it did not end: somebody has to look.
    drop(fs::remove_dir_all(place.join("mnt")));
}

fn sheen(place: &Path, what: &str) -> anyhow::Result<String> {
    let mut command = Command::new(sheen_program());
    command.arg(what).arg("--dir").arg(place).arg("--mount").arg(place.join("mnt"));
    if what == "up" {
        command.arg("--no-encryption");
    }
    process::run(&mut command, DEADLINE).map(|_| String::new())
}
