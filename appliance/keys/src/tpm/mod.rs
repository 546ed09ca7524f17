//! Key encryption by a TPM 2.0: `tpm:/dev/tpmrm0`.

use crate::{KekError, KeyEncryption};

/// Opens the TPM that `parameters` (what stands behind `tpm:`) name.
///
/// # Errors
/// [`KekError::NotSupported`]: this build has no TPM.
pub fn open(parameters: &str) -> Result<Box<dyn KeyEncryption>, KekError> {
    let key = format!("tpm:{parameters}");
    Err(KekError::NotSupported { key, reason: "this build knows no TPM".into() })
}
