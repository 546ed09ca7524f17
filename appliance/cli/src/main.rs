//! `sheen`: the one program of the appliance.
//!
//! Parses what was asked, hands it to one file per command, prints the answer. Decides nothing itself.
#![forbid(unsafe_code)]

use std::{ffi::OsString, path::Path, process::ExitCode};

mod arguments;
mod answer;
mod owner;
mod failure;
mod shown_identity;
mod source;
mod http;
mod admin;
mod notify;
mod log;
mod process;
mod commands;

use clap::Parser;

use arguments::{Arguments, Command};
use failure::{Failure, FailureKind};

/// Exit code of what was not done.
const FAILED: u8 = 1;
/// Exit code of a wrong command line.
const USAGE: u8 = 2;
/// The same of `sheen fsck`, as fsck(8) has it.
const USAGE_FSCK: u8 = 16;

fn main() -> ExitCode {
    process::accept_signals();
    let mut given: Vec<OsString> = std::env::args_os().collect();
    // Under the name that mount(8) calls, the arguments are mount(8)'s, and so are the exit codes.
    let name = given.first().and_then(|name| Path::new(name).file_name());
    let is_helper = name.is_some_and(|name| name == "mount.sheen" || name == "mount.fuse.sheen");
    if is_helper {
        let Some(words) = arguments::from_mount_helper(&given) else { return ExitCode::SUCCESS };
        given = words;
        process::end_on_interrupt(Some(process::INTERRUPTED));
    }
    let arguments = match Arguments::try_parse_from(&given) {
        Ok(arguments) => arguments,
        Err(error) => return on_usage(&error, &given, is_helper),
    };
    answer::choose_json(arguments.json);
    if arguments.starts_mount() && !is_helper {
        process::end_on_interrupt(None);
    }
    let is_fsck = matches!(arguments.command, Command::Fsck(_));
    let is_started_by_us = arguments.is_started_by_us();
    match commands::run(arguments) {
        Ok(code) => code,
        Err(error) => {
            let failure = Failure::of(&error);
            if is_started_by_us {
                process::report_failure(&failure);
            }
            answer::error(&failure);
            ExitCode::from(match (is_helper, is_fsck, failure.kind) {
                (true, ..) => failure.mount_code(),
                (false, true, FailureKind::Usage) => USAGE_FSCK,
                (false, true, _) => commands::FSCK_FAILED,
                (false, false, FailureKind::Usage) => USAGE,
                (false, false, _) => FAILED,
            })
        }
    }
}

/// Help and version, or what is wrong with the command line.
fn on_usage(error: &clap::Error, given: &[OsString], is_helper: bool) -> ExitCode {
    let is_json = given.iter().take_while(|word| *word != "--").any(|word| word == "--json");
    if !error.use_stderr() || !is_json {
        // A closed pipe is the reader's choice.
        let _ = error.print();
    } else {
        answer::choose_json(true);
        let text = error.to_string();
        let said = text.split("\n\n").next().unwrap_or_default();
        let said = said.strip_prefix("error: ").unwrap_or(said);
        let message = said.split_whitespace().collect::<Vec<_>>().join(" ");
        answer::error(&Failure::new(FailureKind::Usage, message).hint("see --help"));
    }
    let is_fsck = given.get(1..).unwrap_or_default().iter().find(|word| *word != "--json");
    match (error.use_stderr(), is_helper, is_fsck.is_some_and(|word| word == "fsck")) {
        (false, ..) => ExitCode::SUCCESS,
        (true, true, _) => ExitCode::from(1),
        (true, false, true) => ExitCode::from(USAGE_FSCK),
        (true, false, false) => ExitCode::from(USAGE),
    }
}
