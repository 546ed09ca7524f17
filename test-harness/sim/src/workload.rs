//! What an actor does: files of its own with content, files whose content all share, names it moves about alone, and names all
//! fight for.
//!
//! Files with content are called `d0`.. and lie in the actor's own directory, so that their life is known without asking. Names
//! `n0`.. lie anywhere, lead to anything, and may be taken, moved or removed by any actor at any time.

use sheen_types::{AttributeName, Fid, FileKind, Name};
use sheen_wire::metadata::{
    Credentials, Link, Lookup, Open, Rename, SetAttributes, SetXattr, Unlink, XattrName, set,
};

use crate::{
    chance::Chance,
    content::OwnFile,
    operation::{Deed, Edit, Operation, create},
};

/// Files with content an actor has at most.
const FILES_MAX: usize = 5;
/// Largest file.
const FILE_BYTES_MAX: u64 = 48 << 10;
/// Names all fight for.
const NAMES: u64 = 5;

/// What an actor does next.
#[derive(Clone, Debug)]
pub enum Job {
    /// It asks a server.
    Ask(Operation),
    /// It does something with the content of a file.
    Do(Fid, Deed),
}

/// What was there a while ago.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// Directories.
    pub directories: Vec<Fid>,
    /// Inodes that have a name, but for files with content.
    pub inodes: Vec<Fid>,
    /// Files whose content all share.
    pub shared: Vec<Fid>,
}

/// An actor's part of the file system.
#[derive(Debug)]
pub struct Worker {
    /// Its directory.
    pub own: Fid,
    /// Everybody's directory.
    pub shared: Fid,
    /// A file of its own nobody may change.
    pub fixed: Option<Fid>,
    /// Its files with content.
    pub files: Vec<OwnFile>,
    /// Every one it ever had.
    pub made: Vec<Fid>,
    /// Files it does not want any more, which its client should forget.
    pub dropped: Vec<Fid>,
    /// The request about the name of one of them that is under way.
    pub naming: Option<Operation>,
    sequence: u64,
    last_oid: u32,
    tag: u64,
    chance: Chance,
}

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).expect("a short word")
}

const fn credentials() -> Credentials {
    Credentials { uid: 1000, gid: 1000 }
}

impl Worker {
    /// An actor's part, given a sequence for ids.
    #[must_use]
    pub fn new(own: Fid, shared: Fid, sequence: u64, mut chance: Chance) -> Self {
        Self {
            own,
            shared,
            fixed: None,
            files: Vec::new(),
            made: Vec::new(),
            dropped: Vec::new(),
            naming: None,
            sequence,
            last_oid: 1000,
            tag: chance.next(),
            chance,
        }
    }

    /// New inodes are named from this sequence; 0: the session it was granted to ended.
    pub fn use_sequence(&mut self, sequence: u64) {
        self.sequence = sequence;
        self.last_oid = 0;
    }

    /// Whether it has ids for new inodes.
    #[must_use]
    pub const fn may_create(&self) -> bool {
        self.sequence != 0
    }

    /// An id nothing has.
    pub fn new_fid(&mut self) -> Fid {
        self.last_oid += 1;
        Fid::new(self.sequence, self.last_oid)
    }

    /// The next thing to do. `quiet` tells whether the actor's client has nothing of a file under way.
    pub fn choose(&mut self, known: &Known, quiet: impl Fn(Fid) -> bool) -> Job {
        match self.chance.below(100) {
            0 => Job::Ask(Operation::SequenceGrant),
            1..34 => self.choose_own(),
            34..54 => self.choose_shared(known),
            54..66 => self.choose_file(quiet),
            66..70 => self.touch(known),
            70..72 => self.cut_fixed(),
            _ => Job::Ask(self.choose_name(known)),
        }
    }

    /// The next thing to do of an actor that may fall silent: nothing whose outcome nobody could tell.
    pub fn choose_quietly(&mut self, known: &Known) -> Job {
        match self.chance.below(100) {
            0..45 => self.choose_own(),
            45..90 => self.choose_shared(known),
            _ => Job::Ask(Operation::ReadDirectory(self.shared)),
        }
    }

    fn choose_own(&mut self) -> Job {
        if self.files.is_empty() {
            return Job::Ask(Operation::GetAttributes(self.own));
        }
        let fid = self.files[self.chance.index(self.files.len())].fid;
        let deed = self.choose_deed();
        Job::Do(fid, deed)
    }

    fn choose_shared(&mut self, known: &Known) -> Job {
        let fid = known.shared.get(self.chance.index(known.shared.len())).copied();
        let deed = self.choose_deed();
        fid.map_or(Job::Ask(Operation::GetAttributes(self.own)), |fid| Job::Do(fid, deed))
    }

    fn choose_deed(&mut self) -> Deed {
        match self.chance.below(100) {
            0..55 => Deed::Edit(self.edit()),
            55..88 => Deed::Read,
            _ => Deed::Sync,
        }
    }

    /// Another client's write-back is in the way of this: the time of its last change is set.
    fn touch(&mut self, known: &Known) -> Job {
        let fid = known.shared.get(self.chance.index(known.shared.len())).copied();
        let change = |fid| SetAttributes { valid: set::MTIME_NOW, ..mode_change(fid, 0) };
        Job::Ask(fid.map_or(Operation::SequenceGrant, |fid| Operation::SetAttributes(change(fid))))
    }

    /// Tries to cut what nobody may change.
    fn cut_fixed(&mut self) -> Job {
        let size = self.chance.below(4096);
        let change = |fid| SetAttributes { valid: set::SIZE, size, ..mode_change(fid, 0) };
        let fixed = self.fixed.map(|fid| Operation::SetAttributes(change(fid)));
        Job::Ask(fixed.unwrap_or(Operation::SequenceGrant))
    }

    /// Makes, opens, closes, renames or removes a file with content; one such request is under way at a time.
    fn choose_file(&mut self, quiet: impl Fn(Fid) -> bool) -> Job {
        if self.naming.is_some() {
            return self.choose_own();
        }
        let count = self.files.len();
        let operation = if count == 0 || count < FILES_MAX && self.chance.percent(40) {
            Some(self.create_file())
        } else {
            let index = self.chance.index(count);
            match self.chance.below(100) {
                0..45 => self.open_or_close(index, quiet),
                45..75 => self.unlink_file(index, quiet),
                _ => self.rename_file(index, quiet),
            }
        };
        self.naming.clone_from(&operation);
        match operation {
            Some(operation) => Job::Ask(operation),
            None => self.choose_own(),
        }
    }

    /// A name of a file with content that is free, or not.
    fn file_name(&mut self) -> Name {
        name(&format!("d{}", self.chance.below(2 * FILES_MAX as u64)))
    }

    fn is_free(&self, name: &Name) -> bool {
        !self.files.iter().any(|file| file.name.as_ref() == Some(name))
    }

    fn create_file(&mut self) -> Operation {
        let mut wanted = self.file_name();
        while !self.is_free(&wanted) {
            wanted = self.file_name();
        }
        let fid = self.new_fid();
        let mut request = create(self.own, wanted, fid, FileKind::Regular);
        request.open = u8::try_from(self.chance.below(3)).unwrap_or(0);
        if self.chance.percent(20) {
            request.unnamed = true;
            request.open = 2;
        }
        Operation::Create(request, Vec::new())
    }

    fn edit(&mut self) -> Edit {
        let aligned = self.chance.percent(40);
        let mut size = |most: u64| {
            let bytes = 1 + self.chance.below(most);
            if aligned { bytes.next_multiple_of(4096) } else { bytes }
        };
        let length = size(10 << 10);
        let offset = size(FILE_BYTES_MAX - (12 << 10)) - if aligned { 4096 } else { 1 };
        match self.chance.below(100) {
            0..72 => {
                self.tag += 1;
                Edit::Write { offset, length, tag: self.tag, durable: self.chance.percent(15) }
            }
            72..86 => Edit::Truncate { size: offset },
            _ => {
                let (zero, extend) = (self.chance.percent(50), self.chance.percent(30));
                Edit::Punch { offset, length, zero, extend }
            }
        }
    }

    fn open_or_close(&mut self, index: usize, quiet: impl Fn(Fid) -> bool) -> Option<Operation> {
        let file = &mut self.files[index];
        let fid = file.fid;
        if !file.open {
            file.open = true;
            let write = self.chance.percent(50);
            return Some(Operation::Open(Open { fid, write, append: false }));
        }
        if file.name.is_some() {
            file.open = false;
            return Some(Operation::Close(fid));
        }
        // It never had a name, or lost it: only what never had one may get one.
        if !file.is_unlinked && self.chance.percent(70) {
            let mut wanted = self.file_name();
            while !self.is_free(&wanted) {
                wanted = self.file_name();
            }
            self.files[index].name = Some(wanted.clone());
            return Some(Operation::Link(Link { fid, parent: self.own, name: wanted }));
        }
        if !quiet(fid) {
            return None;
        }
        self.files.remove(index);
        self.dropped.push(fid);
        Some(Operation::Close(fid))
    }

    fn unlink_file(&mut self, index: usize, quiet: impl Fn(Fid) -> bool) -> Option<Operation> {
        if !self.files[index].open && !quiet(self.files[index].fid) {
            return None;
        }
        let name = self.files[index].name.take()?;
        self.lose_name(index);
        Some(Operation::Unlink(Unlink {
            parent: self.own,
            name,
            directory: false,
            credentials: credentials(),
        }))
    }

    fn lose_name(&mut self, index: usize) {
        if self.files[index].open {
            self.files[index].is_unlinked = true;
        } else {
            self.dropped.push(self.files[index].fid);
            self.files.remove(index);
        }
    }

    fn rename_file(&mut self, index: usize, quiet: impl Fn(Fid) -> bool) -> Option<Operation> {
        let from_name = self.files[index].name.clone()?;
        let to_name = self.file_name();
        let met = self.files.iter().position(|file| file.name.as_ref() == Some(&to_name));
        let flags = if met.is_some() && self.chance.percent(40) { 2 } else { 0 };
        if met != Some(index) {
            let goes = met.map(|met| &self.files[met]).filter(|file| flags == 0 && !file.open);
            if goes.is_some_and(|file| !quiet(file.fid)) {
                return None;
            }
            self.files[index].name = Some(to_name.clone());
            match met {
                Some(met) if flags == 2 => self.files[met].name = Some(from_name.clone()),
                Some(met) => {
                    self.files[met].name = None;
                    self.lose_name(met);
                }
                None => {}
            }
        }
        Some(Operation::Rename(Rename {
            from_parent: self.own,
            from_name,
            to_parent: self.own,
            to_name,
            flags,
            credentials: credentials(),
            whiteout: Fid::NONE,
        }))
    }

    fn parent(&mut self, directories: &[Fid]) -> Fid {
        match self.chance.below(10) {
            0..5 => self.shared,
            5..8 => self.own,
            _ if directories.is_empty() => self.own,
            _ => directories[self.chance.index(directories.len())],
        }
    }

    fn any_name(&mut self) -> Name {
        name(&format!("n{}", self.chance.below(NAMES)))
    }

    fn choose_name(&mut self, known: &Known) -> Operation {
        let Known { directories, inodes, .. } = known;
        let parent = self.parent(directories);
        let name = self.any_name();
        let fid = inodes.get(self.chance.index(inodes.len())).copied().unwrap_or(self.shared);
        match self.chance.below(100) {
            0..30 => self.create_name(parent, name),
            30..40 => Operation::Link(Link { fid, parent, name }),
            40..54 => {
                let directory = self.chance.percent(35);
                Operation::Unlink(Unlink { parent, name, directory, credentials: credentials() })
            }
            54..72 => self.rename_name(parent, name, directories),
            72..84 => self.change_inode(fid),
            84..92 => Operation::Lookup(Lookup { parent, name: Some(name) }),
            92..95 => Operation::GetAttributes(fid),
            95..97 => Operation::ListXattr(fid),
            _ => Operation::ReadDirectory(parent),
        }
    }

    fn create_name(&mut self, parent: Fid, name: Name) -> Operation {
        let fid = self.new_fid();
        let kind = match self.chance.below(10) {
            0..5 => FileKind::Regular,
            5..8 => FileKind::Directory,
            8 => FileKind::Symlink,
            _ => FileKind::Fifo,
        };
        let mut request = create(parent, name, fid, kind);
        request.exclusive = self.chance.percent(80);
        let target = if kind == FileKind::Symlink { b"../elsewhere".to_vec() } else { Vec::new() };
        Operation::Create(request, target)
    }

    fn rename_name(&mut self, from_parent: Fid, from_name: Name, directories: &[Fid]) -> Operation {
        let to_parent = self.parent(directories);
        let to_name = self.any_name();
        let flags = match self.chance.below(10) {
            0..3 => 2,
            3 => 1,
            _ => 0,
        };
        let (credentials, whiteout) = (credentials(), Fid::NONE);
        Operation::Rename(Rename {
            from_parent,
            from_name,
            to_parent,
            to_name,
            flags,
            credentials,
            whiteout,
        })
    }

    fn change_inode(&mut self, fid: Fid) -> Operation {
        let attribute = AttributeName::from(name(&format!("user.{}", self.chance.below(3))));
        match self.chance.below(10) {
            0..4 => {
                let flags = u32::try_from(self.chance.below(3)).unwrap_or(0);
                let length = self.chance.index(300);
                let value = (0..length).map(|_| self.chance.next().to_le_bytes()[0]).collect();
                let request = SetXattr { fid, name: attribute, flags, kill_sgid: false };
                Operation::SetXattr(request, value)
            }
            4..6 => Operation::RemoveXattr(XattrName { fid, name: attribute }),
            6 => Operation::GetXattr(XattrName { fid, name: attribute }),
            _ => Operation::SetAttributes(mode_change(fid, self.chance.index(0o1000))),
        }
    }
}

/// A change of the permissions.
#[must_use]
pub fn mode_change(fid: Fid, permissions: usize) -> SetAttributes {
    let permissions = u32::try_from(permissions).unwrap_or(0);
    SetAttributes { permissions, ..SetAttributes::zeroing(fid, set::MODE, credentials()) }
}
