//! `sheen setup`: makes the type `sheen` known to mount(8).

use std::{os::unix::fs::symlink, path::Path};

use anyhow::{Context, Result, bail};

use crate::answer;

/// Where mount(8) looks for the helper of a type.
pub(crate) const HELPER: &str = "/sbin/mount.sheen";

/// Installs the link.
///
/// # Errors
/// When it may not be made, or something else stands there.
pub(crate) fn run(json: bool) -> Result<()> {
    let program = std::env::current_exe().context("finding this program")?;
    let changed = install(&program)?;
    let done = serde_json::json!({ "helper": HELPER, "program": program, "changed": changed });
    answer::either(json, &done, || format!("{HELPER} leads to {}", program.display()));
    Ok(())
}

/// Makes [`HELPER`] lead to `program`; returns whether it did not before.
///
/// # Errors
/// As [`run`].
pub(crate) fn install(program: &Path) -> Result<bool> {
    let helper = Path::new(HELPER);
    match std::fs::read_link(helper) {
        Ok(there) if there == program => return Ok(false),
        Ok(_) => std::fs::remove_file(helper).with_context(|| format!("replacing {HELPER}"))?,
        Err(_) if helper.exists() => {
            bail!("{HELPER} is a file that is not ours; move it away first")
        }
        Err(_) => {}
    }
    symlink(program, helper).with_context(|| format!("making {HELPER} (this needs root)"))?;
    Ok(true)
}
