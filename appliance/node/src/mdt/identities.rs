//! Identities and authorities as the rest of the node sees them, and the operator's changes of them.
//!
//! The replicated state is this thread's alone. What others look up, at each handshake, is a copy: an [`IdentityTable`] that is made
//! anew when an entry changed identities or authorities, and exchanged whole before the change is answered. So who was revoked is let in
//! by nobody once the operator was told so. Deliberately absent: keys, certificates, the time (`server::identities` has them).

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock, mpsc::SyncSender},
};

use sheen_meta::{
    IdentityInfo, Operation, Reply, SessionPrincipal, State,
    identity::{IdentityRights, PutCertificateAuthority, SecretWrap},
};
use sheen_types::Errno;

use super::{
    core::{Mdt, Phase},
    mutation::Task,
};

/// Where an order's end is told; has room for one.
pub(crate) type OrderEnd = SyncSender<Result<Reply, Errno>>;

/// Why nobody is let in under a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAdmitted {
    /// No identity has this certificate: it was never known here, or was revoked.
    Unknown,
    /// The identity may use it no longer.
    Expired {
        /// Last second it was taken, since the start of 1970.
        since: u64,
    },
    /// The identity may not come from this address.
    Network,
}

/// An identity that comes under a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdmittedIdentity {
    /// Who its sessions belong to.
    pub principal: SessionPrincipal,
    /// Its name.
    pub name: Vec<u8>,
    /// What it may do.
    pub rights: IdentityRights,
    /// Last second this certificate is taken, since the start of 1970.
    pub not_after: u64,
}

/// Every identity and authority, as of one moment.
#[derive(Clone, Debug, Default)]
pub struct IdentityTable {
    identities: Vec<IdentityInfo>,
    /// Identity and end of each certificate that is taken.
    certificates: BTreeMap<[u8; 32], (usize, u64)>,
    authorities: Vec<PutCertificateAuthority>,
    cluster_secret: Option<(u32, Vec<SecretWrap>)>,
    filesystems: Vec<(u32, Vec<u8>)>,
}

impl IdentityTable {
    pub(crate) fn of(state: &State) -> Self {
        let identities: Vec<IdentityInfo> = state.identities().collect();
        let mut certificates = BTreeMap::new();
        for (index, identity) in identities.iter().enumerate() {
            let named = identity.certificates.iter();
            certificates.extend(named.map(|it| (it.fingerprint, (index, it.not_after))));
        }
        let generation = state.cluster_secret_generation();
        Self {
            identities,
            certificates,
            authorities: state.authorities().cloned().collect(),
            cluster_secret: generation.map(|it| (it, state.cluster_secret_wraps().to_vec())),
            filesystems: state
                .filesystem_names()
                .map(|(number, name)| (number, name.to_vec()))
                .collect(),
        }
    }

    /// Every identity in order of number, revoked ones included. Their counts of sessions are of the moment the table was made.
    #[must_use]
    pub fn identities(&self) -> &[IdentityInfo] {
        &self.identities
    }

    /// The identity of this name, revoked or not.
    #[must_use]
    pub fn named(&self, name: &[u8]) -> Option<&IdentityInfo> {
        self.identities.iter().find(|identity| identity.name == name)
    }

    /// Authorities in order of generation.
    #[must_use]
    pub fn authorities(&self) -> &[PutCertificateAuthority] {
        &self.authorities
    }

    /// The cluster's secret: its generation, and how it is wrapped for each node.
    #[must_use]
    pub fn cluster_secret(&self) -> Option<(u32, &[SecretWrap])> {
        self.cluster_secret.as_ref().map(|(generation, wraps)| (*generation, wraps.as_slice()))
    }

    /// Number and name of each file system, of the moment the table was made.
    #[must_use]
    pub fn filesystems(&self) -> &[(u32, Vec<u8>)] {
        &self.filesystems
    }

    /// Who comes under the certificate of this fingerprint from this address (of IPv6; one of IPv4 is mapped), at this second.
    ///
    /// # Errors
    /// [`NotAdmitted`].
    pub fn admit(
        &self,
        fingerprint: &[u8; 32],
        address: [u8; 16],
        now: u64,
    ) -> Result<AdmittedIdentity, NotAdmitted> {
        let &(index, not_after) = self.certificates.get(fingerprint).ok_or(NotAdmitted::Unknown)?;
        let identity = &self.identities[index];
        if now > not_after {
            return Err(NotAdmitted::Expired { since: not_after });
        }
        if !identity.rights.may_come_from(address) {
            return Err(NotAdmitted::Network);
        }
        let number = identity.number;
        let principal = match identity.rights.is_exempt(address) {
            true => SessionPrincipal::ExemptIdentity { number },
            false => SessionPrincipal::Identity { number },
        };
        let (name, rights) = (identity.name.clone(), identity.rights.clone());
        Ok(AdmittedIdentity { principal, name, rights, not_after })
    }
}

/// Where the newest table is found; the lock is held to exchange or copy a pointer.
#[derive(Debug, Default)]
pub struct PublishedIdentities(RwLock<Arc<IdentityTable>>);

impl PublishedIdentities {
    /// The newest table.
    #[must_use]
    pub fn newest(&self) -> Arc<IdentityTable> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn publish(&self, table: IdentityTable) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(table);
    }
}

/// Whether an operation changes what an [`IdentityTable`] shows of identities, authorities and secrets.
pub(crate) const fn is_published(operation: &Operation) -> bool {
    matches!(
        operation,
        Operation::IdentityPut(_)
            | Operation::IdentityRevoke(_)
            | Operation::IdentityForget(_)
            | Operation::CertificateAuthority(_)
            | Operation::ClusterSecret(_)
    )
}

impl Mdt {
    /// Where others see identities and authorities.
    pub(crate) const fn identities(&self) -> &Arc<PublishedIdentities> {
        &self.published
    }

    /// Whether what is committed before this start is applied.
    pub(crate) const fn is_started(&self) -> bool {
        matches!(self.phase, Phase::Grace { .. } | Phase::Serving)
    }

    pub(crate) fn publish_identities(&self) {
        self.published.publish(IdentityTable::of(&self.state));
    }

    /// Carries out a change of identities that the node's operator ordered, or without one publishes the table as it is now. The end is told
    /// once the change is applied and published: EAGAIN before the MDT leads, EIO if it cannot serve, ENOSPC if there is no room, else as
    /// the change says.
    pub(crate) fn order_identities(&mut self, change: Option<Operation>, end: OrderEnd) {
        let refused = match self.phase {
            Phase::Recovering | Phase::Starting => Some(Errno::EAGAIN),
            Phase::Failed => Some(Errno::EIO),
            Phase::Grace { .. } | Phase::Serving => None,
        };
        let result = match (refused, change) {
            (Some(errno), _) => Err(errno),
            (None, None) => {
                self.publish_identities();
                Ok(Reply::Done)
            }
            (None, Some(operation)) => {
                self.submit_own(operation, Task::Order(end));
                return self.settle();
            }
        };
        tell_end(&end, result);
    }
}

/// Nobody listens who gave up waiting; never blocks.
pub(crate) fn tell_end(end: &OrderEnd, result: Result<Reply, Errno>) {
    let _ = end.try_send(result);
}
