//! `sheen`: the one program of the appliance.
//!
//! Parses what was asked, hands it to one file per command, prints the answer. Decides nothing itself.
#![forbid(unsafe_code)]

use std::process::ExitCode;

mod arguments;
mod answer;
mod source;
mod http;
mod admin;
mod notify;
mod process;
mod commands;

use clap::Parser;

fn main() -> ExitCode {
    process::accept_signals();
    let mut given: Vec<std::ffi::OsString> = std::env::args_os().collect();
    // Under the name that mount(8) calls, the arguments are mount(8)'s.
    let name = given.first().map(std::path::PathBuf::from).unwrap_or_default();
    if name.file_name().is_some_and(|name| name == "mount.sheen") {
        given = arguments::from_mount_helper(&given);
    }
    let arguments = arguments::Arguments::parse_from(given);
    match commands::run(arguments) {
        Ok(code) => code,
        Err(error) => {
            answer::error(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}
