//! Kill rounds: the node is killed under load and started again; writers go on, and what was acknowledged is there.
//!
//! The writers are processes of their own that never see an error. After each round they pause between two steps, and a
//! second mount, which has nothing cached, must show exactly the tree their logs describe: nothing lost, nothing applied
//! in part or twice.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

use super::Context;
use super::step_log::Model;
use super::step_writer::{pause_file, paused_file};
use crate::interruption::Guard;
use crate::process;
use crate::random::Random;
use crate::report::line;
use crate::target::Target;

const CHECK: &str = "kill";
const WRITERS: u64 = 4;
const DEADLINE: Duration = Duration::from_secs(60);

/// Runs the check.
pub fn run(context: &mut Context<'_>) {
    let Some((work, scratch)) = context.prepared(CHECK) else { return };
    let rounds = context.rounds.unwrap_or(context.effort.pick(5, 20));
    let seed = context.seed;
    let target = &mut *context.target;
    let name = format!("{rounds} kills of the node under {WRITERS} writers, seed {seed}");
    context.report.case(CHECK, &name, || {
        let mut random = Random::new(seed);
        let mut writers = Vec::new();
        for number in 0..WRITERS {
            writers.push(Writer::start(&work, &scratch, number, seed)?);
        }
        let mut longest = Duration::ZERO;
        for number in 1..=rounds {
            let gap = round(target, &work, &mut writers, &mut random)
                .with_context(|| format!("round {number}"))?;
            longest = longest.max(gap);
            line(format_args!(
                "kill: round {number} of {rounds}, writers went on after {} ms",
                gap.as_millis()
            ));
        }
        let steps = writers.iter().map(Writer::steps).sum::<usize>();
        Ok(format!(
            "{steps} acknowledged steps, longest pause of a writer {} ms",
            longest.as_millis()
        ))
    });
    context.remove(CHECK, &work);
}

fn round(
    target: &mut Target,
    work: &Path,
    writers: &mut [Writer],
    random: &mut Random,
) -> anyhow::Result<Duration> {
    require_progress(writers, 20).context("before the kill")?;
    std::thread::sleep(Duration::from_millis(random.below(800)));
    target.kill_node()?;
    let gap = std::time::Instant::now();
    std::thread::sleep(Duration::from_millis(random.below(300)));
    target.restart_node()?;
    require_progress(writers, 1).context("after the restart")?;
    let gap = gap.elapsed();
    require_progress(writers, 20)?;
    for writer in writers.iter_mut() {
        writer.pause()?;
    }
    let view = target.second_view(work)?;
    for writer in writers.iter() {
        writer.require_found(view.path())?;
    }
    view.close()?;
    target.assert_alive()?;
    for writer in writers.iter() {
        writer.resume()?;
    }
    Ok(gap)
}

/// Waits until every writer took `more` steps.
pub(super) fn require_progress(writers: &mut [Writer], more: usize) -> anyhow::Result<()> {
    let goals: Vec<usize> = writers.iter().map(|writer| writer.steps() + more).collect();
    for (writer, goal) in writers.iter_mut().zip(goals) {
        process::wait_for("a writer's steps", DEADLINE, || {
            writer.steps() >= goal || writer.has_ended()
        })?;
        writer.require_running()?;
    }
    Ok(())
}

/// A writer process; killed when dropped.
pub(super) struct Writer {
    process: Child,
    log: PathBuf,
    errors: PathBuf,
    name: String,
    _guard: Guard,
}

impl Writer {
    pub(super) fn start(
        work: &Path,
        scratch: &Path,
        number: u64,
        seed: u64,
    ) -> anyhow::Result<Self> {
        let name = format!("writer-{number}");
        fs::create_dir(work.join(&name))?;
        let log = scratch.join(format!("{name}.log"));
        let errors = scratch.join(format!("{name}.errors"));
        File::create(&log)?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("step-writer").arg(work.join(&name)).arg(&log);
        command.arg(seed.wrapping_add(number).to_string());
        command.stdin(Stdio::null()).stdout(File::create(&errors)?).stderr(File::create(&errors)?);
        let process = command.spawn()?;
        let guard = Guard::of_process(process::pid_of(&process));
        Ok(Self { process, log, errors, name, _guard: guard })
    }

    pub(super) fn steps(&self) -> usize {
        fs::read(&self.log).map_or(0, |bytes| bytes.iter().filter(|byte| **byte == b'\n').count())
    }

    /// Requires that below `work` lies exactly what the writer's log says.
    pub(super) fn require_found(&self, work: &Path) -> anyhow::Result<()> {
        let (model, _) = Model::replay(&fs::read_to_string(&self.log)?)?;
        model.require_found(&work.join(&self.name)).map(drop)
    }

    fn has_ended(&mut self) -> bool {
        !matches!(self.process.try_wait(), Ok(None))
    }

    fn require_running(&mut self) -> anyhow::Result<()> {
        if self.has_ended() {
            let said = fs::read_to_string(&self.errors).unwrap_or_default();
            bail!("{} ended: {}", self.name, process::tail(&said, 600));
        }
        Ok(())
    }

    pub(super) fn pause(&mut self) -> anyhow::Result<()> {
        File::create(pause_file(&self.log))?;
        let paused = paused_file(&self.log);
        process::wait_for("a writer pauses", DEADLINE, || paused.exists() || self.has_ended())?;
        self.require_running()?;
        ensure!(paused.exists());
        Ok(())
    }

    pub(super) fn resume(&self) -> anyhow::Result<()> {
        fs::remove_file(pause_file(&self.log))?;
        let paused = paused_file(&self.log);
        process::wait_for("a writer resumes", DEADLINE, || !paused.exists())?;
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = process::kill_nine(&mut self.process);
    }
}
