//! Identities and what their sessions may do; bounds at the bound.

use sheen_wire::{fields::List, metadata::FilesystemDelete};

use super::*;
use crate::{
    Effect, SessionPrincipal, SessionRights,
    identity::{
        CertificateName, ForgetIdentity, IDENTITIES_MAX, IDENTITY_FILESYSTEMS_MAX,
        IDENTITY_NETWORKS_MAX, IdentityInfo, IdentityRights, Mapping, Network, OpenSession,
        PutIdentity, REVOKED_MAX, RevokeIdentity,
    },
};

const FOR_EVER: u64 = u64::MAX;

pub(super) fn certificate(seed: u64) -> CertificateName {
    let mut fingerprint = [0x5a; 32];
    fingerprint[..8].copy_from_slice(&seed.to_le_bytes());
    CertificateName { fingerprint, not_after: FOR_EVER }
}

/// Every file system, trusted, from anywhere.
pub(super) fn everything() -> IdentityRights {
    IdentityRights {
        every_filesystem: true,
        filesystems: List(Vec::new()),
        mapping: Mapping::Trusted,
        read_only: false,
        networks: List(Vec::new()),
        exempt_networks: List(Vec::new()),
        sessions_max: 64,
    }
}

fn on(filesystems: &[u32]) -> IdentityRights {
    let filesystems = List(filesystems.to_vec());
    IdentityRights { every_filesystem: false, filesystems, ..everything() }
}

/// A network of IPv4.
pub(super) fn network(address: [u8; 4], bits: u8) -> Network {
    let mut mapped = [0; 16];
    mapped[10..12].copy_from_slice(&[0xff; 2]);
    mapped[12..].copy_from_slice(&address);
    Network { address: mapped, prefix: 96 + bits }
}

pub(super) fn put(number: u32, name: &str, rights: IdentityRights, seed: u64) -> Operation {
    let certificates = List(vec![certificate(seed)]);
    Operation::IdentityPut(PutIdentity { number, name: name.into(), rights, certificates })
}

pub(super) fn revoke(name: &str) -> Operation {
    Operation::IdentityRevoke(RevokeIdentity { name: name.into() })
}

pub(super) fn forget(name: &str) -> Operation {
    Operation::IdentityForget(ForgetIdentity { name: name.into() })
}

pub(super) fn open(seed: u8, filesystem: &str, principal: SessionPrincipal) -> Operation {
    let Operation::Connect(request) = connect([seed; 16], filesystem) else {
        unreachable!("made a connect")
    };
    Operation::OpenSession(OpenSession { request, principal })
}

/// With the server as the one that asks.
fn harness() -> Harness {
    let mut h = Harness::new();
    h.make_filesystem("two");
    h.client = ClientId(0);
    h
}

fn info(h: &Harness, name: &str) -> IdentityInfo {
    h.state.identity_named(name.as_bytes()).unwrap()
}

fn session_of(reply: Reply) -> ClientId {
    let Reply::Session(session) = reply else { panic!("{reply:?}") };
    session.client
}

const fn identity(number: u32) -> SessionPrincipal {
    SessionPrincipal::Identity { number }
}

#[test]
fn an_identity_is_made_found_and_changed() {
    let mut h = harness();
    h.ok(put(0, "web1", on(&[2]), 1));
    h.ok(put(0, "web2", everything(), 2));
    let made = info(&h, "web1");
    assert_eq!((made.number, made.rights.clone(), made.revoked), (1, on(&[2]), None));
    assert_eq!(made.certificates, [certificate(1)]);
    assert_eq!(h.state.identity_of(&certificate(2).fingerprint).unwrap().name, b"web2");
    assert_eq!(h.state.identity_of(&certificate(3).fingerprint), None);
    // Its certificates are exchanged: the old one counts beside the new one, then no more.
    let certificates =
        List(vec![certificate(3), CertificateName { not_after: 5, ..certificate(1) }]);
    let both = PutIdentity { number: 1, name: b"web1".to_vec(), rights: on(&[1, 2]), certificates };
    h.ok(Operation::IdentityPut(both));
    let changed = info(&h, "web1");
    assert_eq!((changed.created, changed.rights), (made.created, on(&[1, 2])));
    for (seed, found) in [(1, Some(1)), (3, Some(1))] {
        let number = h.state.identity_of(&certificate(seed).fingerprint).map(|it| it.number);
        assert_eq!(number, found);
    }
    h.ok(put(1, "web1", everything(), 3));
    assert_eq!(h.state.identity_of(&certificate(1).fingerprint), None);
    assert_eq!(h.state.identities().map(|it| it.number).collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn names_and_certificates_are_of_one_identity() {
    let mut h = harness();
    h.ok(put(0, "web1", everything(), 1));
    h.ok(put(0, "web2", everything(), 2));
    let before = h.bytes();
    for (operation, errno) in [
        (put(0, "web1", everything(), 3), Errno::EEXIST),
        (put(0, "web3", everything(), 1), Errno::EEXIST),
        (put(1, "web1", everything(), 2), Errno::EEXIST),
        (put(1, "web2", everything(), 1), Errno::EINVAL),
        (put(3, "web3", everything(), 3), Errno::ENOENT),
        (revoke("web3"), Errno::ENOENT),
        (forget("web3"), Errno::ENOENT),
        (put(0, "web3", on(&[3]), 3), Errno::ENOENT),
    ] {
        assert_eq!(h.err(operation.clone()), errno, "{operation:?}");
    }
    assert_eq!(h.state.snapshot_size(), h.state.measure());
    // Refused entries count as transactions, and change nothing else.
    let state = |bytes: &[u8]| bytes[16 + 41..].to_vec();
    assert_eq!(state(&h.bytes()), state(&before));
}

#[test]
fn what_is_not_well_formed_is_refused() {
    let mut h = harness();
    let lists = |count: usize| {
        List((0..count).map(|it| network([10, 0, 0, u8::try_from(it).unwrap()], 32)).collect())
    };
    let rights = everything;
    let squash = |uid, gid| IdentityRights { mapping: Mapping::Squash { uid, gid }, ..rights() };
    let many: Vec<u32> = (1..=17).collect();
    for (wrong, errno) in [
        (IdentityRights { filesystems: List(vec![1]), ..rights() }, Errno::EINVAL),
        (on(&[2, 1]), Errno::EINVAL),
        (on(&[1, 1]), Errno::EINVAL),
        (on(&many), Errno::E2BIG),
        (squash(0, 5), Errno::EINVAL),
        (squash(u32::MAX, 5), Errno::EINVAL),
        (squash(5, u32::MAX), Errno::EINVAL),
        (IdentityRights { sessions_max: 0, ..rights() }, Errno::EINVAL),
        (IdentityRights { exempt_networks: lists(1), ..rights() }, Errno::EINVAL),
        (IdentityRights { networks: lists(17), ..rights() }, Errno::E2BIG),
        (IdentityRights { exempt_networks: lists(17), ..squash(5, 5) }, Errno::E2BIG),
        (
            IdentityRights { networks: List(vec![network([10, 0, 0, 1], 24)]), ..rights() },
            Errno::EINVAL,
        ),
        (
            IdentityRights {
                networks: List(vec![Network { address: [0; 16], prefix: 129 }]),
                ..rights()
            },
            Errno::EINVAL,
        ),
    ] {
        assert_eq!(h.err(put(0, "web1", wrong.clone(), 1)), errno, "{wrong:?}");
    }
    for name in ["", ".x", "a/b", &"n".repeat(64)] {
        assert_eq!(h.err(put(0, name, everything(), 1)), Errno::EINVAL, "{name}");
    }
    for (certificates, errno) in [
        (vec![], Errno::EINVAL),
        (vec![certificate(1), certificate(1)], Errno::EINVAL),
        ([1, 2, 3, 1].map(certificate).to_vec(), Errno::EINVAL),
        ([1, 2, 3, 4, 5].map(certificate).to_vec(), Errno::E2BIG),
    ] {
        let certificates = List(certificates);
        let body =
            PutIdentity { number: 0, name: b"a".to_vec(), rights: everything(), certificates };
        assert_eq!(h.err(Operation::IdentityPut(body)), errno);
    }
    assert_eq!(h.state.identities().count(), 0);
    // At each bound.
    for number in 3..=16 {
        h.make_filesystem(&format!("fs{number}"));
    }
    let most = IdentityRights {
        networks: lists(IDENTITY_NETWORKS_MAX),
        exempt_networks: lists(IDENTITY_NETWORKS_MAX),
        mapping: Mapping::Squash { uid: 1, gid: 0 },
        ..on(&many[..IDENTITY_FILESYSTEMS_MAX])
    };
    let certificates = List(vec![certificate(1), certificate(2)]);
    let body = PutIdentity { number: 0, name: vec![b'n'; 63], rights: most, certificates };
    h.ok(Operation::IdentityPut(body));
}

#[test]
fn networks_hold_their_addresses_and_no_others() {
    let of = |address| network(address, 32).address;
    let net = network([10, 1, 2, 0], 23);
    for (address, inside) in [
        ([10, 1, 2, 0], true),
        ([10, 1, 3, 255], true),
        ([10, 1, 4, 0], false),
        ([10, 1, 1, 255], false),
    ] {
        assert_eq!(net.contains(of(address)), inside, "{address:?}");
    }
    let everywhere = Network { address: [0; 16], prefix: 0 };
    assert!(everywhere.contains(of([1, 2, 3, 4])) && everywhere.contains([0xff; 16]));
    let rights = IdentityRights { networks: List(vec![net.clone()]), ..everything() };
    assert!(rights.may_come_from(of([10, 1, 3, 1])) && !rights.may_come_from(of([10, 1, 4, 1])));
    assert!(everything().may_come_from([7; 16]) && !everything().is_exempt(of([10, 1, 3, 1])));
    let rights = IdentityRights { exempt_networks: List(vec![net]), ..everything() };
    assert!(rights.is_exempt(of([10, 1, 3, 1])) && !rights.is_exempt(of([10, 1, 4, 1])));
}

#[test]
fn a_session_gets_what_its_principal_may_do() {
    let mut h = harness();
    let rights = |read_only, mapping| IdentityRights { read_only, mapping, ..on(&[1]) };
    h.ok(put(0, "trusted", rights(false, Mapping::Trusted), 1));
    h.ok(put(0, "mapped", rights(false, Mapping::Root), 2));
    h.ok(put(0, "one-user", rights(true, Mapping::Squash { uid: 5, gid: 6 }), 3));
    h.ok(put(0, "gone", everything(), 4));
    h.ok(put(0, "every", everything(), 5));
    h.ok(revoke("gone"));
    let user = SessionPrincipal::User { uid: 1000 };
    let exempt = SessionPrincipal::ExemptIdentity { number: 3 };
    let cases = [
        (SessionPrincipal::Owner, false, false),
        (user, false, true),
        (identity(1), false, false),
        (identity(2), false, true),
        (identity(3), true, true),
        (exempt, true, false),
    ];
    for (seed, (principal, read_only, checked)) in (20..).zip(cases) {
        let client = session_of(h.ok(open(seed, "one", principal)));
        let session = h.state.session(client).unwrap();
        assert_eq!(session.principal, principal);
        assert_eq!(session.rights, SessionRights { read_only, checked }, "{principal:?}");
    }
    // Another file system, none at all, and an identity that was revoked.
    for (filesystem, principal, errno) in [
        ("two", identity(1), Errno::EACCES),
        ("two", exempt, Errno::EACCES),
        ("", identity(1), Errno::EACCES),
        ("", user, Errno::EACCES),
        ("one", identity(4), Errno::EACCES),
        // Whose file systems are listed learns of no other's name.
        ("none", identity(1), Errno::EACCES),
        ("none", exempt, Errno::EACCES),
        ("none", identity(4), Errno::EACCES),
        ("none", identity(5), Errno::ENOENT),
        ("none", user, Errno::ENOENT),
        ("none", SessionPrincipal::Owner, Errno::ENOENT),
    ] {
        assert_eq!(h.err(open(40, filesystem, principal)), errno, "{filesystem} {principal:?}");
    }
    // As a log written before sessions had principals says.
    let client = session_of(h.ok(connect([41; 16], "two")));
    assert_eq!(h.state.session(client).unwrap().principal, SessionPrincipal::Owner);
    assert_eq!(info(&h, "one-user").sessions, 2);
}

#[test]
fn a_session_is_taken_up_again_by_its_own_principal_alone() {
    let mut h = harness();
    h.ok(put(0, "web1", everything(), 1));
    h.ok(put(0, "web2", everything(), 2));
    let client = session_of(h.ok(open(20, "one", identity(1))));
    let others = [
        SessionPrincipal::Owner,
        SessionPrincipal::User { uid: 1 },
        identity(2),
        SessionPrincipal::ExemptIdentity { number: 1 },
    ];
    for other in others {
        assert_eq!(h.err(open(20, "one", other)), Errno::EACCES, "{other:?}");
    }
    assert_eq!(h.err(connect([20; 16], "one")), Errno::EACCES);
    assert_eq!(h.state.session(client).unwrap().epoch.0, 1);
    assert_eq!(session_of(h.ok(open(20, "one", identity(1)))), client);
    assert_eq!(h.state.session(client).unwrap().epoch.0, 2);
}

#[test]
fn sessions_of_an_identity_are_bounded_and_others_are_not_in_its_way() {
    let mut h = harness();
    h.ok(put(0, "web1", IdentityRights { sessions_max: 2, ..everything() }, 1));
    h.ok(put(0, "web2", everything(), 2));
    let first = session_of(h.ok(open(20, "one", identity(1))));
    h.ok(open(21, "two", SessionPrincipal::ExemptIdentity { number: 1 }));
    assert_eq!(h.err(open(22, "one", identity(1))), Errno::EUSERS);
    h.ok(open(22, "one", identity(2)));
    h.ok(open(20, "one", identity(1)));
    h.ok(Operation::Disconnect(crate::operation::Disconnect { client: first }));
    h.ok(open(23, "one", identity(1)));
}

/// Sessions of two identities; those whose sessions the operation ended.
fn ended_by(h: &mut Harness, operation: Operation) -> Vec<u32> {
    for (seed, number) in [(20, 1), (21, 1), (22, 2)] {
        h.ok(open(seed, "one", identity(number)));
    }
    let client = |seed: u8| h.state.session_of(&[seed; 16]).unwrap();
    let (clients, other) = ([client(20), client(21)], client(22));
    let epochs = clients.map(|it| h.state.session(it).unwrap().epoch.0 + 1);
    let effects = h.apply(operation).effects;
    assert!(h.state.has_session(other), "another identity's session lives");
    let living = clients.map(|it| h.state.has_session(it));
    assert_eq!(living[0], living[1]);
    if living[0] {
        assert!(effects.is_empty());
        return Vec::new();
    }
    let ended = |at: usize| Effect::SessionEnded {
        client: clients[at],
        epoch: sheen_types::Epoch(epochs[at]),
    };
    assert_eq!(effects, [ended(0), ended(1), Effect::IdentityEnded { number: 1 }]);
    vec![1]
}

#[test]
fn taking_something_away_ends_sessions_and_giving_does_not() {
    let mut h = harness();
    let nets = |nets: &[[u8; 4]]| List(nets.iter().map(|&it| network(it, 32)).collect::<Vec<_>>());
    let (a, b) = ([10, 0, 0, 1], [10, 0, 0, 2]);
    let base = IdentityRights { networks: nets(&[a]), mapping: Mapping::Root, ..on(&[1]) };
    let with = |change: fn(&mut IdentityRights)| {
        let mut rights = base.clone();
        change(&mut rights);
        rights
    };
    h.ok(put(0, "web1", base.clone(), 1));
    h.ok(put(0, "web2", everything(), 2));
    let (mut set, mut seed) = (base.clone(), 1);
    let steps = [
        (base.clone(), 1, false),
        (on_more(&base, &[1, 2]), 1, false),
        (base.clone(), 1, true),
        (
            IdentityRights {
                every_filesystem: true,
                filesystems: List(Vec::new()),
                ..base.clone()
            },
            1,
            false,
        ),
        (base.clone(), 1, true),
        (IdentityRights { networks: nets(&[a, b]), ..base.clone() }, 1, false),
        (IdentityRights { networks: nets(&[b]), ..base.clone() }, 1, true),
        (with(|it| it.networks.0.clear()), 1, false),
        (base.clone(), 1, true),
        (IdentityRights { exempt_networks: nets(&[b]), ..base.clone() }, 1, false),
        (base.clone(), 1, true),
        (with(|it| it.mapping = Mapping::Trusted), 1, true),
        (with(|it| it.mapping = Mapping::Squash { uid: 1, gid: 1 }), 1, true),
        (with(|it| it.mapping = Mapping::Squash { uid: 2, gid: 1 }), 1, true),
        (base.clone(), 1, true),
        (with(|it| it.sessions_max = 2), 1, false),
        (base.clone(), 3, true),
        (with(|it| it.read_only = true), 3, true),
        (base.clone(), 3, false),
    ];
    for (rights, certificate, ends) in steps {
        let ended = ended_by(&mut h, put(1, "web1", rights.clone(), certificate));
        assert_eq!(ended == [1], ends, "{set:?}, {seed} -> {rights:?}, {certificate}");
        (set, seed) = (rights, certificate);
    }
    // A certificate that is over is taken away from nobody.
    let now = u64::try_from(h.now().seconds).unwrap() - 1;
    let certificates = |not_after| {
        let old = CertificateName { not_after, ..certificate(3) };
        List(vec![certificate(4), old])
    };
    let both = |not_after| {
        let (name, rights) = (b"web1".to_vec(), base.clone());
        let certificates = certificates(not_after);
        Operation::IdentityPut(PutIdentity { number: 1, name, rights, certificates })
    };
    assert!(ended_by(&mut h, both(FOR_EVER)).is_empty());
    assert_eq!(ended_by(&mut h, both(now)), [1], "its end is past: it is taken away");
    assert!(ended_by(&mut h, put(1, "web1", base.clone(), 4)).is_empty());
    assert!(ended_by(&mut h, both(FOR_EVER)).is_empty());
    assert_eq!(ended_by(&mut h, put(1, "web1", base, 4)), [1]);
}

fn on_more(base: &IdentityRights, filesystems: &[u32]) -> IdentityRights {
    IdentityRights { filesystems: List(filesystems.to_vec()), ..base.clone() }
}

#[test]
fn who_is_revoked_is_nobody_at_once_and_keeps_its_name_to_be_shown() {
    let mut h = harness();
    h.ok(put(0, "web1", everything(), 1));
    h.ok(put(0, "web2", everything(), 2));
    assert!(h.state.growth(&revoke("web1"), 0).is_none(), "a full zone takes it");
    assert!(h.state.growth(&forget("web1"), 0).is_none());
    let now = h.now();
    assert_eq!(ended_by(&mut h, revoke("web1")), [1]);
    let shown = info(&h, "web1");
    assert!(shown.revoked.unwrap() > now && shown.certificates.is_empty() && shown.sessions == 0);
    assert_eq!(h.state.identity_of(&certificate(1).fingerprint), None);
    assert_eq!(h.err(open(30, "one", identity(1))), Errno::EACCES);
    assert_eq!(h.err(put(1, "web1", everything(), 1)), Errno::ENOENT);
    let again = h.apply(revoke("web1"));
    assert_eq!((again.result, again.effects), (Ok(Reply::Done), Vec::new()));
    // The name is free, the number is not, and what was revoked under it is gone.
    h.ok(put(0, "web1", everything(), 1));
    assert_eq!((info(&h, "web1").number, info(&h, "web1").revoked), (3, None));
    assert_eq!(h.state.identities().map(|it| it.number).collect::<Vec<_>>(), [2, 3]);
    h.ok(open(31, "one", identity(3)));
    let effects = h.apply(forget("web1")).effects;
    assert_eq!(effects.last(), Some(&Effect::IdentityEnded { number: 3 }));
    assert_eq!((effects.len(), h.state.identity_named(b"web1")), (2, None));
}

#[test]
fn a_file_system_that_goes_widens_no_right() {
    let mut h = harness();
    h.ok(put(0, "web1", on(&[2]), 1));
    let going = FilesystemDelete { name: b"two".to_vec(), force: true };
    h.ok(Operation::FilesystemDelete(going));
    assert_eq!(info(&h, "web1").rights, on(&[2]));
    assert_eq!(h.err(open(20, "one", identity(1))), Errno::EACCES);
    // It stays named until it is taken out; nobody else can name it.
    h.ok(put(1, "web1", on(&[1, 2]), 1));
    h.ok(put(1, "web1", on(&[]), 1));
    assert_eq!(h.err(put(1, "web1", on(&[2]), 1)), Errno::ENOENT);
    assert_eq!(h.err(open(20, "one", identity(1))), Errno::EACCES, "none is not every");
}

#[test]
fn identities_are_bounded_and_the_longest_revoked_is_forgotten() {
    let mut h = harness();
    h.checks = false;
    let (most, revoked) =
        (u64::try_from(IDENTITIES_MAX).unwrap(), u64::try_from(REVOKED_MAX).unwrap());
    for seed in 0..most {
        h.ok(put(0, &format!("n{seed}"), everything(), seed));
    }
    assert_eq!(h.err(put(0, "more", everything(), most)), Errno::ENOSPC);
    h.ok(put(1, "n0", on(&[1]), 0));
    for seed in 0..revoked {
        h.ok(revoke(&format!("n{seed}")));
    }
    assert_eq!(h.state.identities().count(), IDENTITIES_MAX);
    h.ok(put(0, "more", everything(), most));
    h.ok(revoke("n4000"));
    assert_eq!(h.state.identity_named(b"n0"), None);
    assert!(h.state.identity_named(b"n1").is_some_and(|it| it.revoked.is_some()));
    assert_eq!(h.state.identities().count(), IDENTITIES_MAX);
    assert_eq!(h.state.check(), Ok(()));
    size::check(&h.state);
}
