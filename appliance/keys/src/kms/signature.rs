//! AWS Signature Version 4 of a request to `/` without a query, which is every request of a JSON service.
//!
//! Tested with the vectors AWS publishes. Deliberately absent: paths, queries, presigned URLs, chunked bodies.

use std::fmt::Write;

use aws_lc_rs::{digest, hmac};

use super::credentials::Credentials;
use super::timestamp::Timestamp;
use crate::{LockError, Secret};

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
/// Ends every scope.
const TERMINATOR: &str = "aws4_request";

/// What a signature is good for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scope<'a> {
    /// The region, such as `us-east-1`.
    pub(super) region: &'a str,
    /// The service, such as `kms`.
    pub(super) service: &'a str,
}

/// What is signed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Signed<'a> {
    /// The method.
    pub(super) method: &'a str,
    /// Every header that is signed, as (name in lower case, value); each name once. `host` and `x-amz-date` belong here.
    pub(super) headers: &'a [(&'a str, &'a str)],
    /// The body.
    pub(super) body: &'a [u8],
}

/// The value of the header `Authorization`.
///
/// # Errors
/// [`LockError`]: there is no locked memory for the signing key.
pub(super) fn authorization(
    credentials: &Credentials,
    scope: Scope<'_>,
    time: &Timestamp,
    signed: Signed<'_>,
) -> Result<String, LockError> {
    let mut headers = signed.headers.to_vec();
    headers.sort_unstable();
    let names: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
    let names = names.join(";");
    let request = canonical(signed.method, &headers, &names, signed.body);
    let where_to = format!("{}/{}/{}/{TERMINATOR}", time.day(), scope.region, scope.service);
    let text = format!("{ALGORITHM}\n{}\n{where_to}\n{}", time.second, hash(request.as_bytes()));
    let key = signing_key(&credentials.secret_access_key, scope, time)?;
    let signature = hex(hmac::sign(&key, text.as_bytes()).as_ref());
    Ok(format!(
        "{ALGORITHM} Credential={}/{where_to}, SignedHeaders={names}, Signature={signature}",
        credentials.access_key_id
    ))
}

fn canonical(method: &str, headers: &[(&str, &str)], names: &str, body: &[u8]) -> String {
    let mut text = format!("{method}\n/\n\n");
    for (name, value) in headers {
        let words: Vec<&str> = value.split(' ').filter(|word| !word.is_empty()).collect();
        text.push_str(name);
        text.push(':');
        text.push_str(&words.join(" "));
        text.push('\n');
    }
    text.push('\n');
    text.push_str(names);
    text.push('\n');
    text.push_str(&hash(body));
    text
}

/// The key of one day, region and service. What it is derived from lies in locked memory.
fn signing_key(
    secret: &Secret,
    scope: Scope<'_>,
    time: &Timestamp,
) -> Result<hmac::Key, LockError> {
    const PREFIX: &[u8] = b"AWS4";
    let mut first = Secret::zeroed(PREFIX.len() + secret.len())?;
    first.expose_mut()[..PREFIX.len()].copy_from_slice(PREFIX);
    first.expose_mut()[PREFIX.len()..].copy_from_slice(secret.expose());
    let mut key = hmac::Key::new(hmac::HMAC_SHA256, first.expose());
    for part in [time.day(), scope.region, scope.service, TERMINATOR] {
        key = hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&key, part.as_bytes()).as_ref());
    }
    Ok(key)
}

fn hash(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

/// In lower case.
pub(super) fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod test {
    //! Vectors: `aws-signing-test-suite/v4` of AWS (aws-c-auth), those whose request goes to `/` without a query.
    use super::*;

    const TOKEN: &str = "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSP\
                         fIeoIYRqTflfKD8YUuwthAx7mSEI/qkPpKPi/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7\
                         WZ0wq5VSXDvp75YU9HFvlRd8Tx6q6fE8YQcHNVXAkiY9q6d+xo0rKwT38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8\
                         FDrypNC9Yjc8fPOLn9FX9KSYvKTr4rvx3iSIlTJabIQwj2ICCR/oLxBA==";

    fn signed(method: &str, headers: &[(&str, &str)], body: &[u8]) -> String {
        let credentials = Credentials {
            access_key_id: "AKIDEXAMPLE".into(),
            secret_access_key: Secret::copy_of(b"wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
                .unwrap(),
            session_token: None,
        };
        let scope = Scope { region: "us-east-1", service: "service" };
        let time = Timestamp::of_unix(1_440_938_160);
        let mut all = vec![("host", "example.amazonaws.com"), ("x-amz-date", &time.second)];
        all.extend(headers);
        authorization(&credentials, scope, &time, Signed { method, headers: &all, body }).unwrap()
    }

    fn expected(names: &str, signature: &str) -> String {
        format!(
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, \
             SignedHeaders={names}, Signature={signature}"
        )
    }

    #[test]
    fn get_vanilla_and_post_vanilla() {
        assert_eq!(
            signed("GET", &[], b""),
            expected(
                "host;x-amz-date",
                "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"
            )
        );
        assert_eq!(
            signed("POST", &[], b""),
            expected(
                "host;x-amz-date",
                "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"
            )
        );
    }

    #[test]
    fn get_header_value_trim() {
        let headers = [("my-header1", " value1"), ("my-header2", " \"a   b   c\"")];
        assert_eq!(
            signed("GET", &headers, b""),
            expected(
                "host;my-header1;my-header2;x-amz-date",
                "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736"
            )
        );
    }

    #[test]
    fn post_sts_header_before() {
        assert_eq!(
            signed("POST", &[("x-amz-security-token", TOKEN)], b""),
            expected(
                "host;x-amz-date;x-amz-security-token",
                "85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead"
            )
        );
    }

    #[test]
    fn post_x_www_form_urlencoded() {
        let headers = [
            ("content-length", "13"),
            ("content-type", "application/x-www-form-urlencoded"),
            (
                "x-amz-content-sha256",
                "9095672bbd1f56dfc5b65f3e153adc8731a4a654192329106275f4c7b24d0b6e",
            ),
        ];
        assert_eq!(
            signed("POST", &headers, b"Param1=value1"),
            expected(
                "content-length;content-type;host;x-amz-content-sha256;x-amz-date",
                "d3875051da38690788ef43de4db0d8f280229d82040bfac253562e56c3f20e0b"
            )
        );
    }
}
