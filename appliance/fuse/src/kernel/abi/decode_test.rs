//! Tests of decoding requests.

use super::*;
use crate::kernel::abi::bytes::Append;

const LONG: Dialect = Dialect { setxattr_long: true };

fn header(opcode: u32) -> Header {
    let (length, unique, node) = (1 << 20, 8, 5);
    Header { length, opcode, unique, node, uid: 1, gid: 2, pid: 3, extension_bytes: 0 }
}

fn decoded(opcode: u32, body: &[u8]) -> Operation<'_> {
    decode(&header(opcode), body, LONG).unwrap()
}

/// A splitmix64 generator: enough to vary bytes.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).take(count).collect()
    }
}

#[test]
fn random_bytes_never_panic() {
    let seed = std::process::id().into();
    println!("seed {seed}");
    let mut random = Random(seed);
    let mut good = 0_u32;
    for round in 0..100_000_usize {
        let count = (random.next() % 200) as usize;
        let mut bytes = random.bytes(count);
        if round % 2 == 0 {
            // Small numbers and ends of strings get further into the decoder.
            for byte in &mut bytes {
                *byte &= if random.next().is_multiple_of(3) { 0xff } else { 0 };
            }
        }
        let _ = Header::decode(&bytes);
        let _ = supplementary_group(&bytes);
        let opcode = Opcode::NUMBERS[round % Opcode::NUMBERS.len()];
        for dialect in [LONG, Dialect::default()] {
            let operation = decode(&header(opcode), &bytes, dialect);
            if let Ok(Operation::BatchForget(forgets)) = operation {
                assert!(forgets.iter().count() <= count / Forgets::ONE_BYTES);
            }
            good += u32::from(operation.is_ok());
        }
    }
    assert!(good > 10_000, "only {good} got through: the test is too weak");
}

#[test]
fn a_request_cut_anywhere_is_malformed_or_smaller_but_never_a_panic() {
    for &opcode in Opcode::NUMBERS {
        let whole = [0; 256];
        for length in 0..whole.len() {
            let _ = decode(&header(opcode), &whole[..length], LONG);
        }
    }
    assert!(decode(&header(15), &[0; 35], LONG).is_err(), "a READ has 40 bytes");
    assert!(decode(&header(15), &[0; 40], LONG).is_ok());
}

#[test]
fn unknown_operations_are_told_from_malformed_ones() {
    for opcode in [0, 7, 19, 48, 49, 54, 4096, u32::MAX] {
        assert!(matches!(decoded(opcode, b""), Operation::Unknown));
    }
    assert!(decode(&header(1), b"no end", LONG).is_err());
    assert!(decode(&header(1), b"\0", LONG).is_err());
    assert!(decode(&header(1), b"a/b\0", LONG).is_err());
    assert!(matches!(decoded(1, b"..\0"), Operation::Lookup { name: b".." }));
}

#[test]
fn a_header_whose_length_cannot_be_is_refused() {
    let mut bytes = Vec::new();
    bytes.u32(39);
    bytes.zeros(36);
    assert!(Header::decode(&bytes).is_err());
    bytes[0] = 40;
    assert_eq!(Header::decode(&bytes).unwrap().length, 40);
    bytes[36] = 1;
    assert!(Header::decode(&bytes).is_err(), "no room for the extension");
    assert!(Header::decode(&bytes[..39]).is_err());
}

#[test]
fn flock_and_fcntl_locks_are_told_apart() {
    let lock = |opcode: u32, flags: u32, kind: i32| {
        let mut body = Vec::new();
        body.u64(1);
        body.u64(2);
        body.u64(0);
        body.u64(i64::MAX.cast_unsigned());
        body.u32(kind.cast_unsigned());
        body.u32(77);
        body.u32(flags);
        body.u32(0);
        match decode(&header(opcode), &body, LONG) {
            Ok(Operation::Setlk(request) | Operation::Getlk(request)) => Some(request),
            _ => None,
        }
    };
    let flock = lock(33, 1, libc::F_WRLCK).unwrap();
    assert_eq!((flock.family, flock.wait), (LockFamily::Flock, LockWait::Yes));
    let posix = lock(32, 0, libc::F_RDLCK).unwrap();
    assert_eq!((posix.family, posix.wait), (LockFamily::Posix, LockWait::No));
    assert_eq!((posix.lock.kind, posix.lock.pid), (LockKind::Read, 77));
    assert_eq!((posix.node, posix.owner), (NodeId(5), LockOwner(2)));
    assert_eq!(lock(31, 0, 9), None);
}

#[test]
fn setattr_gives_only_what_is_valid() {
    let mut body = Vec::new();
    body.u32(1 | 1 << 3 | 1 << 5 | 1 << 7);
    body.u32(0);
    for value in [9, 4096, 0, 11, 12, 13] {
        body.u64(value);
    }
    for value in [21, 4_000_000_000, 23, 0o644, 0, 1000, 1001, 0] {
        body.u32(value);
    }
    let Operation::Setattr(set) = decoded(4, &body) else { panic!("not a setattr") };
    let mtime = Timespec { seconds: 12, nanoseconds: 999_999_999 };
    let expected = SetAttributes {
        mode: Some(0o644),
        size: Some(4096),
        atime: Some(SetTime::Now),
        mtime: Some(SetTime::At(mtime)),
        ..SetAttributes::default()
    };
    assert_eq!(set, expected);
}

#[test]
fn both_forms_of_setxattr_are_read() {
    let mut body = Vec::new();
    body.u32(3);
    body.u32(1);
    let mut long = body.clone();
    long.u32(1);
    long.u32(0);
    for form in [&mut body, &mut long] {
        form.extend_from_slice(b"user.a\0xyz");
    }
    let short = decode(&header(21), &body, Dialect::default()).unwrap();
    let long = decode(&header(21), &long, LONG).unwrap();
    for (operation, kill) in [(short, false), (long, true)] {
        let Operation::Setxattr(set) = operation else { panic!("not a setxattr") };
        assert_eq!((set.name, set.value, set.flags), (&b"user.a"[..], &b"xyz"[..], 1));
        assert_eq!(set.acl_kill_sgid, kill);
    }
}

#[test]
fn a_rename_with_flags_keeps_its_names_apart() {
    let mut body = Vec::new();
    body.u64(6);
    body.u32(2);
    body.u32(0);
    body.extend_from_slice(b"old\0new\0");
    let Operation::Rename(rename) = decoded(45, &body) else { panic!("not a rename") };
    assert_eq!((rename.parent, rename.new_parent, rename.flags), (NodeId(5), NodeId(6), 2));
    assert_eq!((rename.name, rename.new_name), (&b"old"[..], &b"new"[..]));
}

#[test]
fn the_group_of_a_set_group_id_parent_is_found_among_extensions() {
    let mut bytes = Vec::new();
    bytes.u32(16);
    bytes.u32(7);
    bytes.u64(0);
    bytes.u32(16);
    bytes.u32(32);
    bytes.u32(1);
    bytes.u32(4711);
    assert_eq!(supplementary_group(&bytes), Some(4711));
    assert_eq!(supplementary_group(&bytes[..28]), None);
    assert_eq!(supplementary_group(b"\0\0\0\0\0\0\0\0"), None, "a size below its own head");
}
