//! `up` and `down`: from a fresh machine to a mounted file system, and back.

use std::{
    path::PathBuf,
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, bail};

use crate::{
    command::{Step, sheen, workspace},
    console, packages,
};

const UP_HELP: &str = "\
Installs the system packages that are missing (as root, through apt; otherwise tells the command), builds the release
program, starts one node on a sparse file, creates a file system and mounts it. Running it again finds what is there.

Usage: cargo xtask up [OPTIONS]

Options:
  --mount DIR    Where to mount [default: ./mnt]
  --dir DIR      Where the node keeps its file, its configuration and its log [default: ./.sheen]
  --size SIZE    Size of the sparse file when it is made [default: 64GiB, at most three quarters of what its disk has free]
  --listen ADDRESS:PORT, --metrics ADDRESS:PORT
                 Where the node listens, when its configuration is made [default: the usual ports, else free ones]
  --json         Print the result as JSON
";

const DOWN_HELP: &str = "\
Unmounts and stops what `cargo xtask up` started. The data stays; `up` brings it back.

Usage: cargo xtask down [OPTIONS]

Options:
  --mount DIR    Take only this mount away before the node stops [default: all of them]
  --dir DIR      Where the node keeps its files [default: ./.sheen]
  --json         Print the result as JSON
";

/// Brings a node and a mount up.
///
/// # Errors
/// When a step fails.
pub(crate) fn up(arguments: &[String]) -> Result<ExitCode> {
    if wants_help(arguments) {
        console::plain(UP_HELP);
        return Ok(ExitCode::SUCCESS);
    }
    let defaults = [("--mount", "mnt"), ("--dir", ".sheen")];
    let arguments = with_defaults(arguments, &defaults, &["--size", "--listen", "--metrics"])?;
    packages::ensure(packages::RUN)?;
    Step::cargo(&["build", "--release", "--package", "sheen-cli"]).run()?;
    delegate("up", &arguments)
}

/// Takes them down.
///
/// # Errors
/// When a step fails.
pub(crate) fn down(arguments: &[String]) -> Result<ExitCode> {
    if wants_help(arguments) {
        console::plain(DOWN_HELP);
        return Ok(ExitCode::SUCCESS);
    }
    let arguments = with_defaults(arguments, &[("--dir", ".sheen")], &["--mount"])?;
    if !sheen().exists() {
        bail!("nothing was ever started from here: {} is not built", sheen().display());
    }
    delegate("down", &arguments)
}

fn wants_help(arguments: &[String]) -> bool {
    arguments.iter().any(|argument| argument == "--help" || argument == "-h")
}

/// Fills in what is not given of `defaults`, options for folders of the workspace; refuses what is neither there nor in `more`.
fn with_defaults(
    arguments: &[String],
    defaults: &[(&str, &str)],
    more: &[&str],
) -> Result<Vec<String>> {
    let mut all = Vec::new();
    let mut rest = arguments.iter();
    let mut seen = Vec::new();
    while let Some(argument) = rest.next() {
        let (name, value) = match argument.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (argument.clone(), None),
        };
        if name == "--json" {
            all.push(name);
            continue;
        }
        if !defaults.iter().any(|(known, _)| *known == name) && !more.contains(&name.as_str()) {
            bail!("unknown option `{argument}`; see --help");
        }
        let value = match value {
            Some(value) => value,
            None => rest.next().with_context(|| format!("`{name}` needs a value"))?.clone(),
        };
        seen.push(name.clone());
        all.extend([name, value]);
    }
    for (name, folder) in defaults {
        if !seen.iter().any(|given| given == name) {
            all.extend([(*name).to_owned(), workspace().join(folder).display().to_string()]);
        }
    }
    Ok(all)
}

fn delegate(command: &str, arguments: &[String]) -> Result<ExitCode> {
    let program: PathBuf = sheen();
    let status = Command::new(&program)
        .arg(command)
        .args(arguments)
        .status()
        .with_context(|| format!("cannot start {}", program.display()))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
