//! Sealing by a TPM: it opens what it sealed, also after a power cycle; no other does.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Instant;

use anyhow::{bail, ensure};
use sheen_keys::{KekError, KeyEncryption, Secret, WRAPPED_BYTES_MAX, tpm};

use super::{CHECK, DEVICE, OTHER_DEVICE, SECRET};
use crate::checks::Context;
use crate::relay::Relay;
use crate::swtpm::{self, Swtpm};

/// More than a TPM has room for loaded keys: what is loaded must be forgotten.
const ROUNDS: u32 = 8;

/// Runs the part.
pub(super) fn run(context: &mut Context<'_>, scratch: &Path) {
    let report = &mut *context.report;
    let mut sealed = Vec::new();
    report.case(CHECK, "tpm: it opens what it sealed, again and again", || {
        let (_tpm, address) = Swtpm::on_tcp(&scratch.join("tpm-1"))?;
        sealed = opens(address)?;
        Ok(format!("{} wrapped bytes", sealed.len()))
    });
    report.case(
        CHECK,
        "tpm: it opens it after a power cycle, and refuses another device's",
        || {
            let (_tpm, address) = Swtpm::on_tcp(&scratch.join("tpm-1"))?;
            let begun = Instant::now();
            require_opens(&*key(address)?, &sealed)?;
            let took = begun.elapsed();
            let refused = key(address)?.unwrap(&OTHER_DEVICE, &sealed);
            ensure!(
                matches!(refused, Err(KekError::WrongKey { .. })),
                "another device: {refused:?}"
            );
            damaged(address, &sealed)?;
            Ok(format!("unsealed in {} ms", took.as_millis()))
        },
    );
    report.case(CHECK, "tpm: the secret does not cross the wires", || {
        let (_tpm, address) = Swtpm::on_tcp(&scratch.join("tpm-1"))?;
        let relay = Relay::open(address)?;
        let key = key(relay.address())?;
        let wrapped = key.wrap(&DEVICE, &Secret::copy_of(&SECRET)?)?;
        require_opens(&*key, &wrapped)?;
        let heard = relay.heard();
        ensure!(heard.windows(8).any(|window| wrapped.ends_with(window)), "nothing was heard");
        ensure!(!heard.windows(8).any(|window| *window == SECRET[..8]), "the secret was heard");
        Ok(format!("{} bytes heard", heard.len()))
    });
    report.case(CHECK, "tpm: another TPM refuses", || {
        let (_tpm, address) = Swtpm::on_tcp(&scratch.join("tpm-2"))?;
        match key(address)?.unwrap(&DEVICE, &sealed) {
            Err(error @ KekError::WrongKey { .. }) => Ok(error.to_string()),
            found => bail!("{found:?}"),
        }
    });
    report.case(CHECK, "tpm: under a password of the owner, a persistent key serves", || {
        let (_tpm, address) = Swtpm::on_tcp(&scratch.join("tpm-3"))?;
        swtpm::administer(address, 0x8100_0001)?;
        let said = match key(address)?.wrap(&DEVICE, &Secret::copy_of(&SECRET)?) {
            Err(error @ KekError::Denied { .. }) => error.to_string(),
            found => bail!("without it: {found:?}"),
        };
        let persistent = tpm::open(&format!("tcp:{address}?parent=0x81000001"))?;
        let wrapped = persistent.wrap(&DEVICE, &Secret::copy_of(&SECRET)?)?;
        require_opens(&*persistent, &wrapped)?;
        let absent = tpm::open(&format!("tcp:{address}?parent=0x81000002"))?;
        let refused = absent.wrap(&DEVICE, &Secret::copy_of(&SECRET)?);
        ensure!(matches!(refused, Err(KekError::Unreachable { .. })), "absent: {refused:?}");
        Ok(said)
    });
    report.case(CHECK, "tpm: one that is not there is named", || {
        let absent = tpm::open("unix:/nonexistent/tpm")?;
        match absent.unwrap(&DEVICE, &sealed) {
            Err(error @ KekError::Unreachable { .. }) => Ok(error.to_string()),
            found => bail!("{found:?}"),
        }
    });
}

fn key(address: SocketAddr) -> anyhow::Result<Box<dyn KeyEncryption>> {
    Ok(tpm::open(&format!("tcp:{address}"))?)
}

fn require_opens(key: &dyn KeyEncryption, sealed: &[u8]) -> anyhow::Result<()> {
    let opened = key.unwrap(&DEVICE, sealed)?;
    ensure!(opened.expose() == SECRET, "{} opens something else", key.describe());
    Ok(())
}

fn opens(address: SocketAddr) -> anyhow::Result<Vec<u8>> {
    let key = key(address)?;
    let mut sealed = Vec::new();
    for _ in 0..ROUNDS {
        sealed = key.wrap(&DEVICE, &Secret::copy_of(&SECRET)?)?;
        ensure!(sealed.len() <= WRAPPED_BYTES_MAX, "{} bytes", sealed.len());
        let found = sealed.windows(16).any(|window| *window == SECRET[..16]);
        ensure!(!found, "the secret stands in what was sealed");
        require_opens(&*key, &sealed)?;
    }
    Ok(sealed)
}

/// No bit of the sealed bytes can be changed: whatever the TPM says to it, nothing is opened.
fn damaged(address: SocketAddr, sealed: &[u8]) -> anyhow::Result<()> {
    let key = key(address)?;
    for place in (0..sealed.len()).step_by(7) {
        let mut bytes = sealed.to_vec();
        bytes[place] ^= 0x10;
        let opened = key.unwrap(&DEVICE, &bytes);
        ensure!(opened.is_err(), "opened with byte {place} changed");
    }
    Ok(())
}
