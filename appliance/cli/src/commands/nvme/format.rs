//! `sheen nvme format`.

use std::process::ExitCode;

use anyhow::{Context, Result};
use serde_json::json;
use sheen_nvme::driver::{Confirmation, Controller, Erase, Format, Options};

use super::{
    arguments::{EraseKind, FormatArguments},
    confirm::{Confirmed, confirm},
};
use crate::answer;

/// Memory for the queues and a few pages.
const MEMORY_BYTES: usize = 4 << 20;

/// Formats a namespace. Everything in it is lost.
///
/// # Errors
/// When the controller cannot, or refuses.
pub(super) fn run(json: bool, given: &FormatArguments) -> Result<ExitCode> {
    let controller = given.target.attach(MEMORY_BYTES, Options::default())?;
    let nsid = given.namespace;
    let number = choose(&controller.formats(nsid)?, given.block_size)
        .with_context(|| format!("namespace {nsid}"))?;
    let loss = format!("formatting destroys everything in namespace {nsid} of {}", given.target);
    let confirmation = match confirm(&controller, given.yes_destroy.as_deref(), &loss) {
        Confirmed::Yes(confirmation) => confirmation,
        Confirmed::No(code) => return Ok(code),
    };
    format(&controller, nsid, number, given.erase, &confirmation)?;
    let now = controller.namespace(nsid)?.map_err(anyhow::Error::from)?;
    controller.close();
    let bytes = now.blocks.saturating_mul(sheen_types::BLOCK_BYTES as u64);
    let done = json!({
        "controller": given.target.to_string(), "namespace": nsid, "block_bytes": given.block_size,
        "bytes": bytes,
    });
    answer::either(json, &done, || {
        let blocks = super::blocks(given.block_size);
        format!("namespace {nsid} is formatted: {blocks}, {}, empty", sheen_types::Bytes(bytes))
    });
    Ok(ExitCode::SUCCESS)
}

fn format(
    controller: &Controller,
    nsid: u32,
    number: u8,
    erase: EraseKind,
    confirmation: &Confirmation,
) -> Result<()> {
    let erase = match erase {
        EraseKind::None => Erase::None,
        EraseKind::UserData => Erase::UserData,
        EraseKind::Crypto => Erase::Cryptographic,
    };
    answer::progress("formatting; a drive that overwrites itself takes hours");
    controller.format(nsid, number, erase, confirmation)?;
    Ok(())
}

/// The number of the format with these blocks and without metadata.
fn choose(formats: &[Format], block_bytes: u32) -> Result<u8> {
    let log2 = u8::try_from(block_bytes.ilog2())?;
    let fits = |format: &&Format| format.block_log2 == log2 && format.metadata_bytes == 0;
    let offered = || {
        let plain = formats.iter().filter(|format| format.block_log2 != 0);
        let shown =
            plain.map(|format| format!("2^{}+{}", format.block_log2, format.metadata_bytes));
        shown.collect::<Vec<_>>().join(", ")
    };
    let found = formats.iter().find(fits).map(|format| format.number);
    found.with_context(|| {
        format!("it offers no {block_bytes}-byte blocks without metadata, but: {} bytes", offered())
    })
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn the_format_without_metadata_is_chosen() {
        let format = |number, block_log2, metadata_bytes| Format {
            number,
            block_log2,
            metadata_bytes,
            is_current: number == 0,
        };
        let formats = [format(0, 9, 0), format(1, 12, 8), format(2, 12, 0)];
        assert_eq!(choose(&formats, 4096).unwrap(), 2);
        assert_eq!(choose(&formats, 512).unwrap(), 0);
        let error = choose(&formats[..2], 4096).unwrap_err().to_string();
        assert!(error.contains("2^9+0, 2^12+8"), "{error}");
    }
}
