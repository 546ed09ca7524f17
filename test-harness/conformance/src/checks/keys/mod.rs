//! Key-encryption keys elsewhere: in a KMS (a real server that speaks its API) and in a TPM 2.0 (in software).

use super::Context;
use crate::moto::{Moto, VERSION};

mod kms;
mod tpm;
mod node;
mod memory;

const CHECK: &str = "keys";
/// A data key. No sixteen bytes of it are alike.
const SECRET: [u8; 32] = *b"0123456789abcdefghijklmnopqrstuv";
/// A context: a purpose and a device.
const DEVICE: [u8; 33] = *b"sheen data key v1device number 1 ";
/// Another device's.
const OTHER_DEVICE: [u8; 33] = *b"sheen data key v1device number 2 ";

/// Runs the check.
pub fn run(context: &mut Context<'_>) {
    let scratch = context.scratch.join(CHECK);
    let made = context.report.case(CHECK, "a directory can be made", || {
        std::fs::create_dir_all(&scratch)?;
        Ok(String::new())
    });
    if made {
        let mut started = None;
        let cache = context.cache.clone();
        context.report.case(CHECK, "a KMS serves", || {
            started = Some(Moto::start(&cache, &scratch)?);
            Ok(format!("moto {VERSION}"))
        });
        tpm::run(context, &scratch);
        let Some(moto) = started else { return };
        kms::run(context, &moto);
        node::run(context, &scratch, &moto);
    }
}
