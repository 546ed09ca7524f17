//! Key encryption by an AWS KMS endpoint: `kms:KEY?endpoint=URL&region=R`.

use crate::{KekError, KeyEncryption};

/// Opens the key that `parameters` (what stands behind `kms:`) name.
///
/// # Errors
/// [`KekError::NotSupported`]: this build has no KMS.
pub fn open(parameters: &str) -> Result<Box<dyn KeyEncryption>, KekError> {
    let key = format!("kms:{parameters}");
    Err(KekError::NotSupported { key, reason: "this build knows no KMS".into() })
}
