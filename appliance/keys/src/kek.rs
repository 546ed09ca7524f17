//! The seam to whoever holds a key-encryption key, and why it refuses.

use std::fmt::Debug;

use sheen_dma::LockError;
use thiserror::Error;

use crate::Secret;

/// Most bytes a wrapped key may have: what a slot of the key block holds.
pub const WRAPPED_BYTES_MAX: usize = 512;

/// A key-encryption key, wherever it lies. It may block for as long as its network or chip needs; it is asked at start and at
/// rotation only.
pub trait KeyEncryption: Debug + Send {
    /// Wraps a secret, so that only this key opens it again, and only with the same `context` (bound, not hidden; at most
    /// 64 bytes). The result has at most [`WRAPPED_BYTES_MAX`] bytes.
    ///
    /// # Errors
    /// [`KekError`].
    fn wrap(&self, context: &[u8], secret: &Secret) -> Result<Vec<u8>, KekError>;

    /// Opens what [`KeyEncryption::wrap`] gave.
    ///
    /// # Errors
    /// [`KekError`]; [`KekError::WrongKey`] if another key wrapped it, or under another context.
    fn unwrap(&self, context: &[u8], wrapped: &[u8]) -> Result<Secret, KekError>;

    /// What it is, as the configuration names it (`file:/etc/sheen/key`). Holds nothing secret.
    fn describe(&self) -> String;
}

/// Why a key-encryption key did not serve, split by what the operator must do. `key` is what [`KeyEncryption::describe`] says.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum KekError {
    /// It does not open this: name the key that wrapped it.
    #[error("{key}: it is not the key that wrapped this")]
    WrongKey {
        /// Which.
        key: String,
    },
    /// It is not there now: file, endpoint or chip. Bring it back, or correct the name.
    #[error("{key}: not reachable: {reason}")]
    Unreachable {
        /// Which.
        key: String,
        /// What was met.
        reason: String,
    },
    /// It is there and we may not use it: give us the right to.
    #[error("{key}: denied: {reason}")]
    Denied {
        /// Which.
        key: String,
        /// What was met, and what helps.
        reason: String,
    },
    /// The key, its name, or its answer is not what it must be: correct it.
    #[error("{key}: {reason}")]
    Malformed {
        /// Which.
        key: String,
        /// What was expected and found.
        reason: String,
    },
    /// This build, or the holder of the key, cannot do this.
    #[error("{key}: not supported: {reason}")]
    NotSupported {
        /// Which.
        key: String,
        /// What is missing.
        reason: String,
    },
    /// There is no locked memory for a key: raise the limit its text names.
    #[error(transparent)]
    Memory(#[from] LockError),
}
