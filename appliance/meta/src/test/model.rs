//! Random operations against a namespace of the simplest kind: paths in maps.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::{SnapshotReader, operation::OrphanRelease};

/// A small generator (SplitMix64), so that a seed tells the whole run.
pub(super) struct Random(pub(super) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }

    pub(super) fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }
}

/// Directories as maps of names; everything else is counted from them.
struct Model {
    directories: BTreeMap<Fid, BTreeMap<String, Fid>>,
    orphans: BTreeSet<Fid>,
    files: BTreeSet<Fid>,
}

impl Model {
    fn is_directory(&self, fid: Fid) -> bool {
        self.directories.contains_key(&fid)
    }

    fn child(&self, parent: Fid, text: &str) -> Option<Fid> {
        self.directories[&parent].get(text).copied()
    }

    fn links(&self, fid: Fid) -> u32 {
        let names = self.directories.values().flat_map(BTreeMap::values);
        let count = names.filter(|&&child| child == fid).count();
        let subdirectories = self.directories.get(&fid).map_or(0, |children| {
            1 + children.values().filter(|child| self.is_directory(**child)).count()
        });
        let root = usize::from(fid.is_root());
        u32::try_from(count + subdirectories + root).unwrap()
    }

    fn holds(&self, ancestor: Fid, directory: Fid) -> bool {
        ancestor == directory
            || self.directories.get(&ancestor).is_some_and(|children| {
                children
                    .values()
                    .any(|&child| self.is_directory(child) && self.holds(child, directory))
            })
    }

    fn drop_name(&mut self, fid: Fid, open: bool) {
        if self.is_directory(fid) {
            self.directories.remove(&fid);
        } else if self.links(fid) == 0 {
            self.files.remove(&fid);
            if open {
                self.orphans.insert(fid);
            }
        }
    }

    fn create(&mut self, parent: Fid, text: &str, fid: Fid, dir: bool) -> Result<(), Errno> {
        if self.child(parent, text).is_some() {
            return Err(Errno::EEXIST);
        }
        self.directories.get_mut(&parent).unwrap().insert(text.into(), fid);
        if dir {
            self.directories.insert(fid, BTreeMap::new());
        } else {
            self.files.insert(fid);
        }
        Ok(())
    }

    fn link(&mut self, fid: Fid, parent: Fid, text: &str) -> Result<(), Errno> {
        if self.child(parent, text).is_some() {
            return Err(Errno::EEXIST);
        }
        if self.is_directory(fid) {
            return Err(Errno::EPERM);
        }
        self.directories.get_mut(&parent).unwrap().insert(text.into(), fid);
        Ok(())
    }

    fn unlink(&mut self, parent: Fid, text: &str, dir: bool, open: bool) -> Result<(), Errno> {
        let fid = self.child(parent, text).ok_or(Errno::ENOENT)?;
        match (dir, self.is_directory(fid)) {
            (true, false) => return Err(Errno::ENOTDIR),
            (false, true) => return Err(Errno::EISDIR),
            (true, true) if !self.directories[&fid].is_empty() => return Err(Errno::ENOTEMPTY),
            (true, true) | (false, false) => {}
        }
        self.directories.get_mut(&parent).unwrap().remove(text);
        self.drop_name(fid, open);
        Ok(())
    }

    fn rename(&mut self, from: (Fid, &str), to: (Fid, &str), flags: u32) -> Result<(), Errno> {
        let source = self.child(from.0, from.1).ok_or(Errno::ENOENT)?;
        let target = self.child(to.0, to.1);
        if flags == 1 && target.is_some() {
            return Err(Errno::EEXIST);
        }
        if flags == 2 && target.is_none() {
            return Err(Errno::ENOENT);
        }
        if from.0 != to.0 && self.is_directory(source) && self.holds(source, to.0) {
            return Err(Errno::EINVAL);
        }
        if let Some(target) = target {
            if from.0 != to.0 && self.is_directory(target) && self.holds(target, from.0) {
                return Err(if flags == 2 { Errno::EINVAL } else { Errno::ENOTEMPTY });
            }
            if target == source {
                return Ok(());
            }
            if flags != 2 {
                match (self.is_directory(source), self.is_directory(target)) {
                    (true, false) => return Err(Errno::ENOTDIR),
                    (false, true) => return Err(Errno::EISDIR),
                    (true, true) if !self.directories[&target].is_empty() => {
                        return Err(Errno::ENOTEMPTY);
                    }
                    (true, true) | (false, false) => {}
                }
            }
        }
        self.directories.get_mut(&from.0).unwrap().remove(from.1);
        self.directories.get_mut(&to.0).unwrap().insert(to.1.into(), source);
        if let Some(target) = target {
            if flags == 2 {
                self.directories.get_mut(&from.0).unwrap().insert(from.1.into(), target);
            } else {
                self.drop_name(target, false);
            }
        }
        Ok(())
    }
}

/// One random operation on both; their answers must agree.
fn step(h: &mut Harness, model: &mut Model, random: &mut Random) {
    let dirs: Vec<Fid> = model.directories.keys().copied().collect();
    let inodes: Vec<Fid> = model.files.iter().chain(&dirs).copied().collect();
    let names: Vec<String> = (0..6).map(|number| format!("n{number}")).collect();
    let (a, b) = (random.pick(&dirs), random.pick(&dirs));
    let (x, y) = (random.pick(&names), random.pick(&names));
    let (operation, expected) = match random.below(20) {
        0..6 => {
            let dir = random.below(2) == 0;
            let kind = if dir { FileKind::Directory } else { FileKind::Regular };
            let request = h.creation(a, &x, kind);
            let expected = model.create(a, &x, request.fid, dir);
            (create(request), expected)
        }
        6..8 => {
            let fid = random.pick(&inodes);
            (link(fid, a, &x), model.link(fid, a, &x))
        }
        8..12 => {
            let (dir, open) = (random.below(2) == 0, random.below(2) == 0);
            // Removed directories leave the model at once, so none is kept open here.
            (h.removal(a, &x, dir, open && !dir), model.unlink(a, &x, dir, open && !dir))
        }
        12..19 => {
            let flags = random.pick(&[0, 0, 1, 2]);
            let expected = model.rename((a, &x), (b, &y), flags);
            (h.renaming((a, &x), (b, &y), flags), expected)
        }
        _ => {
            let Some(fid) = model.orphans.pop_first() else { return };
            (Operation::OrphanRelease(OrphanRelease { fid }), Ok(()))
        }
    };
    let outcome = h.apply(operation.clone());
    assert_eq!(outcome.result.map(|_| ()), expected, "{operation:?}");
}

fn compare(h: &Harness, model: &Model) {
    assert_eq!(h.state.check(), Ok(()));
    size::check(&h.state);
    let inodes = model.directories.len() + model.files.len() + model.orphans.len();
    assert_eq!(h.state.inodes(), inodes as u64);
    assert_eq!(h.state.orphans(Fid::NONE, 9999), Vec::from_iter(model.orphans.iter().copied()));
    for (&fid, children) in &model.directories {
        let mut listed = BTreeMap::new();
        let mut cookie = 0;
        loop {
            let page = h.state.read_directory(fid, cookie, 2).unwrap();
            for entry in page.entries {
                assert!(entry.cookie > cookie);
                cookie = entry.cookie;
                listed.insert(entry.name.to_string(), entry.fid);
            }
            if page.end {
                break;
            }
        }
        assert_eq!(listed, *children);
        assert_eq!(h.stat(fid).nlink, model.links(fid));
    }
    for &fid in &model.files {
        assert_eq!(h.stat(fid).nlink, model.links(fid));
    }
}

#[test]
fn a_random_history_agrees_with_the_simplest_namespace() {
    for seed in 0..12 {
        println!("seed {seed}");
        let mut random = Random(seed);
        let mut h = Harness::new();
        h.checks = false;
        let mut model = Model {
            directories: BTreeMap::from([(h.root, BTreeMap::new())]),
            orphans: BTreeSet::new(),
            files: BTreeSet::new(),
        };
        for round in 0..1500 {
            step(&mut h, &mut model, &mut random);
            if round % 50 == 0 {
                compare(&h, &model);
            }
        }
        compare(&h, &model);
        // Applied again it is the same state, and so is the one read from its snapshot.
        let mut again = State::new(Limits::default());
        for entry in &h.history {
            again.apply(entry);
        }
        assert_eq!(again.snapshot().flatten().collect::<Vec<u8>>(), h.bytes());
        let mut reader = SnapshotReader::new(Limits::default());
        for chunk in again.snapshot() {
            reader.push(&chunk).unwrap();
        }
        assert_eq!(reader.finish().unwrap(), h.state);
    }
}
