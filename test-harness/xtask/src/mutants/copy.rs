//! The copy of the sources that bugs are planted in, with a target folder of its own.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::command::{target, workspace};

/// Parts of a profile's folder that hold what was built of third-party crates.
const BUILT: &[&str] = &["build", "deps", ".fingerprint"];

/// A copy of the workspace.
#[derive(Debug)]
pub(super) struct SourceCopy {
    pub(super) root: PathBuf,
    pub(super) target: PathBuf,
}

impl SourceCopy {
    /// Copies every source that differs from the copy there was, so that what does not is not built again.
    ///
    /// # Errors
    /// When git does not tell the sources, or a file cannot be copied.
    pub(super) fn lay_out() -> Result<Self> {
        let below = target().join("mutants");
        let copy = Self { root: below.join("sources"), target: below.join("target") };
        let listed = sources()?;
        for name in &listed {
            copy_file(&workspace().join(name), &copy.root.join(name))?;
        }
        remove_others(&copy.root, &copy.root, &listed)?;
        if !copy.target.exists() {
            copy.take_over_built()?;
        }
        Ok(copy)
    }

    /// Links what was built of third-party crates into the new target folder.
    fn take_over_built(&self) -> Result<()> {
        fs::create_dir_all(&self.target)?;
        for profile in ["debug", "release"] {
            for part in BUILT {
                let from = target().join(profile).join(part);
                if from.is_dir() {
                    link_folder(&from, &self.target.join(profile).join(part))?;
                }
            }
        }
        Ok(())
    }
}

/// The sources: what git knows or would take, from the workspace's root.
fn sources() -> Result<BTreeSet<PathBuf>> {
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(workspace())
        .output()
        .context("starting git")?;
    if !output.status.success() {
        bail!("git does not list the sources:\n{}", String::from_utf8_lossy(&output.stderr));
    }
    let listed = String::from_utf8(output.stdout).context("a file name that is no UTF-8")?;
    let names = listed.split('\0').filter(|name| !name.is_empty()).map(PathBuf::from);
    // A file that was removed and is not committed is still listed.
    Ok(names.filter(|name| workspace().join(name).is_file()).collect())
}

fn copy_file(from: &Path, to: &Path) -> Result<()> {
    let bytes = fs::read(from).with_context(|| from.display().to_string())?;
    if fs::read(to).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(to, bytes).with_context(|| to.display().to_string())
}

fn remove_others(root: &Path, folder: &Path, listed: &BTreeSet<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            remove_others(root, &path, listed)?;
        } else if !path.strip_prefix(root).is_ok_and(|name| listed.contains(name)) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// Links a folder's files, but for what belongs to crates of the workspace.
fn link_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let path = entry?.path();
        let Some(name) = path.file_name() else { continue };
        let shown = name.to_string_lossy();
        if shown.contains("sheen") || shown.contains("xtask") {
            continue;
        }
        if path.is_dir() {
            link_folder(&path, &to.join(name))?;
        } else if fs::hard_link(&path, to.join(name)).is_err() {
            // Another file system, or gone meanwhile: it is built again.
            continue;
        }
    }
    Ok(())
}
