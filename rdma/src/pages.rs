//! Peers that speak HTTP where clients connect: they want a page, and somebody else answers them.

use std::{net::TcpStream, os::unix::net::UnixStream};

/// How a peer begins that wants a page.
pub(crate) const PAGE_BEGIN: &[u8] = b"GET /";

/// A peer that wants a page.
#[derive(Debug)]
pub struct PageRequest {
    /// The connection, not blocking.
    pub socket: Socket,
    /// What was read of the request.
    pub begun: Vec<u8>,
}

/// A connection from this host or from any.
#[derive(Debug)]
pub enum Socket {
    /// Of this host.
    Unix(UnixStream),
    /// Of any host.
    Tcp(TcpStream),
}

/// Gets every peer that wants a page; must not block.
pub type PageSink = Box<dyn FnMut(PageRequest) + Send>;
