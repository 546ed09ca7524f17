//! One file per command.

mod node;
mod format;
mod fsck;
mod fs;
mod mount;
mod moved;
mod ports;
mod server;
mod umount;
mod status;
mod doctor;
mod setup;
mod walk;
mod compression;
mod recompress;
pub(crate) mod place;
mod up;
mod down;
pub(crate) mod key;
pub(crate) mod nvme;
pub(crate) mod scrub;
mod orders;
mod slow;
pub(crate) mod client;
pub(crate) mod authority;

pub(crate) use fsck::FAILED as FSCK_FAILED;
use std::process::ExitCode;

use anyhow::Result;

use crate::arguments::{Arguments, Command};

/// Carries out what was asked.
///
/// # Errors
/// Whatever the command meets; the text says what to do.
pub(crate) fn run(arguments: Arguments) -> Result<ExitCode> {
    let json = arguments.json;
    match arguments.command {
        Command::Up(up) => up::run(json, &up),
        Command::Down(down) => down::run(json, &down),
        Command::Node(node) => node::run(json, &node),
        Command::Format(format) => format::run(json, &format),
        Command::Fsck(fsck) => return fsck::run(json, &fsck),
        Command::Scrub(scrub) => scrub::run(json, &scrub),
        Command::Fs(fs) => fs::run(json, fs),
        Command::Mount(mount) => mount::run(json, &mount),
        Command::Umount(umount) => umount::run(json, &umount),
        Command::GuardMount(guard) => mount::guard(&guard),
        Command::Status(status) => status::run(json, &status),
        Command::Doctor(doctor) => return doctor::run(json, &doctor),
        Command::Key(key) => key::run(json, &key),
        Command::Client(client) => client::run(json, &client),
        Command::Ca(authority) => authority::run(json, &authority),
        Command::Nvme(nvme) => return nvme::run(json, nvme),
        Command::Compression(asked) => return compression::run(json, &asked),
        Command::Recompress(asked) => return recompress::run(json, &asked),
        Command::Setup => setup::run(json),
    }
    .map(|()| ExitCode::SUCCESS)
}
