//! SQLite: writers are killed in the middle of transactions; what was committed is there, nothing in part.
//!
//! Two writers share the database, so its file locks are used as well. Once with a rollback journal, once with a
//! write-ahead log, whose index is a file mapped by both.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};

use super::Context;
use crate::random::Random;
use crate::{process, programs};

const CHECK: &str = "sqlite";
const DEADLINE: Duration = Duration::from_secs(180);
const SCRIPT: &str = include_str!("../../scripts/sqlite_writer.py");
const WRITERS: u32 = 2;

/// Runs the check.
pub fn run(context: &mut Context<'_>) {
    let Some((work, scratch)) = context.prepared(CHECK) else { return };
    let rounds = context.rounds.unwrap_or(context.effort.pick(5, 20));
    for mode in ["delete", "wal"] {
        let mut random = Random::new(context.seed);
        let name = format!("{rounds} kills of 2 writers, journal mode {mode}");
        context.report.case(CHECK, &name, || {
            programs::require(&[programs::PYTHON])?;
            let session = Session::new(&work, &scratch, mode)?;
            let mut last = String::new();
            for round in 1..=rounds {
                last = session.round(&mut random).with_context(|| format!("round {round}"))?;
            }
            Ok(last)
        });
    }
    context.remove(CHECK, &work);
}

struct Session {
    script: PathBuf,
    database: PathBuf,
    scratch: PathBuf,
    mode: String,
}

impl Session {
    fn new(work: &Path, scratch: &Path, mode: &str) -> anyhow::Result<Self> {
        let script = scratch.join("writer.py");
        std::fs::write(&script, SCRIPT)?;
        let database = work.join(format!("{mode}.db"));
        Ok(Self { script, database, scratch: scratch.to_path_buf(), mode: mode.to_owned() })
    }

    fn round(&self, random: &mut Random) -> anyhow::Result<String> {
        let goals: Vec<usize> = (0..WRITERS).map(|writer| self.acknowledged(writer) + 8).collect();
        let mut writers = Vec::new();
        for writer in 0..WRITERS {
            writers.push(Writer(self.start(writer)?));
        }
        // A round in which nothing was committed tests nothing.
        let committed = process::wait_for("commits of each writer", DEADLINE, || {
            let ended = |writer: &mut Writer| !matches!(writer.0.try_wait(), Ok(None));
            (0..).zip(&goals).all(|(writer, goal)| self.acknowledged(writer) >= *goal)
                || writers.iter_mut().any(ended)
        });
        std::thread::sleep(Duration::from_millis(20 + random.below(300)));
        for writer in &mut writers {
            writer.end(&self.scratch)?;
        }
        committed?;
        self.check()
    }

    fn start(&self, writer: u32) -> anyhow::Result<Child> {
        let mut command = Command::new("python3");
        command.arg(&self.script).arg("write").arg(&self.database).arg(self.log(writer));
        command.arg(writer.to_string()).arg(&self.mode);
        let errors = std::fs::File::create(self.scratch.join("writer.err"))?;
        Ok(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors).spawn()?)
    }

    fn log(&self, writer: u32) -> PathBuf {
        self.scratch.join(format!("{}-{writer}.log", self.mode))
    }

    fn acknowledged(&self, writer: u32) -> usize {
        std::fs::read_to_string(self.log(writer)).map_or(0, |text| text.lines().count())
    }

    fn check(&self) -> anyhow::Result<String> {
        let mut command = Command::new("python3");
        command.arg(&self.script).arg("check").arg(&self.database);
        command.args((0..WRITERS).map(|writer| self.log(writer)));
        let said = process::run(&mut command, DEADLINE)?;
        ensure!(!said.is_empty(), "the check said nothing");
        Ok(said.trim().to_owned())
    }
}

/// A writer process, killed at the latest when dropped.
struct Writer(Child);

impl Writer {
    fn end(&mut self, scratch: &Path) -> anyhow::Result<()> {
        if let Some(status) = process::wait_until(&mut self.0, Instant::now())? {
            let said = std::fs::read_to_string(scratch.join("writer.err")).unwrap_or_default();
            bail!("a writer ended by itself ({status}): {}", process::tail(&said, 400));
        }
        process::kill_nine(&mut self.0)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = process::kill_nine(&mut self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_killed_writer_loses_nothing_and_a_lost_transaction_is_found() {
        let work = tempfile::tempdir().unwrap();
        let scratch = tempfile::tempdir().unwrap();
        for mode in ["delete", "wal"] {
            let session = Session::new(work.path(), scratch.path(), mode).unwrap();
            session.round(&mut Random::new(1)).unwrap();
            let mut log = std::fs::File::options().append(true).open(session.log(0)).unwrap();
            log.write_all(b"0 99999999\n").unwrap();
            let text = session.check().unwrap_err().to_string();
            assert!(text.contains("1 acknowledged transactions are lost"), "{text}");
        }
    }

    #[test]
    fn a_transaction_in_part_is_found() {
        let work = tempfile::tempdir().unwrap();
        let scratch = tempfile::tempdir().unwrap();
        let session = Session::new(work.path(), scratch.path(), "delete").unwrap();
        session.round(&mut Random::new(1)).unwrap();
        let script = "import sqlite3,sys; c = sqlite3.connect(sys.argv[1]); \
                      c.execute('DELETE FROM rows WHERE number = 3 AND row = 1'); c.commit()";
        let mut command = Command::new("python3");
        process::run(command.args(["-c", script]).arg(&session.database), DEADLINE).unwrap();
        let text = session.check().unwrap_err().to_string();
        assert!(text.contains("transactions in part"), "{text}");
    }
}
