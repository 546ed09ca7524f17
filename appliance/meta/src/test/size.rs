//! The size of the snapshot is known at all times, and no operation makes it grow by more than was told before.

use std::collections::BTreeSet;

use sheen_wire::{
    fields::List,
    metadata::{FilesystemDelete, InstantiateLayout},
};

use super::{model::Random, *};
use crate::{
    Growth, acl,
    operation::{Disconnect, ObjectsDestroyed, OrphanRelease, Reap},
    snapshot::{chunks_max, heads_bytes},
};

/// Most that a session, or a file system, is counted for and has not come to hold.
const SESSION_SLACK_MAX: u64 = 16 * 8 + 4 * 56;
const FILESYSTEM_SLACK: u64 = 17;

/// The size is what a count says, at least what a snapshot takes, and not much more.
pub(super) fn check(state: &State) {
    let size = state.snapshot_size();
    assert_eq!(size, state.measure());
    let chunks: Vec<usize> = state.snapshot().map(|chunk| chunk.len()).collect();
    let (bytes, count) = (chunks.iter().sum::<usize>() as u64, chunks.len() as u64);
    assert!(count <= chunks_max(size.total()), "{count} chunks for {size:?}");
    let items = bytes - heads_bytes(count);
    assert!(items <= size.total(), "{items} bytes of items, {size:?}");
    let slack = state.sessions().len() as u64 * SESSION_SLACK_MAX
        + state.filesystems().len() as u64 * FILESYSTEM_SLACK;
    assert!(size.total() - items <= slack, "{items} bytes of items, {size:?}");
}

/// A default access list that names so many users.
fn access_list(users: u32) -> Vec<u8> {
    let entry = |tag: u16, id: u32| [&tag.to_le_bytes()[..], &[7, 0], &id.to_le_bytes()].concat();
    let mut value = 2_u32.to_le_bytes().to_vec();
    value.extend(entry(1, u32::MAX));
    value.extend((0..users).flat_map(|id| entry(2, id)));
    for tag in [4, 0x10, 0x20] {
        value.extend(entry(tag, u32::MAX));
    }
    value
}

/// What the history knows of the namespace, to pick from.
struct World {
    h: Harness,
    dirs: Vec<Fid>,
    files: Vec<Fid>,
    seed: u8,
}

/// What no two operations on their way may share.
type Keys = Vec<(Fid, String)>;

impl World {
    fn new() -> Self {
        let mut h = Harness::new();
        h.checks = false;
        for ost in 1..40 {
            h.ok(register(ost));
        }
        let dirs = vec![h.root];
        Self { h, dirs, files: Vec::new(), seed: 100 }
    }

    fn name(random: &mut Random) -> String {
        let number = random.below(12);
        format!("n{number}{}", "x".repeat(number * 20))
    }

    fn create(&mut self, random: &mut Random) -> (Operation, Keys) {
        let (parent, text) = (random.pick(&self.dirs), Self::name(random));
        let kinds = [
            FileKind::Regular,
            FileKind::Regular,
            FileKind::Directory,
            FileKind::Symlink,
            FileKind::CharDevice,
            FileKind::Fifo,
        ];
        let mut request = self.h.creation(parent, &text, random.pick(&kinds));
        let link = request.kind == FileKind::Symlink;
        let target = if link { vec![b't'; 1 + random.below(4000)] } else { Vec::new() };
        request.unnamed = request.kind == FileKind::Regular && random.below(4) == 0;
        let of = if request.kind == FileKind::Directory { &mut self.dirs } else { &mut self.files };
        of.push(request.fid);
        let keys = vec![(parent, text)];
        (Operation::Create(CreateInode { request, target }), keys)
    }

    fn xattr(&mut self, random: &mut Random) -> (Operation, Keys) {
        let fid = if random.below(2) == 0 { random.pick(&self.dirs) } else { self.file(random) };
        let keys = vec![(fid, String::new())];
        let operation = match random.below(6) {
            0 => removexattr(fid, random.pick(&["user.a", "system.posix_acl_default"])),
            1 => setxattr(fid, std::str::from_utf8(acl::DEFAULT).unwrap(), &access_list(3), 0),
            2 => {
                let list = access_list(u32::try_from(random.below(300)).unwrap());
                setxattr(fid, std::str::from_utf8(acl::DEFAULT).unwrap(), &list, 0)
            }
            3 => setxattr(fid, std::str::from_utf8(acl::ACCESS).unwrap(), &access_list(5), 0),
            _ => {
                let value = vec![1; random.below(9000)];
                setxattr(fid, random.pick(&["user.a", "user.bb", "security.capability"]), &value, 0)
            }
        };
        (operation, keys)
    }

    fn file(&self, random: &mut Random) -> Fid {
        if self.files.is_empty() { self.h.root } else { random.pick(&self.files) }
    }

    fn removal(&mut self, random: &mut Random) -> (Operation, Keys) {
        let (parent, text) = (random.pick(&self.dirs), Self::name(random));
        let child = self.h.find(parent, &text).unwrap_or(Fid::NONE);
        let keys = vec![(parent, text.clone()), (child, String::new())];
        let (directory, open) = (random.below(3) == 0, random.below(2) == 0);
        (self.h.removal(parent, &text, directory, open), keys)
    }

    fn rename(&mut self, random: &mut Random) -> (Operation, Keys) {
        let (a, x) = (random.pick(&self.dirs), Self::name(random));
        let (b, y) = (random.pick(&self.dirs), Self::name(random));
        let children = [self.h.find(a, &x), self.h.find(b, &y)];
        let mut keys = vec![(a, x.clone()), (b, y.clone())];
        keys.extend(children.into_iter().flatten().map(|fid| (fid, String::new())));
        let flags = random.pick(&[0, 0, 1, 2, 4]);
        let Operation::Rename(mut body) = self.h.renaming((a, &x), (b, &y), flags) else {
            unreachable!("made a rename")
        };
        body.open = random.below(2) == 0;
        body.request.whiteout = self.h.next_fid();
        (Operation::Rename(body), keys)
    }

    fn session(&mut self, random: &mut Random) -> (Operation, Keys) {
        let keys = vec![(Fid::NONE, "session".to_owned())];
        self.seed = 100 + (self.seed - 99) % 20;
        let sessions: Vec<ClientId> = self.h.state.sessions().iter().map(|it| it.client).collect();
        let client = random.pick(&sessions);
        let operation = match random.below(4) {
            0 if client != self.h.client => Operation::Disconnect(Disconnect { client }),
            1 => Operation::SequenceGrant(Nothing {}),
            _ => connect([self.seed; 16], "one"),
        };
        (operation, keys)
    }

    fn background(&mut self, random: &mut Random) -> (Operation, Keys) {
        let ost = OstIndex(u32::try_from(random.below(40)).unwrap());
        match random.below(3) {
            0 => {
                let objects = List(self.h.state.pending_destroys(ost, Fid::NONE).take(3).collect());
                let keys = vec![(Fid::NONE, format!("{ost:?}"))];
                (Operation::ObjectsDestroyed(ObjectsDestroyed { ost, objects }), keys)
            }
            1 => {
                let orphans = self.h.state.orphans(Fid::NONE, 50);
                let fid = if orphans.is_empty() { Fid::NONE } else { random.pick(&orphans) };
                (Operation::OrphanRelease(OrphanRelease { fid }), vec![(fid, String::new())])
            }
            _ => {
                let fid = self.file(random);
                let end = random.pick(&[1, 200 << 20, 20 << 30, u64::MAX]);
                let request = InstantiateLayout { fid, start: 0, end };
                (Operation::InstantiateLayout(request), vec![(fid, String::new())])
            }
        }
    }

    fn operation(&mut self, random: &mut Random) -> (Operation, Keys) {
        match random.below(20) {
            0..8 => self.create(random),
            8..11 => self.xattr(random),
            11..14 => self.removal(random),
            14..16 => self.rename(random),
            16 => {
                let (fid, parent) = (self.file(random), random.pick(&self.dirs));
                let text = Self::name(random);
                (link(fid, parent, &text), vec![(fid, String::new()), (parent, text)])
            }
            17 => self.session(random),
            18 => {
                let fid = random.pick(&self.dirs);
                let valid = sheen_wire::metadata::set::MODE;
                let request = SetAttributes { permissions: 0o750, ..self.h.setting(fid, valid) };
                (Operation::SetAttributes(request), vec![(fid, String::new())])
            }
            _ => self.background(random),
        }
    }

    /// Operations that are all told of before the first is applied, as those in one proposal are.
    fn flight(&mut self, random: &mut Random) {
        let mut held = BTreeSet::new();
        let mut told = Growth::default();
        let mut entries = Vec::new();
        for _ in 0..=random.below(10) {
            let (operation, keys) = self.operation(random);
            if keys.iter().any(|key| held.contains(key)) {
                continue;
            }
            held.extend(keys);
            let growth = self.h.state.growth(&operation, told.default_acl);
            told.sessions += growth.sessions;
            told.others += growth.others;
            told.default_acl = told.default_acl.max(growth.default_acl);
            let from_session = !matches!(
                operation,
                Operation::Connect(_)
                    | Operation::Disconnect(_)
                    | Operation::ObjectsDestroyed(_)
                    | Operation::OrphanRelease(_)
            );
            let mut entry = self.h.entry(operation);
            if !from_session {
                entry.client = ClientId(0);
            }
            entries.push(entry);
        }
        let before = self.h.state.snapshot_size();
        for entry in entries {
            self.h.state.apply(&entry);
        }
        let after = self.h.state.snapshot_size();
        assert!(after.sessions <= before.sessions + told.sessions, "{before:?} {after:?} {told:?}");
        assert!(after.others <= before.others + told.others, "{before:?} {after:?} {told:?}");
        self.dirs.retain(|fid| self.h.state.directory_entries(*fid).is_ok());
        self.files.retain(|fid| self.h.state.attributes(*fid).is_ok());
    }
}

#[test]
fn a_random_history_never_grows_by_more_than_was_told() {
    for seed in 0..4 {
        println!("seed {seed}");
        let mut random = Random(seed);
        let mut world = World::new();
        for round in 0..600 {
            world.flight(&mut random);
            if round % 20 == 0 {
                check(&world.h.state);
            }
        }
        assert!(world.dirs.len() > 3 && world.files.len() > 20, "{}", world.files.len());
        let h = &mut world.h;
        h.client = ClientId(0);
        h.ok(Operation::FilesystemDelete(FilesystemDelete { name: b"one".to_vec(), force: true }));
        let mut finished = false;
        while !finished {
            check(&h.state);
            let reap = Reap { root: h.root, steps_max: 7 };
            let Reply::Reaped { finished: done, .. } = h.ok(Operation::Reap(reap)) else {
                panic!("no step of a deletion")
            };
            finished = done;
        }
        check(&h.state);
        assert_eq!(h.state.inodes(), 0);
        for (ost, _) in h.state.osts() {
            let objects = List(h.state.pending_destroys(ost, Fid::NONE).collect());
            h.ok(Operation::ObjectsDestroyed(ObjectsDestroyed { ost, objects }));
        }
        check(&h.state);
    }
}

#[test]
fn an_open_that_creates_nothing_and_a_smaller_value_need_no_room() {
    let mut h = Harness::new();
    let file = h.file(h.root, "file");
    h.ok(setxattr(file, "user.a", &[1; 1000], 0));
    let opens = Create { exclusive: false, ..h.creation(h.root, "file", FileKind::Regular) };
    let growth = |operation: &Operation| h.state.growth(operation, 0);
    assert!(growth(&create(opens)).is_none());
    assert!(growth(&setxattr(file, "user.a", &[2; 1000], 0)).is_none());
    assert_eq!(growth(&setxattr(file, "user.a", &[2; 1001], 0)).others, 1);
    assert!(growth(&h.renaming((h.root, "file"), (h.root, "name"), 0)).is_none());
    assert_eq!(growth(&h.renaming((h.root, "file"), (h.root, "longer"), 0)).others, 2);
    assert!(growth(&connect([1; 16], "one")).is_none(), "a session that is known");
}
