//! Who may ask what: principals and sessions against every opcode, as raw frames.

use sheen_meta::{
    Operation, SessionPrincipal,
    identity::{CertificateName, IdentityRights, Mapping, OpenSession, PutIdentity},
};
use sheen_ports::Principal;
use sheen_types::{AttributeName, Errno, Fid, OstIndex, Timespec};
use sheen_wire::{
    Field, Opcode,
    fields::List,
    flock::{FileLock, LockFamily, LockRelease, LockSet, LockType},
    lease::{LeaseCancel, LeaseRequest, LockMode, SizeUpdate, bits},
    metadata::{
        Access, ClientList, Close, ConnectReply, EntryReply, FilesystemCreate, FilesystemDelete,
        FilesystemStatistics, GetAttributes, HeldLease, HeldOpen, InstantiateLayout, Link,
        ListXattr, Lookup, MakeRoom, Open, OstList, ReadDirectory, ReadLink, Reassert, Rename,
        SequenceGrantReply, SetXattr, TellAccesses, Unlink, UpdateSize, XattrName, set,
    },
};

use super::{
    OstJob,
    authorize::Refusal,
    gateway::ObjectAccess,
    mutation::Task,
    test_support::{CREDENTIALS, Client, World, name, setting},
};

const OK: i32 = 0;
const EPERM: i32 = -Errno::EPERM.0;
const ESTALE: i32 = -Errno::ESTALE.0;
const EROFS: i32 = -Errno::EROFS.0;
const EACCES: i32 = -Errno::EACCES.0;

/// Who may ask for an opcode, decided here once more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Class {
    /// Whoever has a session.
    Session,
    /// The owner.
    Owner,
    /// Sessions of the file system.
    Reads,
    /// Of them, those that do not only read.
    Changes,
    /// The same, without an inode: those of other file systems too, each for its own.
    ChangesOwn,
    /// No client of an MDT.
    Elsewhere,
}

fn class_of(opcode: Opcode) -> Class {
    match opcode {
        Opcode::Connect
        | Opcode::Disconnect
        | Opcode::Ping
        | Opcode::Reassert
        | Opcode::OstList
        | Opcode::Close
        | Opcode::LeaseCancel
        | Opcode::LockCancel
        | Opcode::LockRelease => Class::Session,
        Opcode::FilesystemCreate
        | Opcode::FilesystemList
        | Opcode::FilesystemDelete
        | Opcode::ClientList => Class::Owner,
        Opcode::Lookup
        | Opcode::GetAttributes
        | Opcode::ReadDirectory
        | Opcode::ReadLink
        | Opcode::GetXattr
        | Opcode::ListXattr
        | Opcode::FilesystemStatistics
        | Opcode::LockSet
        | Opcode::LockTest => Class::Reads,
        Opcode::SetAttributes
        | Opcode::Create
        | Opcode::Link
        | Opcode::Unlink
        | Opcode::Rename
        | Opcode::SetXattr
        | Opcode::RemoveXattr
        | Opcode::InstantiateLayout
        | Opcode::UpdateSize
        | Opcode::Open
        | Opcode::LeaseRequest => Class::Changes,
        Opcode::SequenceGrant | Opcode::TellAccesses | Opcode::MakeRoom => Class::ChangesOwn,
        _ => Class::Elsewhere,
    }
}

fn lock(fid: Fid) -> FileLock {
    let (family, kind) = (LockFamily::Flock, LockType::Read);
    FileLock { fid, family, kind, owner: 1, pid: 1, start: 0, end: u64::MAX >> 1 }
}

/// Body and payload of a request for everything a session could want of `fid`, which may be a directory: to change it where an
/// opcode reads or changes.
fn request(opcode: Opcode, client: &mut Client, fid: Fid) -> (Vec<u8>, Vec<u8>) {
    let xattr = AttributeName::new(b"user.a").unwrap();
    let new = name("new");
    let body = match opcode {
        Opcode::Connect => client.connect_request().to_vec(),
        Opcode::OstList => OstList { from: OstIndex(0) }.to_vec(),
        Opcode::Close => Close { fid, write_only: false }.to_vec(),
        Opcode::LeaseCancel => {
            let learned = Some(update(fid));
            LeaseCancel { fid, bits: bits::ALL, to_read: false, sequence: 1, learned }.to_vec()
        }
        Opcode::LockRelease => LockRelease { fid, family: LockFamily::Flock, owner: 1 }.to_vec(),
        Opcode::LockCancel => 9_u64.to_le_bytes().to_vec(),
        Opcode::FilesystemCreate => {
            let name = format!("made{}", client.xid).into_bytes();
            FilesystemCreate { name, permissions: 0o755, uid: 0, gid: 0 }.to_vec()
        }
        Opcode::FilesystemDelete => {
            FilesystemDelete { name: b"gone".to_vec(), force: true }.to_vec()
        }
        Opcode::ClientList => ClientList { filesystem: b"fs".to_vec() }.to_vec(),
        Opcode::Lookup => Lookup { parent: fid, name: Some(new) }.to_vec(),
        Opcode::GetAttributes => GetAttributes { fid }.to_vec(),
        Opcode::ReadDirectory => ReadDirectory { fid, cookie: 0, plus: true }.to_vec(),
        Opcode::ReadLink => ReadLink { fid }.to_vec(),
        Opcode::GetXattr | Opcode::RemoveXattr => XattrName { fid, name: xattr }.to_vec(),
        Opcode::ListXattr => ListXattr { fid }.to_vec(),
        Opcode::FilesystemStatistics => FilesystemStatistics { fid }.to_vec(),
        Opcode::LockSet => LockSet { lock: lock(fid), wait: false }.to_vec(),
        Opcode::LockTest => lock(fid).to_vec(),
        Opcode::SetAttributes => setting(fid, set::MTIME_NOW).to_vec(),
        Opcode::Create => client.create_request(fid, "new").to_vec(),
        Opcode::Link => Link { fid, parent: fid, name: new }.to_vec(),
        Opcode::Unlink => {
            let credentials = CREDENTIALS;
            Unlink { parent: fid, name: new, directory: false, credentials }.to_vec()
        }
        Opcode::Rename => rename(fid, fid).to_vec(),
        Opcode::SetXattr => SetXattr { fid, name: xattr, flags: 0, kill_sgid: false }.to_vec(),
        Opcode::InstantiateLayout => InstantiateLayout { fid, start: 0, end: 1 }.to_vec(),
        Opcode::UpdateSize => UpdateSize { update: update(fid) }.to_vec(),
        Opcode::Open => Open { fid, write: true, append: false }.to_vec(),
        Opcode::LeaseRequest => {
            let mode = LockMode::ProtectedWrite;
            LeaseRequest { fid, bits: bits::ALL, mode }.to_vec()
        }
        Opcode::MakeRoom => MakeRoom { ost: OstIndex(0) }.to_vec(),
        _ => Vec::new(),
    };
    let payload = match opcode {
        Opcode::SetXattr => b"value".to_vec(),
        Opcode::TellAccesses => {
            let accesses =
                List(vec![Access { fid, atime: Timespec { seconds: 1, nanoseconds: 0 } }]);
            TellAccesses { accesses }.to_vec()
        }
        _ => Vec::new(),
    };
    (body, payload)
}

fn rename(from_parent: Fid, to_parent: Fid) -> Rename {
    Rename {
        from_parent,
        from_name: name("new"),
        to_parent,
        to_name: name("newer"),
        flags: 0,
        credentials: CREDENTIALS,
        whiteout: Fid::NONE,
    }
}

const fn update(fid: Fid) -> SizeUpdate {
    let (mtime, atime) = (Timespec::ZERO, Timespec::ZERO);
    SizeUpdate { fid, size: 77, blocks: 1, mtime, atime }
}

/// Two file systems, an inode of the first, and sessions of several principals.
struct Scene {
    world: World,
    /// The root of "fs".
    inode: Fid,
}

impl Scene {
    fn new() -> Self {
        let mut world = World::new();
        let mut admin = world.connect(b"", 1);
        for name in [&b"other"[..], b"gone"] {
            let make = FilesystemCreate { name: name.to_vec(), permissions: 0o777, uid: 0, gid: 0 };
            assert_eq!(admin.call(&mut world, Opcode::FilesystemCreate, &make).frame.status, 0);
        }
        let mut scene = Self { world, inode: Fid::ROOT };
        for (number, rights) in [
            (1, rights(Mapping::Trusted, false)),
            (2, rights(Mapping::Trusted, true)),
            (3, rights(Mapping::Squash { uid: 1000, gid: 1000 }, false)),
        ] {
            let fingerprint = [number; 32];
            let put = PutIdentity {
                number: 0,
                name: format!("identity{number}").into_bytes(),
                rights,
                certificates: List(vec![CertificateName { fingerprint, not_after: u64::MAX }]),
            };
            let core = &mut scene.world.service.as_mut().unwrap().core;
            core.submit_own(Operation::IdentityPut(put), Task::Forget);
            scene.world.run();
        }
        scene
    }

    /// A client that connects as `principal`. Returns it and the status of Connect.
    fn connect_as(
        &mut self,
        filesystem: &[u8],
        number: u32,
        principal: SessionPrincipal,
    ) -> (Client, i32) {
        let mut client = self.world.client(filesystem, number);
        client.connection = self.world.open_connection();
        self.world.run();
        let core = &mut self.world.service.as_mut().unwrap().core;
        core.connections.get_mut(&client.connection).unwrap().principal = principal;
        let connect = client.connect_request();
        let reply = client.call(&mut self.world, Opcode::Connect, &connect);
        if reply.frame.status == 0 {
            let connected: ConnectReply = reply.body();
            (client.client, client.epoch) = (connected.client, connected.epoch);
        }
        (client, reply.frame.status)
    }

    fn mount_as(&mut self, filesystem: &[u8], number: u32, principal: SessionPrincipal) -> Client {
        let (mut client, status) = self.connect_as(filesystem, number, principal);
        assert_eq!(status, 0, "{principal:?}");
        let reply = client.call_empty(&mut self.world, Opcode::SequenceGrant);
        if reply.frame.status == 0 {
            client.sequence = reply.body::<SequenceGrantReply>().sequence;
        }
        client
    }

    fn ask(&mut self, client: &mut Client, opcode: Opcode) -> i32 {
        let (body, payload) = request(opcode, client, self.inode);
        let sent = client.send(&self.world, opcode, 0, &body, &payload);
        self.world.run();
        sent.status(&self.world)
    }

    fn refused(&self, refusal: Refusal) -> u64 {
        self.world.stats.refused[refusal as usize].get()
    }

    fn refused_in_all(&self) -> u64 {
        self.world.stats.refused.iter().map(crate::stats::Counter::get).sum()
    }
}

fn rights(mapping: Mapping, read_only: bool) -> IdentityRights {
    IdentityRights {
        every_filesystem: true,
        filesystems: List(vec![]),
        mapping,
        read_only,
        networks: List(vec![]),
        exempt_networks: List(vec![]),
        sessions_max: 100,
    }
}

const fn identity(number: u32) -> SessionPrincipal {
    SessionPrincipal::Identity { number }
}

/// All that may be asked in a row over one session: what ends it is left out.
fn asked() -> impl Iterator<Item = Opcode> {
    Opcode::ALL
        .iter()
        .copied()
        .filter(|opcode| !matches!(opcode, Opcode::Connect | Opcode::Disconnect | Opcode::Reassert))
}

#[test]
fn sessions_of_the_file_system_are_refused_nothing_of_it() {
    let mut scene = Scene::new();
    for (number, principal) in [(2, SessionPrincipal::Owner), (3, identity(1))] {
        let mut client = scene.mount_as(b"fs", number, principal);
        for opcode in asked() {
            let before = scene.refused_in_all();
            let status = scene.ask(&mut client, opcode);
            let refused = scene.refused_in_all() - before;
            if class_of(opcode) == Class::Owner && principal != SessionPrincipal::Owner {
                assert_eq!((status, refused), (EPERM, 1), "{opcode:?}");
                continue;
            }
            assert_eq!(refused, 0, "{opcode:?} of {principal:?}: {status}");
            assert!(status != ESTALE, "{opcode:?} of {principal:?}: {status}");
        }
        client.call_empty(&mut scene.world, Opcode::Disconnect);
    }
}

#[test]
fn a_session_of_another_file_system_gets_nothing() {
    let mut scene = Scene::new();
    for (number, principal) in [(2, SessionPrincipal::Owner), (3, identity(1))] {
        let mut client = scene.mount_as(b"other", number, principal);
        for opcode in asked() {
            let before = scene.refused(Refusal::Filesystem);
            let status = scene.ask(&mut client, opcode);
            let counted = scene.refused(Refusal::Filesystem) - before;
            match class_of(opcode) {
                Class::Reads | Class::Changes => {
                    assert_eq!((status, counted), (ESTALE, 1), "{opcode:?} of {principal:?}");
                }
                Class::Session | Class::Owner | Class::ChangesOwn | Class::Elsewhere => {
                    assert_eq!(counted, 0, "{opcode:?} of {principal:?}: {status}");
                }
            }
        }
        let own = Fid::new(Fid::ROOT_SEQUENCE, 2);
        let elsewhere = Fid::ROOT;
        for (from, to) in [(own, elsewhere), (elsewhere, own)] {
            let moved = client.call(&mut scene.world, Opcode::Rename, &rename(from, to));
            assert_eq!(moved.frame.status, ESTALE, "from {from} to {to}");
            let link = Link { fid: from, parent: to, name: name("link") };
            let linked = client.call(&mut scene.world, Opcode::Link, &link);
            assert_eq!(linked.frame.status, ESTALE, "{from} in {to}");
        }
        let atime =
            scene.world.service.as_ref().unwrap().core.state.attributes(Fid::ROOT).unwrap().atime;
        assert!(atime != Timespec { seconds: 1, nanoseconds: 0 }, "its access does not count");
        client.call_empty(&mut scene.world, Opcode::Disconnect);
    }
}

#[test]
fn a_session_that_reads_only_changes_nothing() {
    let mut scene = Scene::new();
    let mut client = scene.mount_as(b"fs", 2, identity(2));
    for opcode in asked() {
        let before = scene.refused(Refusal::ReadOnly);
        let status = scene.ask(&mut client, opcode);
        let counted = scene.refused(Refusal::ReadOnly) - before;
        match class_of(opcode) {
            Class::Changes | Class::ChangesOwn => {
                assert_eq!((status, counted), (EROFS, 1), "{opcode:?}");
            }
            Class::Owner => assert_eq!(status, EPERM, "{opcode:?}"),
            Class::Session | Class::Reads | Class::Elsewhere => {
                assert_eq!(counted, 0, "{opcode:?}: {status}");
            }
        }
    }
    let fid = scene.inode;
    let reads = Open { fid, write: false, append: false };
    assert_eq!(client.call(&mut scene.world, Opcode::Open, &reads).frame.status, OK);
    let lease = LeaseRequest { fid, bits: bits::PERM, mode: LockMode::ProtectedRead };
    assert_eq!(client.call(&mut scene.world, Opcode::LeaseRequest, &lease).frame.status, OK);
}

/// Until the MDT checks permissions, whom it would have to check is served nothing.
#[test]
fn a_session_that_is_not_trusted_gets_nothing() {
    let mut scene = Scene::new();
    let mut client = scene.mount_as(b"fs", 2, identity(3));
    for opcode in asked() {
        let status = scene.ask(&mut client, opcode);
        match class_of(opcode) {
            Class::Reads | Class::Changes | Class::ChangesOwn => {
                assert_eq!(status, EACCES, "{opcode:?}");
            }
            Class::Owner => assert_eq!(status, EPERM, "{opcode:?}"),
            Class::Session | Class::Elsewhere => {}
        }
    }
    let before = scene.refused(Refusal::Checked);
    for filesystem in [&b"fs"[..], b""] {
        let user = SessionPrincipal::User { uid: 1000 };
        assert_eq!(scene.connect_as(filesystem, 7, user).1, EACCES);
    }
    assert_eq!(scene.refused(Refusal::Checked) - before, 2);
    assert_eq!(scene.connect_as(b"", 8, identity(1)).1, EACCES, "administration is the owner's");
}

#[test]
fn the_owner_s_administrative_session_administers_and_has_no_inodes() {
    let mut scene = Scene::new();
    let (mut client, status) = scene.connect_as(b"", 2, SessionPrincipal::Owner);
    assert_eq!(status, 0);
    for opcode in asked() {
        let status = scene.ask(&mut client, opcode);
        match class_of(opcode) {
            Class::Owner => {
                let wants_room = opcode == Opcode::FilesystemList || opcode == Opcode::ClientList;
                assert!(status == OK || wants_room, "{opcode:?}: {status}");
            }
            Class::Reads | Class::Changes | Class::ChangesOwn => {
                assert_eq!(status, ESTALE, "{opcode:?}");
            }
            Class::Session | Class::Elsewhere => {}
        }
    }
}

/// What a client says it held when the MDT went away counts where it may have held it.
#[test]
fn nobody_asserts_what_it_may_not_have() {
    for (filesystem, principal) in [(&b"other"[..], identity(1)), (b"fs", identity(2))] {
        let mut scene = Scene::new();
        let mut client = scene.mount_as(filesystem, 2, principal);
        scene.world.restart();
        let (uuid, number) = (client.uuid, client.client);
        (client, _) = scene.connect_as(filesystem, 2, principal);
        assert_eq!((client.uuid, client.client), (uuid, number), "taken up again");
        let fid = scene.inode;
        let write_bits = bits::DATA;
        let held = Reassert {
            opens: List(vec![HeldOpen { fid, write: true }]),
            leases: List(vec![HeldLease { fid, read_bits: bits::PERM, write_bits }]),
            locks: List(if filesystem == b"other" { vec![lock(fid)] } else { vec![] }),
            complete: true,
        };
        assert_eq!(client.reassert(&mut scene.world, &held), 0);
        let core = &scene.world.service.as_ref().unwrap().core;
        assert!(!core.opens.is_open(fid), "{principal:?}");
        assert_eq!(core.leases.held(client.client, fid).write_bits, 0, "{principal:?}");
        assert_eq!(core.locks.len(), 0, "{principal:?}");
    }
}

/// A right is asked for each time: a session whose identity is narrowed has none from the same entry on.
#[test]
fn a_right_that_is_taken_away_ends_at_once() {
    let mut scene = Scene::new();
    let mut client = scene.mount_as(b"fs", 2, identity(1));
    assert_eq!(scene.ask(&mut client, Opcode::GetAttributes), OK);
    let put = PutIdentity {
        number: 1,
        name: b"identity1".to_vec(),
        rights: rights(Mapping::Trusted, true),
        certificates: List(vec![CertificateName { fingerprint: [1; 32], not_after: u64::MAX }]),
    };
    let core = &mut scene.world.service.as_mut().unwrap().core;
    core.submit_own(Operation::IdentityPut(put), Task::Forget);
    let create = client.create_request(Fid::ROOT, "late");
    let late = client.send(&scene.world, Opcode::Create, 0, &create.to_vec(), &[]);
    scene.world.run();
    assert_eq!(late.status(&scene.world), -Errno::ENOTCONN.0);
    assert_eq!(scene.ask(&mut client, Opcode::GetAttributes), -Errno::ENOTCONN.0);
    let core = &scene.world.service.as_ref().unwrap().core;
    assert!(core.state.lookup(Fid::ROOT, &name("late")).is_err());
}

/// Whose a session is stands in the state: a restart does not make it anybody's.
#[test]
fn after_a_restart_a_session_is_whose_it_was() {
    let mut scene = Scene::new();
    let client = scene.mount_as(b"fs", 2, identity(1));
    scene.world.restart();
    for thief in [SessionPrincipal::Owner, identity(2), SessionPrincipal::User { uid: 0 }] {
        assert_eq!(scene.connect_as(b"fs", 2, thief).1, EACCES, "{thief:?}");
    }
    let (again, status) = scene.connect_as(b"fs", 2, identity(1));
    assert_eq!((status, again.client), (0, client.client));
}

/// Both ask before either has a session: who is first has it.
#[test]
fn a_session_is_not_taken_over_by_who_asks_for_it_while_it_is_made() {
    let mut scene = Scene::new();
    let (mut first, mut thief) = (scene.world.client(b"fs", 5), scene.world.client(b"fs", 5));
    thief.connection = scene.world.open_connection();
    scene.world.run();
    let core = &mut scene.world.service.as_mut().unwrap().core;
    core.connections.get_mut(&thief.connection).unwrap().principal = identity(1);
    let sent = first.send_connect(&mut scene.world);
    let connect = thief.connect_request().to_vec();
    let stolen = thief.send(&scene.world, Opcode::Connect, 0, &connect, &[]);
    scene.world.run();
    first.connected(&scene.world, sent);
    assert_eq!(stolen.status(&scene.world), EACCES);
    assert_eq!(first.call_empty(&mut scene.world, Opcode::Ping).frame.status, 0);
    let core = &scene.world.service.as_ref().unwrap().core;
    let access = core.state.session_access(first.client).unwrap();
    assert_eq!(access.principal, SessionPrincipal::Owner);
}

/// A state that an older release wrote, or another member: what it says counts, not who comes first.
#[test]
fn a_user_s_session_is_not_the_owner_s_to_take() {
    let mut scene = Scene::new();
    let request = scene.world.client(b"fs", 6).connect_request();
    let principal = SessionPrincipal::User { uid: 1000 };
    let core = &mut scene.world.service.as_mut().unwrap().core;
    core.submit_own(Operation::OpenSession(OpenSession { request, principal }), Task::Forget);
    scene.world.run();
    assert_eq!(scene.connect_as(b"fs", 6, SessionPrincipal::Owner).1, EACCES);
    let user = scene.world.open_connection_of(Principal::User { uid: 1000 });
    scene.world.run();
    let core = &scene.world.service.as_ref().unwrap().core;
    assert_eq!(core.connections[&user].principal, principal, "as the kernel said");
}

#[test]
fn osts_are_told_what_a_session_may_do_with_objects() {
    let mut scene = Scene::new();
    // Of one file system alone.
    let narrow = IdentityRights {
        every_filesystem: false,
        filesystems: List(vec![1]),
        ..rights(Mapping::Trusted, false)
    };
    let put = PutIdentity {
        number: 0,
        name: b"narrow".to_vec(),
        rights: narrow,
        certificates: List(vec![CertificateName { fingerprint: [4; 32], not_after: u64::MAX }]),
    };
    let core = &mut scene.world.service.as_mut().unwrap().core;
    core.submit_own(Operation::IdentityPut(put), Task::Forget);
    let objects =
        |filesystem, read_only, unlabelled| ObjectAccess { filesystem, read_only, unlabelled };
    for (number, filesystem, principal, told) in [
        (2, &b"fs"[..], SessionPrincipal::Owner, objects(1, false, true)),
        (3, b"other", SessionPrincipal::Owner, objects(2, false, true)),
        (4, b"fs", identity(1), objects(1, false, true)),
        (5, b"fs", identity(2), objects(1, true, true)),
        (6, b"fs", identity(4), objects(1, false, false)),
        (7, b"fs", identity(3), ObjectAccess::NONE),
        (8, b"", SessionPrincipal::Owner, ObjectAccess::NONE),
    ] {
        let (client, status) = scene.connect_as(filesystem, number, principal);
        assert_eq!(status, 0, "{principal:?}");
        let last = scene.world.osts.borrow().jobs.last().cloned();
        let Some(OstJob::Admit { session, .. }) = last else { panic!("{last:?}") };
        assert_eq!((session.client, session.objects), (client.client, told), "{principal:?}");
    }
    let told = [
        objects(1, false, true),
        objects(2, false, true),
        objects(1, false, true),
        objects(1, true, true),
        objects(1, false, false),
        ObjectAccess::NONE,
        ObjectAccess::NONE,
    ];
    // A service that begins again asks for the whole list; the MDT that begins again tells it unasked.
    scene.world.osts.borrow_mut().list_wanted = true;
    scene.world.pass(std::time::Duration::from_millis(100));
    assert!(listed(&scene.world).ends_with(&told), "{:?}", listed(&scene.world));
    scene.world.restart();
    assert!(listed(&scene.world).ends_with(&told), "{:?}", listed(&scene.world));
}

/// What the list told last says of each session's objects.
fn listed(world: &World) -> Vec<ObjectAccess> {
    let osts = world.osts.borrow();
    let mut lists = osts.jobs.iter().rev().filter_map(|job| match job {
        OstJob::Sessions(list) => Some(list),
        _ => None,
    });
    lists.next().unwrap().sessions.iter().map(|session| session.objects).collect()
}

/// Objects carry their file system, so that an OST can tell.
#[test]
fn a_new_file_s_objects_carry_its_file_system() {
    let mut scene = Scene::new();
    for (number, filesystem, root) in [(2, &b"fs"[..], 1), (3, b"other", 2)] {
        let mut client = scene.mount_as(filesystem, number, SessionPrincipal::Owner);
        let request = client.create_request(Fid::new(Fid::ROOT_SEQUENCE, root), "file");
        let made: EntryReply = client.call(&mut scene.world, Opcode::Create, &request).body();
        let core = &scene.world.service.as_ref().unwrap().core;
        let layout = core.state.layout(made.attributes.fid).unwrap();
        assert_eq!(layout.components[0].objects[0].object.ver, root);
    }
}
