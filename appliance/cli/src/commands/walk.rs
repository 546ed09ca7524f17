//! The files and directories that paths name, and with `-R` all below them: symbolic links are not followed, other mounts not
//! entered, a file with many names comes once.

use std::{
    collections::BTreeSet,
    fs::Metadata,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use nix::sys::statfs::{FUSE_SUPER_MAGIC, statfs};

/// What a path names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    File,
    Directory,
}

/// What is to be visited.
#[derive(Debug)]
pub(crate) struct Walk {
    recursive: bool,
    /// Places still to be looked at, the next one last, each with the device it has to lie on.
    pending: Vec<(PathBuf, Option<u64>)>,
    /// (device, inode) of files with several names that came already.
    seen: BTreeSet<(u64, u64)>,
}

impl Walk {
    /// Over `paths`.
    ///
    /// # Errors
    /// When one is not there or not on a mount that could be ours; nothing was visited then.
    pub(crate) fn new(paths: &[PathBuf], recursive: bool) -> Result<Self> {
        for path in paths {
            check_mount(path)?;
        }
        let pending = paths.iter().rev().map(|path| (path.clone(), None)).collect();
        Ok(Self { recursive, pending, seen: BTreeSet::new() })
    }

    /// What to do about one place: its names below are added, if it has any.
    fn visit(&mut self, path: &Path, device: Option<u64>) -> Result<Option<(Kind, Metadata)>> {
        let shown = path.display();
        let metadata =
            std::fs::symlink_metadata(path).with_context(|| format!("cannot look at {shown}"))?;
        if device.is_some_and(|device| device != metadata.dev()) {
            return Ok(None);
        }
        if metadata.is_dir() {
            if self.recursive {
                let below = || format!("cannot list {shown}");
                let mut names = Vec::new();
                for entry in std::fs::read_dir(path).with_context(below)? {
                    names.push((entry.with_context(below)?.path(), Some(metadata.dev())));
                }
                names.sort();
                self.pending.extend(names.into_iter().rev());
            }
            return Ok(Some((Kind::Directory, metadata)));
        }
        if !metadata.is_file() {
            if device.is_none() {
                bail!("{shown} is neither a file nor a directory: only these can be compressed");
            }
            return Ok(None);
        }
        let again = metadata.nlink() > 1 && !self.seen.insert((metadata.dev(), metadata.ino()));
        Ok((!again).then_some((Kind::File, metadata)))
    }
}

impl Iterator for Walk {
    type Item = (PathBuf, Result<(Kind, Metadata)>);

    fn next(&mut self) -> Option<Self::Item> {
        while let Some((path, device)) = self.pending.pop() {
            match self.visit(&path, device) {
                Ok(Some(found)) => return Some((path, Ok(found))),
                Ok(None) => {}
                Err(error) => return Some((path, Err(error))),
            }
        }
        None
    }
}

fn check_mount(path: &Path) -> Result<()> {
    let shown = path.display();
    let found = statfs(path).with_context(|| format!("cannot look at {shown}"))?;
    if found.filesystem_type() != FUSE_SUPER_MAGIC {
        bail!(
            "{shown} is not on a Sheen mount; name a path below one (`findmnt -t fuse.sheen` lists them)"
        );
    }
    Ok(())
}

#[cfg(test)]
mod test {
    use super::*;

    fn walk(paths: &[PathBuf], recursive: bool) -> Vec<String> {
        let pending = paths.iter().rev().map(|path| (path.clone(), None)).collect();
        let walk = Walk { recursive, pending, seen: BTreeSet::new() };
        walk.map(|(path, found)| match found {
            Ok((kind, _)) => format!("{kind:?} {}", path.file_name().unwrap().display()),
            Err(error) => format!("error {error:#}"),
        })
        .collect()
    }

    #[test]
    fn everything_below_comes_once_and_links_are_not_followed() {
        let top = tempfile::tempdir().unwrap();
        let at = |name: &str| top.path().join(name);
        std::fs::create_dir_all(at("d/e")).unwrap();
        std::fs::write(at("d/file"), "x").unwrap();
        std::fs::hard_link(at("d/file"), at("d/link")).unwrap();
        std::os::unix::fs::symlink(at("d"), at("d/e/loop")).unwrap();
        let found = walk(&[at("d")], true);
        assert_eq!(found, ["Directory d", "Directory e", "File file"]);
        assert_eq!(walk(&[at("d")], false), ["Directory d"]);
        let named = walk(&[at("d/e/loop")], true);
        assert!(named[0].contains("neither a file nor a directory"), "{named:?}");
        let absent = walk(&[at("none"), at("d/file")], true);
        assert!(absent[0].contains("cannot look at"), "{absent:?}");
        assert_eq!(absent[1], "File file", "the others still come");
    }

    #[test]
    fn what_is_not_on_a_mount_of_ours_is_refused_with_what_to_do() {
        let error = Walk::new(&[PathBuf::from("/proc")], false).unwrap_err().to_string();
        assert!(error.contains("not on a Sheen mount") && error.contains("findmnt"), "{error}");
    }
}
