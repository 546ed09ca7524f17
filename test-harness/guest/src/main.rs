//! `sheen-guest`: makes the guest, runs commands in it.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};
use sheen_conformance::report::line;
use sheen_conformance::{cluster, interruption};
use sheen_guest::hardware::Hardware;
use sheen_guest::image::Image;
use sheen_guest::machine::{Added, Machine, Ran, Run};
use sheen_guest::programs;

/// Tests Sheen on a Linux of its own, with NVMe controllers behind an IOMMU.
#[derive(Debug, Parser)]
struct Arguments {
    /// Where images are kept and runs have their scratch space [default: target/guest]
    #[arg(long, value_name = "DIR", global = true)]
    cache: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make the image, when there is none yet
    Image,
    /// Boot and run a shell command
    Run {
        /// Longest time from power-on, in seconds
        #[arg(long, value_name = "SECONDS", default_value_t = 300)]
        deadline: u64,
        /// A file of this machine the guest gets, as FROM:TO
        #[arg(long = "add", value_name = "FROM:TO")]
        added: Vec<String>,
        /// Further arguments for the kernel
        #[arg(long, value_name = "TEXT", default_value = "")]
        kernel: String,
        /// Give the guest `sheen`, the suite and its tools
        #[arg(long)]
        programs: bool,
        /// The command
        #[arg(required = true, trailing_var_arg = true)]
        command: Vec<String>,
    },
    /// Boot and run the suite: everything, or the items named
    Suite {
        /// Longest time from power-on, in seconds
        #[arg(long, value_name = "SECONDS", default_value_t = 900)]
        deadline: u64,
        /// Items to run [default: all]
        items: Vec<String>,
    },
}

fn main() -> ExitCode {
    let outcome = interruption::prepare().and_then(|()| run(Arguments::parse()));
    match outcome {
        Ok(code) => code,
        Err(error) => {
            line(format_args!("sheen-guest: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<ExitCode> {
    let cache = arguments.cache.unwrap_or_else(|| cluster::workspace_root().join("target/guest"));
    std::fs::create_dir_all(&cache)?;
    let cache = cache.canonicalize()?;
    let begun = Instant::now();
    let image = Image::prepared(&cache)?;
    line(format_args!(
        "image: kernel {}, {:.1} MiB, ready in {:.1} s",
        image.version,
        mebibytes(std::fs::metadata(&image.root)?.len()),
        begun.elapsed().as_secs_f64()
    ));
    let run = match arguments.command {
        Command::Image => return Ok(ExitCode::SUCCESS),
        Command::Run { deadline, added, kernel, programs, command } => {
            let mut files: Vec<Added> =
                added.iter().map(|text| parse_added(text)).collect::<Result<_>>()?;
            if programs {
                files.extend(programs::for_guest(&cache)?);
            }
            Run {
                script: command.join(" "),
                added: files,
                deadline: Duration::from_secs(deadline),
                hardware: Hardware::default(),
                kernel_arguments: kernel,
            }
        }
        Command::Suite { deadline, items } => Run {
            script: format!("sheen-guest-suite {}", items.join(" ")),
            added: programs::for_guest(&cache)?,
            deadline: Duration::from_secs(deadline),
            hardware: Hardware::default(),
            kernel_arguments: String::new(),
        },
    };
    let ran = Machine::start(&image, &run, &cache)?.finish()?;
    tell(&ran);
    Ok(if ran.code == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn parse_added(text: &str) -> Result<Added> {
    match text.split_once(':') {
        Some((from, to)) => Ok(Added { from: from.into(), to: to.into() }),
        None => bail!("`{text}` is not FROM:TO"),
    }
}

fn tell(ran: &Ran) {
    line(format_args!(
        "guest: exit code {}, first output after {:.1} s, powered off after {:.1} s",
        ran.code,
        ran.boot.as_secs_f64(),
        ran.whole.as_secs_f64()
    ));
}

fn mebibytes(bytes: u64) -> f64 {
    // A size in an archive of some hundred MiB; a float holds it exactly.
    f64::from(u32::try_from(bytes >> 10).unwrap_or(u32::MAX)) / 1024.0
}
