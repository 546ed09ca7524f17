//! Identities of remote clients and the secrets of the cluster, as entries and snapshots carry them.
//!
//! What an identity may do stands here and nowhere else: its certificates are names, compared by hash. All lists are positive, so
//! nothing depends on a revocation being remembered. Secrets are sealed: this crate sees bytes that it cannot open.

use sheen_types::{Errno, Timespec};
use sheen_wire::{
    DecodeError, Decoder, Encoder, Field, fields::List, message, metadata::Connect, number_enum,
};

use crate::state::filesystem::is_name;

/// Identities that may do something, at once. At the limit a new one is refused with `ENOSPC`.
pub const IDENTITIES_MAX: usize = 4096;
/// Revoked identities that are kept to be shown; of more, the one that was revoked first is forgotten.
pub const REVOKED_MAX: usize = 1024;
/// File systems an identity names.
pub const IDENTITY_FILESYSTEMS_MAX: usize = 16;
/// Networks an identity names, of each kind.
pub const IDENTITY_NETWORKS_MAX: usize = 16;
/// Certificates of an identity: the one in use and those before that are not over.
pub const IDENTITY_CERTIFICATES_MAX: usize = 4;
/// Authorities: the current one, the one before and the one to come.
pub const AUTHORITIES_MAX: usize = 3;
/// Longest certificate of an authority in bytes.
pub const AUTHORITY_CERTIFICATE_BYTES_MAX: usize = 2048;
/// Longest sealed key of an authority in bytes.
pub const AUTHORITY_KEY_BYTES_MAX: usize = 512;
/// Nodes the cluster's secret is wrapped for.
pub const WRAPS_MAX: usize = 64;
/// Longest wrapped secret in bytes.
pub const WRAPPED_BYTES_MAX: usize = 256;
/// Bytes of a sealed secret of sessions: nonce, 32 bytes, tag.
pub const SESSION_SECRET_BYTES: usize = 60;
/// Secrets of sessions that are kept: the current one and the one before.
pub const SESSION_SECRETS_MAX: usize = 2;
/// Bits of an address.
const ADDRESS_BITS: u8 = 128;
/// The user nobody can be squashed to: it says "unchanged" in system calls.
const NO_ID: u32 = u32::MAX;

message! {
    /// A certificate, by name.
    pub struct CertificateName {
        /// SHA-256 of its DER.
        pub fingerprint: [u8; 32],
        /// Last second it is taken, since the start of 1970: the certificate's own end, or an earlier one.
        pub not_after: u64,
    }
}

/// For whom the sessions of an identity speak.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mapping {
    /// For every user: the client's word is taken.
    Trusted,
    /// For every user but root, who becomes nobody.
    Root,
    /// For one user.
    Squash {
        /// The user, never root.
        uid: u32,
        /// Its group.
        gid: u32,
    },
}

/// A kind, and user and group, which are 0 unless the kind has them.
impl Field for Mapping {
    fn encode(&self, out: &mut Encoder<'_>) {
        let (kind, uid, gid): (u8, u32, u32) = match *self {
            Self::Trusted => (0, 0, 0),
            Self::Root => (1, 0, 0),
            Self::Squash { uid, gid } => (2, uid, gid),
        };
        kind.encode(out);
        uid.encode(out);
        gid.encode(out);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let kind = u8::decode(input)?;
        match (kind, u32::decode(input)?, u32::decode(input)?) {
            (0, 0, 0) => Ok(Self::Trusted),
            (1, 0, 0) => Ok(Self::Root),
            (2, uid, gid) => Ok(Self::Squash { uid, gid }),
            _ => Err(DecodeError::Value("mapping")),
        }
    }
}

message! {
    /// A range of addresses.
    pub struct Network {
        /// Its first address of IPv6; one of IPv4 is `::ffff:a.b.c.d`. Bits behind the prefix are 0.
        pub address: [u8; 16],
        /// Bits that its addresses share, 0..=128; of IPv4 96 more than usual.
        pub prefix: u8,
    }
}

impl Network {
    /// Returns whether an address is in it.
    #[must_use]
    pub fn contains(&self, address: [u8; 16]) -> bool {
        self.mask().is_some_and(|mask| u128::from_be_bytes(address) & mask == self.bits())
    }

    fn is_canonical(&self) -> bool {
        self.mask().is_some_and(|mask| self.bits() & !mask == 0)
    }

    const fn bits(&self) -> u128 {
        u128::from_be_bytes(self.address)
    }

    /// The bits that count. None: there are no such prefixes.
    fn mask(&self) -> Option<u128> {
        let ignored = u32::from(ADDRESS_BITS.checked_sub(self.prefix)?);
        Some(u128::MAX.checked_shl(ignored).unwrap_or(0))
    }
}

message! {
    /// What an identity may do.
    pub struct IdentityRights {
        /// Every file system, those to come included; then `filesystems` is empty. Without it an empty list means none: what is
        /// deleted never widens a right.
        pub every_filesystem: bool,
        /// Root numbers, rising.
        pub filesystems: List<u32>,
        /// For whom its sessions speak.
        pub mapping: Mapping,
        /// Whether changes are refused with `EROFS`.
        pub read_only: bool,
        /// Where it may come from; empty: from anywhere.
        pub networks: List<Network>,
        /// From where it is trusted in spite of `mapping`.
        pub exempt_networks: List<Network>,
        /// Sessions it may have at once, at least 1.
        pub sessions_max: u16,
    }
}

impl IdentityRights {
    /// Checks that they are well formed: whether the file systems exist is another question.
    ///
    /// # Errors
    /// `EINVAL`; `E2BIG` if a list is too long.
    pub fn check(&self) -> Result<(), Errno> {
        let long = self.filesystems.0.len() > IDENTITY_FILESYSTEMS_MAX
            || self.networks.0.len() > IDENTITY_NETWORKS_MAX
            || self.exempt_networks.0.len() > IDENTITY_NETWORKS_MAX;
        if long {
            return Err(Errno::E2BIG);
        }
        let mapping = match self.mapping {
            Mapping::Trusted => self.exempt_networks.0.is_empty(),
            Mapping::Root => true,
            Mapping::Squash { uid, gid } => uid != 0 && uid != NO_ID && gid != NO_ID,
        };
        let filesystems = if self.every_filesystem {
            self.filesystems.0.is_empty()
        } else {
            self.filesystems.0.is_sorted_by(|left, right| left < right)
        };
        let mut networks = self.networks.0.iter().chain(&self.exempt_networks.0);
        let good =
            mapping && filesystems && networks.all(Network::is_canonical) && self.sessions_max > 0;
        if good { Ok(()) } else { Err(Errno::EINVAL) }
    }

    /// Returns whether it may use the file system with this root number.
    #[must_use]
    pub fn may_use(&self, filesystem: u32) -> bool {
        self.every_filesystem || self.filesystems.0.contains(&filesystem)
    }

    /// Returns whether it may come from this address.
    #[must_use]
    pub fn may_come_from(&self, address: [u8; 16]) -> bool {
        self.networks.0.is_empty() || self.networks.0.iter().any(|it| it.contains(address))
    }

    /// Returns whether its mapping does not count for who comes from this address.
    #[must_use]
    pub fn is_exempt(&self, address: [u8; 16]) -> bool {
        self.exempt_networks.0.iter().any(|it| it.contains(address))
    }

    /// Returns whether something that `before` allowed is allowed no more, or for other users: sessions under it must end.
    pub(crate) fn narrows(&self, before: &Self) -> bool {
        let all =
            |kept: &List<Network>, of: &List<Network>| of.0.iter().all(|it| kept.0.contains(it));
        let filesystems = !self.every_filesystem
            && (before.every_filesystem
                || before.filesystems.0.iter().any(|&it| !self.may_use(it)));
        let networks = !self.networks.0.is_empty()
            && (before.networks.0.is_empty() || !all(&self.networks, &before.networks));
        filesystems
            || networks
            || self.mapping != before.mapping
            || !all(&self.exempt_networks, &before.exempt_networks)
            || self.read_only && !before.read_only
    }
}

message! {
    /// An identity is made, or what it may do and its certificates are replaced.
    pub struct PutIdentity {
        /// Its number; 0 makes a new one, which gets the next number.
        pub number: u32,
        /// Its name, as file systems are named. It stays.
        pub name: Vec<u8>,
        /// What it may do.
        pub rights: IdentityRights,
        /// Its certificates, at least one.
        pub certificates: List<CertificateName>,
    }
}

impl PutIdentity {
    /// Checks its form.
    ///
    /// # Errors
    /// As [`IdentityRights::check`].
    pub(crate) fn check(&self) -> Result<(), Errno> {
        if !is_name(&self.name) || self.certificates.0.is_empty() {
            return Err(Errno::EINVAL);
        }
        check_certificates(&self.certificates.0)?;
        self.rights.check()
    }
}

/// Checks that certificates are few and differ.
pub(crate) fn check_certificates(certificates: &[CertificateName]) -> Result<(), Errno> {
    if certificates.len() > IDENTITY_CERTIFICATES_MAX {
        return Err(Errno::E2BIG);
    }
    let is_twice = |(place, one): (usize, &CertificateName)| {
        certificates[..place].iter().any(|other| other.fingerprint == one.fingerprint)
    };
    if certificates.iter().enumerate().any(is_twice) { Err(Errno::EINVAL) } else { Ok(()) }
}

message! {
    /// An identity may do nothing from now on.
    pub struct RevokeIdentity {
        /// Its name.
        pub name: Vec<u8>,
    }
}

message! {
    /// An identity goes, with its name.
    pub struct ForgetIdentity {
        /// Its name.
        pub name: Vec<u8>,
    }
}

number_enum! {
    /// Where an authority is in its life: it comes as the next, becomes the current one, and retires.
    pub enum CertificateAuthorityState: u8 {
        /// Signs, unless there is a next one; is believed.
        Current = 1,
        /// Signs; is believed.
        Next = 2,
        /// Is believed no more; kept to tell its certificates from a stranger's.
        Retired = 3,
    }
}

message! {
    /// An authority is made, becomes the current one, or its key is sealed anew.
    pub struct PutCertificateAuthority {
        /// Which: 1 is the first.
        pub generation: u32,
        /// Its certificate in DER, signed by itself.
        pub certificate: Vec<u8>,
        /// Its certificate signed by the authority before; empty for the first.
        pub crossed: Vec<u8>,
        /// Its private key, sealed under the cluster's secret; empty if it retired.
        pub sealed_key: Vec<u8>,
        /// What it is now.
        pub state: CertificateAuthorityState,
    }
}

impl PutCertificateAuthority {
    /// Checks its form.
    ///
    /// # Errors
    /// `EINVAL`; `E2BIG` if a part is too long.
    pub(crate) fn check(&self) -> Result<(), Errno> {
        let long = self.certificate.len() > AUTHORITY_CERTIFICATE_BYTES_MAX
            || self.crossed.len() > AUTHORITY_CERTIFICATE_BYTES_MAX
            || self.sealed_key.len() > AUTHORITY_KEY_BYTES_MAX;
        if long {
            return Err(Errno::E2BIG);
        }
        let key = self.sealed_key.is_empty() == (self.state == CertificateAuthorityState::Retired);
        let good = self.generation > 0 && !self.certificate.is_empty() && key;
        if good { Ok(()) } else { Err(Errno::EINVAL) }
    }
}

message! {
    /// The cluster's secret, wrapped for a node.
    pub struct SecretWrap {
        /// The node's uuid.
        pub node: [u8; 16],
        /// The secret under the node's key, 1..=256 bytes.
        pub wrapped: Vec<u8>,
    }
}

message! {
    /// The cluster's secret is made, or wrapped for other nodes or under other keys.
    pub struct PutClusterSecret {
        /// Which: 1 is the first.
        pub generation: u32,
        /// For every node, in the order of their uuids.
        pub wraps: List<SecretWrap>,
    }
}

impl PutClusterSecret {
    /// Checks its form.
    ///
    /// # Errors
    /// `EINVAL`; `E2BIG` if there are too many, or one is too long.
    pub(crate) fn check(&self) -> Result<(), Errno> {
        let wraps = &self.wraps.0;
        if wraps.len() > WRAPS_MAX || wraps.iter().any(|it| it.wrapped.len() > WRAPPED_BYTES_MAX) {
            return Err(Errno::E2BIG);
        }
        let good = self.generation > 0
            && !wraps.is_empty()
            && wraps.iter().all(|it| !it.wrapped.is_empty())
            && wraps.is_sorted_by(|left, right| left.node < right.node);
        if good { Ok(()) } else { Err(Errno::EINVAL) }
    }
}

message! {
    /// A secret that keys for authorities of requests are derived from is made, or sealed anew.
    pub struct PutSessionSecret {
        /// Which: 1 is the first.
        pub generation: u32,
        /// The secret, sealed under the cluster's.
        pub sealed: [u8; SESSION_SECRET_BYTES],
    }
}

/// Who a session belongs to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum SessionPrincipal {
    /// Root of the node's machine or the node's own user.
    Owner,
    /// Another user of the node's machine.
    User {
        /// Which.
        uid: u32,
    },
    /// A remote client.
    Identity {
        /// Its identity's number.
        number: u32,
    },
    /// A remote client that came from one of its identity's exempt networks.
    ExemptIdentity {
        /// Its identity's number.
        number: u32,
    },
}

impl SessionPrincipal {
    /// Returns the number of the identity, if it is one's.
    #[must_use]
    pub const fn identity(self) -> Option<u32> {
        match self {
            Self::Owner | Self::User { .. } => None,
            Self::Identity { number } | Self::ExemptIdentity { number } => Some(number),
        }
    }
}

/// A kind and a number, which is 0 for the owner.
impl Field for SessionPrincipal {
    fn encode(&self, out: &mut Encoder<'_>) {
        let (kind, number): (u8, u32) = match *self {
            Self::Owner => (0, 0),
            Self::User { uid } => (1, uid),
            Self::Identity { number } => (2, number),
            Self::ExemptIdentity { number } => (3, number),
        };
        kind.encode(out);
        number.encode(out);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        match (u8::decode(input)?, u32::decode(input)?) {
            (0, 0) => Ok(Self::Owner),
            (1, uid) => Ok(Self::User { uid }),
            (2, number) => Ok(Self::Identity { number }),
            (3, number) => Ok(Self::ExemptIdentity { number }),
            _ => Err(DecodeError::Value("principal")),
        }
    }
}

message! {
    /// What a session may do, fixed when it is opened.
    pub struct SessionRights {
        /// Changes are refused with `EROFS`.
        pub read_only: bool,
        /// Permissions are checked for it; else it is trusted with that.
        pub checked: bool,
    }
}

impl SessionRights {
    /// Everything, and trusted with permissions.
    pub(crate) const TRUSTED: Self = Self { read_only: false, checked: false };
}

message! {
    /// A session is opened or taken up again for somebody the server knows.
    pub struct OpenSession {
        /// What was asked.
        pub request: Connect,
        /// Who asked, as the server knows from the connection.
        pub principal: SessionPrincipal,
    }
}

/// An identity, as queries show it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IdentityInfo {
    /// Its number, never given twice.
    pub number: u32,
    /// Its name.
    pub name: Vec<u8>,
    /// When it was made.
    pub created: Timespec,
    /// When it was revoked. None: it was not.
    pub revoked: Option<Timespec>,
    /// What it may do, or might before it was revoked.
    pub rights: IdentityRights,
    /// Its certificates; none if it was revoked.
    pub certificates: Vec<CertificateName>,
    /// Sessions it has.
    pub sessions: u32,
}
