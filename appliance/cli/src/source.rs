//! How a node is named, and a file system on it: `NODE:/NAME`.

use std::path::Path;

use anyhow::{Result, bail};

use crate::{
    arguments::NodeAddress,
    commands::place::{Place, absolute},
    failure::{Failure, FailureKind},
};

/// A file system on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    /// Where the node listens: `unix:PATH` or `tcp:HOST:PORT`.
    pub node: String,
    /// Name of the file system.
    pub name: String,
}

/// Port of nodes that name none.
const DEFAULT_PORT: u16 = 9810;
/// Where a node listens that was told nothing else.
const DEFAULT_SOCKET: &str = "/run/sheen/node.sock";
/// The folder of `sheen up`.
const UP_FOLDER: &str = "./.sheen";

impl NodeAddress {
    /// Returns the address in the form links take: the one given, else that of the folder `.sheen` here, else the system's node.
    ///
    /// # Errors
    /// When it is none.
    pub(crate) fn resolve(&self) -> Result<String> {
        match self.node.as_deref().filter(|text| !text.is_empty()) {
            Some(text) => address(text, Path::new("")),
            None if Path::new(UP_FOLDER).is_dir() => folder_socket(Path::new(UP_FOLDER)),
            None => Ok(format!("unix:{DEFAULT_SOCKET}")),
        }
    }
}

/// The socket of the node that keeps its files in `folder`.
fn folder_socket(folder: &Path) -> Result<String> {
    Ok(format!("unix:{}", Place::new(folder)?.socket().display()))
}

impl Source {
    /// Reads `unix:/run/node.sock:/name`, `host:9810:/name`, `host:/name` and, as Lustre writes it, `host@tcp:/name`.
    ///
    /// # Errors
    /// When it is none of these.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        Self::parse_in(Path::new(""), text)
    }

    /// As [`Source::parse`] by a process whose current directory is `folder`.
    ///
    /// # Errors
    /// As [`Source::parse`].
    pub(crate) fn parse_in(folder: &Path, text: &str) -> Result<Self> {
        let Some((node, name)) = text.rsplit_once(":/") else {
            let failure = Failure::new(FailureKind::Usage, format!("`{text}` is not NODE:/NAME"));
            bail!(
                failure.hint("for example unix:/run/sheen/node.sock:/scratch or 10.0.0.5:/scratch")
            );
        };
        if name.is_empty() || name.contains('/') {
            let text =
                format!("`{text}` names no file system behind the node (expected NODE:/NAME)");
            bail!(Failure::new(FailureKind::Usage, text));
        }
        Ok(Self { node: address(node, folder)?, name: name.to_owned() })
    }
}

/// Brings a node's address into the form links take; a relative path begins at `folder`.
///
/// # Errors
/// When it is none.
fn address(text: &str, folder: &Path) -> Result<String> {
    let path = text.strip_prefix("unix:");
    // A folder of `sheen up` that is there is meant, and not a host that may be called so.
    let is_path = |text: &str| text.contains('/') || Place::is_one(&folder.join(text));
    if let Some(path) = path.or_else(|| is_path(text).then_some(text)) {
        if path.is_empty() {
            bail!(Failure::new(FailureKind::Usage, "`unix:` without a path"));
        }
        let path = folder.join(path);
        return match path.is_dir() {
            true => folder_socket(&path),
            false => Ok(format!("unix:{}", absolute(&path)?.display())),
        };
    }
    let host = text.strip_prefix("tcp:").unwrap_or(text);
    let host = host.strip_suffix("@tcp").unwrap_or(host);
    if host.is_empty() {
        let text = "a node is named by the path of its UNIX socket or by HOST:PORT";
        bail!(Failure::new(FailureKind::Usage, text));
    }
    let has_port = host.rsplit_once(':').is_some_and(|(rest, port)| {
        port.parse::<u16>().is_ok() && (!rest.contains(':') || rest.ends_with(']'))
    });
    Ok(if has_port { format!("tcp:{host}") } else { format!("tcp:{host}:{DEFAULT_PORT}") })
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn sources_are_read_in_every_form_people_write() {
        for (text, node) in [
            ("unix:/run/sheen/node.sock:/scratch", "unix:/run/sheen/node.sock"),
            ("/run/node.sock:/scratch", "unix:/run/node.sock"),
            ("10.0.0.5:/scratch", "tcp:10.0.0.5:9810"),
            ("10.0.0.5@tcp:/scratch", "tcp:10.0.0.5:9810"),
            ("node-1:7000:/scratch", "tcp:node-1:7000"),
            ("[::1]:7000:/scratch", "tcp:[::1]:7000"),
            ("tcp:[::1]:/scratch", "tcp:[::1]:9810"),
        ] {
            let source = Source::parse(text).unwrap();
            assert_eq!((source.node.as_str(), source.name.as_str()), (node, "scratch"), "{text}");
        }
        let given = |node: &str| NodeAddress { node: Some(node.to_owned()) }.resolve();
        assert_eq!(given("/run/a.sock").unwrap(), "unix:/run/a.sock");
        assert_eq!(given("host:7000").unwrap(), "tcp:host:7000");
        let here = std::env::current_dir().unwrap();
        let expected = format!("unix:{}/x/node.sock", here.display());
        assert_eq!(given("./x/node.sock").unwrap(), expected, "seen from here");
        let folder = tempfile::tempdir().unwrap();
        let of_folder = given(folder.path().to_str().unwrap()).unwrap();
        assert_eq!(of_folder, format!("unix:{}/node.sock", folder.path().display()));
        let config = "socket = \"/run/other.sock\"\n[device]\npath = \"/d\"\n";
        std::fs::write(folder.path().join("node.toml"), config).unwrap();
        assert_eq!(given(folder.path().to_str().unwrap()).unwrap(), "unix:/run/other.sock");
        for none in [None, Some(String::new())] {
            // The tests' folder has no node of its own.
            assert_eq!(NodeAddress { node: none }.resolve().unwrap(), "unix:/run/sheen/node.sock");
        }
        for wrong in ["", "scratch", "host:/", "host:/a/b", "unix::/a"] {
            assert!(Source::parse(wrong).is_err(), "{wrong}");
        }
    }
}
