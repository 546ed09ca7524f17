//! Credentials of an EC2 instance's role, by the metadata service, version 2: a token first, then the role, then its key.

use std::time::Duration;

use hyper::Method;
use hyper::header::{HeaderName, HeaderValue};

use super::super::environment::Environment;
use super::super::http::{self, Answer, Body, HttpError, Patience, Place, Question};
use super::super::tls::Tls;
use super::{Credentials, SourceError, of_document};

/// Where the service is on every instance.
const SERVICE: &str = "http://169.254.169.254";
const TOKEN: &str = "/latest/api/token";
const ROLES: &str = "/latest/meta-data/iam/security-credentials/";
const TTL_HEADER: HeaderName = HeaderName::from_static("x-aws-ec2-metadata-token-ttl-seconds");
const TOKEN_HEADER: HeaderName = HeaderName::from_static("x-aws-ec2-metadata-token");
/// Long enough for the two questions that follow.
const TTL_SECONDS: HeaderValue = HeaderValue::from_static("60");
/// Elsewhere than on an instance nobody answers; a start must not wait long for that.
const PATIENCE: Patience =
    Patience { connect: Duration::from_secs(1), exchange: Duration::from_secs(3) };

/// Asks the service.
pub(super) async fn ask(environment: &Environment, tls: &Tls) -> Result<Credentials, SourceError> {
    let disabled = environment.get("AWS_EC2_METADATA_DISABLED");
    if disabled.is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return Err(SourceError::Disabled);
    }
    let base = environment.get("AWS_EC2_METADATA_SERVICE_ENDPOINT").unwrap_or(SERVICE);
    let place = Place::parse(base)?;
    let token =
        succeed(tls, Method::PUT, &place.with_path(TOKEN), (TTL_HEADER, TTL_SECONDS)).await?;
    let mut token = HeaderValue::from_bytes(token.body.as_ref())
        .map_err(|_| HttpError::Header("the metadata service's token"))?;
    token.set_sensitive(true);
    let get = |path: String| {
        let (place, token) = (place.with_path(&path), token.clone());
        async move { succeed(tls, Method::GET, &place, (TOKEN_HEADER, token)).await }
    };
    let roles = match get(ROLES.to_owned()).await {
        Err(SourceError::Status(404)) => return Err(SourceError::NoRole),
        roles => roles?,
    };
    let roles = String::from_utf8_lossy(roles.body.as_ref()).into_owned();
    let role = roles.lines().next().map(str::trim).filter(|role| !role.is_empty());
    let role = role.ok_or(SourceError::NoRole)?;
    of_document(&get(format!("{ROLES}{role}")).await?.body)
}

async fn succeed(
    tls: &Tls,
    method: Method,
    place: &Place,
    header: (HeaderName, HeaderValue),
) -> Result<Answer, SourceError> {
    let question = Question { method, place, headers: vec![header], body: Body::empty()? };
    let answer = http::ask(tls, question, PATIENCE).await?;
    if answer.status == 200 { Ok(answer) } else { Err(SourceError::Status(answer.status)) }
}
