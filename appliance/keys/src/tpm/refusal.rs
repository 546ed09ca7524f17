//! What a TPM refuses, sorted by what the operator must do.

use std::io;

use thiserror::Error;

use super::command::{Code, Malformed};
use crate::{KekError, LockError};

/// Why a TPM did not serve.
#[derive(Debug, Error)]
pub(super) enum TpmError {
    #[error("opening it: {0}")]
    Open(io::Error),
    #[error("talking to it: {0}")]
    Exchange(io::Error),
    #[error("its answer is not one of a TPM 2.0 ({0:?})")]
    Answer(Malformed),
    #[error("{command:?}: response code {code:#05x}")]
    Refused { command: Code, code: u32 },
    #[error("sealed by another TPM, or by this one before it was cleared")]
    OtherTpm,
    #[error("an answer that is not the TPM's: somebody is in between")]
    Forged,
    #[error("no randomness, or no key could be made of it")]
    Random,
    #[error("its storage key is not a point of P-256")]
    Point,
    #[error("the parent is not a storage key of P-256 with SHA-256")]
    Parent,
    #[error("sealed bytes of another form")]
    Sealed,
    #[error("a secret of {0} bytes: a TPM seals 128 at most")]
    TooLong(usize),
    #[error(transparent)]
    Memory(#[from] LockError),
}

impl From<Malformed> for TpmError {
    fn from(malformed: Malformed) -> Self {
        Self::Answer(malformed)
    }
}

/// A response code without what it says about which handle, parameter or session is meant, by
/// [TPM-2.0 part 2, 6.6].
fn base(code: u32) -> u32 {
    let code = code & 0xfff;
    if code & 0x080 == 0 { code } else { code & 0x0bf }
}

const INITIALIZE: u32 = 0x100;
const FAILURE: u32 = 0x101;
const DISABLED: u32 = 0x120;
const OBJECT_MEMORY: u32 = 0x902;
const YIELDED: u32 = 0x908;
const CANCELED: u32 = 0x909;
const TESTING: u32 = 0x90a;
const NV_RATE: u32 = 0x920;
const LOCKOUT: u32 = 0x921;
const RETRY: u32 = 0x922;
const REFERENCE_H0: u32 = 0x910;
const HIERARCHY: u32 = 0x085;
const HANDLE: u32 = 0x08b;
const AUTH_FAIL: u32 = 0x08e;
const INTEGRITY: u32 = 0x09f;
const BAD_AUTH: u32 = 0x0a2;

impl TpmError {
    /// Whether the same command may succeed a moment later.
    pub(super) fn may_pass(&self) -> bool {
        let Self::Refused { code, .. } = self else { return false };
        matches!(base(*code), YIELDED | CANCELED | TESTING | NV_RATE | RETRY)
    }

    /// The same for the operator; `key` is what the configuration names.
    pub(super) fn for_operator(self, key: &str) -> KekError {
        let key = key.to_owned();
        let reason = self.to_string();
        match self {
            Self::Memory(error) => error.into(),
            Self::OtherTpm => KekError::WrongKey { key: format!("{key} ({reason})") },
            Self::Open(error) => unopened(&error, key, reason),
            Self::Exchange(_) => KekError::Unreachable { key, reason },
            Self::Answer(Malformed::Old) => KekError::NotSupported {
                key,
                reason: "it is a TPM 1.2; a TPM 2.0 is needed".into(),
            },
            Self::Answer(_) | Self::Sealed | Self::Forged | Self::Point => {
                KekError::Malformed { key, reason }
            }
            Self::Random => KekError::Unreachable { key, reason },
            Self::Parent | Self::TooLong(_) => KekError::NotSupported { key, reason },
            Self::Refused { command, code } => refused(command, base(code), key, reason),
        }
    }
}

fn unopened(error: &io::Error, key: String, reason: String) -> KekError {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            KekError::Denied { key, reason: format!("{reason} (the group `tss` may open it)") }
        }
        io::ErrorKind::ResourceBusy => KekError::Unreachable {
            key,
            reason: format!("{reason} (/dev/tpmrm0 can be shared, /dev/tpm0 cannot)"),
        },
        io::ErrorKind::NotFound => KekError::Unreachable {
            key,
            reason: format!(
                "{reason} (no TPM: is it switched on in the firmware, is its driver loaded?)"
            ),
        },
        _ => KekError::Unreachable { key, reason },
    }
}

fn refused(command: Code, base: u32, key: String, reason: String) -> KekError {
    let with = |help: &str| format!("{reason} ({help})");
    match (command, base) {
        // Integrity: the parent's seed is another. Authorization of the sealed object: another context.
        (Code::Load, INTEGRITY) | (Code::Unseal, BAD_AUTH | AUTH_FAIL) => {
            KekError::WrongKey { key }
        }
        (_, LOCKOUT) => {
            let help = "it is locked out after wrong authorizations: wait, or reset it with `tpm2_dictionarylockout -c`";
            KekError::Denied { key, reason: with(help) }
        }
        (_, BAD_AUTH | AUTH_FAIL) => {
            let help = "its owner hierarchy or the parent has an authorization value: make a storage key without one \
                        persistent and name it by ?parent=HANDLE";
            KekError::Denied { key, reason: with(help) }
        }
        (_, HIERARCHY | DISABLED) => KekError::Denied {
            key,
            reason: with("its owner hierarchy is switched off in the firmware"),
        },
        (_, HANDLE | REFERENCE_H0) => {
            KekError::Unreachable { key, reason: with("it has no such key") }
        }
        (_, OBJECT_MEMORY) => {
            KekError::Unreachable { key, reason: with("it has no room for a key: use /dev/tpmrm0") }
        }
        (_, INITIALIZE) => {
            KekError::Unreachable { key, reason: with("the firmware did not start it") }
        }
        (_, FAILURE) => KekError::Unreachable { key, reason: with("it failed its own test") },
        (_, YIELDED | CANCELED | TESTING | NV_RATE | RETRY) => {
            KekError::Unreachable { key, reason: with("it stays busy") }
        }
        _ => KekError::Malformed { key, reason },
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn sorted(command: Code, code: u32) -> KekError {
        TpmError::Refused { command, code }.for_operator("tpm:t")
    }

    #[test]
    fn response_codes_ask_for_their_remedy() {
        let wrong = KekError::WrongKey { key: "tpm:t".into() };
        assert_eq!(sorted(Code::Load, 0x1df), wrong, "integrity, parameter 1");
        assert_eq!(sorted(Code::Unseal, 0x9a2), wrong, "bad authorization, session 1");
        assert!(matches!(sorted(Code::CreatePrimary, 0x9a2), KekError::Denied { .. }));
        assert!(matches!(sorted(Code::Unseal, 0x921), KekError::Denied { .. }));
        assert!(matches!(sorted(Code::ReadPublic, 0x18b), KekError::Unreachable { .. }));
        assert!(matches!(sorted(Code::Create, 0x1c4), KekError::Malformed { .. }));
    }

    #[test]
    fn only_what_is_put_off_is_tried_again() {
        let may_pass = |code| TpmError::Refused { command: Code::Load, code }.may_pass();
        assert!([0x908, 0x90a, 0x922].into_iter().all(may_pass));
        assert!(![0x921, 0x1df, 0x9a2, 0x101].into_iter().any(may_pass));
    }
}
