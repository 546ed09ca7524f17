//! Many small files: create and close, stat, by four processes, on Sheen and on the pass-through file system in turn.
//!
//! Each process is this program called again; the time is from the moment all are told to begin to the last one's end.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use sheen_conformance::cluster::drop_kernel_caches;
use sheen_conformance::report::line;

use crate::block_io::Places;
use crate::samples::Samples;
use crate::table::{Better, Goal, Table};

/// The word that makes the program a worker.
pub const WORD: &str = "small-files-worker";
/// Processes that work at the same time.
const WORKERS: u32 = 4;

/// What is measured, in order.
const PHASES: [(&str, &str); 4] = [
    ("create", "create and close a file, 4 processes"),
    ("stat", "stat right after creating, 4 processes"),
    ("stat", "stat with kernel caches dropped, 4 processes"),
    ("unlink", "unlink, 4 processes"),
];

/// Measures `files` files a round and adds the rates to the table.
///
/// # Errors
/// When a worker fails.
pub fn run(
    table: &mut Table,
    places: &Places<'_>,
    files: u32,
    rounds: u32,
    goal: f64,
) -> Result<()> {
    let mut sheen: [Samples; 4] = Default::default();
    let mut other: [Samples; 4] = Default::default();
    for round in 1..=rounds {
        let mut turns = [(places.sheen, &mut sheen), (places.other, &mut other)];
        turns.rotate_left(usize::from(round % 2 == 0));
        for (directory, samples) in turns {
            let work = directory.join(format!("small-files-{round}"));
            std::fs::create_dir(&work)?;
            for (number, (phase, _)) in PHASES.iter().enumerate() {
                if number == 2 {
                    drop_kernel_caches()?;
                }
                samples[number].push(one_phase(&work, phase, files)?);
            }
            std::fs::remove_dir_all(&work)?;
        }
        line(format_args!("small files: round {round} of {rounds}"));
    }
    for (number, (_, name)) in PHASES.iter().enumerate() {
        let goal = (number < 2).then_some(Goal { bound: goal, better: Better::Higher });
        table.compare(name, "per s", &sheen[number], (places.other_name, &other[number]), goal);
    }
    Ok(())
}

/// A worker process; killed when dropped.
struct Worker(Child);

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs one phase with all workers; gives files a second.
fn one_phase(work: &Path, phase: &str, files: u32) -> Result<f64> {
    let each = files / WORKERS;
    let mut workers = Vec::new();
    for number in 0..WORKERS {
        let mut command = Command::new(std::env::current_exe()?);
        command.args([WORD, phase]).arg(work.join(number.to_string())).arg(each.to_string());
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        workers.push(Worker(child));
    }
    let mut outputs = Vec::new();
    for worker in &mut workers {
        let mut output = BufReader::new(worker.0.stdout.take().context("no output")?);
        expect(&mut output, "ready")?;
        outputs.push(output);
    }
    let begin = Instant::now();
    for worker in &mut workers {
        let mut input = worker.0.stdin.take().context("no input")?;
        input.write_all(b"go\n")?;
    }
    for output in &mut outputs {
        expect(output, "over")?;
    }
    Ok(f64::from(each * WORKERS) / begin.elapsed().as_secs_f64())
}

fn expect(output: &mut impl BufRead, word: &str) -> Result<()> {
    let mut said = String::new();
    output.read_line(&mut said)?;
    ensure!(said.trim_end() == word, "a worker says {said:?} instead of {word}");
    Ok(())
}

/// What a worker process does.
///
/// # Errors
/// When a file operation fails.
pub fn work(phase: &str, directory: &Path, files: u32) -> Result<()> {
    if phase == "create" {
        std::fs::create_dir(directory)?;
    }
    line("ready");
    let mut go = String::new();
    std::io::stdin().lock().read_line(&mut go)?;
    for number in 0..files {
        let path = directory.join(format!("file-{number}"));
        match phase {
            "create" => drop(File::create_new(path)?),
            "stat" => ensure!(std::fs::metadata(path)?.is_file()),
            _ => std::fs::remove_file(path)?,
        }
    }
    line("over");
    Ok(())
}
