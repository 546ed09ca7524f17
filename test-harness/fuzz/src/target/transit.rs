//! What a stranger on the network sends: handshakes and sealed records.
//!
//! Both run two live ends against each other with somebody between them, and either end alone on bytes. Certificates and keys are
//! `fixtures/transit`, made by Python's `cryptography`: an authority, a node and a client of it, valid until 2126. They protect
//! nothing.

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use sheen_rdma::{
    handshake::{
        Applicant, ClientHandshake, ClientSettings, Credentials, Established, PrivateKey,
        ServerHandshake, ServerOutcome, ServerSettings, TlsAnswer, TlsHello, Transit,
        TrustedAuthority,
    },
    seal::{
        MESSAGE_AT, OpenError, Opener, Payload, PayloadTarget, PhaseLimits, RECORD_BYTES_MIN,
        RecordHeader, Sealer, TrafficSecret,
    },
};
use sheen_types::Tick;
use sheen_wire::{Kind, Opcode};

use crate::input::{Input, put_sized};

const NODE: [u8; 16] = *b"node of the fuzz";
const TARGET: PayloadTarget =
    PayloadTarget { slot: 5, kind: Kind::Request, opcode: Opcode::ObjectWrite };

static SERVER: LazyLock<[Arc<ServerSettings>; 2]> = LazyLock::new(|| {
    [Transit::Sealed, Transit::Plain].map(|transit| {
        let credentials = credentials(
            include_bytes!("../../fixtures/transit/node.der"),
            include_bytes!("../../fixtures/transit/node.key"),
        );
        Arc::new(ServerSettings::new(credentials, NODE, transit, now).expect("whole fixtures"))
    })
});

static CLIENT: LazyLock<Arc<ClientSettings>> = LazyLock::new(|| {
    let credentials = credentials(
        include_bytes!("../../fixtures/transit/client.der"),
        include_bytes!("../../fixtures/transit/client.key"),
    );
    let transits = [Transit::Sealed, Transit::Plain];
    Arc::new(ClientSettings::new(credentials, &transits, now).expect("whole fixtures"))
});

fn credentials(certificate: &[u8], key: &[u8]) -> Credentials {
    Credentials {
        authorities: vec![TrustedAuthority {
            certificate: include_bytes!("../../fixtures/transit/authority.der").to_vec(),
            not_after: Duration::MAX,
        }],
        chain: vec![certificate.to_vec()],
        key: PrivateKey::copy_of(key).expect("a whole fixture"),
    }
}

fn now() -> Duration {
    Duration::from_secs(1_800_000_000)
}

/// First byte: who is between or alone; then edits of what passes, or bytes for one end.
pub(super) fn run_handshake(data: &[u8]) {
    let mut input = Input(data);
    match input.u8() % 4 {
        0 => between(&mut input),
        1 => server_alone(input),
        2 => client_alone(input),
        _ => messages(input.0),
    }
}

/// Two ends, and edits of each flight between them. Whatever happens, two ends that are through have the same keys.
fn between(input: &mut Input<'_>) {
    let server = &SERVER[usize::from(input.u8() % 2)];
    let mut client = ClientHandshake::new(Arc::clone(&CLIENT), 1, Some(NODE)).expect("begins");
    let mut server = ServerHandshake::new(Arc::clone(server)).expect("begins");
    let (mut at_client, mut at_server) = (None, None);
    let mut edited = false;
    // Two flights each; a few more, so that edits cannot make it endless.
    for _ in 0..4 {
        let mut flight = client.take_output();
        edited |= edit(&mut flight, input);
        if let Ok(Some(outcome)) = server.receive(&flight, admit) {
            at_server = Some(outcome);
        }
        let mut flight = server.take_output();
        edited |= edit(&mut flight, input);
        if let Ok(Some(established)) = client.receive(&flight) {
            at_client = Some(established);
        }
    }
    match (at_client, at_server) {
        (Some(client), Some(ServerOutcome::Admitted { established, .. })) => {
            assert_same_keys(client, established);
        }
        _ => assert!(edited, "nobody was between, and no connection came of it"),
    }
}

fn admit(applicant: &Applicant) -> Result<(), sheen_rdma::Refusal> {
    if applicant.service == 1 { Ok(()) } else { Err(sheen_rdma::Refusal::Service) }
}

fn assert_same_keys(client: Established, server: Established) {
    assert_eq!(client.transit, server.transit);
    let mut client = client.into_seals(PhaseLimits::default(), Tick(0));
    let mut server = server.into_seals(PhaseLimits::default(), Tick(0));
    for (sealer, opener) in [(&mut client.0, &mut server.1), (&mut server.0, &mut client.1)] {
        let mut record = [0; RECORD_BYTES_MIN];
        sealer.seal(Tick(0), TARGET, &mut record, Payload::Absent).expect("seals");
        opener.open(&mut record).expect("both ends of a connection have the same keys");
    }
}

/// Up to three changes of a flight; whether there was one.
fn edit(flight: &mut Vec<u8>, input: &mut Input<'_>) -> bool {
    let before = flight.clone();
    for _ in 0..input.u8() % 4 {
        let (how, at, value) = (input.u8(), input.below(flight.len()), input.u8());
        if flight.is_empty() {
            break;
        }
        match how % 5 {
            0 => flight[at] ^= value,
            1 => flight.truncate(at),
            2 => flight.insert(at, value),
            3 => drop(flight.drain(..at)),
            _ => flight.extend_from_within(at..),
        }
    }
    *flight != before
}

/// A node and bytes of who has no certificate.
fn server_alone(mut input: Input<'_>) {
    let mut server = ServerHandshake::new(Arc::clone(&SERVER[0])).expect("begins");
    let mut ended = false;
    while !input.is_empty() {
        let got = server.receive(input.sized(), admit);
        assert!(!matches!(got, Ok(Some(_))), "let in without a certificate");
        assert!(!(ended && got.is_ok()), "went on behind an error");
        ended |= got.is_err();
        drop(server.take_output());
    }
}

/// A client and bytes of no node.
fn client_alone(mut input: Input<'_>) {
    let mut client = ClientHandshake::new(Arc::clone(&CLIENT), 1, None).expect("begins");
    let mut ended = false;
    while !input.is_empty() {
        let got = client.receive(input.sized());
        assert!(!matches!(got, Ok(Some(_))), "believed without a certificate");
        assert!(!(ended && got.is_ok()), "went on behind an error");
        ended |= got.is_err();
    }
}

/// The messages inside TLS.
fn messages(data: &[u8]) {
    let mut bytes = [0; 64];
    let length = data.len().min(64);
    bytes[..length].copy_from_slice(&data[..length]);
    if let Ok(hello) = TlsHello::from_bytes(&bytes) {
        assert_eq!(hello.to_bytes(), bytes);
    }
    match TlsAnswer::from_bytes(&bytes) {
        Ok(answer) if answer.refusal.is_none() => assert_eq!(answer.to_bytes(), bytes),
        // Of any version, and perhaps with a number that is not known.
        Ok(answer) => assert_eq!(TlsAnswer::from_bytes(&answer.to_bytes()), Ok(answer)),
        Err(_) => {}
    }
}

pub(super) fn handshake_seeds() -> Vec<Vec<u8>> {
    // The beginning of a flight with a record whose content is cut, and an alert.
    let alert = [21, 3, 3, 0, 2, 2, 40];
    let begun = [22, 3, 1, 0, 40, 1, 0, 0, 36, 3, 3, 7, 7, 7];
    let alone = |mode| {
        let mut seed = vec![mode];
        put_sized(&mut seed, &begun);
        put_sized(&mut seed, &alert);
        seed
    };
    let hello = TlsHello { service: 1, node: NODE, random: [7; 32] }.to_bytes();
    let answer = TlsAnswer { refusal: None, transit: Transit::Plain, node: NODE, random: [7; 32] }
        .to_bytes();
    vec![
        // Nobody between, sealed and plain.
        vec![0, 0],
        vec![0, 1],
        // A bit of the third flight changed; the second one cut; the first with a byte more.
        vec![0, 0, 0, 0, 1, 0, 80, 0, 1],
        vec![0, 0, 0, 1, 1, 200, 0, 0],
        vec![0, 1, 1, 2, 20, 0, 9],
        alone(1),
        alone(2),
        [&[3][..], &hello].concat(),
        [&[3][..], &answer].concat(),
    ]
}

/// First byte: records of nobody for an opener, of a sealed connection or a plain one; or what somebody between does to good ones.
pub(super) fn run_record(data: &[u8]) {
    let mut input = Input(data);
    match input.u8() % 3 {
        0 => assert_eq!(foreign_records(Opener::new(secret()), input), 0, "a forgery opened"),
        1 => drop(foreign_records(Opener::plain(), input)),
        _ => passed_on(input),
    }
}

fn secret() -> TrafficSecret {
    TrafficSecret::copy_of(&[0x42; 32])
}

/// How many of them open.
fn foreign_records(mut opener: Opener, mut input: Input<'_>) -> usize {
    let mut count = 0;
    let mut ended = false;
    while !input.is_empty() {
        let mut record = input.sized().to_vec();
        if let Some(header) = record.first_chunk()
            && let Ok(read) = RecordHeader::from_bytes(header)
        {
            assert_eq!(read.to_bytes(), *header);
        }
        let opened = opener.open(&mut record).map(drop);
        assert!(!ended || opened == Err(OpenError::Ended), "went on behind an error");
        ended |= opened.is_err();
        count += usize::from(opened.is_ok());
    }
    count
}

/// A record and its payload on their way.
#[derive(Clone)]
struct Passing {
    record: Vec<u8>,
    payload: Vec<u8>,
    /// Its place among all that were sealed; None: it was changed.
    place: Option<u64>,
}

/// Seals records, and passes them on, keeps them back, repeats or changes them. Exactly those open that are the next one, whole,
/// while nothing was wrong before.
fn passed_on(mut input: Input<'_>) {
    let limits = PhaseLimits { records: 1 + u64::from(input.u8() % 5), ..PhaseLimits::default() };
    let mut sealer = Sealer::new(secret(), limits, Tick(0));
    let mut opener = Opener::new(secret());
    let (mut sealed, mut next, mut ended) = (0, 0, false);
    let mut kept: Vec<Passing> = Vec::new();
    while !input.is_empty() {
        let how = input.u8() % 6;
        let mut passing = match kept.last() {
            Some(last) if how >= 3 => last.clone(),
            Some(_) | None => {
                let passing = seal(&mut sealer, sealed, usize::from(input.u8() % 40));
                sealed += 1;
                passing
            }
        };
        match how {
            // Kept back, or noted for later as it is passed on.
            0 => {
                kept.push(passing);
                continue;
            }
            1 => kept.push(passing.clone()),
            2 | 3 => {}
            4 => {
                let at = input.below(passing.record.len() + passing.payload.len());
                let bit = 1 << (input.u8() % 8);
                match at.checked_sub(passing.record.len()) {
                    None => passing.record[at] ^= bit,
                    Some(at) => passing.payload[at] ^= bit,
                }
                passing.place = None;
            }
            _ => {
                let upto = input.below(passing.record.len());
                passing.record.truncate(upto);
                passing.place = None;
            }
        }
        let opens = !ended && passing.place == Some(next);
        assert_eq!(open(&mut opener, passing), opens, "record {next} is next");
        ended |= !opens;
        next += u64::from(opens);
    }
}

fn text(place: u64, bytes: usize) -> Vec<u8> {
    place.to_le_bytes().into_iter().cycle().take(bytes).collect()
}

fn seal(sealer: &mut Sealer, place: u64, payload_bytes: usize) -> Passing {
    let mut record = vec![0; RECORD_BYTES_MIN];
    record[MESSAGE_AT..][..72].copy_from_slice(&text(place, 72));
    let mut payload = text(place, payload_bytes);
    let both = Payload::InPlace(&mut payload);
    sealer.seal(Tick(0), TARGET, &mut record, both).expect("seals");
    Passing { record, payload, place: Some(place) }
}

/// Whether it opens, with what was sealed in it.
fn open(opener: &mut Opener, mut passing: Passing) -> bool {
    let Ok(opened) = opener.open(&mut passing.record) else { return false };
    assert_eq!(opened.slot, TARGET.slot);
    let found = opened.message.to_vec();
    let seal = opened.payload;
    if opener.open_payload(seal, TARGET, Payload::InPlace(&mut passing.payload)).is_err() {
        return false;
    }
    if let Some(place) = passing.place {
        assert_eq!(found, text(place, 72));
        assert_eq!(passing.payload, text(place, passing.payload.len()));
    }
    true
}

pub(super) fn record_seeds() -> Vec<Vec<u8>> {
    let foreign = |mode, mut sealer: Sealer| {
        let mut seed = vec![mode];
        for place in 0..2 {
            put_sized(&mut seed, &seal(&mut sealer, place, 0).record);
        }
        seed
    };
    let stranger = Sealer::new(TrafficSecret::copy_of(&[1; 32]), PhaseLimits::default(), Tick(0));
    vec![
        foreign(0, stranger),
        foreign(1, Sealer::plain()),
        // Two records for each phase: all in order.
        vec![2, 1, 2, 0, 2, 7, 2, 39, 1, 3, 2, 0],
        // One kept back; one again; a bit changed; one cut.
        vec![2, 0, 2, 0, 0, 4, 2, 0],
        vec![2, 2, 1, 9, 3, 2, 0],
        vec![2, 1, 0, 9, 4, 30, 0, 1, 2, 0],
        vec![2, 1, 0, 9, 5, 100, 0, 2, 0],
    ]
}
