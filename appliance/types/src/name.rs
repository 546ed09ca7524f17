//! Names of directory entries, and the hash directories are ordered by.

use std::fmt;

/// A name in a directory: 1..=255 bytes, no `/`, no NUL, not `.` or `..`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Box<[u8]>);

/// Why bytes are not a [`Name`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameError {
    /// Empty, `.`, `..`, or holds `/` or NUL.
    Invalid,
    /// Longer than [`Name::BYTES_MAX`].
    TooLong,
}

impl Name {
    /// Longest name in bytes (`NAME_MAX`).
    pub const BYTES_MAX: usize = 255;

    /// Checks `bytes` and keeps them.
    ///
    /// # Errors
    /// [`NameError`] says which rule they break.
    pub fn new(bytes: &[u8]) -> Result<Self, NameError> {
        if bytes.len() > Self::BYTES_MAX {
            return Err(NameError::TooLong);
        }
        let special = matches!(bytes, b"" | b"." | b"..");
        if special || bytes.iter().any(|byte| matches!(byte, b'/' | 0)) {
            return Err(NameError::Invalid);
        }
        Ok(Self(bytes.into()))
    }

    /// The bytes of the name.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The stable 64-bit hash directories are ordered by: XXH3-64 with seed 0. Part of the format.
    #[must_use]
    pub fn hash(&self) -> u64 {
        xxhash_rust::xxh3::xxh3_64(&self.0)
    }
}

/// Name of an extended attribute, its name space included: 1..=255 bytes without NUL. May hold `/`, unlike a [`Name`].
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttributeName(Box<[u8]>);

impl AttributeName {
    /// Checks `bytes` and keeps them.
    ///
    /// # Errors
    /// [`NameError`] says which rule they break.
    pub fn new(bytes: &[u8]) -> Result<Self, NameError> {
        if bytes.len() > Name::BYTES_MAX {
            return Err(NameError::TooLong);
        }
        if bytes.is_empty() || bytes.contains(&0) {
            return Err(NameError::Invalid);
        }
        Ok(Self(bytes.into()))
    }

    /// The bytes of the name.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl From<Name> for AttributeName {
    fn from(name: Name) -> Self {
        Self(name.0)
    }
}

impl fmt::Debug for AttributeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn names_that_no_directory_can_hold_are_refused() {
        for wrong in [&b""[..], b".", b"..", b"a/b", b"a\0b"] {
            assert_eq!(Name::new(wrong), Err(NameError::Invalid));
        }
        assert_eq!(Name::new(&[b'x'; 256]), Err(NameError::TooLong));
        assert!(Name::new(&[b'x'; 255]).is_ok());
        assert!(Name::new(b"...").is_ok());
    }

    #[test]
    fn an_attribute_may_be_named_like_a_path() {
        assert!(AttributeName::new(b"user.a/b").is_ok());
        assert_eq!(AttributeName::new(b""), Err(NameError::Invalid));
        assert_eq!(AttributeName::new(b"user.a\0"), Err(NameError::Invalid));
        assert_eq!(AttributeName::new(&[b'x'; 256]), Err(NameError::TooLong));
    }

    #[test]
    fn the_hash_of_a_name_never_changes() {
        // Golden values: directories on disk are ordered by them.
        let hash = |text: &[u8]| Name::new(text).unwrap().hash();
        assert_eq!(hash(b"a"), 0xe6c6_32b6_1e96_4e1f);
    }
}
