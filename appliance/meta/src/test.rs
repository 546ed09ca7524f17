//! A namespace to try things on: one file system, one session, one OST unless said otherwise.

use sheen_types::{
    Attributes, ClientId, Errno, Fid, FileKind, Name, OstIndex, Tag, Timespec, TransactionNumber,
    Xid,
};
use sheen_wire::metadata::{
    Connect, Create, Credentials, FilesystemCreate, Link, Rename, SetAttributes, SetXattr, Unlink,
    XattrName,
};

use crate::{
    Entry, Limits, Operation, Outcome, Reply, State,
    operation::{
        CreateInode, MakeFilesystem, MoveName, Nothing, OstRegister, PutXattr, RemoveName,
    },
};

mod attributes;
mod create;
mod filesystem;
mod identity;
mod identity_history;
mod model;
mod rename;
mod secrets;
mod session;
mod size;
mod snapshot;
mod stored;
mod touches;
mod unlink;
mod xattr;

pub(crate) const ROOT_USER: Credentials = Credentials { uid: 0, gid: 0 };
pub(crate) const USER: Credentials = Credentials { uid: 1000, gid: 1000 };
pub(crate) const OTHER: Credentials = Credentials { uid: 2000, gid: 2000 };

pub(crate) fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

/// A state, the session that changes it, and every entry so far.
pub(crate) struct Harness {
    pub(crate) state: State,
    pub(crate) history: Vec<Entry>,
    pub(crate) client: ClientId,
    pub(crate) root: Fid,
    pub(crate) user: Credentials,
    /// Check all invariants after each entry.
    pub(crate) checks: bool,
    sequence: u64,
    last_oid: u32,
    last_xid: u64,
}

impl Harness {
    pub(crate) fn new() -> Self {
        Self::with_limits(Limits::default())
    }

    pub(crate) fn with_limits(limits: Limits) -> Self {
        let mut harness = Self::bare(limits);
        harness.make_filesystem("one");
        harness.mount("one");
        harness.ok(register(0));
        harness
    }

    /// Without file system, session and OST.
    pub(crate) fn bare(limits: Limits) -> Self {
        Self {
            state: State::new(limits),
            history: Vec::new(),
            client: ClientId(0),
            root: Fid::NONE,
            user: ROOT_USER,
            checks: true,
            sequence: 0,
            last_oid: 0,
            last_xid: 0,
        }
    }

    pub(crate) fn make_filesystem(&mut self, name: &str) -> Fid {
        let request = FilesystemCreate { name: name.into(), permissions: 0o755, uid: 0, gid: 0 };
        let random = [7; 9];
        let operation = Operation::FilesystemCreate(MakeFilesystem { request, random });
        let reply = self.ok(operation);
        let Reply::Filesystem(root) = reply else { panic!("{reply:?}") };
        root
    }

    /// Opens a session and works as it from now on.
    pub(crate) fn mount(&mut self, filesystem: &str) {
        let client = std::mem::replace(&mut self.client, ClientId(0));
        let seed = u8::try_from(client.0 + 1).unwrap();
        let Reply::Session(session) = self.ok(connect([seed; 16], filesystem)) else {
            panic!("no session")
        };
        (self.client, self.root) = (session.client, session.root);
        self.new_sequence();
    }

    pub(crate) fn new_sequence(&mut self) {
        let Reply::Sequence(sequence) = self.ok(Operation::SequenceGrant(Nothing {})) else {
            panic!("no sequence")
        };
        (self.sequence, self.last_oid) = (sequence, 0);
    }

    /// The next time entries get.
    pub(crate) fn now(&self) -> Timespec {
        let seconds = 1000 + i64::try_from(self.history.len()).unwrap();
        Timespec { seconds, nanoseconds: 5 }
    }

    pub(crate) fn entry(&mut self, operation: Operation) -> Entry {
        self.last_xid += 1;
        let number = u32::try_from(self.history.len() + 1).unwrap();
        Entry {
            placement: sheen_wire::fields::List(Vec::new()),
            labelled: true,
            client: self.client,
            tag: Tag(0),
            xid: Xid(self.last_xid),
            time: self.now(),
            transaction: TransactionNumber::new(sheen_types::Epoch(1), number),
            operation,
        }
    }

    pub(crate) fn apply(&mut self, operation: Operation) -> Outcome {
        let entry = self.entry(operation);
        self.apply_entry(entry)
    }

    pub(crate) fn apply_entry(&mut self, entry: Entry) -> Outcome {
        let before = self.state.snapshot_size();
        let growth = self.state.growth(&entry.operation, 0);
        let outcome = self.state.apply(&entry);
        let after = self.state.snapshot_size();
        assert!(after.sessions <= before.sessions + growth.sessions, "{:?}", entry.operation);
        assert!(after.others <= before.others + growth.others, "{:?}", entry.operation);
        if self.checks {
            assert_eq!(self.state.check(), Ok(()), "after {:?}", entry.operation);
            size::check(&self.state);
        }
        self.history.push(entry);
        outcome
    }

    pub(crate) fn ok(&mut self, operation: Operation) -> Reply {
        self.apply(operation).result.unwrap()
    }

    pub(crate) fn err(&mut self, operation: Operation) -> Errno {
        self.apply(operation).result.unwrap_err()
    }

    pub(crate) fn next_fid(&mut self) -> Fid {
        self.last_oid += 1;
        Fid::new(self.sequence, self.last_oid)
    }

    /// A create as the harness's user, mode 0666 or 0777, umask 022, exclusive.
    pub(crate) fn creation(&mut self, parent: Fid, text: &str, kind: FileKind) -> Create {
        Create {
            parent,
            name: name(text),
            fid: self.next_fid(),
            kind,
            permissions: if kind == FileKind::Directory { 0o777 } else { 0o666 },
            umask: 0o022,
            rdev: 0,
            exclusive: true,
            open: 0,
            credentials: self.user.clone(),
            unnamed: false,
        }
    }

    pub(crate) fn make(&mut self, parent: Fid, text: &str, kind: FileKind) -> Fid {
        let request = self.creation(parent, text, kind);
        let fid = request.fid;
        assert_eq!(self.ok(create(request)), Reply::Entry { fid, created: true });
        fid
    }

    pub(crate) fn file(&mut self, parent: Fid, text: &str) -> Fid {
        self.make(parent, text, FileKind::Regular)
    }

    pub(crate) fn dir(&mut self, parent: Fid, text: &str) -> Fid {
        self.make(parent, text, FileKind::Directory)
    }

    pub(crate) fn unlinking(&self, parent: Fid, text: &str) -> Operation {
        self.removal(parent, text, false, false)
    }

    pub(crate) fn rmdir(&self, parent: Fid, text: &str) -> Operation {
        self.removal(parent, text, true, false)
    }

    pub(crate) fn removal(
        &self,
        parent: Fid,
        text: &str,
        directory: bool,
        open: bool,
    ) -> Operation {
        let credentials = self.user.clone();
        let request = Unlink { parent, name: name(text), directory, credentials };
        Operation::Unlink(RemoveName { request, open })
    }

    pub(crate) fn renaming(&self, from: (Fid, &str), to: (Fid, &str), flags: u32) -> Operation {
        let request = Rename {
            from_parent: from.0,
            from_name: name(from.1),
            to_parent: to.0,
            to_name: name(to.1),
            flags,
            credentials: self.user.clone(),
            whiteout: Fid::NONE,
        };
        Operation::Rename(MoveName { request, open: false })
    }

    pub(crate) fn stat(&self, fid: Fid) -> Attributes {
        self.state.attributes(fid).unwrap()
    }

    pub(crate) fn find(&self, parent: Fid, text: &str) -> Result<Fid, Errno> {
        self.state.lookup(parent, &name(text)).map(|(fid, _)| fid)
    }

    /// A SetAttributes that sets nothing yet.
    pub(crate) fn setting(&self, fid: Fid, valid: u32) -> SetAttributes {
        SetAttributes::zeroing(fid, valid, self.user.clone())
    }

    pub(crate) fn chmod(&mut self, fid: Fid, permissions: u32) {
        let valid = sheen_wire::metadata::set::MODE;
        let request = SetAttributes { permissions, ..self.setting(fid, valid) };
        self.ok(Operation::SetAttributes(request));
    }

    pub(crate) fn chattr(&mut self, fid: Fid, flags: u32) {
        let valid = sheen_wire::metadata::set::FLAGS;
        let credentials = ROOT_USER;
        let request = SetAttributes { flags, credentials, ..self.setting(fid, valid) };
        self.ok(Operation::SetAttributes(request));
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.state.snapshot().flatten().collect()
    }
}

pub(crate) fn create(request: Create) -> Operation {
    Operation::Create(CreateInode { request, target: Vec::new() })
}

pub(crate) fn link(fid: Fid, parent: Fid, text: &str) -> Operation {
    Operation::Link(Link { fid, parent, name: name(text) })
}

pub(crate) fn setxattr(fid: Fid, text: &str, value: &[u8], flags: u32) -> Operation {
    let request = SetXattr { fid, name: name(text).into(), flags, kill_sgid: false };
    Operation::SetXattr(PutXattr { request, value: value.to_vec() })
}

pub(crate) fn removexattr(fid: Fid, text: &str) -> Operation {
    Operation::RemoveXattr(XattrName { fid, name: name(text).into() })
}

pub(crate) fn connect(uuid: [u8; 16], filesystem: &str) -> Operation {
    Operation::Connect(Connect {
        uuid,
        client: ClientId(0),
        filesystem: filesystem.into(),
        label: b"host".to_vec(),
        slots: 4,
    })
}

pub(crate) fn register(index: u32) -> Operation {
    Operation::OstRegister(OstRegister { ost: OstIndex(index), accepts_objects: true })
}
