//! Encryption at rest: where key-encryption keys come from, how a device's data key is wrapped, and the block device that
//! encrypts.
//!
//! Keys live in locked memory ([`Secret`]) and nowhere else. Deliberately absent: where the key block lies on a device and when it is
//! written (the node's).

mod secret;
pub mod kek;
pub mod kms;
pub mod tpm;

pub use kek::{KekError, KeyEncryption, WRAPPED_BYTES_MAX};
pub use secret::Secret;
pub use sheen_dma::{LockError, cleanse};
