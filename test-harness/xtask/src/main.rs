//! The task runner: `cargo xtask up | down | test | soak | bench | tidy | fix`.
//!
//! Depends on nothing but the standard library, `anyhow` and a list of bugs to plant, so that it builds in seconds on a machine that has only
//! Rust. Everything a user can do without the repository is a `sheen` subcommand; here is what needs the sources.
#![forbid(unsafe_code)]

use std::process::ExitCode;

mod console;
mod packages;
mod command;
mod up;
mod stages;
mod test;
mod soak;
mod mutants;
mod nvme;
mod crash;
mod programs;
mod rows;
mod fuzz;
mod tidy;

use anyhow::{Result, bail};

const HELP: &str = "\
Builds, runs and checks Sheen.

Usage: cargo xtask <COMMAND> [OPTIONS]

Commands:
  up      Install what is missing, build, start one node, create a file system and mount it
  down    Unmount and stop what `up` started; the data stays
  test    Run every test of the project (what CI runs)
  soak    Look for faults nobody has seen yet, with new seeds, for as long as told
  bench   Measure, side by side with what we compare with, and print ratios
  tidy    Check the rules of the style guide that a program can check
  fix     Format the sources

`cargo xtask <COMMAND> --help` tells more.
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(code) => code,
        Err(error) => {
            console::error(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<ExitCode> {
    let (command, rest) = match arguments.split_first() {
        Some((command, rest)) => (command.as_str(), rest),
        None => ("help", &[][..]),
    };
    match command {
        "up" => up::up(rest),
        "down" => up::down(rest),
        "test" => test::test(rest),
        "soak" => soak::soak(rest),
        "bench" => test::bench(rest),
        "tidy" => tidy::tidy(rest),
        "fix" => command::Step::cargo(&["fmt", "--all"]).run().map(|()| ExitCode::SUCCESS),
        "help" | "--help" | "-h" => {
            console::plain(HELP);
            Ok(ExitCode::SUCCESS)
        }
        other => bail!("there is no task `{other}`\n\n{HELP}"),
    }
}
