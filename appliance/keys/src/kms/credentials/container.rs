//! Credentials of a container (ECS, EKS): a URL in the environment, answered with a JSON document.

use std::net::IpAddr;
use std::time::Duration;

use hyper::Method;
use hyper::header::{AUTHORIZATION, HeaderValue};

use super::super::environment::Environment;
use super::super::http::{self, Body, HttpError, Patience, Place, Question};
use super::super::tls::Tls;
use super::{Credentials, CredentialsError, SourceError, of_document};

/// Where ECS answers a relative URI.
const ECS: &str = "http://169.254.170.2";
/// Hosts that may be asked without TLS, beside this machine: the agents of ECS and EKS.
const AGENTS: &[&str] = &["169.254.170.2", "169.254.170.23", "fd00:ec2::23"];
const PATIENCE: Patience =
    Patience { connect: Duration::from_secs(2), exchange: Duration::from_secs(5) };

/// Asks, if the environment names a place; `None` if it does not.
pub(super) async fn ask(
    environment: &Environment,
    tls: &Tls,
) -> Option<Result<Credentials, CredentialsError>> {
    let url = match environment.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI") {
        Some(relative) => format!("{ECS}{relative}"),
        None => environment.get("AWS_CONTAINER_CREDENTIALS_FULL_URI")?.to_owned(),
    };
    let asked = ask_at(&url, environment, tls).await;
    Some(asked.map_err(|error| CredentialsError::Container(format!("{url:.200}: {error}"))))
}

async fn ask_at(
    url: &str,
    environment: &Environment,
    tls: &Tls,
) -> Result<Credentials, SourceError> {
    let place = Place::parse(url)?;
    if !place.is_private() && !place.address().is_some_and(is_agent) {
        return Err(HttpError::Url(url.to_owned()).into());
    }
    let mut headers = Vec::new();
    if let Some(token) = token(environment)? {
        headers.push((AUTHORIZATION, token));
    }
    let question = Question { method: Method::GET, place: &place, headers, body: Body::empty()? };
    let answer = http::ask(tls, question, PATIENCE).await?;
    if answer.status != 200 {
        return Err(SourceError::Status(answer.status));
    }
    of_document(&answer.body)
}

fn is_agent(address: IpAddr) -> bool {
    AGENTS.iter().any(|agent| agent.parse() == Ok(address))
}

/// The file goes before the variable: it is renewed.
fn token(environment: &Environment) -> Result<Option<HeaderValue>, HttpError> {
    let text = match environment.get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE") {
        Some(path) => std::fs::read_to_string(path)
            .map_err(|_| HttpError::Header("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"))?,
        None => match environment.get("AWS_CONTAINER_AUTHORIZATION_TOKEN") {
            Some(token) => token.to_owned(),
            None => return Ok(None),
        },
    };
    let mut value = HeaderValue::from_str(text.trim())
        .map_err(|_| HttpError::Header("the container's authorization token"))?;
    value.set_sensitive(true);
    Ok(Some(value))
}
