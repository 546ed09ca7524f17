//! One HTTP request, for the node's own endpoints: small pages on loopback, orders on a UNIX socket.

use std::{
    io::{ErrorKind, Read, Write},
    net::{TcpStream, ToSocketAddrs},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result, bail};

/// Longest answer taken.
const ANSWER_BYTES_MAX: u64 = 16 << 20;
/// How long connecting, and each read, may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long an order may take: a key may lie behind a network.
const ORDER_PATIENCE: Duration = Duration::from_secs(120);

/// The body behind `path` at `address` (HOST:PORT).
///
/// # Errors
/// When nobody answers there, or not with status 200.
pub(crate) fn get(address: &str, path: &str) -> Result<String> {
    let target = address
        .to_socket_addrs()
        .with_context(|| format!("`{address}` is not HOST:PORT"))?
        .next()
        .with_context(|| format!("`{address}` has no address"))?;
    let mut stream = TcpStream::connect_timeout(&target, PATIENCE)
        .with_context(|| format!("no node answers at {address}; is `sheen node` running there?"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let (status, body) = answer(stream)?;
    if code(&status) != Some("200") {
        bail!("{address}{path} answers `{status}`");
    }
    Ok(body)
}

/// Posts `body` to `path` on the UNIX socket `socket`, and waits for the answer: whether it is status 200, and its body. None: nobody
/// listens there.
///
/// # Errors
/// When the answer is none.
pub(crate) fn post_unix(socket: &Path, path: &str, body: &str) -> Result<Option<(bool, String)>> {
    let mut stream = match UnixStream::connect(socket) {
        Ok(stream) => stream,
        Err(error)
            if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(error).with_context(|| socket.display().to_string()),
    };
    stream.set_read_timeout(Some(ORDER_PATIENCE))?;
    let length = body.len();
    write!(
        stream,
        "POST {path} HTTP/1.0\r\nHost: node\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )?;
    let (status, body) = answer(stream)?;
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
