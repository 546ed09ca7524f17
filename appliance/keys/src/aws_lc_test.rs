//! The cipher against the standards' own values, and against another implementation.

use aes::cipher::KeyInit;

use super::*;

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks_exact(2).map(pair).collect()
}

fn key(halves: &str) -> [u8; XTS_KEY_BYTES] {
    bytes(halves).try_into().unwrap()
}

/// IEEE 1619-2018, Annex B: the keys of vectors 10 to 14.
const KEYS: &str = "2718281828459045235360287471352662497757247093699959574966967627
    3141592653589793238462643383279502884197169399375105820974944592";
/// Vector 10: bytes 00 to ff, twice, as data unit ff.
const VECTOR_10: &str = "
    1c3b3a102f770386e4836c99e370cf9bea00803f5e482357a4ae12d414a3e63b
    5d31e276f8fe4a8d66b317f9ac683f44680a86ac35adfc3345befecb4bb188fd
    5776926c49a3095eb108fd1098baec70aaa66999a72a82f27d848b21d4a741b0
    c5cd4d5fff9dac89aeba122961d03a757123e9870f8acf1000020887891429ca
    2a3e7a7d7df7b10355165c8b9a6d0a7de8b062c4500dc4cd120c0f7418dae3d0
    b5781c34803fa75421c790dfe1de1834f280d7667b327f6c8cd7557e12ac3a0f
    93ec05c52e0493ef31a12d3d9260f79a289d6a379bc70c50841473d1a8cc81ec
    583e9645e07b8d9670655ba5bbcfecc6dc3966380ad8fecb17b6ba02469a020a
    84e18e8f84252070c13e9f1f289be54fbc481457778f616015e1327a02b140f1
    505eb309326d68378f8374595c849d84f4c333ec4423885143cb47bd71c5edae
    9be69a2ffeceb1bec9de244fbe15992b11b77c040f12bd8f6a975a44a0f90c29
    a9abc3d4d893927284c58754cce294529f8614dcd2aba991925fedc4ae74ffac
    6e333b93eb4aff0479da9a410e4450e0dd7ae4c6e2910900575da401fc07059f
    645e8b7e9bfdef33943054ff84011493c27b3429eaedb4ed5376441a77ed4385
    1ad77f16f541dfd269d50d6a5f14fb0aab1cbb4c1550be97f7ab4066193c4caa
    773dad38014bd2092fa755c824bb5e54c4f36ffda9fcea70b9c6e693e148c151";
/// Vectors 11 to 14 have the same plaintext; their data units, and the first 32 bytes of their ciphertext.
const VECTORS_11_TO_14: [(u128, &str); 4] = [
    (0xffff, "77a31251618a15e6b92d1d66dffe7b50b50bad552305ba0217a610688eff7e11"),
    (0xff_ffff, "e387aaa58ba483afa7e8eb469778317ecf4cf573aa9d4eac23f2cdf914e4e200"),
    (0xffff_ffff, "bf53d2dade78e822a4d949a9bc6766b01b06a8ef70d26748c6a7fc36d80ae4c5"),
    (0xff_ffff_ffff, "64497e5a831e4a932c09be3e5393376daa599548b816031d224bbf50a818ed23"),
];

fn counting() -> Vec<u8> {
    (0..=255).chain(0..=255).collect()
}

#[test]
fn xts_gives_the_standards_values() {
    let mut xts = Xts::new(&key(KEYS)).unwrap();
    let mut unit = counting();
    xts.apply(Direction::Encrypt, 0xff, &mut unit);
    assert_eq!(unit, bytes(VECTOR_10));
    xts.apply(Direction::Decrypt, 0xff, &mut unit);
    assert_eq!(unit, counting());
    for (tweak, expected) in VECTORS_11_TO_14 {
        xts.apply(Direction::Encrypt, tweak, &mut unit);
        assert_eq!(unit[..32], bytes(expected), "data unit {tweak:#x}");
        xts.apply(Direction::Decrypt, tweak, &mut unit);
        assert_eq!(unit, counting());
    }
}

#[test]
fn xts_agrees_with_another_implementation() {
    let mut chance = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        chance ^= chance << 13;
        chance ^= chance >> 7;
        chance ^= chance << 17;
        chance
    };
    for round in 0..200 {
        let key: [u8; XTS_KEY_BYTES] = std::array::from_fn(|_| next().to_le_bytes()[3]);
        let [data, tweaks] =
            [&key[..32], &key[32..]].map(|half| aes::Aes256::new_from_slice(half).unwrap());
        let other = xts_mode::Xts128::new(data, tweaks);
        let tweak = u128::from(next()) << (round % 65);
        let length =
            if round % 2 == 0 { 4096 } else { 16 * (1 + usize::try_from(next() % 600).unwrap()) };
        let plain: Vec<u8> = (0..length).map(|_| next().to_le_bytes()[0]).collect();
        let (mut ours, mut theirs) = (plain.clone(), plain.clone());
        let mut xts = Xts::new(&key).unwrap();
        xts.apply(Direction::Encrypt, tweak, &mut ours);
        other.encrypt_sector(&mut theirs, tweak.to_le_bytes().into());
        assert_eq!(ours, theirs, "round {round}");
        xts.apply(Direction::Decrypt, tweak, &mut ours);
        assert_eq!(ours, plain, "round {round}");
    }
}

#[test]
fn the_state_stays_within_its_share_and_goes_with_it() {
    let mut xts = Xts::new(&key(KEYS)).unwrap();
    let mut unit = counting();
    for direction in [Direction::Encrypt, Direction::Decrypt] {
        xts.apply(direction, 1, &mut unit);
    }
    for share in xts.0.as_slice().chunks(SHARE_BYTES) {
        let used = share.iter().rposition(|&byte| byte != 0).unwrap();
        assert!(used > STATE_AT + 2 * 240, "two schedules lie here");
        assert!(used < STATE_AT + STATE_BYTES / 4, "{used}: there is room to spare");
    }
}

#[test]
fn a_moved_key_works_on_another_thread() {
    let mut xts = Xts::new(&key(KEYS)).unwrap();
    let unit = std::thread::spawn(move || {
        let mut unit = counting();
        xts.apply(Direction::Encrypt, 0xff, &mut unit);
        unit
    });
    assert_eq!(unit.join().unwrap(), bytes(VECTOR_10));
}

#[test]
#[should_panic(expected = "the halves of an XTS key differ")]
fn equal_halves_are_no_key() {
    let _ = Xts::new(&[7; XTS_KEY_BYTES]);
}

#[test]
fn wrapping_gives_the_standards_value_and_only_its_key_opens_it() {
    // RFC 3394 §4.6: 256 bits of key data with a 256-bit key.
    let kek: [u8; 32] = std::array::from_fn(|at| at.to_le_bytes()[0]);
    let secret = bytes("00112233445566778899AABBCCDDEEFF000102030405060708090A0B0C0D0E0F");
    let wrapped = wrap(&kek, &secret).unwrap();
    let expected =
        "28C9F404C4B810F4CBCCB35CFB87F8263F5786E2D80ED326CBC7F0E71A99F43BFB988B9B7A02DD21";
    assert_eq!(wrapped, bytes(expected));
    let mut opened = [0; 32];
    assert!(unwrap(&kek, &wrapped, &mut opened).unwrap());
    assert_eq!(opened[..], secret);
    let mut other = kek;
    other[31] ^= 1;
    assert!(!unwrap(&other, &wrapped, &mut opened).unwrap());
    for at in 0..wrapped.len() {
        let mut changed = wrapped.clone();
        changed[at] ^= 0x80;
        assert!(!unwrap(&kek, &changed, &mut opened).unwrap(), "byte {at}");
    }
}

#[test]
fn hkdf_gives_the_standards_value() {
    // RFC 5869 A.1.
    let (salt, info) = (bytes("000102030405060708090a0b0c"), bytes("f0f1f2f3f4f5f6f7f8f9"));
    let mut output = [0; 42];
    hkdf(&[0x0b; 22], &salt, &info, &mut output);
    let expected =
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865";
    assert_eq!(output[..], bytes(expected));
}

#[test]
fn gcm_gives_the_standards_value_and_only_its_key_opens_it() {
    // McGrew and Viega, The Galois/Counter Mode of Operation, Appendix B, test case 16.
    let key: [u8; 32] = bytes("feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308")
        .try_into()
        .unwrap();
    let nonce: [u8; 12] = bytes("cafebabefacedbaddecaf888").try_into().unwrap();
    let bound = bytes("feedfacedeadbeeffeedfacedeadbeefabaddad2");
    let plain = bytes(
        "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72
         1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
    );
    let expected = bytes(
        "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa
         8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662
         76fc6ece0f4e1768cddf8853bb2d551b",
    );
    let gcm = Gcm::new(&key).unwrap();
    let mut sealed = vec![0; plain.len() + GCM_TAG_BYTES];
    gcm.seal(&nonce, &bound, &plain, &mut sealed);
    assert_eq!(sealed, expected);
    let mut opened = vec![0; plain.len()];
    assert!(gcm.open(&nonce, &bound, &sealed, &mut opened));
    assert_eq!(opened, plain);
    for at in 0..sealed.len() {
        let mut changed = sealed.clone();
        changed[at] ^= 0x80;
        assert!(!gcm.open(&nonce, &bound, &changed, &mut opened), "byte {at}");
    }
    assert!(!gcm.open(&nonce, &bound[1..], &sealed, &mut opened));
    assert!(!gcm.open(&[0; 12], &bound, &sealed, &mut opened));
    let mut other = key;
    other[31] ^= 1;
    assert!(!Gcm::new(&other).unwrap().open(&nonce, &bound, &sealed, &mut opened));
}

#[test]
fn the_schedule_of_gcm_is_in_locked_memory() {
    // The round keys of AES-256 begin with the key itself.
    let key: [u8; 32] = std::array::from_fn(|at| 0x40 + at.to_le_bytes()[0]);
    let gcm = Gcm::new(&key).unwrap();
    let locked = gcm.0.as_slice();
    assert!(locked.windows(32).any(|window| window == key), "the key is in the locked page");
    assert_eq!(format!("{gcm:?}"), "Gcm");
}
