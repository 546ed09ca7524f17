//! The foreign lane: suites nobody here wrote, run on a local file system too. What passes there passes here.

mod exerciser;
mod load;
mod stress;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::Context;

const CHECK: &str = "foreign";
/// `nobody`: everything here runs as an ordinary user.
const USER: u32 = 65534;

/// Runs the check.
pub fn run(context: &mut Context<'_>) {
    let Some((work, scratch)) = context.prepared(CHECK) else { return };
    let (effort, seed, cache) = (context.effort, context.seed, context.cache.clone());
    let report = &mut *context.report;
    let place = Places { here: work.clone(), local: scratch.join("local") };
    let ready = report.case(CHECK, "directories of an ordinary user", || {
        fs::set_permissions(&scratch, Permissions::from_mode(0o755))?;
        [&place.here, &place.local]
            .into_iter()
            .try_for_each(|directory| user_directory(directory))?;
        Ok(String::new())
    });
    if ready {
        exerciser::run(report, &place, &cache, effort, seed);
        stress::run(report, &place, effort);
        load::run(report, &place, effort, seed);
    }
    context.remove(CHECK, &work);
}

/// Where a suite runs: on the file system under test, and on a local one.
#[derive(Debug)]
struct Places {
    here: PathBuf,
    local: PathBuf,
}

impl Places {
    /// A fresh directory of the user's in both.
    fn fresh(&self, name: &str) -> anyhow::Result<Self> {
        let fresh = Self { here: self.here.join(name), local: self.local.join(name) };
        user_directory(&fresh.here)?;
        user_directory(&fresh.local)?;
        Ok(fresh)
    }
}

fn user_directory(directory: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(directory)?;
    fs::set_permissions(directory, Permissions::from_mode(0o755))?;
    Ok(std::os::unix::fs::chown(directory, Some(USER), Some(USER))?)
}
