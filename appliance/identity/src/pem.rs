//! Textual encoding of bytes [RFC 7468], in and out of memory that is a secret's.

use base64::{Engine, engine::general_purpose::STANDARD};
use sheen_keys::{LockError, Secret};

/// Characters of a line, all but the last full.
const LINE_CHARACTERS: usize = 64;

/// What a block holds, by the word in its lines.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum PemKind {
    Certificate,
    PrivateKey,
}

impl PemKind {
    const fn word(self) -> &'static str {
        match self {
            Self::Certificate => "CERTIFICATE",
            Self::PrivateKey => "PRIVATE KEY",
        }
    }

    pub(crate) fn begin(self) -> String {
        format!("-----BEGIN {}-----", self.word())
    }

    pub(crate) fn end(self) -> String {
        format!("-----END {}-----", self.word())
    }
}

/// A text that grows in a secret's memory, up to its length.
#[derive(Debug)]
pub(crate) struct SecretText {
    memory: Secret,
    length: usize,
}

impl SecretText {
    pub(crate) fn with_room(bytes: usize) -> Result<Self, LockError> {
        Ok(Self { memory: Secret::zeroed(bytes)?, length: 0 })
    }

    /// Appends `bytes`. False: there is no room for them.
    #[must_use]
    pub(crate) fn push(&mut self, bytes: &[u8]) -> bool {
        let end = self.length + bytes.len();
        let Some(place) = self.memory.expose_mut().get_mut(self.length..end) else { return false };
        place.copy_from_slice(bytes);
        self.length = end;
        true
    }

    /// Appends a block and its newline. False: there is no room for it.
    pub(crate) fn push_pem(&mut self, kind: PemKind, content: &[u8]) -> Result<bool, LockError> {
        let mut digits = Secret::zeroed(content.len().div_ceil(3) * 4)?;
        let written = STANDARD.encode_slice(content, digits.expose_mut()).unwrap_or(0);
        assert_eq!(written, digits.len(), "three bytes are four characters");
        let mut fits = self.push(kind.begin().as_bytes());
        for line in digits.expose().chunks(LINE_CHARACTERS) {
            fits &= self.push(b"\n") && self.push(line);
        }
        Ok(fits && self.push(b"\n") && self.push(kind.end().as_bytes()) && self.push(b"\n"))
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.memory.expose()[..self.length]
    }

    /// Decodes what was collected as Base64. None: it is none.
    pub(crate) fn decode(&self) -> Result<Option<Secret>, LockError> {
        let mut room = Secret::zeroed(base64::decoded_len_estimate(self.length))?;
        match STANDARD.decode_slice(self.as_bytes(), room.expose_mut()) {
            Ok(bytes) => Secret::copy_of(&room.expose()[..bytes]).map(Some),
            Err(_) => Ok(None),
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn blocks_are_as_the_standard_writes_them() {
        let mut text = SecretText::with_room(200).unwrap();
        assert!(text.push_pem(PemKind::PrivateKey, &[0xfb; 49]).unwrap());
        let expected = format!(
            "-----BEGIN PRIVATE KEY-----\n{}\n+w==\n-----END PRIVATE KEY-----\n",
            "+/v7".repeat(16)
        );
        assert_eq!(std::str::from_utf8(text.as_bytes()).unwrap(), expected);
        assert!(!text.push_pem(PemKind::Certificate, &[1; 49]).unwrap());
    }

    #[test]
    fn digits_are_decoded_and_others_refused() {
        let decode = |digits: &str| {
            let mut text = SecretText::with_room(100).unwrap();
            assert!(text.push(digits.as_bytes()));
            text.decode().unwrap().map(|secret| secret.expose().to_vec())
        };
        assert_eq!(decode("+/v7+w=="), Some(vec![0xfb; 4]));
        assert_eq!(decode(""), Some(Vec::new()));
        for wrong in ["+/v7+w=", "+/v7+", "+/v7+x==", "-_v7+w==", "+/v7 +w=="] {
            assert_eq!(decode(wrong), None, "{wrong}");
        }
    }
}
