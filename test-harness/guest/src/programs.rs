//! The programs the guest gets from this build: found beside the runner, stripped, because what is loaded is emulated.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sheen_conformance::checks::pjdfstest;
use sheen_conformance::process;

use crate::machine::Added;

const STRIP_DEADLINE: Duration = Duration::from_secs(60);
/// Programs of this workspace.
const OURS: &[&str] = &["sheen", "sheen-guest-suite"];

/// What the suite needs; stripped copies are kept in `cache`.
///
/// # Errors
/// When a program was not built.
pub fn for_guest(cache: &Path) -> Result<Vec<Added>> {
    let home = cache.join("programs");
    std::fs::create_dir_all(&home)?;
    let runner = std::env::current_exe()?;
    let mut added = Vec::new();
    for name in OURS {
        let built = runner.with_file_name(name);
        ensure!(built.exists(), "{} is missing: build it first", built.display());
        added.push(Added { from: stripped(&built, &home)?, to: format!("/usr/bin/{name}") });
    }
    let suite = pjdfstest::installed(&cache.with_file_name("harness-cache"))?;
    added.push(Added { from: stripped(&suite, &home)?, to: "/usr/bin/pjdfstest".into() });
    Ok(added)
}

fn stripped(program: &Path, home: &Path) -> Result<PathBuf> {
    let name = program.file_name().context("a program has a name")?;
    let output = home.join(name);
    process::run(Command::new("strip").arg("-o").arg(&output).arg(program), STRIP_DEADLINE)?;
    Ok(output)
}
