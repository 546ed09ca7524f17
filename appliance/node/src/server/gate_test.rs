//! A node that lets in identities alone, and clients that come over TCP.

use std::{path::Path, time::Instant};

use sheen_dma::Arena;
use sheen_identity::IdentityKey;
use sheen_rdma::{
    ClientIdentity, ConnectError,
    handshake::{ClientSettings, HandshakeError},
};
use sheen_types::{Bytes, Errno, Fid, Name};
use sheen_wire::{
    Field, Opcode,
    metadata::{Credentials as Asking, FilesystemCreate, Unlink},
};

use super::*;
use crate::{
    config::Config,
    server::{
        Force, Node, format,
        identities::{IssuedCertificate, NamedCertificate, RightsRequest, Speaks, now},
        test::Session,
    },
};

const DAY_SECONDS: u64 = 24 * 3600;

fn wall_clock() -> Duration {
    Duration::from_secs(now().0)
}

fn config(directory: &Path) -> Config {
    let mut config = Config::embedded(directory, Bytes(1 << 30));
    config.listen = (std::net::Ipv4Addr::LOCALHOST, 0).into();
    config.threads.reactors = 2;
    config.limits.buffers = Bytes(16 << 20);
    config
}

/// A node with the file systems `one` and `two`.
fn started(directory: &Path) -> Node {
    let config = config(directory);
    format(&config, Force::No).unwrap();
    let node = Node::start(config).unwrap();
    let mut owner = Session::open(&format!("unix:{}", node.socket().display()));
    for name in [b"one", b"two"] {
        let request = FilesystemCreate { name: name.to_vec(), permissions: 0o755, uid: 0, gid: 0 };
        owner.call(Opcode::FilesystemCreate, &request.to_vec());
    }
    node
}

/// What a client has whose certificate the node issued; no identity lists it.
fn issued(node: &Node) -> (IssuedCertificate, ClientIdentity) {
    let key = IdentityKey::generate().unwrap();
    let identities = node.identities().unwrap();
    let issued = identities.issue(key.public_key().as_bytes(), DAY_SECONDS, now()).unwrap();
    let trusted = |authority: &Certificate| TrustedAuthority {
        certificate: authority.der().to_vec(),
        not_after: Duration::from_secs(authority.validity().not_after.0),
    };
    let credentials = Credentials {
        authorities: issued.authorities.iter().map(trusted).collect(),
        chain: vec![issued.certificate.der().to_vec()],
        key: PrivateKey::copy_of(key.pkcs8().expose()).unwrap(),
    };
    let settings = ClientSettings::new(credentials, &[Transit::Sealed], wall_clock).unwrap();
    let identity = ClientIdentity { settings: Arc::new(settings), node: Some(issued.node) };
    (issued, identity)
}

fn add(node: &Node, name: &str, rights: &RightsRequest) -> ClientIdentity {
    let (issued, identity) = issued(node);
    let named = NamedCertificate {
        fingerprint: issued.certificate.fingerprint().to_string(),
        not_after: issued.not_after.0,
    };
    node.identities().unwrap().new_client(name, rights, &named).unwrap();
    identity
}

fn connect(
    node: &Node,
    identity: Option<&ClientIdentity>,
) -> Result<Arc<dyn sheen_ports::Link>, ConnectError> {
    let arena = Arena::shared(4 << 20).unwrap();
    sheen_rdma::connect_as(&format!("tcp:{}", node.listen()), 0, &arena, identity)
}

fn open(node: &Node, identity: &ClientIdentity, filesystem: &[u8]) -> Result<Session, i32> {
    let link = connect(node, Some(identity)).unwrap();
    Session::over(link, filesystem).map(|(session, _)| session)
}

fn refusal(node: &Node, identity: Option<&ClientIdentity>) -> Refusal {
    match connect(node, identity).err() {
        Some(ConnectError::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    }
}

/// Whether one refusal is counted for `reason`: that is done when the client has read it already.
fn is_counted(node: &Node, reason: &str) -> bool {
    let counters = node.acceptor_counters().unwrap();
    let count = || counters.refusals().find(|(label, _)| *label == reason).unwrap().1;
    let until = Instant::now() + Duration::from_secs(5);
    while count() == 0 && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(5));
    }
    count() == 1
}

fn code(errno: Errno) -> i32 {
    -errno.0
}

/// Asks for the removal of a name that is not there.
fn unlink(session: &mut Session, root: Fid) -> i32 {
    let credentials = Asking { uid: 0, gid: 0 };
    let name = Name::new(b"absent").unwrap();
    let request = Unlink { parent: root, name, directory: false, credentials };
    session.send(Opcode::Unlink, &request.to_vec()).unwrap().0
}

#[test]
fn who_is_listed_gets_what_its_identity_may_and_is_not_the_owner() {
    let directory = tempfile::tempdir().unwrap();
    let node = started(directory.path());
    let one = Some(vec!["one".to_owned()]);
    let rights = RightsRequest { filesystems: one, ..RightsRequest::default() };
    let web = add(&node, "web1", &rights);
    let (mut session, reply) = Session::over(connect(&node, Some(&web)).unwrap(), b"one").unwrap();
    assert_eq!(unlink(&mut session, reply.root), code(Errno::ENOENT), "it is served");
    let (status, ..) = session.send(Opcode::FilesystemList, &[]).unwrap();
    assert_eq!(status, code(Errno::EPERM), "administration is the owner's");
    assert_eq!(open(&node, &web, b"two").err(), Some(code(Errno::EACCES)), "another file system");
    assert_eq!(open(&node, &web, b"").err(), Some(code(Errno::EACCES)), "administration");
    let rights = RightsRequest { read_only: Some(true), ..RightsRequest::default() };
    let reader = add(&node, "reader", &rights);
    let link = connect(&node, Some(&reader)).unwrap();
    let (mut session, reply) = Session::over(link, b"two").unwrap();
    assert_eq!(unlink(&mut session, reply.root), code(Errno::EROFS));
    // Permissions of who is not trusted are not checked yet, so it gets nothing.
    let speaks = Some(Speaks::User { uid: 1000, gid: 1000 });
    let squashed = add(&node, "user", &RightsRequest { speaks, ..RightsRequest::default() });
    if let Ok((mut session, reply)) =
        Session::over(connect(&node, Some(&squashed)).unwrap(), b"one")
    {
        assert_eq!(unlink(&mut session, reply.root), code(Errno::EACCES));
    }
    node.stop().unwrap();
}

#[test]
fn nobody_else_is_let_in_and_each_is_counted_by_its_reason() {
    let directory = tempfile::tempdir().unwrap();
    let node = started(directory.path());
    assert_eq!(refusal(&node, None), Refusal::Identity, "in clear");
    assert!(is_counted(&node, "identity"));
    let (_, unlisted) = issued(&node);
    assert_eq!(refusal(&node, Some(&unlisted)), Refusal::Unknown);
    assert!(is_counted(&node, "unknown"));
    let rights =
        RightsRequest { networks: Some(vec!["10.0.0.0/8".to_owned()]), ..RightsRequest::default() };
    let elsewhere = add(&node, "elsewhere", &rights);
    assert_eq!(refusal(&node, Some(&elsewhere)), Refusal::Address);
    assert!(is_counted(&node, "address"));
    let other_directory = tempfile::tempdir().unwrap();
    let other = started(other_directory.path());
    let stranger = add(&other, "stranger", &RightsRequest::default());
    let met = connect(&node, Some(&stranger)).err();
    assert!(
        matches!(met, Some(ConnectError::Handshake(HandshakeError::Certificate(_)))),
        "an identity of another node: {met:?}"
    );
    assert!(connect(&other, Some(&stranger)).is_ok());
    other.stop().unwrap();
    node.stop().unwrap();
}

#[test]
fn who_is_revoked_is_out_at_once_and_stays_so_after_the_authority_was_exchanged() {
    let directory = tempfile::tempdir().unwrap();
    let node = started(directory.path());
    let web = add(&node, "web1", &RightsRequest::default());
    let stays = add(&node, "web2", &RightsRequest::default());
    let (mut session, reply) = Session::over(connect(&node, Some(&web)).unwrap(), b"one").unwrap();
    let (mut other, other_reply) =
        Session::over(connect(&node, Some(&stays)).unwrap(), b"one").unwrap();
    assert_eq!(unlink(&mut session, reply.root), code(Errno::ENOENT));
    let identities = node.identities().unwrap();
    identities.revoke_client("web1").unwrap();
    let credentials = Asking { uid: 0, gid: 0 };
    let request = Unlink {
        parent: reply.root,
        name: Name::new(b"x").unwrap(),
        directory: false,
        credentials,
    };
    match session.send(Opcode::Unlink, &request.to_vec()) {
        Err(_) => {}
        Ok((status, ..)) => assert_eq!(status, code(Errno::ENOTCONN)),
    }
    assert_eq!(refusal(&node, Some(&web)), Refusal::Unknown);
    assert_eq!(unlink(&mut other, other_reply.root), code(Errno::ENOENT), "others are served on");
    // Handshakes go on with what the node shows then.
    identities.rotate_authority(now()).unwrap();
    assert!(connect(&node, Some(&stays)).is_ok());
    assert_eq!(refusal(&node, Some(&web)), Refusal::Unknown);
    identities.retire_authority(now()).unwrap();
    assert!(connect(&node, Some(&stays)).is_err(), "its authority is believed no more");
    node.stop().unwrap();
}
