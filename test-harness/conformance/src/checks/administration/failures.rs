//! What calls that fail say and end with.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use nix::sys::signal::{Signal, kill};

use super::folder::{DEADLINE, Folder, failure};
use crate::cluster::sheen_program;
use crate::interruption;
use crate::process::{self, pid_of};

/// Commands of every kind that fail, with code and kind.
pub(super) fn commands(folder: &Folder) -> anyhow::Result<String> {
    fs::write(folder.path().join("wrong.toml"), "[device]\npath = \"/d\"\nosts = 0\n")?;
    let cases: [(&[&str], i32, &str); 21] = [
        (&["status", "--node", "/nowhere/node.sock"], 1, "unreachable"),
        (&["status", "--node", "127.0.0.1:1"], 1, "unreachable"),
        (&["fs", "list", "--node", "/nowhere/node.sock"], 1, "unreachable"),
        (&["status", "--metrics", "127.0.0.1:9811"], 2, "usage"),
        (&["fs", "create", "sheen"], 1, "exists"),
        (&["fs", "create", "a", "--mode", "9"], 2, "usage"),
        (&["fs", "delete", "none"], 1, "not_found"),
        (&["scrub", "status", "--node", "127.0.0.1:1"], 2, "usage"),
        (&["node", "--config", "/nowhere.toml"], 1, "not_found"),
        (&["node", "--config", "wrong.toml"], 1, "configuration"),
        (&["fsck", "/nowhere/device"], 8, "not_found"),
        (&["fsck", ".sheen/device"], 8, "in_use"),
        (&["fsck"], 16, "usage"),
        (&["fsck", ".sheen/device", "--key", "/path"], 16, "usage"),
        (&["up", "--name", "big name", "--dir", "none", "--mount", "none/mnt"], 2, "usage"),
        (&["up", "--name", "other"], 1, "in_use"),
        (&["fs", "delete", "other", "--force", "--yes"], 1, "not_found"),
        (&["fs", "delete", "sheen", "--yes"], 1, "in_use"),
        (&["umount", "."], 1, "not_found"),
        (&["mount", "nothing", "mnt"], 2, "usage"),
        (&["compression", "get", "/nowhere"], 1, "not_found"),
    ];
    for (words, code, kind) in cases {
        let failed = folder.fails(words)?;
        ensure!((failed.code, failed.kind.as_str()) == (code, kind), "{words:?}: {failed:?}");
    }
    ensure!(!folder.path().join("none").exists(), "what is refused was begun");
    Ok(format!("{} calls", cases.len()))
}

/// Calls of `mount.sheen` that fail.
pub(super) fn helper(folder: &Folder) -> anyhow::Result<String> {
    let program = folder.path().join("mount.sheen");
    symlink(sheen_program().canonicalize()?, &program)?;
    let directory = folder.path().join("helper");
    fs::create_dir_all(&directory)?;
    let call = |words: &[&str]| {
        let mut command = Command::new(&program);
        command.args(words).arg(&directory).current_dir(folder.path());
        command
    };
    let log = folder.path().join("helper.log").display().to_string();
    let cases: [(&[&str], i32); 4] = [
        (&["--nonsense"], 1),
        (&["nothing"], 1),
        (&["unix:/nowhere:/sheen", "-o", "flobber"], 1),
        (&["unix:/nowhere:/sheen", "--log", &log], 32),
    ];
    for (words, code) in cases {
        let failed = failure(call(words).arg("--json"))?;
        ensure!(failed.code == code, "{words:?} ends with {}, not {code}: {failed:?}", failed.code);
    }
    let fake = process::finish(&mut call(&["unix:/nowhere:/sheen", "-f"]), DEADLINE)?;
    ensure!(fake.status.success(), "a fake mount: {fake:?}");
    let by_mount = |words: &[&str]| {
        let mut command = obedient(&program);
        command.args(words).arg(&directory).current_dir(folder.path());
        command
    };
    interrupted(by_mount, 8)?;
    // The other form is no helper of mount(8).
    let ours = sheen_program().canonicalize()?;
    let sheen = |words: &[&str]| {
        let mut command = obedient(&ours);
        command.arg("mount").args(words).arg(&directory).current_dir(folder.path());
        command
    };
    interrupted(sheen, 128 + Signal::SIGINT as i32)?;
    Ok(format!("{} calls, a fake mount and an interrupt", cases.len()))
}

/// Starts a program that obeys signals, also if ours are ignored: a shell has what it puts in the background ignore SIGINT.
pub(super) fn obedient(program: &Path) -> Command {
    let mut command = Command::new("env");
    command.arg("--default-signal=INT,TERM,HUP").arg(program);
    command
}

/// A node that takes the connection and says nothing: the user loses patience.
fn interrupted(call: impl Fn(&[&str]) -> Command, wanted: i32) -> anyhow::Result<()> {
    let silent = TcpListener::bind("127.0.0.1:0")?;
    let source = format!("{}:/sheen", silent.local_addr()?);
    let mut command = call(&[&source, "--log", "/dev/null"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = interruption::spawn(&mut command).context("starting mount.sheen")?;
    // Its background process has connected, and keeps waiting.
    let _connection = silent.accept()?;
    kill(pid_of(&child), Signal::SIGINT)?;
    let status = process::wait_until(&mut child, Instant::now() + Duration::from_secs(4))?;
    if status.is_none() {
        process::kill_nine(&mut child)?;
    }
    let code = status.and_then(|status| status.code());
    ensure!(code == Some(wanted), "interrupted it ends with {code:?}, not {wanted}");
    Ok(())
}
