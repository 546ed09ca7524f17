//! The invariants of the state, checked all at once.

use std::collections::BTreeMap;

use sheen_types::{Fid, FileKind};

use super::{State, filesystem::Filesystem, inode::Inode};

impl State {
    /// Checks every invariant: after a snapshot was read, and in tests. Linear in the state.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self) -> Result<(), &'static str> {
        let mut links: BTreeMap<Fid, u32> = BTreeMap::new();
        let mut counts: BTreeMap<u32, u64> = BTreeMap::new();
        for (&fid, inode) in &self.inodes {
            *counts.entry(inode.filesystem).or_default() += 1;
            self.check_names(fid, inode, &mut links)?;
        }
        for (number, filesystem) in &self.filesystems {
            if counts.remove(number).unwrap_or(0) != filesystem.inodes {
                return Err("a file system counts its inodes wrong");
            }
        }
        if !counts.is_empty() {
            return Err("an inode is in no file system");
        }
        for (&fid, inode) in &self.inodes {
            let reaped =
                self.filesystems.get(&inode.filesystem).is_some_and(|f| f.reaping.is_some());
            self.check_links(fid, inode, links.get(&fid).copied().unwrap_or(0), reaped)?;
        }
        if self.orphans.keys().any(|fid| !self.inodes.contains_key(fid)) {
            return Err("an orphan is no inode");
        }
        self.check_identities()
    }

    /// Counts the names in a directory, and those of its subdirectories for itself.
    fn check_names(
        &self,
        fid: Fid,
        inode: &Inode,
        links: &mut BTreeMap<Fid, u32>,
    ) -> Result<(), &'static str> {
        for (_, child) in inode.directory().into_iter().flat_map(|names| names.behind(0)) {
            let Some(found) = self.inodes.get(&child.fid) else {
                return Err("a name leads nowhere");
            };
            if found.kind != child.kind || found.filesystem != inode.filesystem {
                return Err("a name is of another kind or file system than its inode");
            }
            *links.entry(child.fid).or_default() += 1;
            if child.kind == FileKind::Directory {
                *links.entry(fid).or_default() += 1;
                if found.directory().is_none_or(|directory| directory.parent != fid) {
                    return Err("a directory is not in its parent");
                }
            }
        }
        Ok(())
    }

    /// `named`: names that lead here and, for a directory, its subdirectories.
    fn check_links(
        &self,
        fid: Fid,
        inode: &Inode,
        named: u32,
        reaped: bool,
    ) -> Result<(), &'static str> {
        if inode.nlink == 0 {
            let orphan = self.orphans.contains_key(&fid);
            return if orphan && named == 0 { Ok(()) } else { Err("unlinked and not an orphan") };
        }
        if self.orphans.contains_key(&fid) {
            return Err("an orphan has links");
        }
        let is_root = fid == Filesystem::root(inode.filesystem);
        let expected = match (inode.is_directory(), is_root) {
            (true, true) => named + 2,
            (true, false) => named + 1,
            (false, _) => named,
        };
        // While a file system is deleted its directories lose entries without being counted.
        let counted = inode.nlink == expected || reaped && inode.is_directory();
        if counted { Ok(()) } else { Err("a link count is wrong") }
    }
}
