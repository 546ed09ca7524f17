//! Every decoder of what lies on a device, on damaged bytes. A test run replays: seeds, kept inputs, and changes of seeds that
//! follow from a fixed number, so that its outcome depends on the sources alone. A soak looks for new inputs, under libFuzzer, with
//! coverage, debug assertions and overflow checks on.
//!
//! The fuzzer is a build of its own in `target/fuzz`: coverage counters are compiled into every crate of ours and of others. Corpora
//! and inputs that stopped a decoder stay there; the latter belong into `test-harness/fuzz/regressions/TARGET`.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail};

use crate::{
    command::{Step, target, workspace},
    console, packages, programs,
};

/// LLVM's coverage for libFuzzer, as a stable compiler takes it.
const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares";
/// With a target named, build scripts and procedural macros are built without coverage.
const TRIPLE: &str = "x86_64-unknown-linux-gnu";
/// Fuzzers at a time.
const SIDE_BY_SIDE: usize = 2;

/// Changed inputs of each target in a test run: half a minute together.
const MUTATIONS: &str = "2000";
/// What they follow from.
const MUTATIONS_SEED: &str = "1";

/// Runs every target on what is kept, and on a fixed number of changes of it.
///
/// # Errors
/// When an input stops a decoder.
pub(crate) fn replay() -> Result<()> {
    let mutations = std::env::var("SHEEN_FUZZ_MUTATIONS").unwrap_or_else(|_| MUTATIONS.to_owned());
    let seed = std::env::var("SHEEN_FUZZ_SEED").unwrap_or_else(|_| MUTATIONS_SEED.to_owned());
    let mut arguments = vec!["--mutations", &mutations, "--seed", &seed];
    let targets = std::env::var("SHEEN_FUZZ_TARGETS").ok();
    if let Some(targets) = &targets {
        arguments.extend(["--targets", targets]);
    }
    programs::run("sheen-fuzz-replay", &arguments)
}

/// Looks for new inputs, for `SHEEN_FUZZ_SECONDS` with each target.
///
/// # Errors
/// When an input stops a decoder.
pub(crate) fn soak() -> Result<()> {
    packages::ensure(packages::FUZZ)?;
    let folder = target().join("fuzz");
    let shown = folder.display().to_string();
    let build = [
        "build",
        "--release",
        "-p",
        "sheen-fuzz",
        "--bin",
        "sheen-fuzz",
        "--features",
        "libfuzzer",
    ];
    Step::cargo(&[&build[..], &["--target", TRIPLE, "--target-dir", &shown]].concat())
        .env("RUSTFLAGS", COVERAGE)
        .env("CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS", "true")
        .run()?;
    let program = folder.join(TRIPLE).join("release/sheen-fuzz");
    let corpus = folder.join("corpus");
    let seeds = corpus.display().to_string();
    let shown = program.display().to_string();
    Step::new::<&str>(&shown, &[]).env("SHEEN_FUZZ_WRITE_SEEDS", &seeds).run()?;
    let seconds = std::env::var("SHEEN_FUZZ_SECONDS").unwrap_or_else(|_| "60".to_owned());
    let seed = std::env::var("SHEEN_FUZZ_SEED").unwrap_or_else(|_| fresh_seed());
    let names = names(&corpus)?;
    console::step(&format!(
        "fuzzing {} targets, {seconds} s each; SHEEN_FUZZ_SEED={seed} begins like this again",
        names.len()
    ));
    let mut failed = Vec::new();
    for names in names.chunks(SIDE_BY_SIDE) {
        let runs = names.iter().map(|name| Run::start(&program, &folder, name, (&seconds, &seed)));
        let runs: Vec<Run> = runs.collect::<Result<_>>()?;
        for run in runs {
            failed.extend(run.end()?);
        }
    }
    if failed.is_empty() {
        Ok(())
    } else {
        bail!("inputs stopped a decoder:\n{}", failed.join("\n"))
    }
}

/// A number nobody used, from the clock: 32 bits, as the fuzzer takes them, and not 0, which it takes for none.
pub(crate) fn fresh_seed() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (since.subsec_nanos() ^ u32::try_from(since.as_secs() & 0xffff_ffff).unwrap_or(0))
        .max(1)
        .to_string()
}

/// The targets there are seeds for, or those asked for.
fn names(corpus: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(corpus).with_context(|| corpus.display().to_string())? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    if let Ok(asked) = std::env::var("SHEEN_FUZZ_TARGETS") {
        let asked: Vec<String> = asked.split(',').map(str::to_owned).collect();
        if let Some(unknown) = asked.iter().find(|name| !names.contains(name)) {
            bail!("there is no fuzz target `{unknown}`; there are: {}", names.join(", "));
        }
        return Ok(asked);
    }
    Ok(names)
}

/// A fuzzer that runs.
struct Run {
    name: String,
    child: Child,
    log: PathBuf,
    artifacts: PathBuf,
}

impl Run {
    fn start(
        program: &Path,
        folder: &Path,
        name: &str,
        (seconds, seed): (&str, &str),
    ) -> Result<Self> {
        let artifacts = folder.join("artifacts").join(name);
        fs::create_dir_all(&artifacts)?;
        let log = artifacts.join("log");
        let output = File::create(&log)?;
        // What is kept is where many new ones begin.
        let kept = workspace().join("test-harness/fuzz/regressions").join(name);
        let child = Command::new(program)
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-seed={seed}"))
            .arg(format!("-artifact_prefix={}/", artifacts.display()))
            .args(["-max_len=16384", "-timeout=30", "-rss_limit_mb=2048", "-print_final_stats=1"])
            .arg(folder.join("corpus").join(name))
            .args(Some(kept).filter(|kept| kept.exists()))
            .env("SHEEN_FUZZ_TARGET", name)
            .stdout(Stdio::null())
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Self { name: name.to_owned(), child, log, artifacts })
    }

    /// Waits for it. Some: what went wrong.
    fn end(mut self) -> Result<Option<String>> {
        let status = self.child.wait()?;
        let log = String::from_utf8_lossy(&fs::read(&self.log)?).into_owned();
        let last = |mark: &str| {
            let line = log.lines().rev().find(|line| line.contains(mark)).unwrap_or_default();
            line.split_whitespace().skip_while(|word| !word.contains(mark)).nth(1).unwrap_or("?")
        };
        let (name, runs) = (&self.name, last("number_of_executed_units:"));
        console::plain(&format!("fuzz {name}: {runs} inputs, coverage {}\n", last("cov:")));
        if status.success() {
            return Ok(None);
        }
        let panic = log.lines().skip_while(|line| !line.contains("panicked at"));
        let panic: Vec<&str> = panic.take(2).collect();
        Ok(Some(format!("{name}: {} ({})", panic.join(" "), self.artifacts.display())))
    }
}
