//! `sheen format`.

use anyhow::Result;
use sheen_node::{
    Config,
    device::{Force, FormatPlan, HostRoom, format_device},
};
use sheen_reactor::SystemEntropy;
use sheen_types::{Blocks, Bytes};

use crate::{answer, arguments::Format};

/// Writes an empty device.
///
/// # Errors
/// When it holds something and `--force` was not said, or cannot be written.
pub(crate) fn run(json: bool, format: &Format) -> Result<()> {
    let config = Config::load(&format.config)?;
    let force = if format.force { Force::Yes } else { Force::No };
    let bytes = write_empty(&config, force)?.0;
    let room = HostRoom::of(&config.device.path, None);
    let warning = room.as_ref().and_then(HostRoom::warning);
    let done = serde_json::json!({
        "device": config.device.path, "bytes": bytes, "room": room, "warning": warning,
    });
    answer::either(json, &done, || {
        let warning = warning.map(|text| format!("\nwarning: {text}")).unwrap_or_default();
        format!(
            "{} is formatted ({}); start it with: sheen node --config {}{warning}",
            config.device.path.display(),
            Bytes(bytes),
            format.config.display()
        )
    });
    Ok(())
}

/// Writes the empty device a configuration names. Returns how much of it is used.
///
/// # Errors
/// As [`run`].
pub(crate) fn write_empty(config: &Config, force: Force) -> Result<Bytes> {
    let plan = FormatPlan {
        name: &config.name,
        size: config.device.size,
        osts: config.device.osts,
        force,
        key: config.encryption.key(),
    };
    let superblock = format_device(&config.device.path, &plan, &mut SystemEntropy::open()?)?;
    Ok(Bytes(Blocks(superblock.device_blocks).bytes()))
}
