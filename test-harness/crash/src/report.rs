//! What the program prints, for people and as JSON.

use std::{
    io::Write as _,
    process::ExitCode,
    time::{Duration, Instant},
};

use serde_json::json;
use sheen_crash::{
    explore::{Counts, Finding},
    history::Crash,
    medium::Cache,
    states::Shape,
    sweep::{self, Swept},
};

/// Pause between two progress lines.
const PAUSE: Duration = Duration::from_secs(10);

/// A line on standard output.
pub(crate) fn line(text: &str) {
    // A reader that went away wants no more lines.
    let _ = writeln!(std::io::stdout(), "{text}");
}

fn error_line(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// The end of a task that printed what it had to say.
pub(crate) fn ended(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error_line(&format!("failed: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Says now and then how far it is, and names the seed if the store panics.
#[derive(Debug)]
pub(crate) struct Progress {
    shown: Instant,
    silent: bool,
}

impl Progress {
    pub(crate) fn new(silent: bool) -> Self {
        Self { shown: Instant::now(), silent }
    }

    pub(crate) fn explored(&mut self, seed: u64, counts: &Counts) {
        name_panics(replay(seed));
        if !self.silent && self.shown.elapsed() >= PAUSE {
            self.shown = Instant::now();
            line(&format!("{} distinct states of {} histories", counts.total(), counts.histories));
        }
    }
}

/// A panic from now on tells how to repeat it.
pub(crate) fn name_panics(replay: String) {
    std::panic::set_hook(Box::new(move |panic| {
        error_line(&format!("failed: {panic}\n{replay}"));
    }));
}

fn replay(seed: u64) -> String {
    format!(
        "replay: cargo run --release --package sheen-crash -- explore --first {seed} --histories 1 --log 1000"
    )
}

/// The end of an exploration.
pub(crate) fn explored(counts: &Counts, finding: Option<&Finding>, json: bool) {
    if json {
        line(&as_json(counts, finding).to_string());
        return;
    }
    for (&(cache, crash, shape), &count) in &counts.distinct {
        let crash = match crash {
            Crash::Power => "power fails",
            Crash::Kill => "process dies",
        };
        line(&format!("{count:>9}  {}, {crash}, {}", cache.name(), shape.name()));
    }
    let rate = rate(counts.total(), counts.seconds);
    line(&format!(
        "{} distinct states ({} judged, {} undecided) of {} histories with {} checkpoints ({} new bases), {} moments, in {:.1} s: {rate:.0}/s",
        counts.total(),
        counts.judged,
        counts.undecided,
        counts.histories,
        counts.checkpoints,
        counts.bases,
        counts.moments,
        counts.seconds,
    ));
    match finding {
        None => line("every state keeps the promise"),
        Some(finding) => {
            for entry in &finding.log {
                line(&format!("  {entry}"));
            }
            line(&format!("failed: seed {}: {}", finding.seed, finding.violation));
            line(&format!("state: {}", finding.state));
            line(&replay(finding.seed));
        }
    }
}

fn rate(count: u64, seconds: f64) -> f64 {
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    if seconds > 0.0 { f64::from(count) / seconds } else { 0.0 }
}

fn as_json(counts: &Counts, finding: Option<&Finding>) -> serde_json::Value {
    let mut kinds = Vec::new();
    for cache in Cache::ALL {
        for crash in [Crash::Power, Crash::Kill] {
            for shape in Shape::ALL {
                if let Some(count) = counts.distinct.get(&(cache, crash, shape)) {
                    kinds.push(json!({
                        "device": cache.name(),
                        "crash": format!("{crash:?}"),
                        "shape": shape.name(),
                        "states": count,
                    }));
                }
            }
        }
    }
    json!({
        "distinct": counts.total(),
        "judged": counts.judged,
        "undecided": counts.undecided,
        "histories": counts.histories,
        "moments": counts.moments,
        "checkpoints": counts.checkpoints,
        "bases": counts.bases,
        "seconds": counts.seconds,
        "per_second": rate(counts.total(), counts.seconds),
        "kinds": kinds,
        "failure": finding.map(|finding| json!({
            "seed": finding.seed,
            "violation": finding.violation.to_string(),
            "state": finding.state,
            "replay": replay(finding.seed),
        })),
    })
}

/// Runs a sweep and tells of it.
pub(crate) fn swept(damages: u64, seed: u64, json: bool) -> ExitCode {
    let begun = Instant::now();
    name_panics(format!("replay: sheen-crash sweep --damages {damages} --seed {seed}"));
    let swept = match sweep::sweep_new(damages, seed) {
        Ok(swept) => swept,
        Err(why) => return ended(Err(anyhow::anyhow!(why))),
    };
    let seconds = begun.elapsed().as_secs_f64();
    let ends = swept.ends.iter().map(|((kind, end), count)| (format!("{kind:?}: {end:?}"), *count));
    if json {
        let ends: Vec<_> =
            ends.map(|(what, count)| json!({ "what": what, "count": count })).collect();
        let Swept { damages, objects, .. } = swept;
        line(
            &json!({ "damages": damages, "objects": objects, "seconds": seconds, "ends": ends })
                .to_string(),
        );
        return ExitCode::SUCCESS;
    }
    for (what, count) in ends {
        line(&format!("{count:>7}  {what}"));
    }
    line(&format!(
        "{} damages of an image with {} objects in {seconds:.1} s: no wrong byte was read, every fault was named",
        swept.damages, swept.objects
    ));
    ExitCode::SUCCESS
}
