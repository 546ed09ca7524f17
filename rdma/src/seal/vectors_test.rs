//! Keys and records as another implementation makes them.
//!
//! Made by Python's `cryptography` 50.0.2 (OpenSSL):
//!
//! ```python
//! expand = lambda secret, label, n: HKDFExpand(SHA256(), n, b"sheen 1 " + label).derive(secret)
//! nonce = lambda iv, n: bytes(a ^ b for a, b in zip(iv, bytes(4) + n.to_bytes(8, "big")))
//! # a phase: message key mk, iv mi = expand(secret, b"message key", 32), expand(secret, b"message iv", 12); payload: pk, pi
//! def seal(self, slot, kind, opcode, message, payload=b""):
//!     head, cipher = pack("<IIQ16s", slot, 0, 0, b""), b""
//!     if payload:
//!         aad = pack("<IHHII", slot, kind, opcode, len(payload), 0)
//!         sealed = AESGCM(self.pk).encrypt(nonce(self.pi, self.payloads), payload, aad)
//!         cipher, tag = sealed[:-16], sealed[-16:]
//!         head = pack("<IIQ16s", slot, 1, self.payloads, tag)
//!         self.payloads += 1
//!     header = pack("<HBBIQ", 32 + len(message), self.number & 255, 0, 0, self.first + self.records)
//!     sealed = AESGCM(self.mk).encrypt(nonce(self.mi, self.records), head + message, header)
//!     self.records += 1
//!     return header + sealed + cipher
//! message, payload = bytes(7 * i % 256 for i in range(80)), bytes(200 - i for i in range(33))
//! zero = Phase(0, bytes(range(32))); one = Phase(1, expand(zero.secret, b"next", 32), first=3)
//! zero.seal(7, 1, 0x60, message, payload); zero.seal(2**32 - 1, 3, 0x80, message[:72])
//! zero.seal(255, 2, 0x61, message, payload[:16]); one.seal(7, 1, 0x60, message, payload)
//! ```

use std::time::Duration;

use sheen_types::Tick;
use sheen_wire::{Kind, Opcode};

use super::{
    MESSAGE_AT, Opener, Payload, PayloadTarget, PhaseLimits, Sealer, TAG_BYTES, TrafficSecret,
};

/// Key and IV of messages in phase 0.
const MESSAGE_KEYS_0: &str = "\
     3c0b5c1dc58285168285a86dcf3ada90a81a6019fcf2064a1488acaa9902cde78ff9a0fc1977baca1a58\
     6017";
/// Key and IV of payloads in phase 0.
const PAYLOAD_KEYS_0: &str = "\
     0ad4dfe1669316f4d4161bc2676de51c98e41fb2301962689f6843c4568163518a4560abebbd4e33431d\
     51b5";
/// The secret of phase 1.
const SECRET_1: &str = "bead6cbd6230b7ed06c767206337822ea5202236f1104deeb56edde905bf501f";
/// Key and IV of messages in phase 1.
const MESSAGE_KEYS_1: &str = "\
     99d2acffc0168688918733b86ae9d31949254337d3a4e4ef608b5227a4322c16291d4e29a27435aa81a4\
     c030";
/// Key and IV of payloads in phase 1.
const PAYLOAD_KEYS_1: &str = "\
     fdb3e63d5140ec8431fcb913a0c0f8b3120142e49e9667342adf5eae7fa6044e55eb0d82613a96e3cfe3\
     ea3b";
/// A record with a payload.
const FIRST: &str = "\
     7000000000000000000000000000000047817220e7e101bdab1c293a1914fac51745c96b6dc5a55f17df\
     d203ae7ba8da59327c8151c3b51b034fe9821a3294492d2c6ec7ffd81973abad5d07985f3e54a2317e1d\
     d63f4c56969a8ae5944da3e70e4f7cef44ff665214877deea6a889067bfb5bb4ac70d37b3bf581c148d5\
     5abe58fb5bbcad36557590cb7229f904eeb555be4e9c40b0f677f4e4f3a77c26c58366ee43488d6babd1\
     d94378bf40c92e9f57";
/// A record without one, the second of its phase.
const CALLBACK: &str = "\
     68000000000000000100000000000000051163f46a266d7b2e26a5ebadc8abd657eb6e7b45eae93b5c8d\
     148953838f02a3d0842f0a9e515fccc6a05228ecfdf847a36b383a8f33bf61930d77b1d6015e6d34e250\
     7c106d4ab4034b520b19d66c62c14f790bec9afa8449f8ab08ac2df612c8113773676a475771a83188c8\
     22827755d92961945299";
/// The third record, with the second payload.
const THIRD: &str = "\
     70000000000000000200000000000000307f82f73e6b0c9faa22dbc6d03403a395022d681a3dda3613de\
     f7e531d3d455dcf2705ff89e1f6588ae3734e29e157202c4721bce5c9e6684c7788643f9d494c98521ac\
     1139cb0eb5e0ee2518519118940ab683972acab561b2f8de4c00521752b739600e42d33695e21a8e87af\
     8cba00514b52aa573e95a91811e41fe088f3452521d60b614d6fc188c155eb34e4ad";
/// The first record of phase 1.
const OF_PHASE_1: &str = "\
     70000100000000000300000000000000b84a2df1288dca9104f1858f75828a6b42ee12bda6cb59a82130\
     16bd8a01f4863dea302717266d699377ab221b74362fcd195bf88b1678ba685f307877e3f4c7654115e4\
     104c4f8dbdf7dd798fdb634b3bc228b970fc43d7f13e7e7e623097abe2e79d14551598753c40ba1db4ad\
     8d3ed5c0d7f7b249ea20911e05809b40138064d03043cc3477ef038460924ac70b23eb00cb67a04291a6\
     fd35dec5336fbdbe1e";

fn bytes_of(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().chunks_exact(2);
    digits.map(|two| u8::from_str_radix(str::from_utf8(two).unwrap(), 16).unwrap()).collect()
}

fn secret() -> TrafficSecret {
    TrafficSecret::copy_of(&std::array::from_fn(|at| u8::try_from(at).unwrap()))
}

fn message() -> Vec<u8> {
    (0..80_u16).map(|at| (7 * at).to_le_bytes()[0]).collect()
}

fn payload() -> Vec<u8> {
    (0..33).map(|at| 200 - at).collect()
}

/// Target, message, payload and stored form of a record.
type Vector = (PayloadTarget, Vec<u8>, Vec<u8>, Vec<u8>);

fn records() -> [Vector; 4] {
    let write = PayloadTarget { slot: 7, kind: Kind::Request, opcode: Opcode::ObjectWrite };
    let callback =
        PayloadTarget { slot: u32::MAX, kind: Kind::Callback, opcode: Opcode::LeaseRevoke };
    let read = PayloadTarget { slot: 255, kind: Kind::Reply, opcode: Opcode::ObjectRead };
    [
        (write, message(), payload(), bytes_of(FIRST)),
        (callback, message()[..72].to_vec(), Vec::new(), bytes_of(CALLBACK)),
        (read, message(), payload()[..16].to_vec(), bytes_of(THIRD)),
        (write, message(), payload(), bytes_of(OF_PHASE_1)),
    ]
}

#[test]
fn keys_are_derived_as_by_another_implementation() {
    let zero = secret();
    let one = zero.next();
    let stored = TrafficSecret::copy_of(bytes_of(SECRET_1).first_chunk().unwrap());
    assert_eq!(one.keys().message().key, stored.keys().message().key);
    for (secret, message, payload) in
        [(zero, MESSAGE_KEYS_0, PAYLOAD_KEYS_0), (one, MESSAGE_KEYS_1, PAYLOAD_KEYS_1)]
    {
        let keys = secret.keys();
        for (material, stored) in [(keys.message(), message), (keys.payload(), payload)] {
            assert_eq!([&material.key[..], &material.iv[..]].concat(), bytes_of(stored));
        }
    }
}

#[test]
fn records_are_sealed_as_by_another_implementation() {
    let limits = PhaseLimits { age: Duration::from_secs(9), ..PhaseLimits::default() };
    for across in [false, true] {
        let mut sealer = Sealer::new(secret(), limits, Tick(0));
        for (number, (target, message, plain, stored)) in records().into_iter().enumerate() {
            let now = if number == 3 { Tick(9_000_000_000) } else { Tick(8_999_999_999) };
            let mut record = [&[0xee; MESSAGE_AT][..], &message, &[0xee; TAG_BYTES]].concat();
            let mut cipher = if across { vec![0; plain.len()] } else { plain.clone() };
            let payload = if across {
                Payload::Across { from: &plain, into: &mut cipher }
            } else {
                Payload::InPlace(&mut cipher)
            };
            sealer.seal(now, target, &mut record, payload).unwrap();
            assert_eq!([record, cipher].concat(), stored, "record {number}, across {across}");
        }
        assert_eq!(sealer.phase(), 1);
    }
}

#[test]
fn records_of_another_implementation_open() {
    for across in [false, true] {
        let mut opener = Opener::new(secret());
        for (number, (target, message, plain, stored)) in records().into_iter().enumerate() {
            let (record, cipher) = stored.split_at(MESSAGE_AT + message.len() + TAG_BYTES);
            let mut record = record.to_vec();
            let opened = opener.open(&mut record).unwrap();
            assert_eq!((opened.slot, opened.message), (target.slot, &message[..]), "{number}");
            let seal = opened.payload;
            let mut found = if across { vec![0; plain.len()] } else { cipher.to_vec() };
            let payload = if across {
                Payload::Across { from: cipher, into: &mut found }
            } else {
                Payload::InPlace(&mut found)
            };
            opener.open_payload(seal, target, payload).unwrap();
            assert_eq!(found, plain, "record {number}, across {across}");
        }
        assert_eq!(opener.phase(), 1);
    }
}
