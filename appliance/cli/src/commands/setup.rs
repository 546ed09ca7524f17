//! `sheen setup`: makes the type `sheen` known to mount(8).

use std::{
    os::unix::fs::{MetadataExt as _, symlink},
    path::Path,
};

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
    let before = std::fs::read_link(HELPER).ok().filter(|before| *before != program);
    let changed = install(&program)?;
    if let Some(before) = before {
        answer::progress(&format!("{HELPER} led to {} before", before.display()));
    }
    if !is_root_s_alone(&program) {
        answer::progress(&format!(
            "others than root may replace {}, which mount(8) runs as root: for more than a trial, copy it where only root writes (/usr/local/bin) and run setup there",
            program.display()
        ));
    }
    let done = serde_json::json!({ "helper": HELPER, "program": program, "changed": changed });
    answer::either(json, &done, || format!("{HELPER} leads to {}", program.display()));
    Ok(())
}

/// Makes the helpers lead to `program`; returns whether they did not before.
///
/// # Errors
/// As [`run`].
fn install(program: &Path) -> Result<bool> {
    Ok(lead(Path::new(HELPER), program)? | lead(Path::new(KERNEL_HELPER), program)?)
}

/// Makes helpers lead to `program` where there are none: those that lead to a program are an administrator's choice, which `setup` alone
/// changes. Nor is one made for a program that others than root may replace: mount(8) runs it as root, at each boot. Returns whether
/// mount(8) knows the type now.
pub(crate) fn install_where_missing(program: &Path) -> bool {
    let is_there = |name: &str| Path::new(name).exists();
    if [HELPER, KERNEL_HELPER].into_iter().all(is_there) {
        return true;
    }
    if !is_root_s_alone(program) {
        return is_there(HELPER);
    }
    for name in [HELPER, KERNEL_HELPER].into_iter().filter(|name| !is_there(name)) {
        if lead(Path::new(name), program).is_err() {
            return is_there(HELPER);
        }
    }
    true
}

/// Whether nobody but root can put another program in the place of `program`: it and each folder above are root's, and written by
/// root alone, or by all with the restricted deletion flag.
fn is_root_s_alone(program: &Path) -> bool {
    const WRITTEN_BY_OTHERS: u32 = 0o022;
    const RESTRICTED_DELETION: u32 = 0o1000;
    let Ok(program) = program.canonicalize() else { return false };
    program.ancestors().all(|path| {
        let Ok(found) = path.metadata() else { return false };
        let open = found.mode() & WRITTEN_BY_OTHERS != 0;
        let restricted = found.is_dir() && found.mode() & RESTRICTED_DELETION != 0;
        found.uid() == 0 && (!open || restricted)
    })
}

fn lead(helper: &Path, program: &Path) -> Result<bool> {
    let name = helper.display();
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

#[cfg(test)]
mod test {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    #[test]
    fn a_program_that_others_may_replace_is_not_root_s_alone() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("sheen");
        fs::write(&program, b"").unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let mine = fs::metadata(&program).unwrap().uid() == 0;
        assert_eq!(is_root_s_alone(&program), mine);
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(!is_root_s_alone(&program), "its folder is everybody's");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o775)).unwrap();
        assert!(!is_root_s_alone(&program), "its group writes it");
        assert!(!is_root_s_alone(&folder.path().join("none")));
    }

    #[test]
    fn a_helper_is_led_elsewhere_by_order_alone() {
        let folder = tempfile::tempdir().unwrap();
        let helper = folder.path().join("mount.sheen");
        let (one, two) = (folder.path().join("one"), folder.path().join("two"));
        assert!(lead(&helper, &one).unwrap());
        assert!(!lead(&helper, &one).unwrap(), "it did so before");
        assert!(lead(&helper, &two).unwrap());
        assert_eq!(fs::read_link(&helper).unwrap(), two);
        fs::remove_file(&helper).unwrap();
        fs::write(&helper, b"").unwrap();
        assert!(lead(&helper, &one).is_err(), "a file of others");
    }
}
