//! `sheen setup`: makes the type `sheen` known to mount(8).

use std::{os::unix::fs::symlink, path::Path};

use anyhow::{Context, Result, bail};

use crate::answer;

/// Where mount(8) looks for the helper of a type.
pub(crate) const HELPER: &str = "/sbin/mount.sheen";
/// The same of the type the kernel tells of mounts of ours: `mount -o remount DIR` knows no other.
const KERNEL_HELPER: &str = "/sbin/mount.fuse.sheen";

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

/// Makes the helpers lead to `program`; returns whether they did not before.
///
/// # Errors
/// As [`run`].
pub(crate) fn install(program: &Path) -> Result<bool> {
    Ok(lead(HELPER, program)? | lead(KERNEL_HELPER, program)?)
}

fn lead(name: &str, program: &Path) -> Result<bool> {
    let helper = Path::new(name);
    match std::fs::read_link(helper) {
        Ok(there) if there == program => return Ok(false),
        Ok(_) => std::fs::remove_file(helper).with_context(|| format!("replacing {name}"))?,
        Err(_) if helper.exists() => {
            bail!("{name} is a file that is not ours; move it away first")
        }
        Err(_) => {}
    }
    symlink(program, helper).with_context(|| format!("making {name} (this needs root)"))?;
    Ok(true)
}
