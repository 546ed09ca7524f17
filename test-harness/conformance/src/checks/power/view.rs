//! What a mount shows of a tree: kinds, owners, sizes, times and contents, to be compared with what another shows.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context as _, bail};

use crate::random::checksum;

/// What is shown of one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shown {
    inode: u64,
    mode: u32,
    owner: (u32, u32),
    links: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    content: u64,
}

/// Every name below a directory.
pub(crate) type View = BTreeMap<String, Shown>;

/// Looks at everything below `root`.
pub(crate) fn view_of(root: &Path) -> anyhow::Result<View> {
    let mut view = View::new();
    let mut waiting = vec![root.to_path_buf()];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(&directory).with_context(|| directory.display().to_string())? {
            let path = entry?.path();
            let facts = path.symlink_metadata().with_context(|| path.display().to_string())?;
            let mut content = 0;
            if facts.is_dir() {
                waiting.push(path.clone());
            } else {
                content = checksum(&fs::read(&path).with_context(|| path.display().to_string())?);
            }
            let shown = Shown {
                inode: facts.ino(),
                mode: facts.mode(),
                owner: (facts.uid(), facts.gid()),
                links: facts.nlink(),
                bytes: if facts.is_dir() { 0 } else { facts.size() },
                modified: (facts.mtime(), facts.mtime_nsec()),
                changed: (facts.ctime(), facts.ctime_nsec()),
                content,
            };
            view.insert(path.strip_prefix(root)?.to_string_lossy().into_owned(), shown);
        }
    }
    Ok(view)
}

/// Requires that two views are the same; names the first differences.
pub(crate) fn require_same(one: (&str, &View), other: (&str, &View)) -> anyhow::Result<()> {
    let mut wrong = Vec::new();
    for name in one.1.keys().chain(other.1.keys().filter(|name| !one.1.contains_key(*name))) {
        let (here, there) = (one.1.get(name), other.1.get(name));
        if here != there {
            wrong.push(format!("{name}: {} has {here:?}, {} has {there:?}", one.0, other.0));
        }
    }
    if wrong.is_empty() {
        return Ok(());
    }
    bail!(
        "{} differences; {}",
        wrong.len(),
        wrong.iter().take(2).cloned().collect::<Vec<_>>().join("; ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_byte_a_time_and_a_missing_name_are_differences() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("f");
        fs::write(&path, "one").unwrap();
        let before = view_of(root.path()).unwrap();
        require_same(("a", &before), ("b", &view_of(root.path()).unwrap())).unwrap();
        let facts = path.metadata().unwrap();
        fs::write(&path, "two").unwrap();
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(facts.modified().unwrap()).unwrap();
        let after = view_of(root.path()).unwrap();
        assert!(require_same(("a", &before), ("b", &after)).is_err());
        fs::remove_file(&path).unwrap();
        let gone = view_of(root.path()).unwrap();
        assert!(require_same(("a", &gone), ("b", &after)).is_err());
    }
}
