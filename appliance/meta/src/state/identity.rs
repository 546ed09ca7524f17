//! The table of identities and the secrets of the cluster.

use std::collections::BTreeMap;

use sheen_types::{Errno, Timespec};

use super::State;
use crate::{
    identity::{
        AUTHORITIES_MAX, CertificateAuthorityState, CertificateName, IDENTITIES_MAX, IdentityInfo,
        IdentityRights, PutCertificateAuthority, PutClusterSecret, PutSessionSecret, REVOKED_MAX,
        SESSION_SECRETS_MAX, SecretWrap, check_certificates,
    },
    state::filesystem::is_name,
};

/// An identity.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) name: Box<[u8]>,
    pub(crate) created: Timespec,
    /// [`Timespec::ZERO`]: it was not.
    pub(crate) revoked: Timespec,
    pub(crate) rights: IdentityRights,
    /// Empty if and only if it was revoked.
    pub(crate) certificates: Vec<CertificateName>,
}

impl Identity {
    pub(crate) fn is_revoked(&self) -> bool {
        self.revoked != Timespec::ZERO
    }
}

/// Every identity.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Identities {
    /// The highest number that was given.
    pub(crate) last: u32,
    pub(crate) by_number: BTreeMap<u32, Identity>,
    /// Follows from `by_number`.
    pub(crate) names: BTreeMap<Box<[u8]>, u32>,
    /// Follows from `by_number`.
    pub(crate) certificates: BTreeMap<[u8; 32], u32>,
}

impl Identities {
    pub(crate) const fn new() -> Self {
        Self {
            last: 0,
            by_number: BTreeMap::new(),
            names: BTreeMap::new(),
            certificates: BTreeMap::new(),
        }
    }

    /// Adds an identity, and its name and certificates to what is looked up. False: one of them is there already.
    pub(crate) fn insert(&mut self, number: u32, identity: Identity) -> bool {
        let mut fresh = self.names.insert(identity.name.clone(), number).is_none();
        for certificate in &identity.certificates {
            fresh &= self.certificates.insert(certificate.fingerprint, number).is_none();
        }
        fresh && self.by_number.insert(number, identity).is_none()
    }

    /// Takes an identity out, with all that leads to it.
    pub(crate) fn remove(&mut self, number: u32) -> Option<Identity> {
        let identity = self.by_number.remove(&number)?;
        self.names.remove(&identity.name);
        for certificate in &identity.certificates {
            self.certificates.remove(&certificate.fingerprint);
        }
        Some(identity)
    }

    /// The one with this name, revoked or not.
    pub(crate) fn named(&self, name: &[u8]) -> Option<(u32, &Identity)> {
        let number = *self.names.get(name)?;
        Some((number, self.by_number.get(&number)?))
    }

    /// One that was not revoked.
    pub(crate) fn living(&self, number: u32) -> Option<&Identity> {
        self.by_number.get(&number).filter(|identity| !identity.is_revoked())
    }

    pub(crate) fn living_count(&self) -> usize {
        self.by_number.values().filter(|identity| !identity.is_revoked()).count()
    }

    /// The number of the one that was revoked before all others, if more than the bound are kept.
    pub(crate) fn revoked_too_long_ago(&self) -> Option<u32> {
        let revoked = || self.by_number.iter().filter(|(_, identity)| identity.is_revoked());
        let oldest = || revoked().min_by_key(|&(&number, identity)| (identity.revoked, number));
        if revoked().count() > REVOKED_MAX { oldest().map(|(&number, _)| number) } else { None }
    }

    /// Checks all that must hold of it.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        let living = self.living_count();
        if living > IDENTITIES_MAX || self.by_number.len() - living > REVOKED_MAX {
            return Err("too many identities");
        }
        if self.by_number.keys().any(|&number| number == 0 || number > self.last) {
            return Err("an identity has a number that was not given");
        }
        let certificates: usize = self.by_number.values().map(|it| it.certificates.len()).sum();
        if self.names.len() != self.by_number.len() || self.certificates.len() != certificates {
            return Err("a name or certificate is of two identities");
        }
        let good = self.by_number.values().all(|identity| {
            is_name(&identity.name)
                && identity.rights.check().is_ok()
                && check_certificates(&identity.certificates).is_ok()
                && identity.certificates.is_empty() == identity.is_revoked()
        });
        if good { Ok(()) } else { Err("an identity is not well formed") }
    }
}

/// What the cluster keeps sealed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Secrets {
    /// By generation.
    pub(crate) authorities: BTreeMap<u32, PutCertificateAuthority>,
    pub(crate) cluster: Option<PutClusterSecret>,
    /// By generation.
    pub(crate) sessions: BTreeMap<u32, PutSessionSecret>,
}

impl Secrets {
    pub(crate) const fn new() -> Self {
        Self { authorities: BTreeMap::new(), cluster: None, sessions: BTreeMap::new() }
    }

    /// Whether something is sealed under the cluster's secret.
    pub(crate) fn are_sealed(&self) -> bool {
        !self.authorities.is_empty() || !self.sessions.is_empty()
    }

    /// Checks all that must hold of it.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        let states = |state| self.authorities.values().filter(|it| it.state == state).count();
        let counts = CertificateAuthorityState::ALL.iter().map(|&state| states(state));
        let current =
            states(CertificateAuthorityState::Current) == usize::from(!self.authorities.is_empty());
        if !current || counts.max() > Some(1) || self.authorities.len() > AUTHORITIES_MAX {
            return Err("authorities do not follow each other");
        }
        if self.are_sealed() && self.cluster.is_none() {
            return Err("something is sealed under no secret");
        }
        let good = self.authorities.values().all(|it| it.check().is_ok())
            && self.cluster.as_ref().is_none_or(|it| it.check().is_ok())
            && self.sessions.len() <= SESSION_SECRETS_MAX;
        if good { Ok(()) } else { Err("a sealed secret is not well formed") }
    }
}

impl State {
    /// Every identity in the order of numbers, those that were revoked included.
    pub fn identities(&self) -> impl Iterator<Item = IdentityInfo> + '_ {
        // One walk over the sessions for all, not one for each.
        let mut sessions: BTreeMap<u32, u32> = BTreeMap::new();
        for number in self.sessions.values().filter_map(|it| it.principal.identity()) {
            *sessions.entry(number).or_default() += 1;
        }
        let of = move |number| sessions.get(&number).copied().unwrap_or(0);
        let every = self.identities.by_number.iter();
        every.map(move |(&number, it)| describe(number, it, of(number)))
    }

    /// The identity with this name, even if it was revoked.
    #[must_use]
    pub fn identity_named(&self, name: &[u8]) -> Option<IdentityInfo> {
        let (number, identity) = self.identities.named(name)?;
        Some(self.describe_identity(number, identity))
    }

    /// The identity that a certificate is of. A certificate that nobody lists is nobody's.
    #[must_use]
    pub fn identity_of(&self, fingerprint: &[u8; 32]) -> Option<IdentityInfo> {
        let number = *self.identities.certificates.get(fingerprint)?;
        let identity = self.identities.living(number)?;
        Some(self.describe_identity(number, identity))
    }

    fn describe_identity(&self, number: u32, identity: &Identity) -> IdentityInfo {
        describe(number, identity, self.sessions_of_identity(number))
    }

    pub(crate) fn sessions_of_identity(&self, number: u32) -> u32 {
        let sessions = self.sessions.values();
        let count = sessions.filter(|session| session.principal.identity() == Some(number)).count();
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// Authorities in the order of generations.
    pub fn authorities(&self) -> impl Iterator<Item = &PutCertificateAuthority> {
        self.secrets.authorities.values()
    }

    /// Generation of the cluster's secret; None: there is none yet.
    #[must_use]
    pub fn cluster_secret_generation(&self) -> Option<u32> {
        self.secrets.cluster.as_ref().map(|secret| secret.generation)
    }

    /// The cluster's secret as it was wrapped for each node.
    #[must_use]
    pub fn cluster_secret_wraps(&self) -> &[SecretWrap] {
        self.secrets.cluster.as_ref().map_or(&[], |secret| &secret.wraps.0)
    }

    /// Sealed secrets of sessions in the order of generations; the last is the current one.
    pub fn session_secrets(&self) -> impl Iterator<Item = &PutSessionSecret> {
        self.secrets.sessions.values()
    }

    /// Checks identities, secrets, and that each session's identity is there.
    pub(crate) fn check_identities(&self) -> Result<(), &'static str> {
        self.identities.check()?;
        self.secrets.check()?;
        let mut numbers = self.sessions.values().filter_map(|it| it.principal.identity());
        let listed = numbers.all(|number| self.identities.living(number).is_some());
        if listed { Ok(()) } else { Err("a session is of no identity") }
    }

    /// Whether an identity may name these file systems: they are there, or it named them before.
    pub(crate) fn check_filesystems(
        &self,
        numbers: &[u32],
        before: Option<&IdentityRights>,
    ) -> Result<(), Errno> {
        let known = |number: u32| {
            let living = self.filesystems.get(&number).is_some_and(|it| it.reaping.is_none());
            living || before.is_some_and(|before| before.filesystems.0.contains(&number))
        };
        if numbers.iter().all(|&number| known(number)) { Ok(()) } else { Err(Errno::ENOENT) }
    }
}

fn describe(number: u32, identity: &Identity, sessions: u32) -> IdentityInfo {
    IdentityInfo {
        number,
        name: identity.name.to_vec(),
        created: identity.created,
        revoked: identity.is_revoked().then_some(identity.revoked),
        rights: identity.rights.clone(),
        certificates: identity.certificates.clone(),
        sessions,
    }
}
