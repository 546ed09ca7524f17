//! The identity that is shown to a node over TCP, out of its file.
//!
//! The file is read again for each connection, so that one that was renewed in place is used without a new mount. While it cannot be read
//! the last one that could is shown: a file system does not go away with a file.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Result;
use sheen_client::ShowIdentity;
use sheen_identity::{Certificate, IdentityFile};
use sheen_rdma::{
    ClientIdentity,
    handshake::{ClientSettings, Credentials, PrivateKey, Transit, TrustedAuthority},
};

/// See the module.
#[derive(Debug)]
pub(crate) struct ShownIdentity {
    path: PathBuf,
    transits: &'static [Transit],
    last: Mutex<ClientIdentity>,
}

impl ShownIdentity {
    /// Reads the identity in `path`. With `clear` a node that encrypts nothing will do.
    ///
    /// # Errors
    /// When the file cannot be read, or its content cannot be used.
    pub(crate) fn open(path: &Path, clear: bool) -> Result<Self> {
        let transits: &[_] =
            if clear { &[Transit::Sealed, Transit::Plain] } else { &[Transit::Sealed] };
        let last = Mutex::new(read(path, transits)?);
        let path = std::path::absolute(path).unwrap_or_else(|_| path.into());
        Ok(Self { path, transits, last })
    }
}

impl ShowIdentity for ShownIdentity {
    fn for_connection(&self) -> ClientIdentity {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match read(&self.path, self.transits) {
            Ok(identity) => *last = identity,
            Err(error) => tracing::warn!("the identity read before is used: {error:#}"),
        }
        last.clone()
    }
}

fn read(path: &Path, transits: &[Transit]) -> Result<ClientIdentity> {
    let file = IdentityFile::read(path)?;
    let trusted = |certificate: &Certificate| TrustedAuthority {
        certificate: certificate.der().to_vec(),
        not_after: Duration::from_secs(certificate.validity().not_after.0),
    };
    let credentials = Credentials {
        authorities: file.authorities.iter().map(trusted).collect(),
        chain: vec![file.certificate.der().to_vec()],
        key: PrivateKey::copy_of(file.key.pkcs8().expose())?,
    };
    let settings = ClientSettings::new(credentials, transits, wall_clock)?;
    // Any node of the authority: which one answers is not for the file to say.
    Ok(ClientIdentity { settings: Arc::new(settings), node: None })
}

fn wall_clock() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
