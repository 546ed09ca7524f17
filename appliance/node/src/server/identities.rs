//! Who this node is and whom it lets in: its certificate authority, its certificate, its clients' identities.
//!
//! What is to last lies in the replicated state and goes there through the log: the cluster's secret wrapped under the node's key, authorities with
//! their keys sealed under that secret, identities. Here, in locked memory and nowhere else, are the opened secret and the node's private key, which is
//! made anew at each start: nobody knows a node by its certificate, so that none has to be kept. Looking up who comes
//! ([`Identities::admit`]) reads a copy of the applied state and waits for no thread.
//!
//! A node that cannot open what it kept, or has no place for its key, serves all the same and says why it has no identity
//! ([`Identities::fault`]). Deliberately absent: connections, what a request may do.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock},
    time::{SystemTime, UNIX_EPOCH},
};

use sheen_identity::{Fingerprint, UnixSeconds, expiry::DAY_SECONDS, expiry::NODE_RENEW_DAYS};
use sheen_keys::Secret;

mod error;
mod desk;
mod vault;
mod authorities;
mod network;
mod hex;
mod rights;
mod clients;
mod status;

pub use authorities::NodeCredentials;
pub use clients::{IssuedCertificate, NamedCertificate, Others};
pub(crate) use desk::Desk;
pub use error::IdentitiesError;
pub use hex::{from_hex, to_hex};
pub use network::mapped;
pub use rights::{RightsRequest, RightsShown, SESSIONS_DEFAULT, Speaks};
pub use status::{AuthoritiesShown, AuthorityShown, ClientShown, ExpiryShown, IdentityStatus};
pub(crate) use vault::NodeKey;

use crate::mdt::{AdmittedIdentity, NotAdmitted};

/// See the module.
#[derive(Debug)]
pub struct Identities {
    /// The node's uuid.
    node: [u8; 16],
    /// Its name.
    name: String,
    desk: Desk,
    key: Result<NodeKey, IdentitiesError>,
    /// The cluster's secret, once it is open.
    secret: OnceLock<Secret>,
    shown: RwLock<Option<Arc<NodeCredentials>>>,
    fault: Mutex<Option<IdentitiesError>>,
    /// Held while something is changed: what is read before a change is so still when it is made.
    changing: Mutex<()>,
    /// When people were warned last.
    warned: Mutex<UnixSeconds>,
}

/// The time as certificates count it.
#[must_use]
pub fn now() -> UnixSeconds {
    UnixSeconds(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
}

impl Identities {
    pub(super) fn new(
        (node, name): ([u8; 16], String),
        desk: Desk,
        key: Result<NodeKey, IdentitiesError>,
    ) -> Self {
        Self {
            node,
            name,
            desk,
            key,
            secret: OnceLock::new(),
            shown: RwLock::default(),
            fault: Mutex::default(),
            changing: Mutex::default(),
            warned: Mutex::new(UnixSeconds(0)),
        }
    }

    /// Finds the node's authority, or makes it, and shows a certificate of it. What goes wrong is told by [`Identities::fault`], and tried again by
    /// [`Identities::tend`].
    pub fn begin(&self, now: UnixSeconds) {
        let _alone = self.lock();
        let begun = self.open().and_then(|secret| {
            self.make_first_authority(secret, now)?;
            self.renew_credentials(secret, now)
        });
        let mut fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *fault, begun.err());
        if let Some(error) = fault.as_ref().filter(|error| before.as_ref() != Some(error)) {
            tracing::warn!("the node has no identity: {error}");
        }
    }

    fn open(&self) -> Result<&Secret, IdentitiesError> {
        if let Some(secret) = self.secret.get() {
            return Ok(secret);
        }
        let key = self.key.as_ref().map_err(Clone::clone)?;
        let secret = vault::cluster_secret(&self.desk, key, self.node)?;
        Ok(self.secret.get_or_init(|| secret))
    }

    /// Does what is due: begins if it could not before, renews the node's certificate weeks before its end, and warns once a day of what
    /// ends. Quick if nothing is.
    pub fn tend(&self, now: UnixSeconds) {
        match self.credentials() {
            None => self.begin(now),
            Some(shown) if self.is_renewal_due(&shown, now) => {
                let _alone = self.lock();
                let renewed = self.secret().and_then(|secret| self.renew_credentials(secret, now));
                if let Err(error) = renewed {
                    tracing::error!("the node's certificate is not renewed: {error}");
                }
            }
            Some(_) => {}
        }
        self.warn(now);
    }

    /// Whether little is left of the node's certificate, and its authority has more to give.
    fn is_renewal_due(&self, shown: &NodeCredentials, now: UnixSeconds) -> bool {
        let left = |end: UnixSeconds| end.0.saturating_sub(now.0) / DAY_SECONDS;
        let end = shown.certificate.validity().not_after;
        let authority = shown.authorities.last().map_or(end, |it| it.validity().not_after);
        left(end) < u64::from(NODE_RENEW_DAYS) && authority > end
    }

    fn warn(&self, now: UnixSeconds) {
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        if now.0 < warned.0.saturating_add(DAY_SECONDS) && now >= *warned {
            return;
        }
        *warned = now;
        for warning in self.warnings(now) {
            let ExpiryShown { kind, name, expires } = warning;
            tracing::warn!(kind, name, expires = %UnixSeconds(expires), "a certificate ends soon, or has ended");
        }
    }

    /// What the node shows and whom it believes; exchanged whole when it changes, so that another one is another [`Arc`]. None: it has no
    /// identity.
    #[must_use]
    pub fn credentials(&self) -> Option<Arc<NodeCredentials>> {
        self.shown.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn show(&self, credentials: Arc<NodeCredentials>) {
        *self.shown.write().unwrap_or_else(PoisonError::into_inner) = Some(credentials);
    }

    /// Why the node has no identity. None: it has one.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        let fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        fault.as_ref().map(ToString::to_string)
    }

    /// Who comes under a certificate from an address, and what it may do, as of the last change that was answered.
    ///
    /// # Errors
    /// [`NotAdmitted`].
    pub fn admit(
        &self,
        certificate: Fingerprint,
        address: IpAddr,
        now: UnixSeconds,
    ) -> Result<AdmittedIdentity, NotAdmitted> {
        self.desk.table().admit(&certificate.0, mapped(address), now.0)
    }

    /// The cluster's secret.
    fn secret(&self) -> Result<&Secret, IdentitiesError> {
        let fault = || self.fault.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.secret.get().ok_or_else(|| fault().unwrap_or(IdentitiesError::NoAuthority))
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod test;
