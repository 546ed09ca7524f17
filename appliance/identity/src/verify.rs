//! Whether a certificate counts: signed by an authority that is known, in time, for the role it is shown in.

use rustls_pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use thiserror::Error;
use webpki::{
    EndEntityCert, Error, KeyUsage, anchor_from_trusted_cert, aws_lc_rs::ECDSA_P256_SHA256,
};

use crate::{Certificate, UnixSeconds};

/// The name every node's certificate is for. Which node it is, its state says.
pub const NODE_NAME: &str = "node.sheen.internal";
/// The name every client's certificate is for.
const CLIENT_NAME: &str = "client.sheen.internal";
/// Usages of certificates [RFC 5280 §4.2.1.12], as contents of an OID: 1.3.6.1.5.5.7.3.1 and .2.
const SERVER_USAGE: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 1];
const CLIENT_USAGE: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 2];

/// What a certificate is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// A node: the server of TLS.
    Node,
    /// A client.
    Client,
}

impl Role {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Node => NODE_NAME,
            Self::Client => CLIENT_NAME,
        }
    }

    /// The usage that must be there: without any a certificate is for neither role.
    const fn usage(self) -> KeyUsage {
        KeyUsage::required(match self {
            Self::Node => SERVER_USAGE,
            Self::Client => CLIENT_USAGE,
        })
    }
}

/// Why a certificate does not count, split by what people must do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum VerifyFault {
    /// None of the authorities signed it, or it was changed: it is of another cluster.
    #[error("no authority that is known here signed it")]
    UnknownAuthority,
    /// It is over, or an authority on the way to it: make a new one.
    #[error("it expired on {since}")]
    Expired {
        /// Last second it counted.
        since: UnixSeconds,
    },
    /// It has not begun: set the clock.
    #[error("it is valid from {from} on: is the clock of this machine right?")]
    NotYet {
        /// First second.
        from: UnixSeconds,
    },
    /// It is for the other role.
    #[error("it is for another role: a node's is no client's")]
    OtherRole,
    /// What else is wrong with it: it was not made by an authority of ours.
    #[error("it is no certificate of this kind")]
    Malformed,
}

/// Checks a certificate in a role at `now`, against authorities that are believed and others that one of them may have signed.
///
/// # Errors
/// [`VerifyFault`].
pub fn verify(
    certificate: &Certificate,
    role: Role,
    authorities: &[Certificate],
    between: &[Certificate],
    now: UnixSeconds,
) -> Result<(), VerifyFault> {
    let der = |it: &Certificate| CertificateDer::from(it.der().to_vec());
    let (end, believed) = (der(certificate), authorities.iter().map(der).collect::<Vec<_>>());
    let between: Vec<_> = between.iter().map(der).collect();
    let anchors = believed
        .iter()
        .map(|authority| anchor_from_trusted_cert(authority).map_err(|_| VerifyFault::Malformed))
        .collect::<Result<Vec<TrustAnchor<'_>>, _>>()?;
    let end_entity = EndEntityCert::try_from(&end).map_err(|_| VerifyFault::Malformed)?;
    let time = UnixTime::since_unix_epoch(std::time::Duration::from_secs(now.0));
    let name = ServerName::try_from(role.name()).map_err(|_| VerifyFault::Malformed)?;
    let path = end_entity
        .verify_for_usage(&[ECDSA_P256_SHA256], &anchors, &between, time, role.usage(), None, None)
        .map_err(|error| fault(&error))?;
    end_entity.verify_is_valid_for_subject_name(&name).map_err(|error| fault(&error))?;
    // An authority is believed until its own end, of which an anchor knows nothing.
    let signed_by = anchors.iter().position(|anchor| anchor == path.anchor());
    let authority = signed_by.and_then(|index| authorities.get(index));
    match authority.map(|authority| authority.validity().expiry(now)) {
        Some(crate::Expiry::Expired { since }) => Err(VerifyFault::Expired { since }),
        Some(crate::Expiry::NotYet { from }) => Err(VerifyFault::NotYet { from }),
        Some(crate::Expiry::Good { .. } | crate::Expiry::Soon { .. }) => Ok(()),
        None => Err(VerifyFault::UnknownAuthority),
    }
}

fn fault(error: &Error) -> VerifyFault {
    match error {
        Error::UnknownIssuer | Error::InvalidSignatureForPublicKey => VerifyFault::UnknownAuthority,
        Error::CertExpired { not_after, .. } => {
            VerifyFault::Expired { since: UnixSeconds(not_after.as_secs()) }
        }
        Error::CertNotValidYet { not_before, .. } => {
            VerifyFault::NotYet { from: UnixSeconds(not_before.as_secs()) }
        }
        Error::RequiredEkuNotFoundContext(_) | Error::CertNotValidForName(_) => {
            VerifyFault::OtherRole
        }
        _ => VerifyFault::Malformed,
    }
}
