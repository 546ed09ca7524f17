//! `soak mutants`: plants bugs in a copy of the sources, one after another, and demands that the tests of the promise fail.
//!
//! First the copy as it is must pass all those tests. A bug counts as found when a test fails, not when the copy does not compile,
//! nor when a test does not end, unless the list says that this is how it shows.

use std::{fs, process::ExitCode, time::Instant};

use anyhow::{Context, Result, bail};
use sheen_mutants::{Mutant, Proof};

mod copy;
mod trial;

use copy::SourceCopy;
use trial::{Outcome, Trial};

use crate::console;

const MUTANTS_HELP: &str = "\
Plants bugs in a copy of the sources below target/mutants, one after another, and demands that the tests named for each fail: proof
that the tests of a promise can fail. Says for each what found it. The list is in test-harness/mutants.

Usage: cargo xtask soak mutants [OPTIONS]

Options:
  --only NAME  Plant this bug alone
  --list       Name the bugs, and what each does wrong
  --tests      Run tests alone, no seeds of the simulator (its release builds take most of the time)
";

/// What is asked for.
#[derive(Debug, Default)]
struct Request {
    only: Option<String>,
    tests_alone: bool,
}

/// How one mutant fared against one proof.
#[derive(Debug)]
struct Row {
    name: &'static str,
    proof: String,
    seconds: f64,
    /// What told, or why it was not found.
    result: Result<String, String>,
}

/// Plants all of them.
///
/// # Errors
/// When one is not found.
pub(crate) fn all() -> Result<()> {
    plant(&Request::default())
}

/// Does what the command line says.
///
/// # Errors
/// When one is not found, or an option makes no sense.
pub(crate) fn mutants(arguments: &[String]) -> Result<ExitCode> {
    let mut request = Request::default();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match argument.as_str() {
            "--only" => {
                let name = rest.next().context("--only takes the name of a bug")?;
                request.only = Some(name.clone());
            }
            "--tests" => request.tests_alone = true,
            "--list" => {
                for mutant in sheen_mutants::all() {
                    console::plain(&format!("{}: {}\n", mutant.name, mutant.story));
                }
                return Ok(ExitCode::SUCCESS);
            }
            "--help" | "-h" => {
                console::plain(MUTANTS_HELP);
                return Ok(ExitCode::SUCCESS);
            }
            other => bail!("there is no option `{other}`\n\n{MUTANTS_HELP}"),
        }
    }
    plant(&request)?;
    Ok(ExitCode::SUCCESS)
}

fn plant(request: &Request) -> Result<()> {
    let chosen: Vec<&Mutant> = sheen_mutants::all()
        .filter(|mutant| request.only.as_ref().is_none_or(|name| name == mutant.name))
        .collect();
    if chosen.is_empty() {
        let names: Vec<&str> = sheen_mutants::all().map(|mutant| mutant.name).collect();
        bail!("no such bug is planted; there are: {}", names.join(", "));
    }
    let is_wanted = |proof: &&Proof| !(request.tests_alone && matches!(proof, Proof::Seeds(_)));
    let begun = Instant::now();
    let tell =
        |text: &str| console::step(&format!("{:4.0} s: {text}", begun.elapsed().as_secs_f64()));
    tell("copying the sources");
    let copy = SourceCopy::lay_out()?;
    let trial = Trial::new(&copy);
    let proofs: Vec<Proof> =
        chosen.iter().flat_map(|mutant| mutant.proofs).filter(is_wanted).copied().collect();
    trial.run_unmutated(&proofs, &tell)?;
    let mut rows = Vec::new();
    for (number, mutant) in chosen.iter().enumerate() {
        tell(&format!("bug {} of {}: {}", number + 1, chosen.len(), mutant.name));
        let file = copy.root.join(mutant.file);
        let original = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        fs::write(&file, mutant.planted(&original)?)?;
        for proof in mutant.proofs.iter().filter(is_wanted) {
            let begun = Instant::now();
            let outcome = trial.run(proof);
            let seconds = begun.elapsed().as_secs_f64();
            let row = judge(mutant, proof, outcome, seconds);
            tell(&format!("    {}", row.result.as_ref().unwrap_or_else(|why| why)));
            rows.push(row);
        }
        fs::write(&file, original)?;
    }
    report(&rows, chosen.len(), begun.elapsed().as_secs_f64())
}

fn judge(mutant: &'static Mutant, proof: &Proof, outcome: Result<Outcome>, seconds: f64) -> Row {
    let may_hang = matches!(proof, Proof::TestOrHang(..));
    let result = match outcome {
        Ok(Outcome::Failed(why)) => Ok(why),
        Ok(Outcome::Hung) if may_hang => Ok("does not end".to_owned()),
        Ok(Outcome::Hung) => Err("NOT FOUND: does not end, which is no finding".to_owned()),
        Ok(Outcome::Passed) => Err("NOT FOUND: it passes".to_owned()),
        Err(error) => Err(format!("NOT TRIED: {error:#}")),
    };
    Row { name: mutant.name, proof: trial::describe(proof), seconds, result }
}

fn report(rows: &[Row], mutants: usize, seconds: f64) -> Result<()> {
    let width = rows.iter().map(|row| row.name.len()).max().unwrap_or(0);
    for Row { name, proof, seconds, result } in rows {
        let told = result.as_ref().unwrap_or_else(|why| why);
        console::plain(&format!(
            "{name:width$}  {seconds:5.0} s  {proof}\n{:width$}           {told}\n",
            ""
        ));
    }
    let missed: Vec<&str> =
        rows.iter().filter(|row| row.result.is_err()).map(|row| row.name).collect();
    if !missed.is_empty() {
        bail!(
            "{} proofs of {} did not find their bug: {}",
            missed.len(),
            rows.len(),
            missed.join(", ")
        );
    }
    console::plain(&format!("{mutants} bugs found by {} proofs in {seconds:.0} s\n", rows.len()));
    Ok(())
}
