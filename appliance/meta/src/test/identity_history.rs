//! Random histories of identities, secrets and sessions: always consistent, counted and told before, and the same once read back.

use sheen_wire::fields::List;

use super::{
    identity::{certificate, everything, forget, network, open, revoke},
    model::Random,
    secrets::{authority, cluster, session_secret},
    *,
};
use crate::{
    SessionPrincipal, SnapshotReader,
    identity::{CertificateAuthorityState, IdentityRights, Mapping, PutIdentity},
    operation::{Disconnect, decode_entries, encode_entries},
};

fn rights(random: &mut Random) -> IdentityRights {
    let nets = |random: &mut Random| {
        let count = random.below(4);
        let one = |it: usize| network([10, 0, u8::try_from(it).unwrap(), 0], 24);
        List((0..count).map(one).collect::<Vec<_>>())
    };
    let mapping = random.pick(&[
        Mapping::Trusted,
        Mapping::Trusted,
        Mapping::Root,
        Mapping::Squash { uid: 1000, gid: 0 },
    ]);
    let every_filesystem = random.below(3) == 0;
    let filesystems: Vec<u32> =
        (1..=3).filter(|it| random.below(if *it == 3 { 9 } else { 2 }) == 0).collect();
    IdentityRights {
        every_filesystem,
        filesystems: List(if every_filesystem { Vec::new() } else { filesystems }),
        mapping,
        read_only: random.below(4) == 0,
        networks: nets(random),
        exempt_networks: if mapping == Mapping::Trusted { List(Vec::new()) } else { nets(random) },
        sessions_max: u16::try_from(random.below(4)).unwrap(),
    }
}

fn operation(h: &Harness, random: &mut Random) -> Operation {
    let name = format!("n{}", random.below(12));
    let number = u32::try_from(random.below(30)).unwrap();
    match random.below(20) {
        0..6 => {
            let known = h.state.identity_named(name.as_bytes()).map_or(number, |it| it.number);
            let number = if random.below(2) == 0 { 0 } else { known };
            let certificates = (0..random.below(4)).map(|_| certificate(random.below(200) as u64));
            let certificates = List(certificates.collect());
            let rights = if random.below(5) == 0 { everything() } else { rights(random) };
            Operation::IdentityPut(PutIdentity { number, name: name.into(), rights, certificates })
        }
        6 => revoke(&name),
        7 => forget(&name),
        8 => cluster(number % 4, u8::try_from(random.below(5)).unwrap()),
        9 => {
            let last = h.state.session_secrets().last().map_or(0, |it| it.generation);
            session_secret(last + number % 3)
        }
        10..12 => {
            let state = random.pick(CertificateAuthorityState::ALL);
            let last = h.state.authorities().last().map_or(0, |it| it.generation);
            let body = authority(last + u32::try_from(random.below(2)).unwrap(), state);
            Operation::CertificateAuthority(body)
        }
        12..18 => {
            let principal = random.pick(&[
                SessionPrincipal::Owner,
                SessionPrincipal::User { uid: number },
                SessionPrincipal::Identity { number },
                SessionPrincipal::Identity { number },
                SessionPrincipal::ExemptIdentity { number },
            ]);
            let filesystem = random.pick(&["", "one", "one", "two", "none"]);
            open(u8::try_from(100 + random.below(30)).unwrap(), filesystem, principal)
        }
        _ => {
            let sessions: Vec<ClientId> = h.state.sessions().iter().map(|it| it.client).collect();
            let client = if sessions.is_empty() { ClientId(9) } else { random.pick(&sessions) };
            Operation::Disconnect(Disconnect { client })
        }
    }
}

fn read_back(state: &State) -> State {
    let mut reader = SnapshotReader::new(Limits::default());
    for chunk in state.snapshot() {
        reader.push(&chunk).unwrap();
    }
    reader.finish().unwrap()
}

#[test]
fn a_random_history_of_identities_reads_back_the_same() {
    for seed in 0..8 {
        println!("seed {seed}");
        let mut random = Random(seed);
        let mut h = Harness::new();
        h.make_filesystem("two");
        h.client = ClientId(0);
        let (mut done, mut most) = (0, 0);
        for round in 0..800 {
            let operation = operation(&h, &mut random);
            // Checks all invariants, the size, and that it grew by no more than was told.
            done += u32::from(h.apply(operation).result.is_ok());
            most = most.max(h.state.identities().count());
            if round % 40 == 0 {
                let state = read_back(&h.state);
                assert_eq!(state, h.state);
                assert_eq!(state.snapshot().flatten().collect::<Vec<u8>>(), h.bytes());
            }
        }
        assert!(done > 120 && most > 5, "{done} operations, {most} identities");
        assert!(h.state.authorities().count() > 1 && h.state.session_secrets().count() == 2);
        let record = h.history.chunks(500).map(encode_entries);
        let mut again = State::new(Limits::default());
        for entry in record.flat_map(|record| decode_entries(&record).unwrap()) {
            again.apply(&entry);
        }
        assert_eq!(again, h.state);
    }
}

#[test]
fn damaged_items_of_identities_are_refused_or_consistent() {
    let mut h = Harness::new();
    h.client = ClientId(0);
    h.ok(cluster(1, 2));
    h.ok(Operation::CertificateAuthority(authority(1, CertificateAuthorityState::Current)));
    h.ok(session_secret(1));
    h.ok(identity::put(0, "web1", everything(), 1));
    h.ok(open(20, "one", SessionPrincipal::Identity { number: 1 }));
    let chunk = h.state.snapshot().next().unwrap();
    let mut taken = 0;
    for at in 4..chunk.len() {
        for bit in [1, 0x10, 0x80] {
            let mut wrong = chunk.clone();
            wrong[at] ^= bit;
            let checksum = sheen_types::checksum::crc32c(&wrong[4..]);
            wrong[..4].copy_from_slice(&checksum.to_le_bytes());
            let mut reader = SnapshotReader::new(Limits::default());
            if reader.push(&wrong).is_ok()
                && let Ok(state) = reader.finish()
            {
                taken += 1;
                assert_eq!(state.check(), Ok(()));
            }
        }
    }
    assert!(taken > 0);
}
