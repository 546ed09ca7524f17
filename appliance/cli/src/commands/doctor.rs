//! `sheen doctor`.

use std::{path::Path, process::ExitCode};

use anyhow::Result;
use sheen_firmware_config::{Check, CheckState, doctor::examine};
use sheen_node::device::{HostRoom, free_at};
use sheen_types::Bytes;

use super::status::identity_notes;
use crate::{answer, arguments::Doctor, http};

/// Checks this machine. Fails when something would keep Sheen from running.
///
/// # Errors
/// Never; what is wrong is the answer.
pub(crate) fn run(json: bool, doctor: &Doctor) -> Result<ExitCode> {
    let mut checks = examine(&doctor.path);
    checks.extend(room(&doctor.path));
    checks.extend(identity(&doctor.path));
    answer::either(json, &checks, || text(&checks));
    let failed = checks.iter().any(|check| check.state == CheckState::Fail);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Where a node listens that was told nothing else.
const SYSTEM_SOCKET: &str = "/run/sheen/node.sock";

/// Below it a device has room for little but its own logs and tables.
const ROOM_LEAST: Bytes = Bytes(1 << 30);

/// What the host has for a device that is a file: the one at `path`, or that of `sheen up` in this folder, or one that is still to be
/// made. None: it is no file.
fn room(path: &Path) -> Option<Check> {
    let check = |state, found, advice: Option<&str>| Check {
        name: "room",
        state,
        found,
        advice: advice.map(ToOwned::to_owned),
    };
    let devices = [path.into(), path.join("device"), path.join(".sheen/device")];
    let device = devices.iter().filter(|device| device.is_file());
    if let Some(room) = device.filter_map(|device| HostRoom::of(device, None)).next() {
        let (size, free) = (Bytes(room.size), Bytes(room.free));
        return Some(match room.warning() {
            Some(warning) => check(
                CheckState::Warn,
                warning,
                Some("make room, or format a smaller device when this one is empty"),
            ),
            None => {
                let found = format!("{free} free for {} of {size}", room.path.display());
                check(CheckState::Ok, found, None)
            }
        });
    }
    if path.exists() && !path.is_dir() {
        return None;
    }
    let free = free_at(path)?;
    let found = format!("{free} free at {}", path.display());
    Some(match free < ROOM_LEAST {
        true => check(CheckState::Warn, found, Some("a device needs 1 GiB; choose another disk")),
        false => check(CheckState::Ok, found, None),
    })
}

/// Identity and certificates of the node that keeps its files at `path`, or of the system's, if one runs there.
fn identity(path: &Path) -> Option<Check> {
    let sockets = [path.join("node.sock"), path.join(".sheen/node.sock"), SYSTEM_SOCKET.into()];
    let socket = sockets.into_iter().find(|socket| socket.exists())?;
    let status = http::get(&format!("unix:{}", socket.display()), "/status").ok()?;
    let status: serde_json::Value = serde_json::from_str(&status).ok()?;
    let notes = identity_notes(&status["identity"]);
    let clients = status["identity"]["clients"].as_u64()?;
    let (state, found) = match notes.is_empty() {
        true => (CheckState::Ok, format!("the node has one; {clients} clients")),
        false => (CheckState::Warn, notes.join("; ").replace("warning: ", "")),
    };
    Some(Check { name: "identity", state, found, advice: None })
}

fn text(checks: &[Check]) -> String {
    let mut lines = Vec::new();
    for check in checks {
        let state = match check.state {
            CheckState::Ok => "ok  ",
            CheckState::Warn => "warn",
            CheckState::Fail => "FAIL",
        };
        lines.push(format!("{state}  {:<18} {}", check.name, check.found));
        if let Some(advice) = &check.advice {
            lines.push(format!("{:>24} {advice}", "\u{2192}"));
        }
    }
    lines.join("\n")
}
