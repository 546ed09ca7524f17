//! Who comes in over TCP: clients whose certificate an identity lists.
//!
//! Owns what handshakes are done with, made anew when the node's credentials are others. Asked by the acceptor's threads; waits for none of
//! the node's. Deliberately absent: handshakes themselves, and what who is let in may do.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use sheen_identity::{Certificate, Fingerprint};
use sheen_ports::Peer;
use sheen_rdma::{
    Gate, Refusal, RefusedConnection,
    handshake::{
        Applicant, Credentials, CredentialsError, PrivateKey, PrivateKeyError, ServerSettings,
        Transit, TrustedAuthority,
    },
};

use super::identities::{self, Identities, NodeCredentials};
use crate::{mdt::NotAdmitted, principal};

/// See the module.
#[derive(Debug)]
pub(super) struct IdentityGate {
    identities: Arc<Identities>,
    node: [u8; 16],
    transit: Transit,
    made: Mutex<Option<Made>>,
}

/// Settings, and what they were made of. None: of that none can be made.
#[derive(Clone, Debug)]
struct Made {
    of: Arc<NodeCredentials>,
    settings: Option<Arc<ServerSettings>>,
}

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
enum SettingsError {
    #[error(transparent)]
    Key(#[from] PrivateKeyError),
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
}

impl IdentityGate {
    /// The gate of the node with this uuid.
    pub(super) fn new(identities: Arc<Identities>, node: [u8; 16], transit: Transit) -> Self {
        Self { identities, node, transit, made: Mutex::default() }
    }

    fn make(&self, shown: &NodeCredentials) -> Result<ServerSettings, SettingsError> {
        let der = |certificate: &Certificate| certificate.der().to_vec();
        let trusted = |certificate: &Certificate| TrustedAuthority {
            certificate: der(certificate),
            not_after: Duration::from_secs(certificate.validity().not_after.0),
        };
        let credentials = Credentials {
            authorities: shown.authorities.iter().map(trusted).collect(),
            chain: std::iter::once(&shown.certificate).chain(&shown.between).map(der).collect(),
            key: PrivateKey::copy_of(shown.key.pkcs8().expose())?,
        };
        let clock = || Duration::from_secs(identities::now().0);
        Ok(ServerSettings::new(credentials, self.node, self.transit, clock)?)
    }
}

impl Gate for IdentityGate {
    fn settings(&self) -> Option<Arc<ServerSettings>> {
        let shown = self.identities.credentials()?;
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Made { of, settings }) = made.as_ref()
            && Arc::ptr_eq(of, &shown)
        {
            return settings.clone();
        }
        let settings = self.make(&shown).map(Arc::new).inspect_err(|error| {
            tracing::error!("nobody is let in over TCP: {error}");
        });
        let settings = settings.ok();
        *made = Some(Made { of: shown, settings: settings.clone() });
        settings
    }

    fn admit(&self, applicant: &Applicant, address: IpAddr) -> Result<Peer, Refusal> {
        let certificate = Fingerprint(applicant.certificate);
        match self.identities.admit(certificate, address, identities::now()) {
            Ok(admitted) => {
                let name = String::from_utf8_lossy(&admitted.name);
                let principal = principal::of_session(admitted.principal);
                Ok(Peer { label: format!("{name}@{address}"), principal })
            }
            Err(NotAdmitted::Unknown) => Err(Refusal::Unknown),
            Err(NotAdmitted::Expired { .. }) => Err(Refusal::Expired),
            Err(NotAdmitted::Network) => Err(Refusal::Address),
        }
    }

    fn on_refused(&self, refused: &RefusedConnection) {
        let RefusedConnection { address, certificate, reason, untold } = refused;
        let certificate = certificate.map(|digest| identities::to_hex(&digest));
        tracing::warn!(%address, certificate, untold, "a connection over TCP is refused: {reason}");
    }
}

#[cfg(test)]
#[path = "gate_test.rs"]
mod test;
