//! What KMS refuses, sorted by what the operator must do.
//!
//! Texts of KMS are passed on, cut and cleaned, except where they repeat what was signed: that holds the session token.

use serde::Deserialize;
use thiserror::Error;

use super::credentials::CredentialsError;
use super::http::{Answer, HttpError};
use crate::{KekError, LockError};

/// Most characters passed on of a text of KMS.
const TEXT_LENGTH_MAX: usize = 300;

/// Why a call failed.
#[derive(Debug, Error)]
pub(super) enum CallError {
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error(transparent)]
    Service(ServiceError),
    #[error("the answer to {0} is not what KMS answers: is the endpoint one?")]
    Answer(&'static str),
    #[error(transparent)]
    Memory(#[from] LockError),
}

/// What KMS answered in place of what was asked for.
#[derive(Debug, Error)]
#[error("{code}{}{text}", if text.is_empty() { "" } else { ": " })]
pub(super) struct ServiceError {
    /// HTTP status.
    pub(super) status: u16,
    /// The exception's name, such as `NotFoundException`; `HTTP 502` when there is none.
    pub(super) code: String,
    /// What it says, if that may be shown.
    pub(super) text: String,
}

#[derive(Deserialize, Default)]
struct ErrorWhole {
    #[serde(rename = "__type", default)]
    kind: String,
    #[serde(alias = "Message", default)]
    message: String,
}

impl ServiceError {
    /// Reads an answer whose status is not 200.
    pub(super) fn of_answer(answer: &Answer) -> Self {
        let whole: ErrorWhole = serde_json::from_slice(answer.body.as_ref()).unwrap_or_default();
        let header = answer.headers.get("x-amzn-errortype").and_then(|value| value.to_str().ok());
        let named = if whole.kind.is_empty() { header.unwrap_or_default() } else { &whole.kind };
        // `com.amazonaws.kms#NotFoundException`, `NotFoundException:http://…`
        let code = named.rsplit('#').next().unwrap_or_default();
        let code = code.split(':').next().unwrap_or_default();
        let is_name = !code.is_empty() && code.chars().all(|c| c.is_ascii_alphanumeric());
        let code = if is_name { code.to_owned() } else { format!("HTTP {}", answer.status) };
        let text = if repeats_request(&code) { String::new() } else { clean(&whole.message) };
        Self { status: answer.status, code, text }
    }
}

impl ServiceError {
    fn is_access_denied(&self) -> bool {
        self.code == "AccessDeniedException"
            || self.code == "AccessDenied"
            || self.code == "HTTP 403"
    }
}

/// These texts hold the canonical request, with every header.
fn repeats_request(code: &str) -> bool {
    matches!(
        code,
        "InvalidSignatureException"
            | "SignatureDoesNotMatch"
            | "IncompleteSignatureException"
            | "IncompleteSignature"
    )
}

fn clean(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(TEXT_LENGTH_MAX).collect()
}

impl CallError {
    /// Whether the same call may succeed a moment later.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Http(error) => matches!(
                error,
                HttpError::Connect { .. } | HttpError::TimedOut { .. } | HttpError::Protocol { .. }
            ),
            Self::Service(error) => {
                error.status >= 500
                    || error.status == 429
                    || matches!(
                        error.code.as_str(),
                        "ThrottlingException"
                            | "Throttling"
                            | "TooManyRequestsException"
                            | "RequestLimitExceeded"
                            | "LimitExceededException"
                            | "KMSInternalException"
                            | "DependencyTimeoutException"
                            | "KeyUnavailableException"
                    )
            }
            Self::Credentials(_) | Self::Answer(_) | Self::Memory(_) => false,
        }
    }

    /// Whether KMS knows us and does not grant this call.
    pub(super) fn is_access_denied(&self) -> bool {
        matches!(self, Self::Service(error) if error.is_access_denied())
    }

    /// The same for the operator; `key` is what the configuration names.
    pub(super) fn for_operator(self, key: &str) -> KekError {
        let passing = self.may_pass();
        let key = key.to_owned();
        let reason = self.to_string();
        match self {
            Self::Memory(error)
            | Self::Http(HttpError::Memory(error))
            | Self::Credentials(CredentialsError::Memory(error)) => error.into(),
            Self::Credentials(_) => KekError::Denied { key, reason },
            Self::Http(HttpError::Url(_)) | Self::Answer(_) => KekError::Malformed { key, reason },
            Self::Http(_) => KekError::Unreachable { key, reason },
            Self::Service(_) if passing => KekError::Unreachable { key, reason },
            Self::Service(error) => sorted(&error, key, reason),
        }
    }
}

fn sorted(error: &ServiceError, key: String, reason: String) -> KekError {
    let denied =
        |help: &str| KekError::Denied { key: key.clone(), reason: format!("{reason}{help}") };
    if error.is_access_denied() {
        return denied(
            " (the key's policy or IAM must allow kms:Encrypt, kms:Decrypt and kms:DescribeKey)",
        );
    }
    match error.code.as_str() {
        "InvalidCiphertextException" | "IncorrectKeyException" => KekError::WrongKey { key },
        "NotFoundException" => KekError::Unreachable {
            key,
            reason: format!(
                "{reason} (no such key in this account and region; a deleted key never comes back)"
            ),
        },
        "DisabledException" => denied(" (the key is disabled; `aws kms enable-key` enables it)"),
        "KMSInvalidStateException" => denied(
            " (if the key is scheduled for deletion, `aws kms cancel-key-deletion` stops that)",
        ),
        "InvalidSignatureException" | "SignatureDoesNotMatch" | "IncompleteSignatureException" => {
            denied(
                " (the secret access key is not the right one, or this machine's clock or the region is wrong)",
            )
        }
        "UnrecognizedClientException" | "InvalidClientTokenId" => {
            denied(" (KMS does not know the access key)")
        }
        "ExpiredTokenException" | "ExpiredToken" => {
            denied(" (the session token has expired: renew it)")
        }
        "MissingAuthenticationTokenException" | "MissingAuthenticationToken" => denied(""),
        _ => KekError::Malformed { key, reason },
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn refused(status: u16, code: &str) -> KekError {
        let error = ServiceError { status, code: code.into(), text: "said".into() };
        CallError::Service(error).for_operator("kms:k")
    }

    #[test]
    fn every_exception_asks_for_its_own_remedy() {
        let wrong = KekError::WrongKey { key: "kms:k".into() };
        assert_eq!(refused(400, "InvalidCiphertextException"), wrong);
        assert_eq!(refused(400, "IncorrectKeyException"), wrong);
        for code in [
            "AccessDeniedException",
            "DisabledException",
            "KMSInvalidStateException",
            "ExpiredTokenException",
            "UnrecognizedClientException",
            "InvalidSignatureException",
        ] {
            assert!(matches!(refused(400, code), KekError::Denied { .. }), "{code}");
        }
        for (status, code) in [
            (400, "NotFoundException"),
            (400, "ThrottlingException"),
            (500, "KMSInternalException"),
            (503, "HTTP 503"),
        ] {
            assert!(matches!(refused(status, code), KekError::Unreachable { .. }), "{code}");
        }
        for code in ["ValidationException", "InvalidKeyUsageException", "HTTP 404"] {
            assert!(matches!(refused(400, code), KekError::Malformed { .. }), "{code}");
        }
    }

    #[test]
    fn what_may_pass_is_tried_again_and_nothing_else() {
        let may_pass = |status, code: &str| {
            CallError::Service(ServiceError { status, code: code.into(), text: String::new() })
                .may_pass()
        };
        assert!(may_pass(400, "ThrottlingException"));
        assert!(may_pass(500, "KMSInternalException"));
        assert!(!may_pass(400, "AccessDeniedException"));
        assert!(!may_pass(400, "InvalidCiphertextException"));
    }
}
