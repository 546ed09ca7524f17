//! What every TCP socket of ours is set to.

use std::{
    io,
    net::TcpStream,
    os::fd::{AsRawFd, RawFd},
};

use nix::sys::socket::{setsockopt, sockopt};

/// A silent peer is probed after so many seconds, so often, and given up after this many probes.
const KEEPALIVE_SECONDS: i32 = 10;
const KEEPALIVE_PROBES: i32 = 3;
/// Milliseconds sent bytes may stay unacknowledged before the connection fails.
const USER_TIMEOUT_MILLISECONDS: i32 = 20_000;

/// No delay, and a peer whose host died is noticed in half a minute.
pub(crate) fn set_tcp_options(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    set(stream.as_raw_fd(), libc::TCP_KEEPIDLE, KEEPALIVE_SECONDS)?;
    set(stream.as_raw_fd(), libc::TCP_KEEPINTVL, KEEPALIVE_SECONDS)?;
    set(stream.as_raw_fd(), libc::TCP_KEEPCNT, KEEPALIVE_PROBES)?;
    set(stream.as_raw_fd(), libc::TCP_USER_TIMEOUT, USER_TIMEOUT_MILLISECONDS)
}

fn set(socket: RawFd, option: i32, value: i32) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<i32>()).unwrap_or(4);
    // SAFETY: the kernel reads `length` bytes at the address of `value`, which lives until the call returns.
    let result = unsafe {
        libc::setsockopt(socket, libc::IPPROTO_TCP, option, (&raw const value).cast(), length)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
