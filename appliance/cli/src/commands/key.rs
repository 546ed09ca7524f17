//! `sheen key`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use serde::Serialize;
use serde_json::Value;
use sheen_keys::{KeyBlock, KeyFile, KeySource};
use sheen_node::{
    Config,
    device::{Device, QueueBudget, erase_keys, key_block},
};
use sheen_reactor::SystemEntropy;

use super::{orders, place::absolute, slow::Slow};
use crate::{answer, http};

/// What can be asked of keys.
#[derive(Debug, Subcommand)]
pub(crate) enum Key {
    /// Make a key file
    ///
    /// Writes 64 random hexadecimal digits that only its owner can read. Name it in the configuration, as `key = "file:/PATH"` of [encryption],
    /// before the device is formatted. Keep a copy elsewhere: without it nothing on the device can be read.
    New {
        /// The file; it must not be there
        file: PathBuf,
    },
    /// Show which keys open a device; nothing of them is secret
    Show {
        /// The device, as in `device.path` of the configuration
        device: PathBuf,
    },
    /// Change the key that opens a device; its data is not rewritten
    ///
    /// Wraps the data key under another key, on a node that serves or, if none does, on the device itself. At every instant, also of a power
    /// loss, the old key or the new one opens the device; afterwards the new one alone. Then name it in the configuration.
    Rotate {
        /// The configuration that names the device and its present key
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// The new key: file:PATH, kms:KEY?endpoint=URL&region=REGION or tpm:DEVICE
        #[arg(long, value_name = "KEY")]
        to: String,
    },
    /// Destroy the data key of a device: nothing on it can be read any more, by nobody
    ///
    /// Overwrites, flushes and discards both key blocks; takes a moment, whatever the size of the device. The node must be stopped.
    Erase {
        /// The device, as in `device.path` of the configuration
        device: PathBuf,
        /// Yes, everything on it is to be lost
        #[arg(long)]
        yes: bool,
    },
}

/// A key block as shown.
#[derive(Debug, Serialize)]
struct Shown {
    device: PathBuf,
    encrypted: bool,
    cipher: Option<&'static str>,
    generation: Option<u64>,
    slots: Vec<ShownSlot>,
}

#[derive(Debug, Serialize)]
struct ShownSlot {
    slot: usize,
    kind: String,
    key: String,
}

/// Carries out what was asked.
///
/// # Errors
/// When a key or a device refuses; the text says what to do.
pub(crate) fn run(json: bool, key: &Key) -> Result<()> {
    match key {
        Key::New { file } => new(json, file),
        Key::Show { device } => show(json, device),
        Key::Rotate { config, to } => rotate(json, config, to),
        Key::Erase { device, yes } => erase(json, device, *yes),
    }
}

fn new(json: bool, file: &Path) -> Result<()> {
    let file = absolute(file)?;
    KeyFile::create(&file)?;
    let source = format!("file:{}", file.display());
    let done = serde_json::json!({ "file": file, "key": source });
    answer::either(json, &done, || {
        format!(
            "{} is made; keep a copy elsewhere. In the configuration:\n\n[encryption]\nkey = \"{source}\"",
            file.display()
        )
    });
    Ok(())
}

fn show(json: bool, device: &Path) -> Result<()> {
    let block = key_block(device)?;
    let slots = block.iter().flat_map(|block| block.slots.iter().enumerate());
    let shown = Shown {
        device: device.into(),
        encrypted: block.is_some(),
        cipher: block.as_ref().map(|_| "AES-256-XTS"),
        generation: block.as_ref().map(|block| block.generation),
        slots: slots
            .map(|(slot, there)| ShownSlot {
                slot,
                kind: there.source.kind().to_string(),
                key: there.source.to_string(),
            })
            .collect(),
    };
    answer::either(json, &shown, || text(&shown));
    Ok(())
}

fn text(shown: &Shown) -> String {
    let Shown { device, generation, .. } = shown;
    let Some(generation) = generation else {
        return format!("{} is not encrypted", device.display());
    };
    let rows: Vec<Vec<String>> = shown
        .slots
        .iter()
        .map(|slot| vec![slot.slot.to_string(), slot.kind.clone(), slot.key.clone()])
        .collect();
    format!(
        "{} is encrypted (AES-256-XTS, generation {generation} of its keys)\n{}",
        device.display(),
        answer::table(&["SLOT", "KIND", "KEY"], &rows)
    )
}

fn rotate(json: bool, path: &Path, to: &str) -> Result<()> {
    let config = Config::load(path)?;
    let to = source(to)?;
    let socket = sheen_control::operator_socket(&config.socket);
    let order = serde_json::json!({ "to": to.to_string() }).to_string();
    let slow = Slow::watch(orders::WAITING);
    let answer = http::post_unix(&socket, "/key/rotate", &order, http::ORDER_PATIENCE)?;
    drop(slow);
    let (generation, running) = match answer {
        Some((is_done, body)) => (ordered(is_done, &body)?, true),
        None => (offline(&config, &to)?.generation, false),
    };
    let done = serde_json::json!({
        "device": config.device.path, "key": to.to_string(), "generation": generation, "running": running,
    });
    answer::either(json, &done, || {
        format!(
            "{} opens with {to} alone now. In {}:\n\n[encryption]\nkey = \"{to}\"",
            config.device.path.display(),
            path.display()
        )
    });
    Ok(())
}

/// The generation a running node answered.
fn ordered(is_done: bool, body: &str) -> Result<u64> {
    let value: Value = serde_json::from_str(body).context("the node's answer")?;
    if !is_done {
        bail!("the node refuses: {}", value["error"].as_str().unwrap_or(body));
    }
    value["generation"].as_u64().context("the node's answer names no generation")
}

fn offline(config: &Config, to: &KeySource) -> Result<KeyBlock> {
    let path = &config.device.path;
    let device = Device::open_for(path, QueueBudget::SMALL, config.encryption.key())?;
    Ok(device.rotate_key(to)?)
}

/// A key by its name; a file's path may start at the current directory.
fn source(text: &str) -> Result<KeySource> {
    let name = match text.strip_prefix("file:") {
        Some(path) if !path.is_empty() => format!("file:{}", absolute(Path::new(path))?.display()),
        Some(_) | None => text.to_owned(),
    };
    name.parse().with_context(|| format!("`{text}` names no key"))
}

fn erase(json: bool, device: &Path, yes: bool) -> Result<()> {
    if !yes {
        bail!(
            "everything on {} would be lost for ever, also to you; say --yes if that is what you want",
            device.display()
        );
    }
    erase_keys(device, &mut SystemEntropy::open()?)?;
    let done = serde_json::json!({ "device": device, "erased": true });
    answer::either(json, &done, || {
        format!("the keys of {} are erased: nothing opens it any more", device.display())
    });
    Ok(())
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_key_file_may_be_named_from_here_and_others_are_taken_as_they_are() {
        let here = std::env::current_dir().unwrap();
        let name = source("file:new.key").unwrap().to_string();
        assert_eq!(name, format!("file:{}/new.key", here.display()));
        assert_eq!(source("tpm:/dev/tpmrm0").unwrap().to_string(), "tpm:/dev/tpmrm0");
        for wrong in ["file:", "new.key", "vault:x"] {
            let error = format!("{:#}", source(wrong).unwrap_err());
            assert!(error.contains(wrong) && error.contains("file:/PATH"), "{error}");
        }
    }
}
