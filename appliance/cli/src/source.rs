//! What is mounted: `NODE:/NAME`.

use anyhow::{Result, bail};

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

impl Source {
    /// Reads `unix:/run/node.sock:/name`, `host:9810:/name`, `host:/name` and, as Lustre writes it, `host@tcp:/name`.
    ///
    /// # Errors
    /// When it is none of these.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let Some((node, name)) = text.rsplit_once(":/") else {
            bail!(
                "`{text}` is not NODE:/NAME, for example unix:/run/sheen/node.sock:/scratch or 10.0.0.5:/scratch"
            );
        };
        if name.is_empty() || name.contains('/') {
            bail!("`{text}` names no file system behind the node (expected NODE:/NAME)");
        }
        Ok(Self { node: address(node)?, name: name.to_owned() })
    }
}

/// Brings a node's address into the form links take.
///
/// # Errors
/// When it is none.
pub(crate) fn address(text: &str) -> Result<String> {
    if let Some(path) = text.strip_prefix("unix:") {
        if path.is_empty() {
            bail!("`unix:` without a path");
        }
        return Ok(text.to_owned());
    }
    if text.starts_with('/') {
        return Ok(format!("unix:{text}"));
    }
    let host = text.strip_prefix("tcp:").unwrap_or(text);
    let host = host.strip_suffix("@tcp").unwrap_or(host);
    if host.is_empty() {
        bail!("a node's address is unix:PATH or HOST:PORT");
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
        for wrong in ["", "scratch", "host:/", "host:/a/b", "unix::/a"] {
            assert!(Source::parse(wrong).is_err(), "{wrong}");
        }
    }
}
