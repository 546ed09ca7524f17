//! Why an order about identities was not carried out, or the node has none.

use std::path::PathBuf;

use sheen_identity::{AuthorityError, CertificateFault, IdentityKeyError, UnixSeconds};
use sheen_keys::{KekError, LockError, SealError};
use sheen_meta::identity::IDENTITY_CERTIFICATES_MAX;
use sheen_types::Errno;
use thiserror::Error;

/// See the module. The texts are for the operator.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum IdentitiesError {
    /// There is no place for the key that secrets are sealed under.
    #[error(
        "the device is not encrypted and no file: name a file for the key, as `key = \"/PATH\"` of [identity] in the configuration"
    )]
    NoKeyPlace,
    /// The key file is gone, and what is kept cannot be opened without it.
    #[error(
        "{} is missing, and what this node keeps is sealed under the key in it: put it back from your copy",
        path.display()
    )]
    KeyGone {
        /// Where it was.
        path: PathBuf,
    },
    /// The key file cannot be used.
    #[error("the key of the node's secrets: {0}")]
    Key(#[from] KekError),
    /// The cluster's secret was not made for this node.
    #[error(
        "the cluster's secret is not wrapped for this node: its device was put together wrongly"
    )]
    NotWrapped,
    /// What is kept cannot be opened.
    #[error("{0}")]
    Seal(#[from] SealError),
    /// The authority cannot sign.
    #[error("{0}")]
    Authority(#[from] AuthorityError),
    /// A certificate that is kept cannot be read.
    #[error("a certificate that is kept: {0}")]
    Kept(#[from] CertificateFault),
    /// A key was not made, or one that was told is none.
    #[error("the key: {0}")]
    IdentityKey(#[from] IdentityKeyError),
    /// There is no locked memory.
    #[error(transparent)]
    Memory(#[from] LockError),
    /// The node has no authority yet.
    #[error("the node has no certificate authority: see `sheen status`")]
    NoAuthority,
    /// Nobody is called so.
    #[error("there is no client \"{0}\"; `sheen client list` shows those there are")]
    Unknown(String),
    /// It was revoked, and is shown only.
    #[error("client \"{0}\" was revoked: make it anew (sheen client new)")]
    Revoked(String),
    /// The name is taken.
    #[error(
        "there is a client \"{0}\" already; `sheen client renew` gives it another file, `sheen client revoke` ends it"
    )]
    Exists(String),
    /// It has as many files as there may be.
    #[error(
        "client \"{name}\" has {IDENTITY_CERTIFICATES_MAX} files that let it in, the first until {until}: say --end-others to end them all, and its sessions with them"
    )]
    TooManyFiles {
        /// The client.
        name: String,
        /// When the first is over.
        until: UnixSeconds,
    },
    /// Not a name.
    #[error("\"{0}\" is no name for a client: use letters, digits, `.`, `_`, `-`, at most 63")]
    Name(String),
    /// A file system that is not there.
    #[error("there is no file system \"{0}\"; `sheen fs list` shows those there are")]
    NoFilesystem(String),
    /// A network that is none.
    #[error("\"{text}\" is no network: {reason}")]
    Network {
        /// As it was written.
        text: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// Rights that contradict each other.
    #[error("{0}")]
    Rights(&'static str),
    /// Tables or metadata zone are full.
    #[error(
        "there is no room for it: at most 4096 clients at a time, and the metadata zone must have room"
    )]
    Full,
    /// The exchange of authorities is under way, or is not.
    #[error("{0}")]
    Rotation(&'static str),
    /// The metadata service refuses for another reason.
    #[error("the metadata service refuses: {0}")]
    Refused(Errno),
    /// The metadata service takes no orders.
    #[error("the metadata service takes no orders now; try again")]
    Deaf,
    /// No answer came: whether it was done is not known.
    #[error(
        "the metadata service did not answer in time: look whether it was done before you try again"
    )]
    Late,
}
