//! The litmus suite on two mounts: what one client did, another sees at once.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};

use super::Context;
use crate::process;

const CHECK: &str = "litmus";
const DEADLINE: Duration = Duration::from_secs(900);

/// Runs the check: the program `sheen-litmus` beside this one, with this mount and a second one.
pub fn run(context: &mut Context<'_>) {
    let Some((work, _)) = context.prepared(CHECK) else { return };
    let rounds = context.rounds.unwrap_or(context.effort.pick(100, 1000));
    let target = &mut *context.target;
    context.report.case(CHECK, &format!("all claims, {rounds} rounds each"), || {
        let program = std::env::current_exe()?.with_file_name("sheen-litmus");
        ensure!(program.exists(), "{} does not exist; build sheen-litmus", program.display());
        let view = target.second_view(&work)?;
        let mut command = Command::new(program);
        command.arg(&work).arg(view.path()).arg("--rounds").arg(rounds.to_string());
        let said = process::run(&mut command, DEADLINE)?;
        let closing = said.lines().last().context("it said nothing")?.to_owned();
        view.close()?;
        Ok(closing)
    });
    context.remove(CHECK, &work);
}
