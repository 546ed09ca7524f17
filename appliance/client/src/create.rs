//! Making inodes, and opening what was made in the same request.

use std::sync::Arc;

use sheen_dma::Buffer;
use sheen_ports::Cancel;
use sheen_types::{Errno, FileKind, Name};
use sheen_wire::{
    Opcode,
    lease::bits,
    metadata::{Create, EntryReply},
};

use crate::{
    attributes::Caching,
    client::Client,
    data_lease::DataMode,
    inode::{Inode, Known, Registered},
    lease::LAYOUT_ROOM,
    namespace::{Found, credentials, name},
    open::OpenState,
    request::{Request, Then},
};

/// What to make.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NewInode<'a> {
    /// Its name; None: none (`O_TMPFILE`).
    pub name: Option<&'a [u8]>,
    /// Kind.
    pub kind: FileKind,
    /// Permission bits as the program gave them.
    pub permissions: u32,
    /// The process's umask.
    pub umask: u32,
    /// Device number of a special file.
    pub rdev: u64,
    /// Target of a symbolic link.
    pub target: &'a [u8],
    /// Owner: (uid, gid).
    pub owner: (u32, u32),
    /// Fail if the name is taken; else the inode it leads to is given.
    pub exclusive: bool,
}

/// How to open what is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NewOpen {
    /// For reading, too.
    pub read: bool,
    /// For writing, too.
    pub write: bool,
    /// Every write goes to the end, and nothing is cut (`O_APPEND` without `O_TRUNC`).
    pub append: bool,
}

/// What came of [`Client::create`].
#[derive(Clone, Debug)]
pub struct Created {
    /// The inode.
    pub found: Found,
    /// If it was to be opened.
    pub opened: Option<OpenState>,
    /// It was made; else the name led to it.
    pub is_new: bool,
}

impl Client {
    /// Makes an inode, and opens it if `open` says so.
    ///
    /// # Errors
    /// EEXIST, ENOSPC, EDQUOT, ENOENT, ENAMETOOLONG, ENFILE as [`Client::open`], EINTR.
    pub fn create(
        self: &Arc<Self>,
        parent: &Arc<Inode>,
        new: &NewInode<'_>,
        open: Option<NewOpen>,
        cancel: &Cancel,
    ) -> Result<Created, Errno> {
        let body = Create {
            parent: parent.fid,
            name: new.name.map_or_else(|| Name::new(b"#").map_err(|_| Errno::EINVAL), name)?,
            fid: self.new_fid(cancel)?,
            kind: new.kind,
            permissions: new.permissions & 0o7777,
            umask: new.umask & 0o777,
            rdev: new.rdev,
            exclusive: new.exclusive,
            open: open.map_or(0, |open| if open.write { 2 } else { 1 }),
            credentials: credentials(new.owner),
            unnamed: new.name.is_none(),
        };
        let stamp = self.stamp();
        let mut request = Request::new(Opcode::Create, &body).with_room(LAYOUT_ROOM);
        if new.kind == FileKind::Symlink {
            request.payload = Some(self.payload_of(new.target, cancel)?);
        }
        let then = if open.is_some() { Then::CloseCreated } else { Then::Nothing };
        let reply =
            self.ask_then(request, then, cancel).inspect_err(|_| self.doubt_names(parent))?;
        let entry: EntryReply = reply.decode()?;
        if !entry.created {
            self.doubt_names(parent);
            let found = self.take_entry(parent, &reply, &entry, stamp, cancel)?;
            // What was opened may just be closed by another thread: counted like any other open.
            let opened = match open {
                Some(open) => Some(self.open(&found.inode, open, cancel)?),
                None => None,
            };
            return Ok(Created { found, opened, is_new: false });
        }
        let inode = self.inode(entry.attributes.fid);
        let settled = self.settle_change(&inode, &reply, stamp, &entry.attributes, &entry.lease);
        if new.name.is_some() {
            let gaps = settled.names.filter(|_| !reply.resent).and_then(|losses| {
                let state = inode.lock();
                (state.losses == losses && state.holds(bits::LOOKUP)).then_some(state.name_gaps)
            });
            self.note_name(parent, body.name, (inode.fid, gaps), stamp);
        }
        if settled.fresh && !reply.resent && entry.attributes.kind == FileKind::Directory {
            self.note_empty_directory(&inode);
        }
        self.settle_parent(parent, &reply, &entry, stamp);
        let opened = open.map(|open| note_created(&inode, &entry, open));
        if entry.attributes.kind == FileKind::Regular {
            self.note_empty(&inode, &entry);
        }
        let caching = Caching::of_attributes(settled.attributes);
        let observed = match self.complete_soon(&inode, entry.attributes, caching, cancel) {
            Ok(observed) => observed,
            Err(errno) => {
                // Nobody closes what nobody was given.
                if let Some(open) = open {
                    self.close(&inode, open.write, cancel);
                }
                return Err(errno);
            }
        };
        let name = Caching::from_settled(settled.names.filter(|_| !reply.resent));
        Ok(Created { found: Found { inode, observed, name }, opened, is_new: true })
    }

    /// A new file is empty: nobody need be asked.
    fn note_empty(&self, inode: &Inode, entry: &EntryReply) {
        let mut state = inode.lock();
        let writing = entry.lease.write_bits & bits::DATA != 0;
        if writing && state.data.mode == DataMode::Write && state.known.is_none() {
            state.known = Some(Known { size: 0, blocks: Some(0), ..Known::default() });
        }
    }

    pub(crate) fn payload_of(
        &self,
        bytes: &[u8],
        cancel: &Cancel,
    ) -> Result<(Buffer, usize), Errno> {
        let lane = self.session.lane(cancel)?;
        let mut buffer = self.buffer(&lane, bytes.len().max(1), cancel)?;
        buffer.as_mut_slice()[..bytes.len()].copy_from_slice(bytes);
        Ok((buffer, bytes.len()))
    }
}

fn note_created(inode: &Inode, entry: &EntryReply, open: NewOpen) -> OpenState {
    let mut state = inode.lock();
    let wanted = if open.write { Registered::Write } else { Registered::Read };
    state.registered = state.registered.max(wanted);
    if open.write {
        state.writers += 1;
        state.mappable |= open.read;
        if state.data.mode == DataMode::Read && !state.data.revoking {
            // Never held for reading with a writer here; nothing can be cached of a file this new.
            state.data.mode = DataMode::None;
        }
    } else {
        state.readers += 1;
    }
    state.shared = entry.shared;
    OpenState { shared: entry.shared }
}
