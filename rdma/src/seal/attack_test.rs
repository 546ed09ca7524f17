//! What somebody on the way may do to records: none of it is taken, and nothing behind it.

use std::time::Duration;

use sheen_types::Tick;
use sheen_wire::{Kind, Opcode};

use super::{
    MESSAGE_AT, OpenError, Opener, Payload, PayloadTarget, PhaseLimits, RecordHeader, Sealer,
    TAG_BYTES, TrafficSecret,
};

const TARGET: PayloadTarget =
    PayloadTarget { slot: 3, kind: Kind::Request, opcode: Opcode::ObjectWrite };
const MESSAGE: [u8; 72] = [0x5a; 72];

fn secret(byte: u8) -> TrafficSecret {
    TrafficSecret::copy_of(&[byte; 32])
}

fn sealer() -> Sealer {
    Sealer::new(secret(1), PhaseLimits::default(), Tick(0))
}

fn opener() -> Opener {
    Opener::new(secret(1))
}

/// A record and its payload as they travel.
fn seal(sealer: &mut Sealer, payload: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let mut record = [&[0; MESSAGE_AT][..], &MESSAGE, &[0; TAG_BYTES]].concat();
    let mut cipher = payload.to_vec();
    sealer.seal(Tick(0), TARGET, &mut record, Payload::InPlace(&mut cipher)).unwrap();
    (record, cipher)
}

/// Opens both; the plain payload.
fn open(opener: &mut Opener, sealed: &(Vec<u8>, Vec<u8>)) -> Result<Vec<u8>, OpenError> {
    let (mut record, mut text) = sealed.clone();
    let opened = opener.open(&mut record)?;
    assert_eq!((opened.slot, opened.message), (TARGET.slot, &MESSAGE[..]));
    let payload = opened.payload;
    opener.open_payload(payload, TARGET, Payload::InPlace(&mut text))?;
    Ok(text)
}

#[test]
fn records_open_in_order_with_and_without_payload() {
    let (mut sealer, mut opener) = (sealer(), opener());
    for bytes in [0, 1, 0, 4096, 16, 1 << 20, 0, 5] {
        let payload: Vec<u8> = (0..bytes).map(|at: usize| at.to_le_bytes()[0]).collect();
        let sealed = seal(&mut sealer, &payload);
        assert!(bytes < 5 || sealed.1 != payload);
        assert_eq!(open(&mut opener, &sealed), Ok(payload));
    }
}

#[test]
fn equal_messages_never_look_equal() {
    let mut sealer = sealer();
    let all: Vec<_> = (0..50).map(|_| seal(&mut sealer, &[0; 32])).collect();
    for (at, one) in all.iter().enumerate() {
        for other in &all[..at] {
            assert_ne!(one.0[16..], other.0[16..]);
            assert_ne!(one.1, other.1);
        }
    }
}

#[test]
fn a_flipped_bit_anywhere_is_found_and_nothing_opens_behind_it() {
    let mut sealer = sealer();
    let (first, second) = (seal(&mut sealer, b"payload"), seal(&mut sealer, b""));
    for bit in 0..8 * (first.0.len() + first.1.len()) {
        let mut changed = first.clone();
        let (byte, bit) = (bit / 8, bit % 8);
        match byte.checked_sub(changed.0.len()) {
            None => changed.0[byte] ^= 1 << bit,
            Some(byte) => changed.1[byte] ^= 1 << bit,
        }
        let mut opener = opener();
        let error = open(&mut opener, &changed).unwrap_err();
        match byte {
            0 | 1 => assert_eq!(error, OpenError::Malformed("record length")),
            // Phase 1 is the next one, so only the tag tells.
            2 if bit == 0 => assert_eq!(error, OpenError::Forged),
            2 => assert!(matches!(error, OpenError::Phase { current: 0, .. }), "{error}"),
            3..8 => assert_eq!(error, OpenError::Malformed("record header")),
            8..16 => assert!(matches!(error, OpenError::Sequence { expected: 0, .. }), "{error}"),
            _ => assert_eq!(error, OpenError::Forged, "byte {byte}"),
        }
        assert_eq!(open(&mut opener, &first), Err(OpenError::Ended));
        assert_eq!(open(&mut opener, &second), Err(OpenError::Ended));
    }
}

#[test]
fn what_does_not_open_leaves_zeros() {
    let (mut record, mut text) = seal(&mut sealer(), &[7; 64]);
    let mut failing = opener();
    let opened = failing.open(&mut record).unwrap().payload;
    text[63] ^= 1;
    let mut room = [1; 64];
    let across = Payload::Across { from: &text, into: &mut room };
    assert_eq!(failing.open_payload(opened, TARGET, across), Err(OpenError::Forged));
    assert_eq!(room, [0; 64]);
    let (mut record, _) = seal(&mut sealer(), b"");
    record[40] ^= 1;
    assert!(opener().open(&mut record).is_err());
    assert_eq!(record[16..120], [0; 104]);
}

#[test]
fn a_record_again_one_left_out_and_two_exchanged_are_found() {
    let mut sealer = sealer();
    let records: Vec<_> = (0..3).map(|_| seal(&mut sealer, b"p")).collect();
    for (order, expected, found) in [([0, 0], 1, 0), ([0, 2], 1, 2), ([1, 0], 0, 1)] {
        let mut opener = opener();
        let got = order.map(|which: usize| open(&mut opener, &records[which])).into_iter();
        let first_error = got.filter_map(Result::err).next();
        assert_eq!(first_error, Some(OpenError::Sequence { expected, found }), "{order:?}");
    }
}

#[test]
fn a_record_left_out_where_phases_meet_is_found() {
    let limits = PhaseLimits { records: 2, ..PhaseLimits::default() };
    let mut sealer = Sealer::new(secret(1), limits, Tick(0));
    let records: Vec<_> = (0..5).map(|_| seal(&mut sealer, b"p")).collect();
    for (order, expected, found) in
        [(&[0, 2][..], 1, 2), (&[0, 1, 3], 2, 3), (&[0, 1, 2, 4], 3, 4), (&[2], 0, 2)]
    {
        let mut opener = opener();
        let got = order.iter().map(|&which: &usize| open(&mut opener, &records[which]));
        let last = got.last().unwrap();
        assert_eq!(last, Err(OpenError::Sequence { expected, found }), "{order:?}");
    }
}

#[test]
fn a_renumbered_record_is_not_taken() {
    let mut sealer = sealer();
    let (mut first, mut second) = (seal(&mut sealer, b""), seal(&mut sealer, b""));
    second.0[8] = 0;
    assert_eq!(open(&mut opener(), &second), Err(OpenError::Forged));
    let mut opener = opener();
    open(&mut opener, &first).unwrap();
    first.0[8] = 1;
    assert_eq!(open(&mut opener, &first), Err(OpenError::Forged));
}

#[test]
fn a_record_cut_anywhere_is_not_taken_nor_is_a_longer_one() {
    let (record, _) = seal(&mut sealer(), b"");
    for length in 0..record.len() {
        assert!(opener().open(&mut record[..length].to_vec()).is_err(), "{length} bytes");
        // Neither with a length that says so.
        let mut cut = record[..length].to_vec();
        if let Some(sealed) = length.checked_sub(16 + TAG_BYTES)
            && let Some(bytes) = cut.first_chunk_mut()
        {
            *bytes = u16::try_from(sealed).unwrap().to_le_bytes();
            assert!(opener().open(&mut cut).is_err(), "{length} bytes, told");
        }
    }
    let longer = [&record[..], &[0]].concat();
    assert!(opener().open(&mut longer.clone()).is_err());
}

#[test]
fn a_record_sent_back_and_one_of_another_connection_are_not_taken() {
    let sealed = seal(&mut sealer(), b"payload");
    // The other direction has another secret, so what comes back to its sender does not open.
    let mut theirs = Opener::new(secret(2));
    assert_eq!(open(&mut theirs, &sealed), Err(OpenError::Forged));
    assert_eq!(open(&mut opener(), &sealed), Ok(b"payload".to_vec()));
}

#[test]
fn a_payload_opens_under_its_own_message_alone() {
    let others = [
        PayloadTarget { slot: 4, ..TARGET },
        PayloadTarget { kind: Kind::Reply, ..TARGET },
        PayloadTarget { opcode: Opcode::ObjectRead, ..TARGET },
    ];
    for other in others {
        let (mut record, mut text) = seal(&mut sealer(), b"payload");
        let mut opener = opener();
        let opened = opener.open(&mut record).unwrap().payload;
        let under_other = opener.open_payload(opened, other, Payload::InPlace(&mut text));
        assert_eq!(under_other, Err(OpenError::Forged), "{other:?}");
        assert_eq!(opener.open(&mut record).unwrap_err(), OpenError::Ended);
    }
    // Those of two messages exchanged, and one cut short.
    let mut sealer = sealer();
    let (one, two) = (seal(&mut sealer, b"one"), seal(&mut sealer, b"two"));
    assert_eq!(open(&mut opener(), &(one.0.clone(), two.1)), Err(OpenError::Forged));
    assert_eq!(open(&mut opener(), &(one.0, one.1[..2].to_vec())), Err(OpenError::Forged));
}

#[test]
fn a_payload_without_a_seal_and_a_seal_without_a_payload_are_refused() {
    let mut sealer = sealer();
    let (without, with) = (seal(&mut sealer, b""), seal(&mut sealer, b"payload"));
    let mut clear = *b"payload of nobody";
    let mut first = opener();
    let seal = first.open(&mut without.0.clone()).unwrap().payload;
    let given = first.open_payload(seal, TARGET, Payload::InPlace(&mut clear));
    assert_eq!((given, clear), (Err(OpenError::Payload), [0; 17]));
    let mut second = opener();
    open(&mut second, &without).unwrap();
    let seal = second.open(&mut with.0.clone()).unwrap().payload;
    assert_eq!(second.open_payload(seal, TARGET, Payload::Absent), Err(OpenError::Payload));
}

#[test]
fn a_payload_of_a_phase_that_is_past_does_not_open() {
    let limits = PhaseLimits { records: 1, ..PhaseLimits::default() };
    let mut sealer = Sealer::new(secret(1), limits, Tick(0));
    let mut opener = opener();
    let (mut record, mut text) = seal(&mut sealer, b"late");
    let late = opener.open(&mut record).unwrap().payload;
    open(&mut opener, &seal(&mut sealer, b"")).unwrap();
    let opened = opener.open_payload(late, TARGET, Payload::InPlace(&mut text));
    assert_eq!(opened, Err(OpenError::Payload));
}

#[test]
fn keys_change_after_so_many_records_and_come_round_to_the_same_low_byte() {
    let limits = PhaseLimits { records: 8, ..PhaseLimits::default() };
    let mut sealer = Sealer::new(secret(1), limits, Tick(0));
    let mut opener = opener();
    for number in 0..8 * 300_u64 {
        let sealed = seal(&mut sealer, if number % 3 == 0 { b"payload" } else { b"" });
        let header = RecordHeader::from_bytes(sealed.0.first_chunk().unwrap()).unwrap();
        let [low, ..] = (number / 8).to_le_bytes();
        assert_eq!((header.phase, header.sequence), (low, number));
        open(&mut opener, &sealed).unwrap();
        assert_eq!((sealer.phase(), opener.phase()), (number / 8, number / 8));
    }
}

#[test]
fn keys_change_at_the_limit_of_blocks_and_of_time() {
    // A record of 136 bytes counts as 9 blocks and two, a payload of one byte as one and two.
    let limits = PhaseLimits { blocks: 28, ..PhaseLimits::default() };
    let mut sealer = Sealer::new(secret(1), limits, Tick(0));
    let phases = [(); 6].map(|()| {
        seal(&mut sealer, b"p");
        sealer.phase()
    });
    assert_eq!(phases, [0, 0, 1, 1, 2, 2], "14 blocks each");
    let limits = PhaseLimits { age: Duration::from_secs(2), ..PhaseLimits::default() };
    let mut sealer = Sealer::new(secret(1), limits, Tick(5));
    let phases = [0, 2_000_000_004, 2_000_000_005, 4_000_000_004, 4_000_000_005].map(|now| {
        let mut record = [0; MESSAGE_AT + 72 + TAG_BYTES];
        sealer.seal(Tick(now), TARGET, &mut record, Payload::Absent).unwrap();
        sealer.phase()
    });
    assert_eq!(phases, [0, 0, 1, 1, 2]);
}

#[test]
fn two_phases_at_once_and_one_back_are_refused() {
    let limits = PhaseLimits { records: 1, ..PhaseLimits::default() };
    let mut sealer = Sealer::new(secret(1), limits, Tick(0));
    let phases: Vec<_> = (0..3).map(|_| seal(&mut sealer, b"")).collect();
    let mut opener = opener();
    open(&mut opener, &phases[0]).unwrap();
    let skipped = open(&mut opener, &phases[2]);
    assert_eq!(skipped, Err(OpenError::Phase { current: 0, found: 2 }));
    let mut opener = self::opener();
    open(&mut opener, &phases[0]).unwrap();
    open(&mut opener, &phases[1]).unwrap();
    let back = open(&mut opener, &phases[0]);
    assert_eq!(back, Err(OpenError::Phase { current: 1, found: 0 }));
}

#[test]
fn a_connection_in_clear_has_the_same_records_in_the_same_order() {
    let (mut sealer, mut opener) = (Sealer::plain(), Opener::plain());
    let sealed = [b"payload".as_slice(), b"", b"more"].map(|text| seal(&mut sealer, text));
    assert_eq!(sealed[0].1, b"payload");
    assert_eq!(sealed[0].0[MESSAGE_AT..][..72], MESSAGE);
    for (record, text) in sealed.iter().zip([b"payload".as_slice(), b"", b"more"]) {
        assert_eq!(open(&mut opener, record).as_deref(), Ok(text));
    }
    let again = open(&mut opener, &sealed[0]);
    assert_eq!(again, Err(OpenError::Sequence { expected: 3, found: 0 }));
    // A record with a tag, a phase or a sealed payload is of an encrypted connection.
    for (at, value) in [(2, 1), (20, 1), (135, 1)] {
        let mut changed = sealed[0].clone();
        changed.0[at] = value;
        assert!(open(&mut Opener::plain(), &changed).is_err(), "byte {at}");
    }
    let sealed = seal(&mut self::sealer(), b"payload");
    assert!(open(&mut Opener::plain(), &sealed).is_err());
}

#[test]
#[should_panic(expected = "a record of 135 bytes")]
fn a_message_shorter_than_a_frame_is_never_sealed() {
    let mut record = [0; 135];
    let _ = sealer().seal(Tick(0), TARGET, &mut record, Payload::Absent);
}
