//! What an actor does: files of its own with content, names it moves about alone, and names all fight for.
//!
//! Files with content are called `d0`.. and lie in the actor's own directory, so that their life is known without asking. Names
//! `n0`.. lie anywhere, lead to anything, and may be taken, moved or removed by any actor at any time.

use sheen_types::{Fid, FileKind, Name, OstIndex};
use sheen_wire::metadata::{
    Credentials, Link, Lookup, Open, Rename, SetAttributes, SetXattr, Unlink, XattrName, set,
};

use crate::{
    chance::Chance,
    content::DataFile,
    node::OSTS,
    operation::{Edit, Operation, Place, create},
};

/// Files with content an actor has at most.
const FILES_MAX: usize = 5;
/// Largest file.
const FILE_BYTES_MAX: u64 = 48 << 10;
/// Names all fight for.
const NAMES: u64 = 5;

/// An actor's part of the file system.
#[derive(Debug)]
pub struct Worker {
    /// Its directory.
    pub own: Fid,
    /// Everybody's directory.
    pub shared: Fid,
    /// Its files with content.
    pub files: Vec<DataFile>,
    /// Every object its files ever had.
    pub places: Vec<Place>,
    /// Files that showed less after power loss than was acknowledged.
    pub losses: u64,
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
        let tag = chance.next();
        let (files, places) = (Vec::new(), Vec::new());
        Self { own, shared, files, places, losses: 0, sequence, last_oid: 1000, tag, chance }
    }

    /// New inodes are named from this sequence.
    pub fn use_sequence(&mut self, sequence: u64) {
        self.sequence = sequence;
        self.last_oid = 0;
    }

    fn new_fid(&mut self) -> Fid {
        self.last_oid += 1;
        Fid::new(self.sequence, self.last_oid)
    }

    /// The next request. `directories` and `inodes` were there a while ago.
    pub fn choose(&mut self, directories: &[Fid], inodes: &[Fid]) -> Operation {
        match self.chance.below(100) {
            0 => Operation::SequenceGrant,
            1..55 => self.choose_data(),
            _ => self.choose_name(directories, inodes),
        }
    }

    fn choose_data(&mut self) -> Operation {
        let count = self.files.len();
        if count == 0 || count < FILES_MAX && self.chance.percent(12) {
            return self.create_file();
        }
        let index = self.chance.index(count);
        match self.chance.below(100) {
            0..55 => self.edit(index),
            55..66 => Operation::Read(self.files[index].place),
            66..74 => Operation::Sync(OstIndex(
                u32::try_from(self.chance.index(OSTS as usize)).unwrap_or(0),
            )),
            74..86 => self.open_or_close(index),
            86..93 => self.unlink_file(index),
            _ => self.rename_file(index),
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

    fn edit(&mut self, index: usize) -> Operation {
        let aligned = self.chance.percent(40);
        let mut size = |most: u64| {
            let bytes = 1 + self.chance.below(most);
            if aligned { bytes.next_multiple_of(4096) } else { bytes }
        };
        let length = size(10 << 10);
        let offset = size(FILE_BYTES_MAX - (12 << 10)) - if aligned { 4096 } else { 1 };
        let edit = match self.chance.below(100) {
            0..72 => {
                self.tag += 1;
                Edit::Write { offset, length, tag: self.tag, durable: self.chance.percent(15) }
            }
            72..86 => Edit::Truncate { size: offset },
            _ => {
                let (zero, extend) = (self.chance.percent(50), self.chance.percent(30));
                Edit::Punch { offset, length, zero, extend }
            }
        };
        let file = &mut self.files[index];
        file.model.begin(edit);
        Operation::Edit(file.place, edit)
    }

    fn open_or_close(&mut self, index: usize) -> Operation {
        let file = &mut self.files[index];
        let fid = file.fid;
        if !file.open {
            file.open = true;
            return Operation::Open(Open { fid, write: self.chance.percent(50), append: false });
        }
        if file.name.is_some() {
            file.open = false;
            return Operation::Close(fid);
        }
        // It never had a name, or lost it: only what never had one may get one.
        if !file.model.is_unlinked && self.chance.percent(70) {
            let mut wanted = self.file_name();
            while !self.is_free(&wanted) {
                wanted = self.file_name();
            }
            self.files[index].name = Some(wanted.clone());
            return Operation::Link(Link { fid, parent: self.own, name: wanted });
        }
        self.files.remove(index);
        Operation::Close(fid)
    }

    fn unlink_file(&mut self, index: usize) -> Operation {
        let Some(name) = self.files[index].name.take() else {
            return Operation::Read(self.files[index].place);
        };
        self.lose_name(index);
        Operation::Unlink(Unlink {
            parent: self.own,
            name,
            directory: false,
            credentials: credentials(),
        })
    }

    fn lose_name(&mut self, index: usize) {
        if self.files[index].open {
            self.files[index].model.is_unlinked = true;
        } else {
            self.files.remove(index);
        }
    }

    fn rename_file(&mut self, index: usize) -> Operation {
        let Some(from_name) = self.files[index].name.clone() else {
            return Operation::Read(self.files[index].place);
        };
        let to_name = self.file_name();
        let met = self.files.iter().position(|file| file.name.as_ref() == Some(&to_name));
        let flags = if met.is_some() && self.chance.percent(40) { 2 } else { 0 };
        if met != Some(index) {
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
        Operation::Rename(Rename {
            from_parent: self.own,
            from_name,
            to_parent: self.own,
            to_name,
            flags,
            credentials: credentials(),
            whiteout: Fid::NONE,
        })
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

    fn choose_name(&mut self, directories: &[Fid], inodes: &[Fid]) -> Operation {
        let parent = self.parent(directories);
        let name = self.any_name();
        let fid = match inodes {
            [] => self.shared,
            some => some[self.chance.index(some.len())],
        };
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
        let attribute = name(&format!("user.{}", self.chance.below(3)));
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

fn mode_change(fid: Fid, permissions: usize) -> SetAttributes {
    let zero = sheen_types::Timespec::ZERO;
    SetAttributes {
        fid,
        valid: set::MODE,
        permissions: u32::try_from(permissions).unwrap_or(0),
        uid: 0,
        gid: 0,
        projid: 0,
        size: 0,
        atime: zero,
        mtime: zero,
        ctime: zero,
        flags: 0,
        credentials: credentials(),
    }
}
