//! A key-encryption key in a file: `file:/path`.
//!
//! 32 bytes, or 64 hexadecimal digits with or without a newline. The wrapping key is derived from it and the context by HKDF, so that what
//! was wrapped for one device does not open for another; wrapping is AES-256 key wrap [RFC 3394].

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use sheen_dma::LockError;

use crate::{
    KekError, KeyEncryption, Secret, WRAPPED_BYTES_MAX, aws_lc,
    data_key::{derive_identity_key, fill_random},
};

/// Bytes of the key.
const KEY_BYTES: usize = aws_lc::AES_KEY_BYTES;
/// Bytes of a file with hexadecimal digits and a newline.
const FILE_BYTES_MAX: usize = 2 * KEY_BYTES + 2;
/// Mode bits of group and others.
const OTHERS: u32 = 0o077;
/// Longest secret that is wrapped.
const SECRET_BYTES_MAX: usize = 256;
/// Shortest: two halves of a cipher block.
const SECRET_BYTES_MIN: usize = 16;
const WRAP_INFO: &[u8] = b"sheen file wrap v1";

const _: () = assert!(SECRET_BYTES_MAX + aws_lc::WRAP_BYTES <= WRAPPED_BYTES_MAX, "it fits a slot");

/// A key that was read from a file.
#[derive(Debug)]
pub struct KeyFile {
    path: PathBuf,
    key: Secret,
}

impl KeyFile {
    /// Reads the key in `path`.
    ///
    /// # Errors
    /// [`KekError::Unreachable`] if it cannot be read, [`KekError::Denied`] if others than its owner can, [`KekError::Malformed`] if it
    /// holds no key.
    pub fn open(path: &Path) -> Result<Self, KekError> {
        let name = describe(path);
        let met = |error: io::Error| match error.kind() {
            io::ErrorKind::PermissionDenied => {
                KekError::Denied { key: name.clone(), reason: error.to_string() }
            }
            _ => KekError::Unreachable { key: name.clone(), reason: error.to_string() },
        };
        let mut file = File::open(path).map_err(met)?;
        let metadata = file.metadata().map_err(met)?;
        if !metadata.is_file() {
            let reason = "expected a file, found something else".into();
            return Err(KekError::Malformed { key: name, reason });
        }
        if metadata.mode() & OTHERS != 0 {
            let (mode, shown) = (metadata.mode() & 0o7777, path.display());
            let reason = format!(
                "others than its owner have rights to it (mode {mode:o}); take them away: chmod 600 {shown}"
            );
            return Err(KekError::Denied { key: name, reason });
        }
        let mut text = Secret::zeroed(FILE_BYTES_MAX)?;
        let length = read_whole(&mut file, text.expose_mut()).map_err(met)?;
        let key = parse(&text.expose()[..length])?;
        let key = key.ok_or_else(|| KekError::Malformed {
            key: name,
            reason: format!(
                "expected a key of 32 bytes or 64 hexadecimal digits, found a file of {} bytes",
                metadata.len()
            ),
        })?;
        Ok(Self { path: path.into(), key })
    }

    /// Makes a new key file that its owner alone can read, with 64 random hexadecimal digits.
    ///
    /// # Errors
    /// [`KekError::Unreachable`] if it cannot be written, or is there already: a key is never overwritten.
    pub fn create(path: &Path) -> Result<(), KekError> {
        let mut key = Secret::zeroed(KEY_BYTES)?;
        fill_random(key.expose_mut())?;
        let mut text = Secret::zeroed(2 * KEY_BYTES + 1)?;
        let digits = text.expose_mut();
        for (pair, byte) in digits.chunks_exact_mut(2).zip(key.expose()) {
            pair.copy_from_slice(&[digit(byte >> 4), digit(byte & 15)]);
        }
        digits[2 * KEY_BYTES] = b'\n';
        write_new(path, text.expose()).map_err(|error| KekError::Unreachable {
            key: describe(path),
            reason: error.to_string(),
        })
    }

    /// Derives the key under which the node of device `uuid`, which is not encrypted, keeps secrets of the cluster (32 bytes, for
    /// [`crate::seal_secret`]).
    ///
    /// # Errors
    /// [`LockError`].
    pub fn identity_key(&self, uuid: &[u8; 16]) -> Result<Secret, LockError> {
        derive_identity_key(&self.key, uuid)
    }

    /// The key that wraps in this context.
    fn wrapping_key(&self, context: &[u8]) -> Result<Secret, KekError> {
        let mut key = Secret::zeroed(KEY_BYTES)?;
        aws_lc::hkdf(self.key.expose(), context, WRAP_INFO, key.expose_mut());
        Ok(key)
    }
}

impl KeyEncryption for KeyFile {
    fn wrap(&self, context: &[u8], secret: &Secret) -> Result<Vec<u8>, KekError> {
        let bytes = secret.len();
        if !can_wrap(bytes) {
            let reason = format!("it wraps 16 to 256 bytes, a multiple of 8, not {bytes}");
            return Err(KekError::NotSupported { key: self.describe(), reason });
        }
        let key = self.wrapping_key(context)?;
        Ok(aws_lc::wrap(key_bytes(&key), secret.expose())?)
    }

    fn unwrap(&self, context: &[u8], wrapped: &[u8]) -> Result<Secret, KekError> {
        let wrong = || KekError::WrongKey { key: self.describe() };
        let bytes = wrapped.len().checked_sub(aws_lc::WRAP_BYTES).ok_or_else(wrong)?;
        if !can_wrap(bytes) {
            return Err(wrong());
        }
        let key = self.wrapping_key(context)?;
        let mut secret = Secret::zeroed(bytes)?;
        let opened = aws_lc::unwrap(key_bytes(&key), wrapped, secret.expose_mut())?;
        if opened { Ok(secret) } else { Err(wrong()) }
    }

    fn describe(&self) -> String {
        describe(&self.path)
    }
}

const fn can_wrap(bytes: usize) -> bool {
    bytes >= SECRET_BYTES_MIN && bytes <= SECRET_BYTES_MAX && bytes.is_multiple_of(8)
}

fn describe(path: &Path) -> String {
    format!("file:{}", path.display())
}

fn key_bytes(key: &Secret) -> &[u8; KEY_BYTES] {
    key.expose().first_chunk().expect("keys here have 32 bytes")
}

/// Reads to the end, at most one byte more than `into` holds, into `into` alone; returns how many there are.
fn read_whole(file: &mut File, into: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < into.len() {
        match file.read(&mut into[length..])? {
            0 => break,
            bytes => length += bytes,
        }
    }
    Ok(length)
}

/// The key in a file's bytes. None: there is none.
fn parse(text: &[u8]) -> Result<Option<Secret>, KekError> {
    if text.len() == KEY_BYTES {
        return Ok(Some(Secret::copy_of(text)?));
    }
    let digits = text.strip_suffix(b"\n").unwrap_or(text);
    if digits.len() != 2 * KEY_BYTES || !digits.iter().all(u8::is_ascii_hexdigit) {
        return Ok(None);
    }
    let mut key = Secret::zeroed(KEY_BYTES)?;
    for (byte, pair) in key.expose_mut().iter_mut().zip(digits.chunks_exact(2)) {
        *byte = value(pair[0]) << 4 | value(pair[1]);
    }
    Ok(Some(key))
}

fn value(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}

fn digit(value: u8) -> u8 {
    if value < 10 { b'0' + value } else { b'a' + value - 10 }
}

/// Writes a file that was not there, durably. What was written of it goes away again if that fails.
fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let written = file
        .write_all(bytes)
        .and_then(|()| file.sync_all())
        .and_then(|()| File::open(folder.unwrap_or(Path::new(".")))?.sync_all());
    if written.is_err() {
        let _ = std::fs::remove_file(path);
    }
    written
}

#[cfg(test)]
mod test {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn file(content: &[u8], mode: u32) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        (directory, path)
    }

    #[test]
    fn a_key_opens_what_it_wrapped_in_the_same_context_alone() {
        let directory = tempfile::tempdir().unwrap();
        let [one, other] = ["one", "other"].map(|name| {
            let path = directory.path().join(name);
            KeyFile::create(&path).unwrap();
            KeyFile::open(&path).unwrap()
        });
        let secret = Secret::copy_of(&[9; 32]).unwrap();
        let wrapped = one.wrap(b"device a", &secret).unwrap();
        assert!(!wrapped.windows(16).any(|window| window == [9; 16]));
        assert_eq!(one.unwrap(b"device a", &wrapped).unwrap().expose(), [9; 32]);
        let wrong = KekError::WrongKey { key: one.describe() };
        assert_eq!(one.unwrap(b"device b", &wrapped).unwrap_err(), wrong);
        for length in [0, 8, 16, wrapped.len() - 8, wrapped.len() - 1] {
            assert_eq!(one.unwrap(b"device a", &wrapped[..length]).unwrap_err(), wrong);
        }
        let error = other.unwrap(b"device a", &wrapped).unwrap_err();
        assert_eq!(error, KekError::WrongKey { key: other.describe() });
        assert!(matches!(
            one.wrap(b"", &Secret::zeroed(15).unwrap()),
            Err(KekError::NotSupported { .. })
        ));
    }

    #[test]
    fn raw_and_hexadecimal_files_hold_the_same_key() {
        let raw: Vec<u8> = (0xa0..0xc0).collect();
        let hex: String = raw.iter().map(|byte| format!("{byte:02X}")).collect();
        for content in [raw.clone(), hex.clone().into_bytes(), format!("{hex}\n").into_bytes()] {
            let (_directory, path) = file(&content, 0o400);
            assert_eq!(KeyFile::open(&path).unwrap().key.expose(), raw);
        }
        for content in [&b""[..], &[1; 31], &[1; 33], &[b'g'; 64], &[b'1'; 66], &[b'1'; 100]] {
            let (_directory, path) = file(content, 0o600);
            let error = KeyFile::open(&path).unwrap_err();
            let text = error.to_string();
            assert!(matches!(error, KekError::Malformed { .. }), "{text}");
            assert!(
                text.contains("32 bytes or 64 hex") && text.contains("key: expected"),
                "{text}"
            );
        }
    }

    #[test]
    fn a_file_others_can_read_is_refused_with_what_to_do() {
        for mode in [0o640, 0o604, 0o620] {
            let (_directory, path) = file(&[1; 32], mode);
            let error = KeyFile::open(&path).unwrap_err();
            assert!(matches!(error, KekError::Denied { .. }));
            let text = error.to_string();
            let advice = format!("chmod 600 {}", path.display());
            assert!(text.contains(&advice) && text.contains(&format!("{mode:o}")), "{text}");
        }
        let absent = KeyFile::open(Path::new("/nowhere/key")).unwrap_err();
        assert!(matches!(&absent, KekError::Unreachable { key, .. } if key == "file:/nowhere/key"));
        assert!(matches!(KeyFile::open(Path::new("/")), Err(KekError::Malformed { .. })));
    }

    #[test]
    fn a_new_key_is_private_and_never_replaces_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        KeyFile::create(&path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.len(), 65);
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
        assert!(matches!(KeyFile::create(&path), Err(KekError::Unreachable { .. })));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    }
}
