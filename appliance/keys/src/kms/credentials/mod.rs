//! Who we are to AWS, found as AWS tools find it: the environment, the shared files, the container, the instance.
//!
//! Asked anew for each call to KMS: a node asks at its start and at a rotation months later, when what it had is long expired.

use serde::Deserialize;
use thiserror::Error;

mod container;
mod instance;

use super::environment::Environment;
use super::http::{Body, HttpError};
use super::profile::{self, Profile, ProfileError};
use super::tls::Tls;
use crate::{LockError, Secret};

/// An access key.
#[derive(Debug)]
pub(super) struct Credentials {
    /// Its name; not secret.
    pub(super) access_key_id: String,
    /// What signs.
    pub(super) secret_access_key: Secret,
    /// What temporary keys bring along.
    pub(super) session_token: Option<Secret>,
}

/// Why there are no credentials.
#[derive(Debug, Error)]
pub(super) enum CredentialsError {
    #[error(
        "there are no AWS credentials: looked at AWS_ACCESS_KEY_ID, profile `{profile}`, container credentials and \
         the instance's role ({instance})"
    )]
    None { profile: String, instance: String },
    #[error("AWS_ACCESS_KEY_ID is set and AWS_SECRET_ACCESS_KEY is not")]
    Half,
    #[error(
        "AWS_PROFILE names `{0}`, which has no aws_access_key_id and aws_secret_access_key (roles, SSO and processes \
         of profiles are not supported)"
    )]
    Profile(String),
    #[error(transparent)]
    File(#[from] ProfileError),
    #[error("container credentials: {0}")]
    Container(String),
    #[error(transparent)]
    Memory(#[from] LockError),
}

/// Finds credentials; the first source that has some is it.
///
/// # Errors
/// [`CredentialsError`].
pub(super) async fn find(
    environment: &Environment,
    tls: &Tls,
) -> Result<Credentials, CredentialsError> {
    if let Some(credentials) = of_environment(environment)? {
        return Ok(credentials);
    }
    if let Some(credentials) = of_profile(environment)? {
        return Ok(credentials);
    }
    if let Some(found) = container::ask(environment, tls).await {
        return found;
    }
    instance::ask(environment, tls).await.map_err(|instance| CredentialsError::None {
        profile: profile::name(environment).to_owned(),
        instance: instance.to_string(),
    })
}

fn of_environment(environment: &Environment) -> Result<Option<Credentials>, CredentialsError> {
    let Some(id) = environment.get("AWS_ACCESS_KEY_ID") else { return Ok(None) };
    let secret = environment.get("AWS_SECRET_ACCESS_KEY").ok_or(CredentialsError::Half)?;
    let token = environment.get("AWS_SESSION_TOKEN");
    Ok(Some(credentials(id, secret, token)?))
}

fn of_profile(environment: &Environment) -> Result<Option<Credentials>, CredentialsError> {
    let profile = Profile::read(environment)?;
    match (profile.access_key_id, profile.secret_access_key) {
        (Some(access_key_id), Some(secret_access_key)) => Ok(Some(Credentials {
            access_key_id,
            secret_access_key,
            session_token: profile.session_token,
        })),
        // Whoever names a profile means it.
        _ => match environment.get("AWS_PROFILE") {
            Some(name) => Err(CredentialsError::Profile(name.to_owned())),
            None => Ok(None),
        },
    }
}

fn credentials(id: &str, secret: &str, token: Option<&str>) -> Result<Credentials, LockError> {
    Ok(Credentials {
        access_key_id: id.to_owned(),
        secret_access_key: Secret::copy_of(secret.as_bytes())?,
        session_token: token.map(|token| Secret::copy_of(token.as_bytes())).transpose()?,
    })
}

/// What container and instance answer.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Document<'a> {
    #[serde(borrow)]
    access_key_id: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    secret_access_key: std::borrow::Cow<'a, str>,
    #[serde(borrow, default)]
    token: Option<std::borrow::Cow<'a, str>>,
}

/// Why a source's answer is of no use.
#[derive(Debug, Error)]
enum SourceError {
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error("status {0}")]
    Status(u16),
    #[error("the answer holds no credentials")]
    Document,
    #[error("AWS_EC2_METADATA_DISABLED is set")]
    Disabled,
    #[error("it has no role")]
    NoRole,
    #[error(transparent)]
    Memory(#[from] LockError),
}

fn of_document(body: &Body) -> Result<Credentials, SourceError> {
    let document: Document<'_> =
        serde_json::from_slice(body.as_ref()).map_err(|_| SourceError::Document)?;
    let (id, secret) = (&document.access_key_id, &document.secret_access_key);
    Ok(credentials(id, secret, document.token.as_deref())?)
}
