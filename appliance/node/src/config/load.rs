//! Reading a configuration, and checking what serde cannot.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    time::Duration,
};

use thiserror::Error;

use super::{CLIENTS_MAX, Config, OSTS_MAX, REACTORS_MAX};
use crate::device::Way;

/// Longest path of the node's socket in bytes: `sun_path` has 107 before its NUL, and beside the socket lies one with `.admin` behind
/// its name.
const SOCKET_PATH_BYTES_MAX: usize = 101;

/// What is wrong with a configuration.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Not TOML, an unknown key, or a value of the wrong kind. The message names line and key.
    #[error("{path}: {message}", path = path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The parser's message, with the line.
        message: String,
    },
    /// A value that cannot be.
    #[error("{path}{line}: {key}: expected {expected}, found {found}", path = path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// Where the key stands, if it does.
        line: Line,
        /// The key, with its table.
        key: &'static str,
        /// What may stand there.
        expected: String,
        /// What stands there.
        found: String,
    },
}

/// A line of the file, counted from 1; none if the key is not there and its default is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line(pub Option<usize>);

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |line| write!(f, ":{line}"))
    }
}

impl Config {
    /// Reads and checks the file `path`.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.into(), source })?;
        Self::parse(path, &text)
    }

    /// Checks `text`, which was read from `path`.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text).map_err(|error| ConfigError::Syntax {
            path: path.into(),
            message: error.to_string().trim_end().to_owned(),
        })?;
        config.check().map_err(|fault| ConfigError::Value {
            path: path.into(),
            line: Line(line_of(text, fault.key)),
            key: fault.key,
            expected: fault.expected,
            found: fault.found,
        })?;
        Ok(config)
    }

    fn check(&self) -> Result<(), Fault> {
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let name = self.name.as_str();
        let named = (1..=63).contains(&name.len()) && name.chars().all(is_name);
        expect(named, "name", "1 to 63 letters, digits, `.`, `_` or `-`", name)?;
        let socket = self.socket.as_os_str();
        let fits = !socket.is_empty() && socket.len() <= SOCKET_PATH_BYTES_MAX;
        let found = format!("{} bytes", socket.len());
        expect(fits, "socket", "a path of 1 to 101 bytes (a limit of UNIX sockets)", found)?;
        let path = &self.device.path;
        let expected =
            "a path, nvme:ADDRESS or vfio-user:SOCKET, the latter two optionally with ?ns=NUMBER";
        expect(Way::of(path).is_ok(), "device.path", expected, path.display())?;
        range("device.osts", self.device.osts.into(), 1, OSTS_MAX.into())?;
        range("device.queue_depth", self.device.queue_depth.into(), 8, 4096)?;
        range("threads.reactors", self.threads.reactors.into(), 0, REACTORS_MAX.into())?;
        let spin = self.threads.spin;
        expect(spin <= Duration::from_millis(10), "threads.spin", "at most 10ms", show(spin))?;
        let limits = &self.limits;
        let buffers = limits.buffers;
        let fits = buffers.0.is_power_of_two() && (4 << 20..=16 << 30).contains(&buffers.0);
        expect(fits, "limits.buffers", "a power of two from 4MiB to 16GiB", buffers)?;
        range("limits.inodes", limits.inodes, 1024, 1 << 32)?;
        range("limits.filesystems", limits.filesystems.into(), 1, 4096)?;
        range("limits.clients", limits.clients.into(), 1, CLIENTS_MAX.into())?;
        range("limits.leases", limits.leases.into(), 1024, 1 << 28)?;
        range("limits.locks", limits.locks.into(), 1024, 1 << 28)?;
        let (window, connections) = (limits.window, limits.connections);
        let fits = (4 << 20..=1 << 40).contains(&window.0);
        expect(fits, "limits.window", "4MiB to 1TiB", window)?;
        let fits = (window.0.saturating_add(64 << 20)..=1 << 46).contains(&connections.0);
        let expected = "at least 64MiB more than limits.window, at most 64TiB";
        expect(fits, "limits.connections", expected, connections)?;
        let times = &self.times;
        let (least, most) = (Duration::from_secs(1), Duration::from_secs(3600));
        for (key, time) in [
            ("times.lease", times.lease),
            ("times.revoke", times.revoke),
            ("times.grace", times.grace),
        ] {
            expect((least..=most).contains(&time), key, "1s to 1h", show(time))?;
        }
        Ok(())
    }
}

struct Fault {
    key: &'static str,
    expected: String,
    found: String,
}

fn expect(
    holds: bool,
    key: &'static str,
    expected: &str,
    found: impl fmt::Display,
) -> Result<(), Fault> {
    if holds {
        return Ok(());
    }
    Err(Fault { key, expected: expected.into(), found: found.to_string() })
}

fn range(key: &'static str, found: u64, least: u64, most: u64) -> Result<(), Fault> {
    expect((least..=most).contains(&found), key, &format!("{least} to {most}"), found)
}

fn show(time: Duration) -> impl fmt::Display {
    humantime::format_duration(time)
}

/// The line on which `key` (`table.key`, or `key` at the top) stands.
fn line_of(text: &str, key: &str) -> Option<usize> {
    let (wanted_table, wanted) = key.split_once('.').unwrap_or(("", key));
    let mut table = "";
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.split(']').next()) {
            table = name.trim();
        }
        let name = line.split('=').next().unwrap_or_default().trim();
        let dotted = table.is_empty() && name == key;
        if line.contains('=') && (dotted || (table == wanted_table && name == wanted)) {
            return Some(number);
        }
    }
    None
}
