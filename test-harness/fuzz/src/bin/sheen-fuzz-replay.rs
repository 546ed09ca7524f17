//! Runs every target on its seeds, on the inputs kept in `regressions`, and on a fixed number of changed seeds: the same run each
//! time.
//!
//! Usage: `sheen-fuzz-replay [--mutations N] [--seed S] [--targets NAME,NAME] [--only N]`. A target that stops on an input
//! says which: by `--targets NAME --seed S --only N` it is run again alone.
#![forbid(unsafe_code)]

use std::{
    fs,
    io::{Write, stdout},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Mutex,
    time::Instant,
};

use anyhow::{Context, Result, bail};
use sheen_fuzz::{Mutations, TARGETS, Target};

/// What is run now, for the report of a panic.
static CURRENT: Mutex<Option<(String, Vec<u8>)>> = Mutex::new(None);

struct Options {
    mutations: u64,
    seed: u64,
    targets: Vec<Target>,
    only: Option<u64>,
}

impl Options {
    fn parse() -> Result<Self> {
        let mut options = Self { mutations: 1000, seed: 1, targets: TARGETS.to_vec(), only: None };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let value = words.next().with_context(|| format!("`{word}` needs a value"))?;
            let number = || value.parse().with_context(|| format!("`{word} {value}`"));
            match word.as_str() {
                "--mutations" => options.mutations = number()?,
                "--seed" => options.seed = number()?,
                "--only" => options.only = Some(number()?),
                "--targets" => {
                    let named = |name| {
                        Target::named(name).with_context(|| {
                            let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
                            format!("no fuzz target `{name}`; there are: {}", names.join(", "))
                        })
                    };
                    options.targets = value.split(',').map(named).collect::<Result<_>>()?;
                }
                _ => bail!("unknown option `{word}`"),
            }
        }
        Ok(options)
    }
}

fn main() -> Result<ExitCode> {
    let options = Options::parse()?;
    report_panics();
    for target in &options.targets {
        let begun = Instant::now();
        let (kept, mutations) = run(target, &options)?;
        let time = begun.elapsed().as_secs_f64();
        let line = format!("{}: {kept} kept inputs, {mutations} changed, {time:.1} s", target.name);
        // Nobody reads any more: nothing to do about it.
        let _ = writeln!(stdout(), "{line}");
    }
    Ok(ExitCode::SUCCESS)
}

/// How many inputs were kept ones and how many changed ones.
fn run(target: &Target, options: &Options) -> Result<(usize, u64)> {
    let mut mutations = Mutations::new(target, options.seed);
    if let Some(only) = options.only {
        let input = (0..=only).map(|_| mutations.next_input()).last().unwrap_or_default();
        run_one(target, "only".to_owned(), &input);
        return Ok((0, 1));
    }
    let mut kept = 0;
    for (number, seed) in target.seeds().iter().enumerate() {
        run_one(target, format!("seed {number}"), seed);
        kept += 1;
    }
    for path in regressions(target)? {
        let input = fs::read(&path).with_context(|| path.display().to_string())?;
        run_one(target, path.display().to_string(), &input);
        kept += 1;
    }
    for number in 0..options.mutations {
        let name = format!("--seed {} --only {number}", options.seed);
        run_one(target, name, &mutations.next_input());
    }
    Ok((kept, options.mutations))
}

fn run_one(target: &Target, name: String, input: &[u8]) {
    if let Ok(mut current) = CURRENT.lock() {
        *current = Some((format!("--targets {} {name}", target.name), input.to_vec()));
    }
    target.run(input);
}

/// The inputs kept for a target, in order of their names.
fn regressions(target: &Target) -> Result<Vec<PathBuf>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions").join(target.name);
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let entries = fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

/// Lets a panic say on which input; the process ends behind it.
fn report_panics() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        before(panic);
        let current = CURRENT.lock().ok().and_then(|mut current| current.take());
        if let Some((name, input)) = current {
            let hex: String = input.iter().map(|byte| format!("{byte:02x}")).collect();
            let _ = writeln!(std::io::stderr(), "stopped on: {name}\nits bytes in hex: {hex}");
        }
        std::process::exit(1);
    }));
}
