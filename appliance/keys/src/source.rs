//! Names of key-encryption keys: `file:PATH`, `kms:KEY?endpoint=URL&region=R`, `tpm:DEVICE`.

use std::{fmt, path::PathBuf, str::FromStr};

use thiserror::Error;

use crate::{KekError, KeyEncryption, key_file::KeyFile, kms, tpm};

/// Longest name of a key behind its kind: what a slot of the key block holds.
pub const PARAMETERS_BYTES_MAX: usize = 432;

/// Where a key-encryption key is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// In a file.
    File,
    /// In an AWS KMS endpoint.
    Kms,
    /// In a TPM 2.0.
    Tpm,
}

impl KeyKind {
    /// Every kind, with its number in the key block and its word in names.
    pub const ALL: [(Self, u32, &'static str); 3] =
        [(Self::File, 1, "file"), (Self::Kms, 2, "kms"), (Self::Tpm, 3, "tpm")];

    /// Its number in the key block.
    #[must_use]
    pub fn number(self) -> u32 {
        Self::ALL.iter().find(|kind| kind.0 == self).map_or(0, |kind| kind.1)
    }

    /// The kind with that number.
    #[must_use]
    pub fn of_number(number: u32) -> Option<Self> {
        Self::ALL.iter().find(|kind| kind.1 == number).map(|kind| kind.0)
    }
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::ALL.iter().find(|kind| kind.0 == *self).map_or("", |kind| kind.2))
    }
}

/// Names a key-encryption key. Holds nothing secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySource {
    kind: KeyKind,
    parameters: String,
}

/// A text that names no key.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "expected file:/PATH, kms:KEY?endpoint=URL&region=REGION or tpm:/dev/DEVICE, at most 432 bytes behind the colon"
)]
pub struct SourceError;

impl KeySource {
    /// A key of that kind. None: the parameters are empty, or longer than [`PARAMETERS_BYTES_MAX`], or a file's path does not start at the
    /// root: names are kept on the device, where no current directory is known.
    #[must_use]
    pub fn new(kind: KeyKind, parameters: &str) -> Option<Self> {
        let fits = (1..=PARAMETERS_BYTES_MAX).contains(&parameters.len());
        let is_absolute = kind != KeyKind::File || parameters.starts_with('/');
        (fits && is_absolute).then(|| Self { kind, parameters: parameters.to_owned() })
    }

    /// Where it is kept.
    #[must_use]
    pub const fn kind(&self) -> KeyKind {
        self.kind
    }

    /// What stands behind the kind.
    #[must_use]
    pub fn parameters(&self) -> &str {
        &self.parameters
    }

    /// Gets the key, or the way to it.
    ///
    /// # Errors
    /// [`KekError`].
    pub fn open(&self) -> Result<Box<dyn KeyEncryption>, KekError> {
        match self.kind {
            KeyKind::File => Ok(Box::new(KeyFile::open(&PathBuf::from(&self.parameters))?)),
            KeyKind::Kms => kms::open(&self.parameters),
            KeyKind::Tpm => tpm::open(&self.parameters),
        }
    }
}

impl FromStr for KeySource {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Self, SourceError> {
        let (word, parameters) = text.split_once(':').ok_or(SourceError)?;
        let kind = KeyKind::ALL.iter().find(|kind| kind.2 == word).ok_or(SourceError)?.0;
        Self::new(kind, parameters).ok_or(SourceError)
    }
}

impl fmt::Display for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind, self.parameters)
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn names_read_back_as_they_were_and_unknown_ones_are_refused() {
        for text in
            ["file:/etc/sheen/key", "kms:alias/a?endpoint=http://h:1&region=r", "tpm:/dev/t"]
        {
            assert_eq!(text.parse::<KeySource>().unwrap().to_string(), text);
        }
        let long = format!("file:/{}", "x".repeat(PARAMETERS_BYTES_MAX));
        for text in ["", "file:", "file:key", "/etc/key", "vault:x", "FILE:/x", &long] {
            let error = text.parse::<KeySource>().unwrap_err().to_string();
            assert!(error.contains("file:/PATH"), "{text}: {error}");
        }
        for (kind, number, _) in KeyKind::ALL {
            assert_eq!((kind.number(), KeyKind::of_number(number)), (number, Some(kind)));
        }
        assert_eq!(KeyKind::of_number(0), None);
    }
}
