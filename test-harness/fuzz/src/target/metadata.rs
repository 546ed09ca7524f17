//! The namespace: its snapshot, and the entries of the log.

use sheen_meta::{
    Entry, Limits, Operation, Reply, SessionPrincipal, SnapshotReader, State,
    identity::{
        CertificateAuthorityState, CertificateName, IdentityRights, Mapping, Network, OpenSession,
        PutCertificateAuthority, PutClusterSecret, PutIdentity, PutSessionSecret, RevokeIdentity,
        SecretWrap,
    },
    operation::{
        CreateInode, MakeFilesystem, MoveName, Nothing, OstRegister, PutXattr, RemoveName,
        decode_entries, encode_entries,
    },
};
use sheen_types::{
    ClientId, Epoch, Fid, FileKind, Name, OstIndex, Tag, Timespec, TransactionNumber, Xid,
    checksum::crc32c,
};
use sheen_wire::{
    fields::List,
    metadata::{Connect, Create, Credentials, FilesystemCreate, Link, Rename, SetXattr, Unlink},
};

use crate::{
    framing::put,
    input::{Input, put_sized},
};

/// Chunks, each with a checksum that is made good.
pub(super) fn run_snapshot(data: &[u8]) {
    let mut input = Input(data);
    let mut reader = SnapshotReader::new(Limits::default());
    while !input.is_empty() {
        let mut chunk = input.sized().to_vec();
        if chunk.len() >= 4 {
            let sum = crc32c(&chunk[4..]);
            put(&mut chunk, 0, &sum.to_le_bytes());
        }
        match reader.push(&chunk) {
            Ok(false) => {}
            Ok(true) => break,
            Err(error) => {
                let _ = error.to_string();
                return;
            }
        }
    }
    let Ok(mut state) = reader.finish() else { return };
    assert_eq!(state.check(), Ok(()), "what was read is checked");
    let again = read(&state);
    assert!(again.snapshot().eq(state.snapshot()), "the same state, the same bytes");
    for entry in history().iter().rev().take(8) {
        state.apply(entry);
    }
}

fn read(state: &State) -> State {
    let mut reader = SnapshotReader::new(Limits::default());
    for chunk in state.snapshot() {
        reader.push(&chunk).expect("a snapshot of ours");
    }
    reader.finish().expect("a snapshot of ours")
}

pub(super) fn snapshot_seeds() -> Vec<Vec<u8>> {
    let chunks: Vec<Vec<u8>> = state(&history()).snapshot().collect();
    let mut seed = Vec::new();
    for chunk in &chunks {
        put_sized(&mut seed, chunk);
    }
    vec![seed]
}

/// Entries, decoded and applied to a state that is in use.
pub(super) fn run_entries(data: &[u8]) {
    let Ok(entries) = decode_entries(data) else { return };
    assert_eq!(decode_entries(&encode_entries(&entries)).as_ref(), Ok(&entries));
    let mut state = state(&history());
    for entry in &entries {
        state.apply(entry);
    }
    assert_eq!(state.check(), Ok(()), "{entries:?}");
}

pub(super) fn entry_seeds() -> Vec<Vec<u8>> {
    let entries = history();
    let alone = entries.iter().map(|entry| encode_entries(std::slice::from_ref(entry)));
    alone.chain([encode_entries(&entries)]).collect()
}

fn state(entries: &[Entry]) -> State {
    let mut state = State::new(Limits::default());
    for entry in entries {
        state.apply(entry);
    }
    state
}

/// A short history with a bit of everything.
fn history() -> Vec<Entry> {
    let mut history = History { state: State::new(Limits::default()), entries: Vec::new() };
    let server = ClientId(0);
    history.add(server, Operation::ServerStart(Nothing {}));
    history.add(
        server,
        Operation::OstRegister(OstRegister { ost: OstIndex(0), accepts_objects: true }),
    );
    let request = FilesystemCreate { name: b"one".to_vec(), permissions: 0o755, uid: 0, gid: 0 };
    let made = Operation::FilesystemCreate(MakeFilesystem { request, random: [7; 9] });
    let root = match history.add(server, made) {
        Some(Reply::Filesystem(root)) => root,
        other => panic!("{other:?}"),
    };
    let connect = Connect {
        uuid: [9; 16],
        client: ClientId(0),
        filesystem: b"one".to_vec(),
        label: b"host".to_vec(),
        slots: 2,
    };
    let client = match history.add(server, Operation::Connect(connect)) {
        Some(Reply::Session(session)) => session.client,
        other => panic!("{other:?}"),
    };
    let sequence = match history.add(client, Operation::SequenceGrant(Nothing {})) {
        Some(Reply::Sequence(sequence)) => sequence,
        other => panic!("{other:?}"),
    };
    let fid = |oid| Fid::new(sequence, oid);
    history.add(client, create(root, "file", fid(1), FileKind::Regular));
    history.add(client, create(root, "dir", fid(2), FileKind::Directory));
    history.add(client, create(fid(2), "link", fid(3), FileKind::Symlink));
    history.add(client, create(fid(2), "gone", fid(4), FileKind::Regular));
    history.change(client, root, fid(1), fid(2));
    history.identities();
    history.entries
}

struct History {
    state: State,
    entries: Vec<Entry>,
}

impl History {
    fn add(&mut self, client: ClientId, operation: Operation) -> Option<Reply> {
        let number = u32::try_from(self.entries.len()).unwrap_or(0) + 1;
        let entry = Entry {
            placement: List(Vec::new()),
            labelled: true,
            client,
            tag: Tag(0),
            xid: Xid(u64::from(number)),
            time: Timespec { seconds: 1000 + i64::from(number), nanoseconds: 5 },
            transaction: TransactionNumber::new(Epoch(1), number),
            operation,
        };
        let outcome = self.state.apply(&entry);
        self.entries.push(entry);
        outcome.result.ok()
    }

    fn change(&mut self, client: ClientId, root: Fid, file: Fid, directory: Fid) {
        let credentials = Credentials { uid: 0, gid: 0 };
        let request = Link { fid: file, parent: directory, name: name("second") };
        self.add(client, Operation::Link(request));
        let request =
            SetXattr { fid: file, name: name("user.note").into(), flags: 0, kill_sgid: false };
        let value = b"value".to_vec();
        self.add(client, Operation::SetXattr(PutXattr { request, value }));
        let request = Unlink {
            parent: directory,
            name: name("gone"),
            directory: false,
            credentials: credentials.clone(),
        };
        self.add(client, Operation::Unlink(RemoveName { request, open: true }));
        let request = Rename {
            from_parent: root,
            from_name: name("file"),
            to_parent: directory,
            to_name: name("moved"),
            flags: 0,
            credentials,
            whiteout: Fid::NONE,
        };
        self.add(client, Operation::Rename(MoveName { request, open: false }));
    }

    /// An identity with a session, one that was revoked, and what the cluster keeps sealed.
    fn identities(&mut self) {
        let server = ClientId(0);
        let wraps = List(vec![SecretWrap { node: [3; 16], wrapped: vec![4; 60] }]);
        self.add(server, Operation::ClusterSecret(PutClusterSecret { generation: 1, wraps }));
        let (generation, state) = (1, CertificateAuthorityState::Current);
        let (certificate, crossed, sealed_key) = (vec![5; 40], Vec::new(), vec![6; 40]);
        let authority =
            PutCertificateAuthority { generation, certificate, crossed, sealed_key, state };
        self.add(server, Operation::CertificateAuthority(authority));
        let secret = PutSessionSecret { generation: 1, sealed: [7; 60] };
        self.add(server, Operation::SessionSecret(secret));
        for (name, seed) in [(b"web1", 1), (b"web2", 2)] {
            let rights = IdentityRights {
                every_filesystem: false,
                filesystems: List(vec![1]),
                mapping: Mapping::Squash { uid: 5, gid: 6 },
                read_only: true,
                networks: List(vec![Network { address: [0; 16], prefix: 0 }]),
                exempt_networks: List(Vec::new()),
                sessions_max: 2,
            };
            let certificate = CertificateName { fingerprint: [seed; 32], not_after: 9999 };
            let certificates = List(vec![certificate]);
            let body = PutIdentity { number: 0, name: name.to_vec(), rights, certificates };
            self.add(server, Operation::IdentityPut(body));
        }
        let request = Connect {
            uuid: [8; 16],
            client: ClientId(0),
            filesystem: b"one".to_vec(),
            label: b"web1".to_vec(),
            slots: 2,
        };
        let principal = SessionPrincipal::Identity { number: 1 };
        self.add(server, Operation::OpenSession(OpenSession { request, principal }));
        let revoked = RevokeIdentity { name: b"web2".to_vec() };
        self.add(server, Operation::IdentityRevoke(revoked));
    }
}

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).expect("a name")
}

fn create(parent: Fid, text: &str, fid: Fid, kind: FileKind) -> Operation {
    let request = Create {
        parent,
        name: name(text),
        fid,
        kind,
        permissions: 0o755,
        umask: 0o022,
        rdev: 0,
        exclusive: true,
        open: 0,
        credentials: Credentials { uid: 0, gid: 0 },
        unnamed: false,
    };
    let target = if kind == FileKind::Symlink { b"file".to_vec() } else { Vec::new() };
    Operation::Create(CreateInode { request, target })
}
