//! A node's configuration: TOML, every key with a default but the device, unknown keys refused.
//!
//! `docs/node.toml` shows all keys. Errors name file, line, key, and what was expected. Deliberately absent: what the values
//! cost (see [`crate::memory_plan`]).

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Deserializer, de};
use sheen_keys::KeySource;
use sheen_rdma::ConnectionLimits;
use sheen_types::Bytes;

use crate::{ost::ScrubConfig, strangers::STRANGERS_MAX};

pub mod load;
mod tcp;

pub use load::ConfigError;
pub use tcp::{TcpClients, TcpConfig, TcpEncryption};

/// Most OSTs of a node; each has a zone, and the superblock has room for 60.
pub const OSTS_MAX: u32 = 32;
/// Most data reactors of a node.
pub const REACTORS_MAX: u32 = 32;
/// Most sessions of a node: each has a connection to each service, beside those that belong to no session yet.
pub const CLIENTS_MAX: u32 = 3584;
const _: () = assert!(
    CLIENTS_MAX as usize + STRANGERS_MAX < sheen_rdma::CONNECTIONS_MAX,
    "a newcomer always has a place"
);

/// Everything a node is told.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Name of the node: letters, digits, `.`, `_`, `-`; 1 to 63.
    #[serde(default = "defaults::name")]
    pub name: String,
    /// Where clients of this host connect.
    #[serde(default = "defaults::socket")]
    pub socket: PathBuf,
    /// Where clients of other hosts connect (TCP).
    #[serde(default = "defaults::listen")]
    pub listen: SocketAddr,
    /// Where metrics and status are served (HTTP).
    #[serde(default = "defaults::metrics")]
    pub metrics: SocketAddr,
    /// Whom it takes over TCP.
    #[serde(default)]
    pub tcp: TcpConfig,
    /// The device.
    pub device: DeviceConfig,
    /// Encryption of the device.
    #[serde(default)]
    pub encryption: EncryptionConfig,
    /// Identity of the node and its clients.
    #[serde(default)]
    pub identity: IdentityConfig,
    /// Threads.
    #[serde(default)]
    pub threads: ThreadsConfig,
    /// Bounds.
    #[serde(default)]
    pub limits: LimitsConfig,
    /// Times.
    #[serde(default)]
    pub times: TimesConfig,
    /// Verification in the background.
    #[serde(default)]
    pub scrub: ScrubSettings,
    /// Bringing scattered content together.
    #[serde(default)]
    pub tidying: TidyingSettings,
}

/// Bringing content together that lies scattered and is read in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TidyingSettings {
    /// Whether it is done.
    pub enabled: bool,
}

/// Verification of everything stored, in the background.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScrubSettings {
    /// Most bytes a second of each OST; 0: none.
    #[serde(deserialize_with = "size")]
    pub bandwidth: Bytes,
    /// From the end of a pass to the next; 0: none.
    #[serde(with = "humantime_serde")]
    pub interval: Duration,
}

impl Default for ScrubSettings {
    fn default() -> Self {
        let ScrubConfig { bytes_per_second, interval } = ScrubConfig::default();
        Self { bandwidth: Bytes(bytes_per_second), interval }
    }
}

impl From<ScrubSettings> for ScrubConfig {
    fn from(settings: ScrubSettings) -> Self {
        Self { bytes_per_second: settings.bandwidth.0, interval: settings.interval }
    }
}

/// The device.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceConfig {
    /// A file or a disk.
    pub path: PathBuf,
    /// Size of the file to make when formatting; of a disk, how much of it to use. Absent: all there is.
    #[serde(default, deserialize_with = "optional_size")]
    pub size: Option<Bytes>,
    /// OSTs to cut when formatting, 1..=[`OSTS_MAX`]. Not looked at afterwards.
    #[serde(default = "defaults::osts")]
    pub osts: u32,
    /// Device commands each OST may have in flight, 8..=4096.
    #[serde(default = "defaults::queue_depth")]
    pub queue_depth: u32,
}

/// Encryption of the device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EncryptionConfig {
    /// The key-encryption key. Absent: the device is not encrypted.
    #[serde(default, deserialize_with = "key_source")]
    key: Option<KeySource>,
}

impl EncryptionConfig {
    /// Encrypted under this key.
    #[must_use]
    pub const fn under(key: KeySource) -> Self {
        Self { key: Some(key) }
    }

    /// The table, for a configuration that people may edit.
    #[must_use]
    pub fn text(&self) -> String {
        let key = self.key.as_ref().map(|key| toml::Value::String(key.to_string()));
        let line = key.map_or(String::new(), |key| format!("key = {key}\n"));
        format!("\n[encryption]\n{line}")
    }

    /// The key-encryption key. None: the device is not encrypted.
    #[must_use]
    pub const fn key(&self) -> Option<&KeySource> {
        self.key.as_ref()
    }
}

/// Identity of the node and its clients.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IdentityConfig {
    /// Of a device that is not encrypted: the file with the key that secrets of identities are sealed under. Absent: beside a device that is
    /// a file; of others there is none then.
    pub key: Option<PathBuf>,
}

/// Threads.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ThreadsConfig {
    /// Data reactors, 1..=[`REACTORS_MAX`]; at most one per OST is used. 0: as the machine has cores to spare.
    pub reactors: u32,
    /// How long a thread without work polls before it sleeps.
    #[serde(with = "humantime_serde")]
    pub spin: Duration,
    /// Pin the service threads to cores of their own, where there are enough.
    pub pin: bool,
}

impl Default for ThreadsConfig {
    fn default() -> Self {
        Self { reactors: 0, spin: sheen_reactor::SPIN_DEFAULT, pin: true }
    }
}

/// Bounds. What goes beyond is refused (EAGAIN, ENOSPC), never taken.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// All memory of the process; the start fails if the sum of the pools is more.
    #[serde(deserialize_with = "size")]
    pub memory: Bytes,
    /// Payload buffers of each data reactor, a power of two of at least 4 MiB.
    #[serde(deserialize_with = "size")]
    pub buffers: Bytes,
    /// Inodes of all file systems.
    pub inodes: u64,
    /// File systems.
    pub filesystems: u32,
    /// Client sessions, 1..=[`CLIENTS_MAX`].
    pub clients: u32,
    /// (client, inode) pairs with a lease, and as many open files.
    pub leases: u32,
    /// File locks of programs.
    pub locks: u32,
    /// Memory a client of this host may share with one service.
    #[serde(deserialize_with = "size")]
    pub window: Bytes,
    /// Memory of clients that is mapped, and queues, of all connections.
    #[serde(deserialize_with = "size")]
    pub connections: Bytes,
}

impl LimitsConfig {
    /// The bounds of connections.
    #[must_use]
    pub const fn of_connections(&self) -> ConnectionLimits {
        ConnectionLimits { window_bytes_max: self.window.0, bytes_max: self.connections.0 }
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        let ConnectionLimits { window_bytes_max, bytes_max } = ConnectionLimits::default();
        Self {
            memory: Bytes(8 << 30),
            buffers: Bytes(64 << 20),
            inodes: 4 << 20,
            filesystems: 64,
            clients: 1024,
            leases: 1 << 20,
            locks: 1 << 18,
            window: Bytes(window_bytes_max),
            connections: Bytes(bytes_max),
        }
    }
}

/// Times.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TimesConfig {
    /// How long a client may cache without an answer; a tenth later it is evicted.
    #[serde(with = "humantime_serde")]
    pub lease: Duration,
    /// How long a live client may get nowhere with giving a lease back; ten times as long in all.
    #[serde(with = "humantime_serde")]
    pub revoke: Duration,
    /// After a restart: how long clients have to come back before what they held is given away; at least a lease.
    #[serde(with = "humantime_serde")]
    pub grace: Duration,
}

impl Default for TimesConfig {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(20),
            revoke: Duration::from_secs(60),
            grace: Duration::from_secs(20),
        }
    }
}

mod defaults {
    use std::{net::SocketAddr, path::PathBuf};

    pub(super) fn name() -> String {
        "node0".into()
    }

    pub(super) fn socket() -> PathBuf {
        "/run/sheen/node.sock".into()
    }

    pub(super) fn listen() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 9810))
    }

    pub(super) fn metrics() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 9811))
    }

    pub(super) fn osts() -> u32 {
        2
    }

    pub(super) fn queue_depth() -> u32 {
        256
    }
}

/// Reads a size: a number of bytes, or text such as `64GiB`.
#[derive(Deserialize)]
#[serde(untagged)]
enum SizeText {
    Number(u64),
    Text(String),
}

fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
    match SizeText::deserialize(deserializer) {
        Ok(SizeText::Number(bytes)) => Ok(Bytes(bytes)),
        Ok(SizeText::Text(text)) => {
            text.parse().map_err(|error| de::Error::custom(format!("{error}, found \"{text}\"")))
        }
        Err(_) => Err(de::Error::custom(sheen_types::units::SizeError)),
    }
}

fn optional_size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Bytes>, D::Error> {
    size(deserializer).map(Some)
}

fn key_source<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<KeySource>, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map(Some).map_err(|error| de::Error::custom(format!("{error}, found \"{text}\"")))
}

/// The TCP addresses a node listens at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// For clients of other hosts.
    pub listen: SocketAddr,
    /// For metrics and status.
    pub metrics: SocketAddr,
}

impl Default for Addresses {
    fn default() -> Self {
        Self { listen: defaults::listen(), metrics: defaults::metrics() }
    }
}

impl Config {
    /// A configuration with every key explained; [`Config::parse`] reads it.
    pub const EXAMPLE: &str = include_str!("../../docs/node.toml");

    /// A single node that keeps everything in `directory`, with defaults for the rest.
    #[must_use]
    pub fn embedded(directory: &Path, size: Bytes) -> Self {
        Self {
            name: defaults::name(),
            socket: directory.join("node.sock"),
            listen: defaults::listen(),
            metrics: defaults::metrics(),
            tcp: TcpConfig::default(),
            device: DeviceConfig {
                path: directory.join("device"),
                size: Some(size),
                osts: defaults::osts(),
                queue_depth: defaults::queue_depth(),
            },
            encryption: EncryptionConfig::default(),
            scrub: ScrubSettings::default(),
            tidying: TidyingSettings::default(),
            identity: IdentityConfig::default(),
            threads: ThreadsConfig::default(),
            limits: LimitsConfig::default(),
            times: TimesConfig::default(),
        }
    }

    /// The text of [`Config::embedded`], but for its addresses, for a file that people may edit.
    #[must_use]
    pub fn embedded_text(directory: &Path, size: Bytes, addresses: Addresses) -> String {
        // TOML's basic strings escape as Rust's debug format does, for all that can be in a path of valid UTF-8.
        let text = |path: PathBuf| toml::Value::String(path.to_string_lossy().into_owned());
        format!(
            "# A node that keeps everything in one folder. `sheen node --example` explains every key.\n\
             socket = {}\n\
             listen = \"{}\"\n\
             metrics = \"{}\"\n\
             \n[device]\n\
             path = {}\n\
             size = {}\n",
            text(directory.join("node.sock")),
            addresses.listen,
            addresses.metrics,
            text(directory.join("device")),
            size.0,
        )
    }
}

#[cfg(test)]
mod test;
