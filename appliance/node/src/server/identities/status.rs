//! Identities and authorities as they are shown.

use serde::{Deserialize, Serialize};
use sheen_identity::{
    Certificate, Fingerprint, UnixSeconds, expiry::DAY_SECONDS, expiry::WARN_DAYS,
};
use sheen_meta::{IdentityInfo, identity::CertificateAuthorityState};

use super::{Identities, IdentitiesError, clients::NamedCertificate, rights::RightsShown};
use crate::mdt::IdentityTable;

/// A client as shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientShown {
    /// Its name.
    pub name: String,
    /// Its number, never given twice.
    pub number: u32,
    /// When it was made, in seconds since 1970.
    pub created: u64,
    /// When it was revoked. None: it was not.
    pub revoked: Option<u64>,
    /// What it may do, or might before it was revoked.
    pub rights: RightsShown,
    /// Its certificates, the newest last.
    pub certificates: Vec<NamedCertificate>,
    /// Last second it can connect. None: it was revoked.
    pub expires: Option<u64>,
    /// Sessions it has.
    pub sessions: u32,
}

/// An authority as shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorityShown {
    /// Which: 1 is the first.
    pub generation: u32,
    /// current, next or retired.
    pub state: String,
    /// SHA-256 of its certificate.
    pub fingerprint: String,
    /// When it was made, in seconds since 1970.
    pub created: u64,
    /// Last second it is believed.
    pub expires: u64,
}

/// Authorities and the node's own certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthoritiesShown {
    /// In order of generation.
    pub authorities: Vec<AuthorityShown>,
    /// SHA-256 of the node's certificate.
    pub node_fingerprint: String,
    /// Its last second, since 1970; the node makes the next one by itself.
    pub node_expires: u64,
    /// Clients made before the authority that signs, which may need new files before the old one ends.
    pub older_clients: Vec<String>,
}

/// What ends, and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpiryShown {
    /// What: `authority`, `node` or `client`.
    pub kind: String,
    /// A client's name; an authority's generation; the node's name.
    pub name: String,
    /// Its last second, since 1970.
    pub expires: u64,
}

/// How the node's identity stands, for its status. Anybody may read that, so that it names no client.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityStatus {
    /// Why it has none. None: it has one, or did not begin to look.
    pub fault: Option<String>,
    /// End of the authorities that are believed and of the node's certificate.
    pub ends: Vec<ExpiryShown>,
    /// Clients that were not revoked.
    pub clients: u64,
    /// Of them, those that are over or have less than [`WARN_DAYS`] days left.
    pub clients_ending: u64,
    /// The earliest end of those that are not over, in seconds since 1970.
    pub next_end: Option<u64>,
}

/// When a client can connect for the last time. None: it was revoked.
fn end_of(identity: &IdentityInfo) -> Option<u64> {
    identity.certificates.iter().map(|it| it.not_after).max()
}

fn seconds(time: sheen_types::Timespec) -> u64 {
    u64::try_from(time.seconds).unwrap_or(0)
}

fn text(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}

fn client(identity: &IdentityInfo, table: &IdentityTable) -> ClientShown {
    let named = identity.certificates.iter().map(|it| NamedCertificate {
        fingerprint: Fingerprint(it.fingerprint).to_string(),
        not_after: it.not_after,
    });
    ClientShown {
        name: text(&identity.name),
        number: identity.number,
        created: seconds(identity.created),
        revoked: identity.revoked.map(seconds),
        rights: RightsShown::of(&identity.rights, table),
        certificates: named.collect(),
        expires: end_of(identity),
        sessions: identity.sessions,
    }
}

const fn state_name(state: CertificateAuthorityState) -> &'static str {
    match state {
        CertificateAuthorityState::Current => "current",
        CertificateAuthorityState::Next => "next",
        CertificateAuthorityState::Retired => "retired",
    }
}

fn authorities(table: &IdentityTable) -> Vec<AuthorityShown> {
    let read = |kept: &sheen_meta::identity::PutCertificateAuthority| {
        let certificate = Certificate::from_der(&kept.certificate).ok()?;
        let validity = certificate.validity();
        Some(AuthorityShown {
            generation: kept.generation,
            state: state_name(kept.state).to_owned(),
            fingerprint: certificate.fingerprint().to_string(),
            created: validity.not_before.0 + sheen_identity::expiry::BACKDATE_SECONDS,
            expires: validity.not_after.0,
        })
    };
    table.authorities().iter().filter_map(read).collect()
}

impl Identities {
    /// Every client in order of name, or the one that is named.
    ///
    /// # Errors
    /// [`IdentitiesError::Unknown`]; others of [`IdentitiesError`].
    pub fn clients(&self, name: Option<&str>) -> Result<Vec<ClientShown>, IdentitiesError> {
        let table = self.desk.fresh_table()?;
        let is_asked =
            |it: &&IdentityInfo| name.is_none_or(|name| it.name.as_slice() == name.as_bytes());
        let asked = table.identities().iter().filter(is_asked);
        let mut shown: Vec<ClientShown> = asked.map(|it| client(it, &table)).collect();
        shown.sort_unstable_by(|left, right| left.name.cmp(&right.name));
        match name {
            Some(name) if shown.is_empty() => Err(IdentitiesError::Unknown(name.to_owned())),
            Some(_) | None => Ok(shown),
        }
    }

    /// Authorities and the node's certificate.
    ///
    /// # Errors
    /// [`IdentitiesError::NoAuthority`].
    pub fn authorities_shown(&self) -> Result<AuthoritiesShown, IdentitiesError> {
        let table = self.desk.table();
        let credentials = self.credentials().ok_or(IdentitiesError::NoAuthority)?;
        let authorities = authorities(&table);
        let signs = authorities.iter().rfind(|it| it.state != "retired").map_or(0, |it| it.created);
        // Of the same second: it is not known which was first, and one too many is harmless.
        let is_older = |it: &&IdentityInfo| {
            authorities.len() > 1 && it.revoked.is_none() && seconds(it.created) <= signs
        };
        let older = table.identities().iter().filter(is_older);
        Ok(AuthoritiesShown {
            node_fingerprint: credentials.certificate.fingerprint().to_string(),
            node_expires: credentials.certificate.validity().not_after.0,
            older_clients: older.map(|it| text(&it.name)).collect(),
            authorities,
        })
    }

    /// How the node's identity stands at `now`.
    #[must_use]
    pub fn status(&self, now: UnixSeconds) -> IdentityStatus {
        let table = self.desk.table();
        let ends: Vec<u64> = table.identities().iter().filter_map(end_of).collect();
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        IdentityStatus {
            fault: self.fault(),
            ends: self.own_ends(&table),
            clients: count(ends.len()),
            clients_ending: count(ends.iter().filter(|&&end| is_near(end, now)).count()),
            next_end: ends.into_iter().filter(|&end| end >= now.0).min(),
        }
    }

    /// The end of each authority that is believed, and of the node's certificate.
    fn own_ends(&self, table: &IdentityTable) -> Vec<ExpiryShown> {
        let retired = state_name(CertificateAuthorityState::Retired);
        let kept = authorities(table).into_iter().filter(|it| it.state != retired);
        let of_authority = |it: AuthorityShown| ExpiryShown {
            kind: "authority".to_owned(),
            name: it.generation.to_string(),
            expires: it.expires,
        };
        let mut ends: Vec<ExpiryShown> = kept.map(of_authority).collect();
        ends.extend(self.credentials().map(|it| ExpiryShown {
            kind: "node".to_owned(),
            name: self.name.clone(),
            expires: it.certificate.validity().not_after.0,
        }));
        ends
    }

    /// What is over or ends within [`WARN_DAYS`] days of `now`, the earliest first.
    #[must_use]
    pub fn warnings(&self, now: UnixSeconds) -> Vec<ExpiryShown> {
        let table = self.desk.table();
        let of_client = |it: &IdentityInfo| {
            let (kind, name) = ("client".to_owned(), text(&it.name));
            Some(ExpiryShown { kind, name, expires: end_of(it)? })
        };
        let mut warnings = self.own_ends(&table);
        warnings.extend(table.identities().iter().filter_map(of_client));
        warnings.retain(|it| is_near(it.expires, now));
        warnings.sort_by_key(|it| it.expires);
        warnings
    }
}

/// Whether somebody must be told of an end.
const fn is_near(end: u64, now: UnixSeconds) -> bool {
    end < now.0.saturating_add(WARN_DAYS * DAY_SECONDS)
}
