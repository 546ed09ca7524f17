//! One HTTP request, for the node's own endpoints: small pages where it listens, orders on a UNIX socket.

use std::{
    io::{ErrorKind, Read, Write},
    net::{TcpStream, ToSocketAddrs},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::{
    admin::not_ours,
    failure::{Failure, FailureKind},
};

/// Longest answer taken.
const ANSWER_BYTES_MAX: u64 = 16 << 20;
/// How long connecting, and each read, may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// How long an order may take: a key may lie behind a network.
pub(crate) const ORDER_PATIENCE: Duration = Duration::from_secs(120);

/// Returns the body behind `path` at a node: `unix:PATH` or `tcp:HOST:PORT`, where it listens for clients.
///
/// # Errors
/// When nobody answers there, or not with status 200.
pub(crate) fn get(address: &str, path: &str) -> Result<String> {
    let stream = connect(address)?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: node\r\nConnection: close\r\n\r\n");
    let (status, body) = match stream {
        Stream::Unix(stream) => exchange(stream, &request),
        Stream::Tcp(stream) => exchange(stream, &request),
    }
    .map_err(|error| unanswered(address, &error))?;
    if code(&status) != Some("200") {
        bail!("{address}{path} answers `{status}`");
    }
    Ok(body)
}

enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

fn connect(address: &str) -> Result<Stream> {
    let stream = if let Some(path) = address.strip_prefix("unix:") {
        let path = Path::new(path);
        // The socket of orders answers while the node starts; it is its own user's, the node's socket also the group's.
        let stream = UnixStream::connect(sheen_control::operator_socket(path))
            .or_else(|_| UnixStream::connect(path))
            .map_err(|error| unreachable(address, &error))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Stream::Unix(stream)
    } else {
        let host = address.strip_prefix("tcp:").unwrap_or(address);
        let mut targets =
            host.to_socket_addrs().with_context(|| format!("`{host}` is not HOST:PORT"))?;
        let target = targets.next().with_context(|| format!("`{host}` has no address"))?;
        let stream = TcpStream::connect_timeout(&target, PATIENCE)
            .map_err(|error| unreachable(address, &error))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Stream::Tcp(stream)
    };
    Ok(stream)
}

fn exchange(mut stream: impl Read + Write, request: &str) -> Result<(String, String)> {
    stream.write_all(request.as_bytes())?;
    answer(stream)
}

/// Nobody listens at `address`, or not for this user.
fn unreachable(address: &str, error: &std::io::Error) -> Failure {
    let kind = match error.kind() {
        ErrorKind::PermissionDenied if address.starts_with("unix:") => return not_ours(address),
        ErrorKind::PermissionDenied => FailureKind::Permission,
        _ => FailureKind::Unreachable,
    };
    Failure::new(kind, format!("no node answers at {address}: {error}"))
        .hint("is `sheen node` running there? --node names another")
}

/// Somebody listens at `address` and does not answer.
fn unanswered(address: &str, error: &anyhow::Error) -> Failure {
    let text = format!("{address} takes connections and gives no answer: {error:#}");
    Failure::new(FailureKind::Unreachable, text).hint(if address.starts_with("unix:") {
        "a node that starts answers its own user alone, on its machine, by its UNIX socket"
    } else {
        "name its UNIX socket on its machine; elsewhere the page /status of its metrics address tells"
    })
}

/// Posts `body` to `path` on the UNIX socket `socket`, and waits for the answer, `patience` for each part: whether it is status 200, and its
/// body. None: nobody listens there.
///
/// # Errors
/// When the answer is none, or does not come.
pub(crate) fn post_unix(
    socket: &Path,
    path: &str,
    body: &str,
    patience: Duration,
) -> Result<Option<(bool, String)>> {
    let address = || format!("unix:{}", socket.display());
    let mut stream = match UnixStream::connect(socket) {
        Ok(stream) => stream,
        Err(error)
            if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(unreachable(&address(), &error).into()),
    };
    stream.set_read_timeout(Some(patience))?;
    let length = body.len();
    write!(
        stream,
        "POST {path} HTTP/1.0\r\nHost: node\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )?;
    let (status, body) = answer(stream).map_err(|error| unanswered(&address(), &error))?;
    Ok(Some((code(&status) == Some("200"), body)))
}

/// Status line and body.
fn answer(stream: impl Read) -> Result<(String, String)> {
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").context("the answer is not HTTP")?;
    Ok((head.lines().next().unwrap_or_default().to_owned(), body.to_owned()))
}

fn code(status: &str) -> Option<&str> {
    status.split(' ').nth(1)
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_node_that_may_not_be_used_is_said_to_be_another_user_s() {
        let of = |address: &str, kind: ErrorKind| {
            let failure = unreachable(address, &kind.into());
            (failure.kind, failure.text())
        };
        let unix = "unix:/a/.sheen/node.sock";
        let text = format!("you may not use the node at {unix}; it is another user's");
        assert_eq!(of(unix, ErrorKind::PermissionDenied), (FailureKind::Permission, text));
        for (address, kind, expected) in [
            (unix, ErrorKind::ConnectionRefused, FailureKind::Unreachable),
            ("tcp:a:9810", ErrorKind::PermissionDenied, FailureKind::Permission),
        ] {
            let (found, text) = of(address, kind);
            assert_eq!(found, expected);
            assert!(text.starts_with(&format!("no node answers at {address}: ")), "{text}");
        }
    }
}
