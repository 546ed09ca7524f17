//! Identities: the authority of a cluster, the certificates it gives to nodes and clients, and the file a client keeps its own in.
//!
//! From the outside in: a [`CertificateAuthority`] signs certificates for an [`IdentityKey`] that somebody else made; [`verify()`] tells whether a
//! [`Certificate`] counts, and for what; a [`Fingerprint`] names one; an [`IdentityFile`] is what `sheen mount -o identity=` reads.
//! Private keys are in locked memory and nowhere else, but for the moment of a signature, in which the cryptographic library has
//! them on its heap and wipes them. Every function that depends on the time takes it as an argument.
//!
//! Deliberately absent: who may do what (the replicated state's), connections (`rdma`'s), clocks, the order in which authorities
//! replace each other.
#![forbid(unsafe_code)]

pub mod expiry;
pub mod fingerprint;
pub mod identity_key;
mod der;
pub mod certificate;
pub mod authority;
pub mod verify;
mod pem;
pub mod identity_text;
pub mod identity_file;

pub use authority::{AuthorityError, CertificateAuthority};
pub use certificate::{CERTIFICATE_BYTES_MAX, Certificate, CertificateFault};
pub use expiry::{Expiry, UnixSeconds, Validity};
pub use fingerprint::Fingerprint;
pub use identity_file::IdentityFileError;
pub use identity_key::{IdentityKey, IdentityKeyError, PublicKey};
pub use identity_text::{IdentityFault, IdentityFile};
pub use verify::{NODE_NAME, Role, VerifyFault, verify};

#[cfg(test)]
mod test;
