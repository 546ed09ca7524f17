//! Running litmuses: rounds with changing roles, failures counted, the first ones told.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::holder::Holder;
use crate::peer::Peer;

/// A litmus that fails this often is not run further.
const FAILURES_MAX: u64 = 20;

/// What one round of a litmus is given.
#[derive(Debug)]
pub struct Round<'a> {
    /// The litmus's directory as seen by the side that acts first.
    pub here: PathBuf,
    /// The same directory as seen by the other side.
    pub there: PathBuf,
    /// Counts from one; stamps follow from it.
    pub number: u64,
    /// The thread of the other side.
    pub peer: &'a Peer,
    /// The process of the other side.
    pub holder: &'a mut Holder,
}

/// One litmus.
#[derive(Debug, Clone, Copy)]
pub struct Litmus {
    /// Its name, as on the command line.
    pub name: &'static str,
    /// What it claims.
    pub claim: &'static str,
    /// One round; an error is a failure of the claim.
    pub round: fn(&mut Round<'_>) -> Result<()>,
}

/// What came of a litmus.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// Its name.
    pub name: &'static str,
    /// Rounds run.
    pub rounds: u64,
    /// Rounds that failed.
    pub failures: u64,
    /// The first failures.
    pub reasons: Vec<String>,
    /// How long it took, in seconds.
    pub seconds: f64,
}

/// Two directories that should be the same.
#[derive(Debug)]
pub struct Pair {
    /// As one client sees it.
    pub one: PathBuf,
    /// As the other client sees it.
    pub other: PathBuf,
    /// This program, called again as lock holder.
    pub program: PathBuf,
    /// Counts rounds begun, for whoever watches that it does not hang.
    pub progress: Arc<AtomicU64>,
}

impl Pair {
    /// A pair of directories, and the program that serves as lock holder.
    #[must_use]
    pub fn new(one: &Path, other: &Path, program: &Path) -> Self {
        Self {
            one: one.to_path_buf(),
            other: other.to_path_buf(),
            program: program.to_path_buf(),
            progress: Arc::default(),
        }
    }

    /// Runs `rounds` rounds of a litmus.
    ///
    /// # Errors
    /// When it cannot be run at all; failures of the claim are in the outcome.
    pub fn run(&self, litmus: &Litmus, rounds: u64) -> Result<Outcome> {
        let begin = Instant::now();
        let mut peer = Peer::start();
        let mut holder = Holder::start(&self.program)?;
        let one = fresh(&self.one, litmus.name)?;
        // In a coherent pair this exists already; in another one the litmus shall fail for its own reason.
        let other = self.other.join(litmus.name);
        fs::create_dir_all(&other)?;
        let mut outcome = Outcome {
            name: litmus.name,
            rounds: 0,
            failures: 0,
            reasons: Vec::new(),
            seconds: 0.0,
        };
        for number in 1..=rounds {
            let (here, there) = if number % 2 == 1 { (&one, &other) } else { (&other, &one) };
            let mut round = Round {
                here: here.clone(),
                there: there.clone(),
                number,
                peer: &peer,
                holder: &mut holder,
            };
            outcome.rounds += 1;
            self.progress.fetch_add(1, Ordering::Relaxed);
            if let Err(error) = (litmus.round)(&mut round) {
                outcome.failures += 1;
                if outcome.reasons.len() < 3 {
                    outcome.reasons.push(format!("round {number}: {error:#}"));
                }
                // The other side may be in the middle of something, holding locks.
                peer = Peer::start();
                holder = Holder::start(&self.program)?;
            }
            if outcome.failures >= FAILURES_MAX {
                break;
            }
        }
        outcome.seconds = begin.elapsed().as_secs_f64();
        if outcome.failures == 0 {
            fs::remove_dir_all(&one).context("removing the litmus's directory")?;
        }
        Ok(outcome)
    }
}

fn fresh(parent: &Path, name: &str) -> Result<PathBuf> {
    let path = parent.join(name);
    if path.exists() {
        fs::remove_dir_all(&path)?;
    }
    fs::create_dir(&path).with_context(|| format!("making {}", path.display()))?;
    Ok(path)
}
