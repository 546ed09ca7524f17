//! Bytes that must not leave this process's memory.

use std::fmt;

use sheen_dma::{LockError, LockedMemory};

/// A secret of fixed length: locked, not in core dumps, zeroed when dropped. Neither `Clone` nor shown by `Debug`.
pub struct Secret {
    memory: LockedMemory,
    length: usize,
}

impl Secret {
    /// `length` zero bytes, to be filled in place.
    ///
    /// # Errors
    /// [`LockError`]: the system does not lock the memory.
    pub fn zeroed(length: usize) -> Result<Self, LockError> {
        Ok(Self { memory: LockedMemory::new(length)?, length })
    }

    /// A copy of `bytes`; the caller clears its own (see [`crate::cleanse`]).
    ///
    /// # Errors
    /// [`LockError`]: the system does not lock the memory.
    pub fn copy_of(bytes: &[u8]) -> Result<Self, LockError> {
        let mut secret = Self::zeroed(bytes.len())?;
        secret.expose_mut().copy_from_slice(bytes);
        Ok(secret)
    }

    /// Length in bytes.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.length
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The bytes. Whoever copies them keeps the copy out of sight, too.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.memory.as_slice()[..self.length]
    }

    /// The bytes, to be changed.
    pub fn expose_mut(&mut self) -> &mut [u8] {
        &mut self.memory.as_mut_slice()[..self.length]
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}
