//! Clients: certified, made, changed, revoked.
//!
//! A client's private key is made where its file is written, and is never here. First its key is certified, which changes nothing: a
//! certificate that no identity lists is nobody's. When its file is whole, the identity is made with the certificate's fingerprint. So at
//! no instant an identity is without its file.

use serde::{Deserialize, Serialize};
use sheen_identity::{Certificate, Fingerprint, PublicKey, Role, UnixSeconds, expiry::DAY_SECONDS};
use sheen_meta::{
    IdentityInfo, Operation, Reply,
    identity::{
        CertificateName, ForgetIdentity, IDENTITY_CERTIFICATES_MAX, PutIdentity, RevokeIdentity,
    },
    is_filesystem_name,
};
use sheen_types::Errno;
use sheen_wire::fields::List;

use super::{
    Identities, IdentitiesError,
    authorities::{believed, open, signer},
    rights::{RightsRequest, default_rights},
};

/// A certificate for a client, and what else goes into its file.
#[derive(Clone, Debug)]
pub struct IssuedCertificate {
    /// The certificate.
    pub certificate: Certificate,
    /// Last second the node will take it.
    pub not_after: UnixSeconds,
    /// Whom the client believes.
    pub authorities: Vec<Certificate>,
    /// The node's uuid.
    pub node: [u8; 16],
}

/// A certificate of a client, by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedCertificate {
    /// SHA-256 of its DER, in hexadecimal digits.
    pub fingerprint: String,
    /// Last second it is taken, since the start of 1970.
    pub not_after: u64,
}

impl NamedCertificate {
    fn name(&self) -> Result<CertificateName, IdentitiesError> {
        let fingerprint: Result<Fingerprint, _> = self.fingerprint.parse();
        let Fingerprint(fingerprint) = fingerprint
            .map_err(|_| IdentitiesError::Rights("a fingerprint has 64 hexadecimal digits"))?;
        Ok(CertificateName { fingerprint, not_after: self.not_after })
    }
}

/// What becomes of a client's certificates when it gets another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Others {
    /// The newest of them is taken to its own end, so that both files work meanwhile.
    Stay,
    /// They are taken no longer, and sessions end.
    End,
}

impl Identities {
    /// Certifies a client's key for so many seconds. Nobody is let in by that alone.
    ///
    /// # Errors
    /// [`IdentitiesError`].
    pub fn issue(
        &self,
        public_key: &[u8],
        seconds: u64,
        now: UnixSeconds,
    ) -> Result<IssuedCertificate, IdentitiesError> {
        let public_key = PublicKey::from_bytes(public_key)?;
        let secret = self.secret()?;
        let table = self.desk.table();
        let days = u32::try_from(seconds.div_ceil(DAY_SECONDS)).unwrap_or(u32::MAX);
        let authority = open(signer(&table)?, secret)?;
        let certificate = authority.issue(Role::Client, &public_key, now, days)?;
        let asked = UnixSeconds(now.0.saturating_add(seconds));
        Ok(IssuedCertificate {
            not_after: certificate.validity().not_after.min(asked),
            certificate,
            authorities: believed(&table)?,
            node: self.node,
        })
    }

    /// Makes a client with a certificate that was issued.
    ///
    /// # Errors
    /// [`IdentitiesError::Exists`], [`IdentitiesError::Name`], [`IdentitiesError::Full`]; others of [`IdentitiesError`].
    pub fn new_client(
        &self,
        name: &str,
        rights: &RightsRequest,
        certificate: &NamedCertificate,
    ) -> Result<(), IdentitiesError> {
        if !is_filesystem_name(name.as_bytes()) {
            return Err(IdentitiesError::Name(name.to_owned()));
        }
        let _alone = self.lock();
        let table = self.desk.fresh_table()?;
        let rights = rights.apply(default_rights(), &table)?;
        let certificates = List(vec![certificate.name()?]);
        let body = PutIdentity { number: 0, name: name.as_bytes().to_vec(), rights, certificates };
        self.change_client(name, Operation::IdentityPut(body))?;
        tracing::info!(client = name, certificate = certificate.fingerprint, "a client was made");
        Ok(())
    }

    /// Changes what a client may do. If that takes something away, its sessions end.
    ///
    /// # Errors
    /// [`IdentitiesError::Unknown`], [`IdentitiesError::Revoked`]; others of [`IdentitiesError`].
    pub fn set_client(&self, name: &str, rights: &RightsRequest) -> Result<(), IdentitiesError> {
        let _alone = self.lock();
        let table = self.desk.fresh_table()?;
        let before = living(table.named(name.as_bytes()), name)?;
        let body = PutIdentity {
            number: before.number,
            name: before.name.clone(),
            rights: rights.apply(before.rights.clone(), &table)?,
            certificates: List(before.certificates.clone()),
        };
        self.change_client(name, Operation::IdentityPut(body))?;
        tracing::info!(client = name, "what a client may do was changed");
        Ok(())
    }

    /// Gives a client another certificate, that was issued. With [`Others::End`] those before end, and its sessions with them.
    ///
    /// # Errors
    /// [`IdentitiesError::Unknown`], [`IdentitiesError::Revoked`], [`IdentitiesError::TooManyFiles`]; others of [`IdentitiesError`].
    pub fn renew_client(
        &self,
        name: &str,
        certificate: &NamedCertificate,
        others: Others,
        now: UnixSeconds,
    ) -> Result<(), IdentitiesError> {
        let _alone = self.lock();
        let table = self.desk.fresh_table()?;
        let before = living(table.named(name.as_bytes()), name)?;
        let mut certificates = before.certificates.clone();
        certificates.retain(|it| others == Others::Stay && it.not_after >= now.0);
        // Which of them its sessions came with is not known: to end one is to end them all.
        if certificates.len() >= IDENTITY_CERTIFICATES_MAX {
            let until = certificates.iter().map(|it| UnixSeconds(it.not_after)).min();
            let until = until.unwrap_or(now);
            return Err(IdentitiesError::TooManyFiles { name: name.to_owned(), until });
        }
        certificates.push(certificate.name()?);
        let body = PutIdentity {
            number: before.number,
            name: before.name.clone(),
            rights: before.rights.clone(),
            certificates: List(certificates),
        };
        self.change_client(name, Operation::IdentityPut(body))?;
        tracing::info!(
            client = name,
            certificate = certificate.fingerprint,
            "a client has a new certificate"
        );
        Ok(())
    }

    /// Takes everything from a client, at once: it may do nothing any more when this returns, and its sessions have ended.
    ///
    /// # Errors
    /// [`IdentitiesError::Unknown`]; others of [`IdentitiesError`].
    pub fn revoke_client(&self, name: &str) -> Result<(), IdentitiesError> {
        let _alone = self.lock();
        let body = RevokeIdentity { name: name.as_bytes().to_vec() };
        self.change_client(name, Operation::IdentityRevoke(body))?;
        tracing::info!(client = name, "a client was revoked");
        Ok(())
    }

    /// As [`Identities::revoke_client`], and it is shown no more.
    ///
    /// # Errors
    /// As [`Identities::revoke_client`].
    pub fn forget_client(&self, name: &str) -> Result<(), IdentitiesError> {
        let _alone = self.lock();
        let body = ForgetIdentity { name: name.as_bytes().to_vec() };
        self.change_client(name, Operation::IdentityForget(body))?;
        tracing::info!(client = name, "a client was forgotten");
        Ok(())
    }

    fn change_client(&self, name: &str, operation: Operation) -> Result<Reply, IdentitiesError> {
        let filesystem_gone = IdentitiesError::Rights(
            "a file system that was named is being deleted: name those that stay",
        );
        let is_put = matches!(operation, Operation::IdentityPut(_));
        self.desk.change(operation)?.map_err(|errno| match errno {
            Errno::ENOENT if is_put => filesystem_gone,
            Errno::ENOENT => IdentitiesError::Unknown(name.to_owned()),
            Errno::EEXIST => IdentitiesError::Exists(name.to_owned()),
            Errno::ENOSPC => IdentitiesError::Full,
            errno => IdentitiesError::Refused(errno),
        })
    }
}

fn living<'a>(
    found: Option<&'a IdentityInfo>,
    name: &str,
) -> Result<&'a IdentityInfo, IdentitiesError> {
    let found = found.ok_or_else(|| IdentitiesError::Unknown(name.to_owned()))?;
    match found.revoked {
        Some(_) => Err(IdentitiesError::Revoked(name.to_owned())),
        None => Ok(found),
    }
}
