//! Encryption at rest: where key-encryption keys come from, how a device's data key is wrapped, and the block device that
//! encrypts.
//!
//! From the outside in: a [`KeySource`] names a key-encryption key and opens it ([`KeyEncryption`]); with it a [`KeyBlock`] gives the
//! device's [`DataKey`]; from that each zone's [`BlockCipher`] is derived, which an [`EncryptedBlock`] uses. Beside it: secrets of the
//! cluster, sealed for the replicated state ([`seal_secret`]). Keys live in locked memory ([`Secret`]) and nowhere else. Deliberately absent: where a key block lies on a device and in which order it is written (the node's).
#![deny(unsafe_code)]

mod secret;
pub mod kek;
pub mod source;
mod key_file;
pub mod kms;
pub mod tpm;
pub mod key_block;
pub mod unlock;
pub mod data_key;
pub mod sealed;
pub mod cipher;
pub mod encrypted_block;
#[expect(unsafe_code, reason = "the C library's own interface; argued there")]
mod aws_lc;

pub use cipher::BlockCipher;
pub use data_key::{DATA_KEY_BYTES, DataKey, ZoneTag};
pub use encrypted_block::EncryptedBlock;
pub use kek::{KekError, KeyEncryption, WRAPPED_BYTES_MAX};
pub use key_block::{KEY_BLOCK_LBAS, KeyBlock, KeyBlockError, SLOTS_MAX, Slot};
pub use key_file::KeyFile;
pub use sealed::{
    SEAL_BYTES, SEALING_KEY_BYTES, SealError, SealLabel, new_sealing_key, open_secret, seal_secret,
};
pub use secret::Secret;
pub use sheen_dma::{LockError, cleanse};
pub use source::{KeyKind, KeySource, PARAMETERS_BYTES_MAX, SourceError};
pub use unlock::{SlotNames, UnlockError, Unlocked};
