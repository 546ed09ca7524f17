//! The identity file of a client: a key that is made here, certified by the node.
//!
//! The private key never leaves this process but into the file. The order of steps is such that a node that goes away in between leaves no client
//! without its file: the node certifies the key, which changes nothing; the file is written whole; its certificate is listed. A file
//! that came to nothing is removed.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Deserialize;
use serde_json::{Value, json};
use sheen_identity::{Certificate, IdentityFile, IdentityFileError, IdentityKey};
use sheen_node::{
    is_filesystem_name,
    server::identities::{ClientShown, from_hex, to_hex},
};

use super::one;
use crate::{
    commands::{orders, place::absolute},
    failure::{Failure, FailureKind},
};

/// The file that is made.
#[derive(Debug, Args)]
pub(super) struct FileToWrite {
    /// The identity file to write; it must not be there
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// How long it is good for, as 90d, 12h or 1year
    #[arg(long, value_name = "DURATION", default_value = "1year", value_parser = duration)]
    expires: Duration,
    /// Where the client reaches the node, as HOST:PORT; may be said several times [default: where the node listens]
    #[arg(long, value_name = "HOST:PORT")]
    address: Vec<String>,
}

fn duration(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    match duration.as_secs() {
        0 => Err("it would be over before it begins".to_owned()),
        _ => Ok(duration),
    }
}

/// What the node answers to `issue`.
#[derive(Deserialize)]
struct Issued {
    certificate: String,
    fingerprint: String,
    not_after: u64,
    authorities: Vec<String>,
    node: String,
    addresses: Vec<String>,
}

/// An identity file that was written, and what the node is told of it.
pub(super) struct Written {
    pub(super) path: PathBuf,
    pub(super) certificate: Value,
}

impl Written {
    /// It came to nothing.
    fn remove(&self) {
        // Its certificate is nobody's: what stays of it does no harm.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl FileToWrite {
    /// Makes a key, has it certified and writes the file.
    pub(super) fn write(&self, name: &str, socket: &Path) -> Result<Written> {
        if !is_filesystem_name(name.as_bytes()) {
            let text = format!("\"{name}\" is no name for a client");
            let failure = Failure::new(FailureKind::Usage, text);
            bail!(failure.hint("use letters, digits, `.`, `_`, `-`, at most 63"));
        }
        let path = absolute(&self.out)?;
        if path.exists() {
            let text = format!("{} is there already", path.display());
            bail!(
                Failure::new(FailureKind::Exists, text)
                    .hint("an identity is never overwritten: name another file")
            );
        }
        let key = IdentityKey::generate()?;
        let order = json!({
            "order": "issue",
            "public_key": to_hex(key.public_key().as_bytes()),
            "seconds": self.expires.as_secs(),
        });
        let issued = orders::give(socket, "/client", &order)?;
        let issued: Issued = serde_json::from_value(issued).context("the node's answer")?;
        let certificate = |text: &String| -> Result<Certificate> {
            Ok(Certificate::from_der(&from_hex(text).context("the node's answer")?)?)
        };
        let node = from_hex(&issued.node).and_then(|node| node.try_into().ok());
        let file = IdentityFile {
            node: node.context("the node's answer")?,
            addresses: match self.address.is_empty() {
                true => issued.addresses,
                false => self.address.clone(),
            },
            name: name.to_owned(),
            authorities: issued.authorities.iter().map(certificate).collect::<Result<_>>()?,
            certificate: certificate(&issued.certificate)?,
            key,
        };
        file.checked()?.create(&path).map_err(not_written)?;
        let named = json!({ "fingerprint": issued.fingerprint, "not_after": issued.not_after });
        Ok(Written { path, certificate: named })
    }
}

fn not_written(error: IdentityFileError) -> anyhow::Error {
    let kind = match &error {
        IdentityFileError::System { error, .. } => match error.kind() {
            std::io::ErrorKind::AlreadyExists => FailureKind::Exists,
            std::io::ErrorKind::NotFound => FailureKind::NotFound,
            std::io::ErrorKind::PermissionDenied => FailureKind::Permission,
            _ => FailureKind::System,
        },
        IdentityFileError::Content { .. } => FailureKind::Usage,
        _ => FailureKind::Failed,
    };
    Failure::new(kind, error.to_string()).into()
}

/// Lists a file's certificate. A refusal means that nothing was done, and the file goes; of a node that went away it is not known.
pub(super) fn list_certificate(
    socket: &Path,
    order: &Value,
    written: &Written,
) -> Result<ClientShown> {
    match orders::give(socket, "/client", order) {
        Ok(answer) => one(answer),
        Err(error) => {
            let is_refused = error
                .downcast_ref::<Failure>()
                .is_some_and(|failure| matches!(failure.kind, FailureKind::Refused));
            if is_refused {
                written.remove();
                return Err(error);
            }
            let text = format!(
                "the node went away before it answered ({error:#}): whether {} counts, `sheen client list` shows",
                written.path.display()
            );
            let hint = "if the client is not there, remove the file and begin again";
            Err(Failure::new(FailureKind::Unreachable, text).hint(hint).into())
        }
    }
}
