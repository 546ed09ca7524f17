//! Key-encryption keys elsewhere: in a KMS (a real server that speaks its API) and in a TPM 2.0 (in software).

use super::Context;

mod kms;
mod tpm;

const CHECK: &str = "keys";
/// A device's data key, as far as whoever wraps it can tell.
const SECRET: [u8; 64] = [0x5a; 64];
/// A device.
const DEVICE: [u8; 16] = *b"device number 1 ";
/// Another one.
const OTHER_DEVICE: [u8; 16] = *b"device number 2 ";

/// Runs the check.
pub fn run(context: &mut Context<'_>) {
    let scratch = context.scratch.join(CHECK);
    let made = context.report.case(CHECK, "a directory can be made", || {
        std::fs::create_dir_all(&scratch)?;
        Ok(String::new())
    });
    if made {
        kms::run(context, &scratch);
        tpm::run(context, &scratch);
    }
}
