//! Certificate authorities: made, opened for a signature, exchanged.
//!
//! | step | who signs | who is believed |
//! |---|---|---|
//! | one alone | it | it |
//! | [`Identities::rotate_authority`] | the next | both; the node also shows what the current one signed for the next |
//! | [`Identities::retire_authority`] | the next, which is the current one now | it alone |

use std::sync::Arc;

use sheen_identity::{
    AuthorityError, Certificate, CertificateAuthority, IdentityKey, Role, UnixSeconds,
};
use sheen_keys::Secret;
use sheen_meta::{
    Operation,
    identity::{CertificateAuthorityState as State, PutCertificateAuthority},
};
use sheen_types::Errno;

use super::{Identities, IdentitiesError};
use crate::mdt::IdentityTable;

/// What a node shows to clients, and whom it believes.
#[derive(Debug)]
pub struct NodeCredentials {
    /// Its certificate.
    pub certificate: Certificate,
    /// Certificates between its own and authorities that clients may know.
    pub between: Vec<Certificate>,
    /// The key of its certificate.
    pub key: IdentityKey,
    /// The authorities whose clients are believed.
    pub authorities: Vec<Certificate>,
    /// Generation of the authority that signed its certificate.
    pub generation: u32,
}

/// The authority that signs: the next, where there is one.
pub(super) fn signer(table: &IdentityTable) -> Result<&PutCertificateAuthority, IdentitiesError> {
    let of = |state| table.authorities().iter().find(|it| it.state == state);
    of(State::Next).or_else(|| of(State::Current)).ok_or(IdentitiesError::NoAuthority)
}

/// Certificates of the authorities that are believed, in order of generation.
pub(super) fn believed(table: &IdentityTable) -> Result<Vec<Certificate>, IdentitiesError> {
    let living = table.authorities().iter().filter(|it| it.state != State::Retired);
    Ok(living.map(|it| Certificate::from_der(&it.certificate)).collect::<Result<_, _>>()?)
}

/// Opens an authority, to sign with it.
pub(super) fn open(
    kept: &PutCertificateAuthority,
    secret: &Secret,
) -> Result<CertificateAuthority, IdentitiesError> {
    let certificate = Certificate::from_der(&kept.certificate)?;
    Ok(CertificateAuthority::open(certificate, secret, kept.generation, &kept.sealed_key)?)
}

/// Makes a certificate for a new key of the node, signed by who signs now.
pub(super) fn node_credentials(
    table: &IdentityTable,
    secret: &Secret,
    now: UnixSeconds,
) -> Result<NodeCredentials, IdentitiesError> {
    let kept = signer(table)?;
    let key = IdentityKey::generate()?;
    let authority = open(kept, secret)?;
    let certificate =
        authority.issue(Role::Node, key.public_key(), now, sheen_identity::expiry::NODE_DAYS)?;
    let crossed = Some(&kept.crossed).filter(|crossed| !crossed.is_empty());
    let between = crossed.map(|it| Certificate::from_der(it)).transpose()?;
    Ok(NodeCredentials {
        certificate,
        between: between.into_iter().collect(),
        key,
        authorities: believed(table)?,
        generation: kept.generation,
    })
}

impl Identities {
    /// Makes the first authority, if there is none.
    pub(super) fn make_first_authority(
        &self,
        secret: &Secret,
        now: UnixSeconds,
    ) -> Result<(), IdentitiesError> {
        if !self.desk.table().authorities().is_empty() {
            return Ok(());
        }
        let authority = CertificateAuthority::create(now)?;
        tracing::info!(authority = %authority.certificate().fingerprint(), "the node made its certificate authority");
        self.put_authority(PutCertificateAuthority {
            generation: 1,
            certificate: authority.certificate().der().to_vec(),
            crossed: Vec::new(),
            sealed_key: authority.seal(secret, 1)?,
            state: State::Current,
        })
    }

    /// Makes the next authority: it signs from now on, both are believed. Everything goes on to be served.
    ///
    /// # Errors
    /// [`IdentitiesError::Rotation`] if there is a next one already; others of [`IdentitiesError`].
    pub fn rotate_authority(&self, now: UnixSeconds) -> Result<(), IdentitiesError> {
        let _alone = self.lock();
        let secret = self.secret()?;
        let table = self.desk.table();
        if table.authorities().iter().any(|it| it.state == State::Next) {
            let text = "the next authority signs already: renew the clients, then end the old one (sheen ca retire)";
            return Err(IdentitiesError::Rotation(text));
        }
        let current = signer(&table)?;
        let generation = current.generation.saturating_add(1);
        let next = CertificateAuthority::create(now)?;
        let crossed = match open(current, secret)?.cross_sign(next.certificate(), now) {
            // One that is over vouches for nobody any more, and its clients need new files in any case.
            Err(AuthorityError::Expired(_)) => next.certificate().clone(),
            crossed => crossed?,
        };
        self.put_authority(PutCertificateAuthority {
            generation,
            certificate: next.certificate().der().to_vec(),
            crossed: crossed.der().to_vec(),
            sealed_key: next.seal(secret, generation)?,
            state: State::Next,
        })?;
        tracing::info!(generation, "the next certificate authority signs");
        self.renew_credentials(secret, now)
    }

    /// Ends the old authority: the next one is the current one, and what the old one signed for clients is believed no more.
    ///
    /// # Errors
    /// [`IdentitiesError::Rotation`] if there is no next one; others of [`IdentitiesError`].
    pub fn retire_authority(&self, now: UnixSeconds) -> Result<(), IdentitiesError> {
        let _alone = self.lock();
        let secret = self.secret()?;
        let table = self.desk.table();
        let next = table.authorities().iter().find(|it| it.state == State::Next);
        let next = next.ok_or(IdentitiesError::Rotation(
            "there is one authority alone: make the next first (sheen ca rotate)",
        ))?;
        self.put_authority(PutCertificateAuthority { state: State::Current, ..next.clone() })?;
        tracing::info!(
            generation = next.generation,
            "the old certificate authority is believed no more"
        );
        self.renew_credentials(secret, now)
    }

    fn put_authority(&self, body: PutCertificateAuthority) -> Result<(), IdentitiesError> {
        let result = self.desk.change(Operation::CertificateAuthority(body))?;
        result.map(drop).map_err(|errno| match errno {
            Errno::ENOSPC => IdentitiesError::Full,
            errno => IdentitiesError::Refused(errno),
        })
    }

    /// Shows a certificate of who signs now, and believes who is believed now.
    pub(super) fn renew_credentials(
        &self,
        secret: &Secret,
        now: UnixSeconds,
    ) -> Result<(), IdentitiesError> {
        let made = node_credentials(&self.desk.table(), secret, now)?;
        tracing::info!(until = %made.certificate.validity().not_after, "the node has a new certificate");
        self.show(Arc::new(made));
        Ok(())
    }
}
