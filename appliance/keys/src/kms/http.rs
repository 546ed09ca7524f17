//! One request over HTTP/1.1, with or without TLS, and its answer: bounded in time and in bytes.
//!
//! Requests and answers may hold a key, so both lie in locked memory here, and what the HTTP library copied is zeroed where it
//! lets go of it. Copies of an instant in the buffers of the TLS library are beyond reach; see `docs/keys.md`.
//!
//! Redirects are not followed, proxies not used, connections not kept: a node asks for a key once in its life.

use std::io;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{HOST, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Uri};
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::tls::{Tls, TlsError};
use crate::{LockError, Secret, cleanse};

/// Most bytes of an answer's body; a longer one is refused. The answers of KMS are below 8 KiB.
pub(super) const BODY_BYTES_MAX: usize = 16 << 10;

/// How long we wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// For the name to be resolved and the connection to be made.
    pub(super) connect: Duration,
    /// For everything after it.
    pub(super) exchange: Duration,
}

/// Why there is no answer.
#[derive(Debug, Error)]
pub(super) enum HttpError {
    #[error("`{0:.120}` is not a URL of the form http[s]://HOST[:PORT]")]
    Url(String),
    #[error("{authority}: cannot connect: {cause}")]
    Connect { authority: String, cause: io::Error },
    #[error("{authority}: no answer after {seconds} s")]
    TimedOut { authority: String, seconds: u64 },
    #[error("{authority}: TLS: {cause}")]
    Tls { authority: String, cause: TlsError },
    #[error("{authority}: HTTP: {cause}")]
    Protocol { authority: String, cause: hyper::Error },
    #[error("{authority}: an answer of more than {BODY_BYTES_MAX} bytes")]
    TooLong { authority: String },
    #[error("a header may not hold what it was to hold: {0}")]
    Header(&'static str),
    #[error(transparent)]
    Memory(#[from] LockError),
}

/// Where to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    is_secure: bool,
    /// Without brackets.
    host: String,
    port: u16,
    authority: String,
    path: String,
}

impl Place {
    /// Reads a URL.
    ///
    /// # Errors
    /// [`HttpError::Url`].
    pub(super) fn parse(url: &str) -> Result<Self, HttpError> {
        let wrong = || HttpError::Url(url.to_owned());
        let uri: Uri = url.parse().map_err(|_| wrong())?;
        let is_secure = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(wrong()),
        };
        let authority = uri.authority().ok_or_else(wrong)?;
        if authority.as_str().contains('@') || authority.host().is_empty() {
            return Err(wrong());
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = authority.port_u16().unwrap_or(if is_secure { 443 } else { 80 });
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        Ok(Self { is_secure, host, port, authority: authority.as_str().to_owned(), path })
    }

    /// The same server, another path.
    pub(super) fn with_path(&self, path: &str) -> Self {
        Self { path: path.to_owned(), ..self.clone() }
    }

    /// What the header `Host` says.
    pub(super) fn authority(&self) -> &str {
        &self.authority
    }

    /// The path, with the query if there is one.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// Whether nobody on the way can read along: TLS, or a server on this machine.
    pub(super) fn is_private(&self) -> bool {
        self.is_secure
            || self.host == "localhost"
            || self.address().is_some_and(|address| address.is_loopback())
    }

    /// The host, when it is an address.
    pub(super) fn address(&self) -> Option<std::net::IpAddr> {
        self.host.parse().ok()
    }
}

/// What is asked.
#[derive(Debug)]
pub(super) struct Question<'a> {
    pub(super) method: Method,
    pub(super) place: &'a Place,
    /// Beside `Host`.
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) body: Body,
}

/// A body in locked memory.
#[derive(Debug)]
pub(super) struct Body {
    bytes: Secret,
    length: usize,
}

impl Body {
    /// None.
    ///
    /// # Errors
    /// [`LockError`].
    pub(super) fn empty() -> Result<Self, LockError> {
        Ok(Self { bytes: Secret::zeroed(1)?, length: 0 })
    }

    /// The first `length` bytes of `bytes`.
    ///
    /// # Panics
    /// When there are fewer.
    pub(super) fn new(bytes: Secret, length: usize) -> Self {
        assert!(length <= bytes.len());
        Self { bytes, length }
    }
}

impl AsRef<[u8]> for Body {
    fn as_ref(&self) -> &[u8] {
        &self.bytes.expose()[..self.length]
    }
}

/// What was answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Body,
}

/// Asks, and waits for the answer.
///
/// # Errors
/// [`HttpError`]. An answer of any status is none.
pub(super) async fn ask(
    tls: &Tls,
    question: Question<'_>,
    patience: Patience,
) -> Result<Answer, HttpError> {
    let place = question.place.clone();
    let authority = place.authority.clone();
    let late = |after: Duration| {
        let authority = authority.clone();
        move |_| HttpError::TimedOut { authority, seconds: after.as_secs() }
    };
    let connecting = TcpStream::connect((place.host.as_str(), place.port));
    let stream = timeout(patience.connect, connecting)
        .await
        .map_err(late(patience.connect))?
        .map_err(|cause| HttpError::Connect { authority: authority.clone(), cause })?;
    let exchange = async {
        if place.is_secure {
            let secured = tls.connect(&place.host, stream).await;
            let secured =
                secured.map_err(|cause| HttpError::Tls { authority: authority.clone(), cause })?;
            exchange(TokioIo::new(secured), question).await
        } else {
            exchange(TokioIo::new(stream), question).await
        }
    };
    timeout(patience.exchange, exchange).await.map_err(late(patience.exchange))?
}

async fn exchange<S>(stream: S, question: Question<'_>) -> Result<Answer, HttpError>
where
    S: hyper::rt::Read + hyper::rt::Write + Send + Unpin + 'static,
{
    let authority = question.place.authority.clone();
    let protocol = |cause| HttpError::Protocol { authority: authority.clone(), cause };
    let (mut sender, connection) = http1::handshake(stream).await.map_err(protocol)?;
    let connection = Connection(tokio::spawn(connection));
    let request = request(question)?;
    let answer = sender.send_request(request).await.map_err(protocol)?;
    let (parts, incoming) = answer.into_parts();
    let collected = collect(incoming, &authority).await;
    // The library's buffers are ours alone once its connection is gone.
    drop(sender);
    connection.end().await;
    let body = collected?;
    Ok(Answer { status: parts.status.as_u16(), headers: parts.headers, body: body.copy()? })
}

fn request(question: Question<'_>) -> Result<Request<Full<Bytes>>, HttpError> {
    let host = HeaderValue::from_str(&question.place.authority);
    let mut request = Request::new(Full::new(Bytes::from_owner(question.body)));
    *request.method_mut() = question.method;
    let path = question.place.path.parse();
    *request.uri_mut() = path.map_err(|_| HttpError::Url(question.place.path.clone()))?;
    let headers = request.headers_mut();
    headers.insert(HOST, host.map_err(|_| HttpError::Header("host"))?);
    headers.extend(question.headers);
    Ok(request)
}

/// The task that moves bytes; ends with the value, also when it is dropped on the way.
struct Connection(tokio::task::JoinHandle<hyper::Result<()>>);

impl Connection {
    async fn end(mut self) {
        self.0.abort();
        // How it ended does not matter: the answer is here.
        let _ = (&mut self.0).await;
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The pieces of a body as they came.
struct Pieces(Vec<Bytes>);

async fn collect(mut incoming: Incoming, authority: &str) -> Result<Pieces, HttpError> {
    let mut pieces = Pieces(Vec::new());
    let mut length = 0;
    while !incoming.is_end_stream() {
        let Some(frame) = incoming.frame().await else { break };
        let frame = frame
            .map_err(|cause| HttpError::Protocol { authority: authority.to_owned(), cause })?;
        let Ok(piece) = frame.into_data() else { continue };
        length += piece.len();
        pieces.0.push(piece);
        if length > BODY_BYTES_MAX {
            return Err(HttpError::TooLong { authority: authority.to_owned() });
        }
    }
    Ok(pieces)
}

impl Pieces {
    fn copy(self) -> Result<Body, LockError> {
        let length = self.0.iter().map(Bytes::len).sum();
        let mut bytes = Secret::zeroed(length)?;
        let mut at = 0;
        for piece in &self.0 {
            bytes.expose_mut()[at..at + piece.len()].copy_from_slice(piece);
            at += piece.len();
        }
        Ok(Body::new(bytes, length))
    }
}

impl Drop for Pieces {
    fn drop(&mut self) {
        for piece in self.0.drain(..) {
            // Fails while somebody else holds a part of the same buffer; the last piece of a buffer then clears only itself.
            if let Ok(mut piece) = piece.try_into_mut() {
                cleanse(&mut piece);
            }
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let place = Place::parse("https://kms.eu-west-1.amazonaws.com").unwrap();
        assert_eq!((place.host.as_str(), place.port), ("kms.eu-west-1.amazonaws.com", 443));
        assert_eq!(place.path(), "/");
        assert!(place.is_private());
        let place = Place::parse("http://[::1]:8080/a?b=c").unwrap();
        assert_eq!((place.host.as_str(), place.port), ("::1", 8080));
        assert_eq!((place.authority(), place.path()), ("[::1]:8080", "/a?b=c"));
        assert!(place.is_private());
        assert!(!Place::parse("http://kms.example").unwrap().is_private());
        assert!(!Place::parse("http://127.0.0.1.example").unwrap().is_private());
    }

    #[test]
    fn what_is_no_url_is_refused() {
        for text in ["", "kms.example", "ftp://kms.example", "http://", "http://a@b", "/"] {
            assert!(matches!(Place::parse(text), Err(HttpError::Url(_))), "{text}");
        }
    }
}
