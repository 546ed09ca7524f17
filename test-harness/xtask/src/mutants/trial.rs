//! Building and running what must fail.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use sheen_mutants::{Proof, TestTarget};

use super::copy::SourceCopy;

/// Tests that run longer do not end.
const TEST_MAX: Duration = Duration::from_secs(240);
/// The same for a test whose bug may show in that it does not end; without the bug it takes a second.
const HANG_MAX: Duration = Duration::from_secs(30);
/// Seeds of the simulator that run longer do not end.
const SEEDS_MAX: Duration = Duration::from_secs(3600);
/// How often a process is looked after.
const LOOK: Duration = Duration::from_millis(20);
/// How much of a failure is shown.
const SHOWN_CHARACTERS: usize = 160;

/// How it ended.
#[derive(Debug)]
pub(super) enum Outcome {
    Passed,
    /// And the line that says why.
    Failed(String),
    Hung,
}

/// Runs proofs in the copy.
#[derive(Debug)]
pub(super) struct Trial<'a> {
    copy: &'a SourceCopy,
}

/// The name of a proof, for people.
pub(super) fn describe(proof: &Proof) -> String {
    match proof {
        Proof::Test(target, test) | Proof::TestOrHang(target, test) => {
            format!("{}: {test}", target.package)
        }
        Proof::Seeds(seeds) => format!("sheen-sim --seeds {seeds}"),
        Proof::CrashStates => "sheen-crash explore".to_owned(),
    }
}

impl<'a> Trial<'a> {
    pub(super) const fn new(copy: &'a SourceCopy) -> Self {
        Self { copy }
    }

    /// Runs all proofs on the copy as it is.
    ///
    /// # Errors
    /// When one does not pass.
    pub(super) fn run_unmutated(&self, proofs: &[Proof], tell: &impl Fn(&str)) -> Result<()> {
        let mut tests: BTreeMap<TestTarget, BTreeSet<&str>> = BTreeMap::new();
        let mut seeds_max = 0;
        for proof in proofs {
            match *proof {
                Proof::Test(target, test) | Proof::TestOrHang(target, test) => {
                    tests.entry(target).or_default().insert(test);
                }
                Proof::Seeds(seeds) => seeds_max = seeds_max.max(seeds),
                Proof::CrashStates => {}
            }
        }
        for (target, names) in tests {
            let names: Vec<&str> = names.into_iter().collect();
            tell(&format!("no bug planted: {} tests of {}", names.len(), target.package));
            match self.test(target, &names, TEST_MAX)? {
                Outcome::Passed => {}
                other => bail!("tests of {} without a bug: {other:?}", target.package),
            }
        }
        if seeds_max > 0 {
            tell(&format!("no bug planted: {seeds_max} seeds"));
            match self.seeds(seeds_max)? {
                Outcome::Passed => {}
                other => bail!("seeds without a bug: {other:?}"),
            }
        }
        Ok(())
    }

    /// Builds and runs one.
    ///
    /// # Errors
    /// When it cannot be built or started, or there is no such test.
    pub(super) fn run(&self, proof: &Proof) -> Result<Outcome> {
        match *proof {
            Proof::Test(target, test) => self.test(target, &[test], TEST_MAX),
            Proof::TestOrHang(target, test) => self.test(target, &[test], HANG_MAX),
            Proof::Seeds(seeds) => self.seeds(seeds),
            Proof::CrashStates => bail!("planted by `sheen-crash planted`"),
        }
    }

    fn test(&self, target: TestTarget, names: &[&str], longest: Duration) -> Result<Outcome> {
        let (program, folder) = self.build_tests(target)?;
        let mut command = Command::new(&program);
        command.arg("--exact").args(names).current_dir(folder);
        let Some((status, told)) = self.execute(command, longest)? else {
            return Ok(Outcome::Hung);
        };
        let running = format!("running {} test", names.len());
        if !told.contains(&running) {
            bail!("{} has not all of the tests {}", target.package, names.join(", "));
        }
        if status.success() {
            return Ok(Outcome::Passed);
        }
        let mut lines = told.lines().skip_while(|line| !line.contains("panicked at"));
        let place = lines.next().unwrap_or("ended without a panic").trim();
        let why = lines.next().unwrap_or_default().trim();
        let place = place.rsplit("panicked at ").next().unwrap_or(place);
        Ok(Outcome::Failed(shorten(&format!("{place} {why}"))))
    }

    fn seeds(&self, seeds: u64) -> Result<Outcome> {
        self.cargo(&["build", "--release", "--package", "sheen-sim"])?;
        let mut command = Command::new(self.copy.target.join("release/sheen-sim"));
        command.args(["--until-failure", "--seeds", &seeds.to_string()]);
        let Some((status, told)) = self.execute(command, SEEDS_MAX)? else {
            return Ok(Outcome::Hung);
        };
        if status.success() {
            return Ok(Outcome::Passed);
        }
        let why = told.lines().find(|line| line.contains(" failed: "));
        let why = why.with_context(|| format!("the simulator ended without a finding:\n{told}"))?;
        Ok(Outcome::Failed(shorten(why)))
    }

    /// Builds the tests of a target; returns their program and the folder they run in.
    fn build_tests(&self, target: TestTarget) -> Result<(PathBuf, PathBuf)> {
        let mut arguments = vec!["test", "--no-run", "--message-format=json", "--package"];
        arguments.push(target.package);
        match target.file {
            Some(file) => arguments.extend(["--test", file]),
            None => arguments.push("--lib"),
        }
        let told = self.cargo(&arguments)?;
        let artifact = told
            .lines()
            .rfind(|line| line.contains("\"test\":true}") && line.contains("\"executable\":\""))
            .with_context(|| format!("cargo names no tests of {}", target.package))?;
        let field = |name: &str| {
            let (_, rest) = artifact.split_once(&format!("\"{name}\":\""))?;
            rest.split('"').next().map(PathBuf::from)
        };
        let program = field("executable").context("the program of the tests")?;
        let manifest = field("manifest_path").context("the manifest of the tests")?;
        let folder = manifest.parent().context("the folder of a manifest")?;
        Ok((program, folder.to_owned()))
    }

    /// Runs cargo in the copy; returns its standard output.
    fn cargo(&self, arguments: &[&str]) -> Result<String> {
        let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args(arguments)
            .env("CARGO_TARGET_DIR", &self.copy.target)
            .env("CARGO_INCREMENTAL", "1")
            .current_dir(&self.copy.root)
            .output()
            .context("starting cargo")?;
        if !output.status.success() {
            let told = String::from_utf8_lossy(&output.stderr);
            let from = told.find("error").unwrap_or(0);
            bail!("the copy does not build: {}", told.get(from..).unwrap_or_default());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs a program for at most `longest`; returns how it ended and what it said. None: it was killed.
    fn execute(
        &self,
        mut command: Command,
        longest: Duration,
    ) -> Result<Option<(ExitStatus, String)>> {
        let path: &Path = &self.copy.target.join("told");
        let file = File::create(path)?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let mut running = command.spawn().context("starting a test")?;
        let begun = Instant::now();
        loop {
            if let Some(status) = running.try_wait()? {
                let told = fs::read(path)?;
                return Ok(Some((status, String::from_utf8_lossy(&told).into_owned())));
            }
            if begun.elapsed() > longest {
                running.kill()?;
                running.wait()?;
                return Ok(None);
            }
            std::thread::sleep(LOOK);
        }
    }
}

fn shorten(text: &str) -> String {
    text.chars().take(SHOWN_CHARACTERS).collect()
}
