//! AES-256-XTS, AES-256-GCM, HKDF and AES key wrap by AWS-LC, with every schedule in locked memory. The only `unsafe` of this crate.
//!
//! Why not a safe crate: `aws-lc-rs`, the safe face of the same library, has no XTS, and the pure Rust pair `xts-mode` + `aes` is 70
//! times slower (0.15 against 10.7 GB/s in 4 KiB blocks, 2026-11-22), less than one SSD. Why GCM, HKDF and key wrap here too: the safe
//! face keeps schedules on the heap and the stack, where a core dump finds them.
//!
//! The library allocates a cipher's state on its heap. It does so before it has a key; that piece is given back then, and its
//! place taken by locked memory, which `EVP_CIPHER_CTX` only points to. What is relied on, and tested: the state has at most
//! [`STATE_BYTES`], starts as zeros, and is not freed by anybody but us (the context is never handed to a clean-up).

use std::{
    ffi::{c_int, c_uint, c_void},
    fmt,
    ptr::{null, null_mut},
};

use aws_lc_sys::{
    AES_KEY, AES_set_decrypt_key, AES_set_encrypt_key, AES_unwrap_key, AES_wrap_key, EVP_AEAD_CTX,
    EVP_AEAD_CTX_cleanup, EVP_AEAD_CTX_init, EVP_AEAD_CTX_open, EVP_AEAD_CTX_seal, EVP_CIPHER_CTX,
    EVP_CipherInit_ex, EVP_CipherUpdate, EVP_aead_aes_256_gcm, EVP_aes_256_xts, EVP_sha256, HKDF,
    OPENSSL_free,
};
use sheen_dma::{LockError, LockedMemory};

/// Bytes of an XTS key: one AES-256 key for data, one for tweaks.
pub(crate) const XTS_KEY_BYTES: usize = 64;
/// Bytes of an AES-256 key.
pub(crate) const AES_KEY_BYTES: usize = 32;
/// Bytes that wrapping adds [RFC 3394 §2.2.1].
pub(crate) const WRAP_BYTES: usize = 8;
/// Bytes of a nonce of AES-GCM [NIST SP 800-38D §8.2].
pub(crate) const GCM_NONCE_BYTES: usize = 12;
/// Bytes of a tag of AES-GCM, the longest there is.
pub(crate) const GCM_TAG_BYTES: usize = 16;

/// A direction's share of locked memory: one page, the context first, its cipher's state behind it.
const SHARE_BYTES: usize = 4096;
const STATE_AT: usize = 512;
/// Room for the state: two schedules of 244 bytes and five words are 540 today.
const STATE_BYTES: usize = SHARE_BYTES - STATE_AT;
/// A data unit's least and most bytes [IEEE 1619-2018 §5.1].
const UNIT_BYTES_MIN: usize = 16;
const UNIT_BYTES_MAX: usize = 16 << 20;

const _: () = assert!(size_of::<EVP_CIPHER_CTX>() <= STATE_AT, "the context ends before the state");
const _: () = assert!(STATE_BYTES > 4 * (2 * size_of::<AES_KEY>() + 40), "there is room to spare");
const _: () = assert!(size_of::<AES_KEY>() <= SHARE_BYTES, "a schedule fits a page");
const _: () = assert!(align_of::<EVP_AEAD_CTX>() <= SHARE_BYTES, "a context starts at a page");
const _: () = assert!(STATE_AT.is_multiple_of(64), "the state starts at a cache line");

/// What a cipher does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Decrypt = 0,
    Encrypt = 1,
}

/// An XTS key, ready for both directions.
pub(crate) struct Xts(LockedMemory);

impl fmt::Debug for Xts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Xts")
    }
}

// What C keeps in the memory points into the memory alone, and no thread's state.
const _: () = {
    const fn sends<T: Send>() {}
    sends::<Xts>();
};

impl Xts {
    /// Expands `key` for both directions.
    ///
    /// # Errors
    /// [`LockError`].
    ///
    /// # Panics
    /// When both halves are the same [FIPS 140-3 IG C.I]: keys come from HKDF, where that does not happen.
    pub(crate) fn new(key: &[u8; XTS_KEY_BYTES]) -> Result<Self, LockError> {
        let mut xts = Self(LockedMemory::new(2 * SHARE_BYTES)?);
        for direction in [Direction::Decrypt, Direction::Encrypt] {
            xts.prepare(direction, key);
        }
        Ok(xts)
    }

    fn share(&mut self, direction: Direction) -> *mut u8 {
        let at = direction as usize * SHARE_BYTES;
        self.0.as_mut_slice()[at..at + SHARE_BYTES].as_mut_ptr()
    }

    fn prepare(&mut self, direction: Direction, key: &[u8; XTS_KEY_BYTES]) {
        let share = self.share(direction);
        let context = share.cast::<EVP_CIPHER_CTX>();
        // SAFETY: gives a table that is never freed; there is nothing to keep.
        let cipher = unsafe { EVP_aes_256_xts() };
        // SAFETY: `context` lies in a share of its own, is aligned (a page) and zero, which is what EVP_CIPHER_CTX_init makes of it;
        // no key and no tweak may be null together; no engine is one.
        let begun = unsafe {
            EVP_CipherInit_ex(context, cipher, null_mut(), null(), null(), direction as c_int)
        };
        assert_eq!(begun, 1, "AWS-LC has AES-256-XTS, and memory for its state");
        // SAFETY: the state's room follows the context in the same share.
        let state = unsafe { share.add(STATE_AT) }.cast::<c_void>();
        // SAFETY: `context` is valid and aligned, its bytes are initialised (zero, then by the library), and nobody else holds it.
        let on_heap = std::mem::replace(unsafe { &mut (*context).cipher_data }, state);
        // SAFETY: the library allocated it in the call above, and the context does not name it any more.
        unsafe { OPENSSL_free(on_heap) };
        let tweak = [0; 16];
        // SAFETY: the context has its cipher and a state that is zero, as the library's first step leaves it; key and tweak have the
        // 64 and 16 bytes this cipher reads; -1 keeps the direction.
        let keyed = unsafe {
            EVP_CipherInit_ex(context, null(), null_mut(), key.as_ptr(), tweak.as_ptr(), -1)
        };
        assert_eq!(keyed, 1, "the halves of an XTS key differ");
    }

    /// En- or decrypts one data unit in place.
    ///
    /// # Panics
    /// When the unit has less than 16 bytes or more than 16 MiB.
    #[inline]
    pub(crate) fn apply(&mut self, direction: Direction, tweak: u128, unit: &mut [u8]) {
        assert!((UNIT_BYTES_MIN..=UNIT_BYTES_MAX).contains(&unit.len()), "{} bytes", unit.len());
        let bytes = c_int::try_from(unit.len()).expect("asserted above");
        let context = self.share(direction).cast::<EVP_CIPHER_CTX>();
        let tweak = tweak.to_le_bytes();
        // SAFETY: `prepare` left the context with cipher and key; the tweak has the 16 bytes this cipher reads; a null key keeps the
        // key, and -1 the direction.
        let begun =
            unsafe { EVP_CipherInit_ex(context, null(), null_mut(), null(), tweak.as_ptr(), -1) };
        assert_eq!(begun, 1, "a prepared context takes a tweak");
        let mut written = 0;
        let place = unit.as_mut_ptr();
        // SAFETY: as above; input and output are the same `bytes` bytes, which the library allows, and are ours by `&mut`; a cipher of
        // block size 1 writes as many as it reads.
        let done = unsafe { EVP_CipherUpdate(context, place, &raw mut written, place, bytes) };
        assert!(done == 1 && written == bytes, "a data unit of 16 bytes to 16 MiB is taken whole");
    }
}

/// HKDF-SHA-256 [RFC 5869], extract and expand.
///
/// # Panics
/// When more than 8160 bytes are wanted [RFC 5869 §2.3].
pub(crate) fn hkdf(secret: &[u8], salt: &[u8], info: &[u8], into: &mut [u8]) {
    // SAFETY: gives a table that is never freed; there is nothing to keep.
    let digest = unsafe { EVP_sha256() };
    // SAFETY: each pointer comes with the length of its slice; the output overlaps none of the inputs, since it is `&mut`.
    let done = unsafe {
        HKDF(
            into.as_mut_ptr(),
            into.len(),
            digest,
            secret.as_ptr(),
            secret.len(),
            salt.as_ptr(),
            salt.len(),
            info.as_ptr(),
            info.len(),
        )
    };
    assert_eq!(done, 1, "HKDF gives {} bytes", into.len());
}

/// AES-256 key wrap [RFC 3394; NIST SP 800-38F KW] of `secret`, a multiple of 8 bytes and at least 16.
///
/// # Errors
/// [`LockError`].
///
/// # Panics
/// When the secret has another length.
pub(crate) fn wrap(key: &[u8; AES_KEY_BYTES], secret: &[u8]) -> Result<Vec<u8>, LockError> {
    assert!(secret.len() >= 16 && secret.len().is_multiple_of(8), "{} bytes", secret.len());
    let mut memory = LockedMemory::new(size_of::<AES_KEY>())?;
    let schedule = memory.as_mut_slice().as_mut_ptr().cast::<AES_KEY>();
    // SAFETY: the key has 256 bits; `schedule` is a page of ours, aligned and large enough (asserted above).
    let set = unsafe { AES_set_encrypt_key(key.as_ptr(), bits(key), schedule) };
    assert_eq!(set, 0, "AES takes keys of 256 bits");
    let mut wrapped = vec![0; secret.len() + WRAP_BYTES];
    // SAFETY: the schedule is set; a null IV is the standard's; the output has 8 bytes more than the input and is another allocation.
    let bytes = unsafe {
        AES_wrap_key(schedule, null(), wrapped.as_mut_ptr(), secret.as_ptr(), secret.len())
    };
    assert_eq!(usize::try_from(bytes), Ok(wrapped.len()), "a secret of that length is wrapped");
    Ok(wrapped)
}

/// Opens what [`wrap`] gave into `secret`, which is 8 bytes shorter. False: another key wrapped it, or it was changed; `secret` is
/// to be forgotten.
///
/// # Errors
/// [`LockError`].
///
/// # Panics
/// When the lengths do not fit each other.
pub(crate) fn unwrap(
    key: &[u8; AES_KEY_BYTES],
    wrapped: &[u8],
    secret: &mut [u8],
) -> Result<bool, LockError> {
    assert!(secret.len() >= 16 && secret.len().is_multiple_of(8), "{} bytes", secret.len());
    assert_eq!(secret.len() + WRAP_BYTES, wrapped.len(), "wrapping adds 8 bytes");
    let mut memory = LockedMemory::new(size_of::<AES_KEY>())?;
    let schedule = memory.as_mut_slice().as_mut_ptr().cast::<AES_KEY>();
    // SAFETY: the key has 256 bits; `schedule` is a page of ours, aligned and large enough (asserted above).
    let set = unsafe { AES_set_decrypt_key(key.as_ptr(), bits(key), schedule) };
    assert_eq!(set, 0, "AES takes keys of 256 bits");
    let place = secret.as_mut_ptr();
    // SAFETY: the schedule is set; a null IV is the standard's; the output has 8 bytes less than the input and is another allocation.
    let bytes = unsafe { AES_unwrap_key(schedule, null(), place, wrapped.as_ptr(), wrapped.len()) };
    Ok(usize::try_from(bytes) == Ok(secret.len()))
}

/// A key of AES-256-GCM. The library keeps the schedule inside the context, and the context is in locked memory.
pub(crate) struct Gcm(LockedMemory);

impl fmt::Debug for Gcm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gcm")
    }
}

impl Gcm {
    /// Expands `key`.
    ///
    /// # Errors
    /// [`LockError`].
    pub(crate) fn new(key: &[u8; AES_KEY_BYTES]) -> Result<Self, LockError> {
        let mut memory = LockedMemory::new(size_of::<EVP_AEAD_CTX>())?;
        let context = memory.as_mut_slice().as_mut_ptr().cast::<EVP_AEAD_CTX>();
        // SAFETY: gives a table that is never freed; there is nothing to keep.
        let aead = unsafe { EVP_aead_aes_256_gcm() };
        // SAFETY: `context` is a page of ours, aligned and large enough; the key comes with its length; no engine is one.
        let begun = unsafe {
            EVP_AEAD_CTX_init(context, aead, key.as_ptr(), key.len(), GCM_TAG_BYTES, null_mut())
        };
        assert_eq!(begun, 1, "AES-256-GCM takes keys of 256 bits and tags of 16 bytes");
        Ok(Self(memory))
    }

    fn context(&self) -> *const EVP_AEAD_CTX {
        self.0.as_slice().as_ptr().cast()
    }

    /// Encrypts `plain` into `sealed`, which is [`GCM_TAG_BYTES`] longer; `bound` is authenticated too. A nonce is used once per key.
    ///
    /// # Panics
    /// When the lengths do not fit each other.
    pub(crate) fn seal(
        &self,
        nonce: &[u8; GCM_NONCE_BYTES],
        bound: &[u8],
        plain: &[u8],
        sealed: &mut [u8],
    ) {
        assert_eq!(plain.len() + GCM_TAG_BYTES, sealed.len(), "sealing adds 16 bytes");
        let mut written = 0;
        let room = sealed.len();
        // SAFETY: `new` left a context with a key; each pointer comes with the length of its slice; the output overlaps none of the
        // inputs, since it is `&mut`.
        let done = unsafe {
            EVP_AEAD_CTX_seal(
                self.context(),
                sealed.as_mut_ptr(),
                &raw mut written,
                room,
                nonce.as_ptr(),
                nonce.len(),
                plain.as_ptr(),
                plain.len(),
                bound.as_ptr(),
                bound.len(),
            )
        };
        assert!(done == 1 && written == room, "{} bytes are sealed whole", plain.len());
    }

    /// Decrypts what [`Gcm::seal`] gave into `plain`, which is [`GCM_TAG_BYTES`] shorter. False: another key, nonce or `bound`
    /// sealed it, or it was changed; `plain` is to be forgotten.
    ///
    /// # Panics
    /// When the lengths do not fit each other.
    pub(crate) fn open(
        &self,
        nonce: &[u8; GCM_NONCE_BYTES],
        bound: &[u8],
        sealed: &[u8],
        plain: &mut [u8],
    ) -> bool {
        assert_eq!(plain.len() + GCM_TAG_BYTES, sealed.len(), "sealing adds 16 bytes");
        let mut written = 0;
        let room = plain.len();
        // SAFETY: as in `seal`.
        let done = unsafe {
            EVP_AEAD_CTX_open(
                self.context(),
                plain.as_mut_ptr(),
                &raw mut written,
                room,
                nonce.as_ptr(),
                nonce.len(),
                sealed.as_ptr(),
                sealed.len(),
                bound.as_ptr(),
                bound.len(),
            )
        };
        done == 1 && written == room
    }
}

impl Drop for Gcm {
    fn drop(&mut self) {
        let context = self.0.as_mut_slice().as_mut_ptr().cast::<EVP_AEAD_CTX>();
        // SAFETY: `new` left a context that nobody cleaned up; what it holds is in the locked memory, which goes after it.
        unsafe { EVP_AEAD_CTX_cleanup(context) };
    }
}

fn bits(key: &[u8; AES_KEY_BYTES]) -> c_uint {
    c_uint::try_from(key.len() * 8).expect("256 is small")
}

#[cfg(test)]
#[path = "aws_lc_test.rs"]
mod test;
