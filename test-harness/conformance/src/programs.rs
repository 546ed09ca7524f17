//! The programs the checks need, and how to get them: a missing one is a failure, never a skip.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};

use crate::process;
use crate::report::line;

const INSTALL_DEADLINE: Duration = Duration::from_secs(600);
const POSTGRES_DIRECTORY: &str = "/usr/lib/postgresql/15/bin";

/// One Debian package and a program that shows it is there.
#[derive(Debug, Clone, Copy)]
pub struct Package {
    /// The package's name in Debian.
    pub name: &'static str,
    /// A program it brings, by name or by absolute path.
    pub program: &'static str,
}

/// `git`.
pub const GIT: Package = Package { name: "git", program: "git" };
/// `python3`, whose standard library holds SQLite.
pub const PYTHON: Package = Package { name: "python3", program: "python3" };
/// `fio`.
pub const FIO: Package = Package { name: "fio", program: "fio" };
/// PostgreSQL 15, server and contributed programs.
pub const POSTGRES: Package =
    Package { name: "postgresql-15", program: "/usr/lib/postgresql/15/bin/pg_amcheck" };
/// `xz`, for the kernel sources.
pub const XZ: Package = Package { name: "xz-utils", program: "xz" };
/// The header `pjdfstest` is built with.
pub const ACL: Package = Package { name: "libacl1-dev", program: "/usr/include/sys/acl.h" };
/// A TPM 2.0 in software.
pub const SWTPM: Package = Package { name: "swtpm", program: "swtpm" };
/// What makes environments for Python's packages, on systems that keep it apart from Python.
pub const VENV: Package = Package { name: "python3-venv", program: "/usr/share/doc/python3-venv" };
/// The C compiler.
pub const GCC: Package = Package { name: "gcc", program: "cc" };
/// The headers of C's library.
pub const LIBC: Package = Package { name: "libc6-dev", program: "/usr/include/stdio.h" };
/// `make`.
pub const MAKE: Package = Package { name: "make", program: "make" };
/// Debian's Python, which every user can reach.
pub const SYSTEM_PYTHON: Package = Package { name: "python3", program: "/usr/bin/python3" };
/// `stress-ng`.
pub const STRESS: Package = Package { name: "stress-ng", program: "stress-ng" };
/// `dbench`.
pub const DBENCH: Package = Package { name: "dbench", program: "dbench" };
/// `bonnie++`.
pub const BONNIE: Package = Package { name: "bonnie++", program: "/usr/sbin/bonnie++" };
/// `fs_mark`.
pub const FS_MARK: Package = Package { name: "fsmark", program: "fs_mark" };
/// What makes network namespaces.
pub const IPROUTE: Package = Package { name: "iproute2", program: "ip" };

/// Prometheus' linter.
pub const PROMTOOL: Package = Package { name: "prometheus", program: "promtool" };

/// Where PostgreSQL keeps its programs on Debian.
#[must_use]
pub fn postgres_program(name: &str) -> PathBuf {
    Path::new(POSTGRES_DIRECTORY).join(name)
}

/// Whether `program` (a name or an absolute path) exists.
#[must_use]
pub fn is_present(program: &str) -> bool {
    if program.starts_with('/') {
        return Path::new(program).exists();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

/// Makes sure the packages are there: installs what is missing when run by root.
///
/// # Errors
/// When something is missing and cannot be installed; the error holds the command to run.
pub fn require(packages: &[Package]) -> anyhow::Result<()> {
    let missing: Vec<&str> = packages
        .iter()
        .filter(|package| !is_present(package.program))
        .map(|package| package.name)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let by_hand = format!("apt-get install -y --no-install-recommends {}", missing.join(" "));
    if !nix::unistd::Uid::effective().is_root() {
        bail!("missing programs; run: sudo {by_hand}");
    }
    line(format_args!("installing {}", missing.join(" ")));
    let install = || {
        let mut command = Command::new("apt-get");
        command.args(["install", "-y", "--no-install-recommends"]).args(&missing);
        command.env("DEBIAN_FRONTEND", "noninteractive");
        process::run(&mut command, INSTALL_DEADLINE)
    };
    if install().is_err() {
        process::run(Command::new("apt-get").arg("update"), INSTALL_DEADLINE)?;
        install().with_context(|| format!("run by hand: {by_hand}"))?;
    }
    match packages.iter().find(|package| !is_present(package.program)) {
        None => Ok(()),
        Some(package) => bail!("{} was installed but {} is absent", package.name, package.program),
    }
}

/// Compiles a C program of ours to `program`, which every user may run.
///
/// # Errors
/// When there is no compiler, or it refuses.
pub fn compile(source: &str, program: &Path, arguments: &[&str]) -> anyhow::Result<()> {
    require(&[GCC, LIBC])?;
    let text = program.with_extension("c");
    std::fs::write(&text, source)?;
    let mut command = Command::new("cc");
    command.args(["-O1", "-Wall", "-Wextra", "-Werror"]).args(arguments);
    command.arg("-o").arg(program).arg(&text);
    process::run(&mut command, INSTALL_DEADLINE).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_exists_is_found_and_another_is_not() {
        assert!(is_present("sh"));
        assert!(is_present("/bin/sh"));
        assert!(!is_present("no-such-program-anywhere"));
    }
}
