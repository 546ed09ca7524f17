//! Key encryption by an AWS KMS endpoint: `kms:KEY?endpoint=URL&region=REGION`.
//!
//! The real service's API (JSON 1.1, Signature Version 4); anything that speaks it serves as well. Owns no connection and no
//! credentials: both are had anew for each call, which comes at start and at rotation. What is wrapped is encrypted by KMS
//! itself, bound to the device by the encryption context (`sheen-device`, `sheen-purpose`).
//!
//! Wrapped bytes:
//!
//! | bytes    | field      | meaning                                              |
//! |----------|------------|------------------------------------------------------|
//! | 0        | format     | 1                                                    |
//! | 1..3     | arn_bytes  | little-endian; 0 when the ARN would not fit          |
//! | 3..3+n   | arn        | of the key that wrapped, to say so when another is named; not trusted |
//! | 3+n..    | ciphertext | KMS's `CiphertextBlob`                               |
//!
//! Deliberately absent: data keys made by KMS, grants, caching, proxies, roles of profiles.

use std::fmt;
use std::future::Future;

mod reference;
mod environment;
mod profile;
mod credentials;
mod timestamp;
mod signature;
mod context;
mod tls;
mod http;
mod refusal;
mod api;

use api::{Described, Kms};
use context::Context;
use http::Place;
use reference::Reference;
use refusal::CallError;
use tls::Tls;

pub use environment::Environment;

use crate::{KekError, KeyEncryption, Secret, WRAPPED_BYTES_MAX};

const FORMAT: u8 = 1;
const HEADER_BYTES: usize = 3;
const NOT_OURS: &str = "what it wrapped is not in the form this version knows";

/// Opens the key that `parameters` (what stands behind `kms:`) name, with this process's environment. Asks nobody yet.
///
/// # Errors
/// [`KekError::Malformed`]: the parameters, or what the environment adds to them, name no KMS.
pub fn open(parameters: &str) -> Result<Box<dyn KeyEncryption>, KekError> {
    Ok(Box::new(KmsKey::open(parameters, Environment::of_process())?))
}

/// A key in a KMS.
pub struct KmsKey {
    /// As the configuration names it.
    name: String,
    key: String,
    kms: Kms,
}

impl fmt::Debug for KmsKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("KmsKey").field(&self.name).finish()
    }
}

impl KmsKey {
    /// The key that `parameters` name, in an environment.
    ///
    /// # Errors
    /// As [`open`].
    pub fn open(parameters: &str, environment: Environment) -> Result<Self, KekError> {
        let name = format!("kms:{parameters}");
        let malformed = |reason: String| KekError::Malformed { key: name.clone(), reason };
        let reference = Reference::parse(parameters).map_err(malformed)?;
        let region = region(&reference, &environment).map_err(malformed)?;
        let endpoint = endpoint(&reference, &environment, &region);
        let place = Place::parse(&endpoint).map_err(|error| malformed(error.to_string()))?;
        if place.path() != "/" {
            return Err(malformed(format!("endpoint {endpoint}: a KMS has no path")));
        }
        if !place.is_private() {
            let reason = format!(
                "endpoint {endpoint}: the data key would cross the network in the clear; http:// is for this machine, use https://"
            );
            return Err(malformed(reason));
        }
        let tls = Tls::new(environment.get("AWS_CA_BUNDLE"));
        Ok(Self { name, key: reference.key, kms: Kms { place, region, environment, tls } })
    }

    /// What KMS says of the key, if we may ask; refuses one that cannot serve.
    async fn described(&self) -> Result<Option<Described>, KekError> {
        let described = match self.kms.describe(&self.key).await {
            Ok(described) => described,
            // The right to describe is a comfort. What is asked next tells the rest.
            Err(error) if error.is_access_denied() => return Ok(None),
            Err(error) => return Err(error.for_operator(&self.name)),
        };
        let key = self.name.clone();
        if described.key_spec.as_deref().is_some_and(|spec| spec != "SYMMETRIC_DEFAULT") {
            let reason = "a symmetric key for encryption is needed (SYMMETRIC_DEFAULT)".into();
            return Err(KekError::Malformed { key, reason });
        }
        let help = match described.key_state.as_deref() {
            None | Some("Enabled") => return Ok(Some(described)),
            Some("Disabled") => "the key is disabled; `aws kms enable-key` enables it",
            Some("PendingDeletion" | "PendingReplicaDeletion") => {
                "the key is scheduled for deletion; `aws kms cancel-key-deletion` and `enable-key` bring it back"
            }
            Some("PendingImport") => "the key has no material; import it",
            Some(_) => "the key cannot be used now; see its state in KMS",
        };
        Err(KekError::Denied { key, reason: format!("{}: {help}", described.arn) })
    }

    async fn wrapped(&self, context: &[u8], secret: &Secret) -> Result<Vec<u8>, KekError> {
        self.described().await?;
        let context = Context::of(context);
        let encrypted = self.kms.encrypt(&self.key, &context, secret).await;
        let encrypted = encrypted.map_err(|error| self.refused(error))?;
        encoded(&encrypted.arn, &encrypted.blob).ok_or_else(|| KekError::NotSupported {
            key: self.name.clone(),
            reason: format!(
                "a ciphertext of {} bytes: there is no room for it",
                encrypted.blob.len()
            ),
        })
    }

    async fn unwrapped(&self, context: &[u8], wrapped: &[u8]) -> Result<Secret, KekError> {
        let Some((arn, blob)) = decoded(wrapped) else {
            return Err(KekError::Malformed { key: self.name.clone(), reason: NOT_OURS.into() });
        };
        if let Some(described) = self.described().await?
            && !arn.is_empty()
            && !is_same_key(arn, &described.arn)
        {
            let key = format!("{} (this is {}, wrapped was by {arn})", self.name, described.arn);
            return Err(KekError::WrongKey { key });
        }
        let context = Context::of(context);
        self.kms.decrypt(&self.key, &context, blob).await.map_err(|error| self.refused(error))
    }

    fn refused(&self, error: CallError) -> KekError {
        error.for_operator(&self.name)
    }
}

impl KeyEncryption for KmsKey {
    fn wrap(&self, context: &[u8], secret: &Secret) -> Result<Vec<u8>, KekError> {
        self.blocking(|| self.wrapped(context, secret))
    }

    fn unwrap(&self, context: &[u8], wrapped: &[u8]) -> Result<Secret, KekError> {
        self.blocking(|| self.unwrapped(context, wrapped))
    }

    fn describe(&self) -> String {
        self.name.clone()
    }
}

impl KmsKey {
    /// Waits for `work` on a thread of its own: the caller's may already be one of a runtime.
    fn blocking<T, F>(&self, work: impl FnOnce() -> F + Send) -> Result<T, KekError>
    where
        T: Send,
        F: Future<Output = Result<T, KekError>>,
    {
        let failed = |error: std::io::Error| KekError::Unreachable {
            key: self.name.clone(),
            reason: format!("starting to ask: {error}"),
        };
        std::thread::scope(|scope| {
            let run = || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .map_err(failed)?;
                runtime.block_on(work())
            };
            let thread = std::thread::Builder::new().name("kms".into()).spawn_scoped(scope, run);
            match thread.map_err(failed)?.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }
}

/// The parameter, the ARN, the environment, the profile: the first that names one.
fn region(reference: &Reference, environment: &Environment) -> Result<String, String> {
    let named = reference.region.as_deref().or_else(|| reference.region_of_arn());
    let named = named.or_else(|| environment.get("AWS_REGION"));
    if let Some(region) = named.or_else(|| environment.get("AWS_DEFAULT_REGION")) {
        reference::check_region(region)?;
        return Ok(region.to_owned());
    }
    let profile = profile::Profile::read(environment).map_err(|error| error.to_string())?;
    let region = profile
        .region
        .ok_or("no region: add ?region=REGION, name the key by its ARN, or set AWS_REGION")?;
    reference::check_region(&region)?;
    Ok(region)
}

/// The parameter, the environment, the region's own.
fn endpoint(reference: &Reference, environment: &Environment, region: &str) -> String {
    let named = reference.endpoint.as_deref().or_else(|| environment.get("AWS_ENDPOINT_URL_KMS"));
    match named.or_else(|| environment.get("AWS_ENDPOINT_URL")) {
        Some(endpoint) => endpoint.to_owned(),
        None if region.starts_with("cn-") => format!("https://kms.{region}.amazonaws.com.cn"),
        None => format!("https://kms.{region}.amazonaws.com"),
    }
}

/// Key ids are unique everywhere; replicas of a key in other regions have the same.
fn is_same_key(one: &str, other: &str) -> bool {
    let id = |arn: &str| arn.rsplit('/').next().map(str::to_owned);
    id(one) == id(other)
}

/// `None` when it does not fit.
fn encoded(arn: &str, blob: &[u8]) -> Option<Vec<u8>> {
    let room = WRAPPED_BYTES_MAX.checked_sub(HEADER_BYTES + blob.len())?;
    let arn = if arn.len() <= room { arn } else { "" };
    let length = u16::try_from(arn.len()).ok()?;
    let mut bytes = vec![FORMAT];
    bytes.extend(length.to_le_bytes());
    bytes.extend(arn.as_bytes());
    bytes.extend(blob);
    Some(bytes)
}

fn decoded(wrapped: &[u8]) -> Option<(&str, &[u8])> {
    let (&[format, low, high], rest) = wrapped.split_first_chunk::<HEADER_BYTES>()?;
    let length = usize::from(u16::from_le_bytes([low, high]));
    if format != FORMAT || rest.len() <= length {
        return None;
    }
    let (arn, blob) = rest.split_at(length);
    let arn = std::str::from_utf8(arn).ok()?;
    // It is shown to people.
    (!arn.chars().any(char::is_control)).then_some((arn, blob))
}

#[cfg(test)]
mod test {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> Environment {
        Environment::new(|name| {
            pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    fn authority(parameters: &str, pairs: &[(&str, &str)]) -> Result<String, KekError> {
        let key = KmsKey::open(parameters, environment(pairs))?;
        Ok(format!("{} {}", key.kms.place.authority(), key.kms.region))
    }

    #[test]
    fn region_and_endpoint_are_found_as_aws_tools_find_them() {
        let arn = "arn:aws:kms:us-east-2:111122223333:key/a";
        for (parameters, pairs, expected) in [
            ("a?region=eu-west-1", vec![], "kms.eu-west-1.amazonaws.com eu-west-1"),
            (arn, vec![("AWS_REGION", "eu-west-1")], "kms.us-east-2.amazonaws.com us-east-2"),
            (
                "a",
                vec![("AWS_REGION", "r-1"), ("AWS_DEFAULT_REGION", "r-2")],
                "kms.r-1.amazonaws.com r-1",
            ),
            (
                "a",
                vec![("AWS_DEFAULT_REGION", "cn-north-1")],
                "kms.cn-north-1.amazonaws.com.cn cn-north-1",
            ),
            (
                "a?region=r-1",
                vec![
                    ("AWS_ENDPOINT_URL", "https://all"),
                    ("AWS_ENDPOINT_URL_KMS", "https://kms:1"),
                ],
                "kms:1 r-1",
            ),
            (
                "a?region=r-1&endpoint=http://[::1]:9",
                vec![("AWS_ENDPOINT_URL", "https://all")],
                "[::1]:9 r-1",
            ),
        ] {
            assert_eq!(authority(parameters, &pairs).unwrap(), expected, "{parameters}");
        }
    }

    #[test]
    fn what_names_no_kms_is_malformed() {
        for parameters in [
            "",
            "a",
            "a?region=r-1&endpoint=kms.example",
            "a?region=r-1&endpoint=http://kms.example",
            "a?region=r-1&endpoint=https://kms.example/path",
        ] {
            let refused = authority(parameters, &[]);
            assert!(
                matches!(refused, Err(KekError::Malformed { .. })),
                "{parameters}: {refused:?}"
            );
        }
    }

    #[test]
    fn wrapped_bytes_are_read_back_and_a_long_arn_is_left_out() {
        let bytes = encoded("arn:x", b"blob").unwrap();
        assert_eq!(decoded(&bytes), Some(("arn:x", &b"blob"[..])));
        let bytes = encoded(&"a".repeat(WRAPPED_BYTES_MAX), b"blob").unwrap();
        assert_eq!(decoded(&bytes), Some(("", &b"blob"[..])));
        assert!(encoded("", &[0; WRAPPED_BYTES_MAX]).is_none());
    }

    #[test]
    fn damaged_wrapped_bytes_are_refused() {
        let good = encoded("arn:x", b"b").unwrap();
        for length in 0..good.len() {
            assert_eq!(decoded(&good[..length]), None, "{length}");
        }
        for (place, value) in [(0, 2), (1, 6), (2, 1), (4, 7)] {
            let mut bytes = good.clone();
            bytes[place] = value;
            assert_eq!(decoded(&bytes), None, "byte {place}");
        }
    }
}
