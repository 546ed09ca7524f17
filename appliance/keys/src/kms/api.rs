//! The calls to KMS that are made: DescribeKey, Encrypt, Decrypt (JSON 1.1), signed, and tried again when that can help.

use std::borrow::Cow;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::Method;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue};
use serde::Deserialize;

use super::context::Context;
use super::credentials::{self, Credentials};
use super::environment::Environment;
use super::http::{self, Answer, Body, HttpError, Patience, Place, Question};
use super::refusal::{CallError, ServiceError};
use super::signature::{Scope, Signed, authorization};
use super::timestamp::Timestamp;
use super::tls::Tls;
use crate::{LockError, Secret};

const SERVICE: &str = "kms";
const MEDIA_TYPE: &str = "application/x-amz-json-1.1";
/// Most bytes KMS encrypts itself.
const PLAINTEXT_BYTES_MAX: usize = 4096;
/// Tries of one call; after them the last error stands.
const ATTEMPTS: u32 = 4;
/// Upper bound of the first pause; it doubles with each. Each pause is drawn between half of its bound and the bound, so that a
/// rack of nodes that starts at once does not ask again at once.
const PAUSE: Duration = Duration::from_millis(200);
const PATIENCE: Patience =
    Patience { connect: Duration::from_secs(3), exchange: Duration::from_secs(10) };

/// A KMS.
#[derive(Debug)]
pub(super) struct Kms {
    /// Where it is.
    pub(super) place: Place,
    /// The region that signatures name.
    pub(super) region: String,
    /// Where credentials come from.
    pub(super) environment: Environment,
    /// How it is believed to be it.
    pub(super) tls: Tls,
}

/// What DescribeKey tells.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Described {
    /// The key's ARN, whatever it was asked for by.
    pub(super) arn: String,
    /// `Enabled`, or why not.
    #[serde(default)]
    pub(super) key_state: Option<String>,
    /// `SYMMETRIC_DEFAULT` for the one kind that wraps.
    #[serde(default)]
    pub(super) key_spec: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DescribedWhole {
    key_metadata: Described,
}

/// What Encrypt gives.
#[derive(Debug)]
pub(super) struct Encrypted {
    /// The ARN of the key that did it.
    pub(super) arn: String,
    /// What Decrypt takes.
    pub(super) blob: Vec<u8>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct EncryptedWhole<'a> {
    #[serde(borrow)]
    ciphertext_blob: Cow<'a, str>,
    key_id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DecryptedWhole<'a> {
    #[serde(borrow)]
    plaintext: Cow<'a, str>,
}

impl Kms {
    /// What is known of a key.
    ///
    /// # Errors
    /// [`CallError`].
    pub(super) async fn describe(&self, key: &str) -> Result<Described, CallError> {
        let answer = self.call("DescribeKey", |text| text.pair("KeyId", key)).await?;
        let whole: DescribedWhole = serde_json::from_slice(answer.body.as_ref())
            .map_err(|_| CallError::Answer("DescribeKey"))?;
        Ok(whole.key_metadata)
    }

    /// Encrypts at most [`PLAINTEXT_BYTES_MAX`] bytes under `key`, bound to `context`.
    ///
    /// # Errors
    /// [`CallError`].
    ///
    /// # Panics
    /// When `secret` is longer.
    pub(super) async fn encrypt(
        &self,
        key: &str,
        context: &Context,
        secret: &Secret,
    ) -> Result<Encrypted, CallError> {
        assert!(secret.len() <= PLAINTEXT_BYTES_MAX);
        let answer = self.call("Encrypt", |text| {
            text.pair("KeyId", key);
            text.context(context);
            text.base64("Plaintext", secret.expose());
        });
        let answer = answer.await?;
        let malformed = || CallError::Answer("Encrypt");
        let whole: EncryptedWhole<'_> =
            serde_json::from_slice(answer.body.as_ref()).map_err(|_| malformed())?;
        let blob = STANDARD.decode(whole.ciphertext_blob.as_bytes()).map_err(|_| malformed())?;
        Ok(Encrypted { arn: whole.key_id, blob })
    }

    /// Decrypts what [`Kms::encrypt`] gave, by the same key and context only.
    ///
    /// # Errors
    /// [`CallError`].
    pub(super) async fn decrypt(
        &self,
        key: &str,
        context: &Context,
        blob: &[u8],
    ) -> Result<Secret, CallError> {
        let answer = self.call("Decrypt", |text| {
            text.pair("KeyId", key);
            text.context(context);
            text.base64("CiphertextBlob", blob);
        });
        let answer = answer.await?;
        let malformed = || CallError::Answer("Decrypt");
        let whole: DecryptedWhole<'_> =
            serde_json::from_slice(answer.body.as_ref()).map_err(|_| malformed())?;
        let text = whole.plaintext.as_bytes();
        let mut room = Secret::zeroed(base64::decoded_len_estimate(text.len()))?;
        let length = STANDARD.decode_slice(text, room.expose_mut()).map_err(|_| malformed())?;
        if length == 0 {
            return Err(malformed());
        }
        Ok(Secret::copy_of(&room.expose()[..length])?)
    }

    /// One call, tried again when KMS is busy, broken or not reached.
    async fn call(
        &self,
        operation: &'static str,
        fill: impl Fn(&mut Text),
    ) -> Result<Answer, CallError> {
        let credentials = credentials::find(&self.environment, &self.tls).await?;
        let mut attempt = 1;
        loop {
            let error = match self.attempt(operation, &credentials, &fill).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            if attempt == ATTEMPTS || !error.may_pass() {
                return Err(error);
            }
            tokio::time::sleep(pause(attempt)).await;
            attempt += 1;
        }
    }

    async fn attempt(
        &self,
        operation: &'static str,
        credentials: &Credentials,
        fill: &impl Fn(&mut Text),
    ) -> Result<Answer, CallError> {
        let mut text = Text::begin()?;
        fill(&mut text);
        let body = text.end();
        let headers = self.headers(operation, credentials, &body)?;
        let question = Question { method: Method::POST, place: &self.place, headers, body };
        let answer = http::ask(&self.tls, question, PATIENCE).await?;
        if answer.status == 200 {
            return Ok(answer);
        }
        Err(CallError::Service(ServiceError::of_answer(&answer)))
    }

    fn headers(
        &self,
        operation: &'static str,
        credentials: &Credentials,
        body: &Body,
    ) -> Result<Vec<(HeaderName, HeaderValue)>, CallError> {
        let time = Timestamp::now();
        let target = format!("TrentService.{operation}");
        let mut plain = vec![
            ("content-type", MEDIA_TYPE),
            ("host", self.place.authority()),
            ("x-amz-date", &time.second),
            ("x-amz-target", &target),
        ];
        let token = credentials.session_token.as_ref();
        if let Some(token) = token {
            let token = std::str::from_utf8(token.expose());
            plain.push(("x-amz-security-token", token.map_err(|_| unusable())?));
        }
        let scope = Scope { region: &self.region, service: SERVICE };
        let signed = Signed { method: "POST", headers: &plain, body: body.as_ref() };
        let signature = authorization(credentials, scope, &time, signed)?;
        let mut headers = vec![
            (CONTENT_TYPE, value(MEDIA_TYPE)?),
            (HeaderName::from_static("x-amz-date"), value(&time.second)?),
            (HeaderName::from_static("x-amz-target"), value(&target)?),
            (AUTHORIZATION, value(&signature)?),
        ];
        if let Some(token) = token {
            let mut token = HeaderValue::from_bytes(token.expose()).map_err(|_| unusable())?;
            token.set_sensitive(true);
            headers.push((HeaderName::from_static("x-amz-security-token"), token));
        }
        Ok(headers)
    }
}

fn value(text: &str) -> Result<HeaderValue, HttpError> {
    HeaderValue::from_str(text).map_err(|_| HttpError::Header("a signature"))
}

fn unusable() -> HttpError {
    HttpError::Header("the session token")
}

/// Between half of the bound and the bound.
fn pause(attempt: u32) -> Duration {
    let bound = PAUSE * 2_u32.pow(attempt - 1);
    let mut byte = [0_u8];
    // Without chance the pause is the shortest; it is a matter of courtesy alone.
    let _ = aws_lc_rs::rand::fill(&mut byte);
    bound / 2 + bound / 2 * u32::from(byte[0]) / 255
}

/// A JSON object being written in locked memory.
struct Text {
    bytes: Secret,
    length: usize,
}

impl Text {
    /// Room for the longest request there is: a plaintext of the greatest length, a key's name, a context.
    const ROOM: usize = 12 << 10;

    fn begin() -> Result<Self, LockError> {
        let mut text = Self { bytes: Secret::zeroed(Self::ROOM)?, length: 0 };
        text.push(b"{");
        Ok(text)
    }

    fn push(&mut self, bytes: &[u8]) {
        self.bytes.expose_mut()[self.length..self.length + bytes.len()].copy_from_slice(bytes);
        self.length += bytes.len();
    }

    /// `"name":`, with a comma where one is due.
    fn name(&mut self, name: &str) {
        if self.length > 1 {
            self.push(b",");
        }
        self.string(name);
        self.push(b":");
    }

    fn string(&mut self, text: &str) {
        self.push(serde_json::Value::from(text).to_string().as_bytes());
    }

    fn pair(&mut self, name: &str, value: &str) {
        self.name(name);
        self.string(value);
    }

    fn context(&mut self, context: &Context) {
        self.name("EncryptionContext");
        self.push(b"{");
        for (number, (name, value)) in context.pairs().iter().enumerate() {
            if number > 0 {
                self.push(b",");
            }
            self.string(name);
            self.push(b":");
            self.string(value);
        }
        self.push(b"}");
    }

    fn base64(&mut self, name: &str, bytes: &[u8]) {
        self.name(name);
        self.push(b"\"");
        let room = &mut self.bytes.expose_mut()[self.length..];
        let written = STANDARD.encode_slice(bytes, room);
        self.length += written.expect("the room is that of the longest request");
        self.push(b"\"");
    }

    fn end(mut self) -> Body {
        self.push(b"}");
        Body::new(self.bytes, self.length)
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_request_is_json() {
        let mut text = Text::begin().unwrap();
        text.pair("KeyId", "alias/\"x\"");
        text.context(&Context::of(b"1"));
        text.base64("Plaintext", b"hello");
        let body = text.end();
        let expected = r#"{"KeyId":"alias/\"x\"","EncryptionContext":{"sheen-context":"31"},"Plaintext":"aGVsbG8="}"#;
        assert_eq!(std::str::from_utf8(body.as_ref()).unwrap(), expected);
    }

    #[test]
    fn the_longest_request_fits() {
        let mut text = Text::begin().unwrap();
        text.pair("KeyId", &"k".repeat(2048));
        text.context(&Context::of(&[b'p'; 64]));
        text.base64("Plaintext", &[0xff; PLAINTEXT_BYTES_MAX]);
        assert!(text.end().as_ref().len() < Text::ROOM);
    }

    #[test]
    fn pauses_grow_and_are_bounded() {
        for attempt in 1..ATTEMPTS {
            let bound = PAUSE * 2_u32.pow(attempt - 1);
            let drawn = pause(attempt);
            assert!(bound / 2 <= drawn && drawn <= bound, "{attempt}: {drawn:?}");
        }
    }
}
