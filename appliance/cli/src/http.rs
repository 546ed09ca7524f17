//! One HTTP GET, for the node's own endpoint: it answers small pages on loopback.

use std::{
    io::{Read, Write},
    net::{TcpStream, ToSocketAddrs},
    time::Duration,
};

use anyhow::{Context, Result, bail};

/// Longest answer taken.
const ANSWER_BYTES_MAX: u64 = 16 << 20;
/// How long connecting, and each read, may take.
const PATIENCE: Duration = Duration::from_secs(5);

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
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").context("the answer is not HTTP")?;
    let status = head.lines().next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("200") {
        bail!("{address}{path} answers `{status}`");
    }
    Ok(body.to_owned())
}
