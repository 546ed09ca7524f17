//! A TCP port in front of a server: closed and opened again, it takes the server away and brings it back with all it knows.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Most bytes that are kept of what passes.
const HEARD_BYTES_MAX: usize = 4 << 20;

type Heard = Arc<Mutex<Vec<u8>>>;

/// Passes connections on while it is open, and keeps what passes. Each connection takes two threads; it is for a few.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    to: SocketAddr,
    heard: Heard,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    is_closing: Arc<AtomicBool>,
    listener: JoinHandle<()>,
}

impl Relay {
    /// Opens a port in front of `to`.
    ///
    /// # Errors
    /// When there is no port.
    pub fn open(to: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let heard = Heard::default();
        let open = Open::start(listener, to, &heard);
        Ok(Self { address, to, heard, open: Some(open) })
    }

    /// The port; it stays the same.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The bytes that passed so far, of both directions.
    #[must_use]
    pub fn heard(&self) -> Vec<u8> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on connections are refused.
    pub fn close(&mut self) {
        if let Some(open) = self.open.take() {
            open.is_closing.store(true, Ordering::SeqCst);
            // Wakes the listener.
            drop(TcpStream::connect(self.address));
            let _ = open.listener.join();
        }
    }

    /// Opens the same port again.
    ///
    /// # Errors
    /// When somebody else has it now.
    pub fn reopen(&mut self) -> io::Result<()> {
        if self.open.is_none() {
            self.open = Some(Open::start(TcpListener::bind(self.address)?, self.to, &self.heard));
        }
        Ok(())
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.close();
    }
}

impl Open {
    fn start(listener: TcpListener, to: SocketAddr, heard: &Heard) -> Self {
        let heard = Arc::clone(heard);
        let is_closing = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&is_closing);
        let listener = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if seen.load(Ordering::SeqCst) {
                    break;
                }
                let Ok(stream) = stream else { continue };
                let heard = Arc::clone(&heard);
                std::thread::spawn(move || pass(&stream, to, &heard));
            }
        });
        Self { is_closing, listener }
    }
}

/// Both ways, until both have ended.
fn pass(client: &TcpStream, to: SocketAddr, heard: &Heard) {
    let Ok(server) = TcpStream::connect(to) else { return };
    std::thread::scope(|scope| {
        scope.spawn(|| one_way(client, &server, heard));
        one_way(&server, client, heard);
    });
}

fn one_way(mut from: &TcpStream, mut to: &TcpStream, heard: &Heard) {
    let mut bytes = vec![0; 16 << 10];
    // A connection that breaks ends for both sides.
    while let Ok(length @ 1..) = from.read(&mut bytes) {
        let mut kept = heard.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < HEARD_BYTES_MAX {
            kept.extend_from_slice(&bytes[..length]);
        }
        drop(kept);
        if to.write_all(&bytes[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn a_closed_relay_refuses_and_an_open_one_passes_bytes() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut relay = Relay::open(server.local_addr().unwrap()).unwrap();
        for _ in 0..2 {
            let mut client = TcpStream::connect(relay.address()).unwrap();
            client.write_all(b"ping").unwrap();
            let (mut accepted, _) = server.accept().unwrap();
            let mut bytes = [0; 4];
            accepted.read_exact(&mut bytes).unwrap();
            assert_eq!(&bytes, b"ping");
            relay.close();
            assert!(TcpStream::connect(relay.address()).is_err());
            assert!(relay.heard().ends_with(b"ping"));
            relay.reopen().unwrap();
        }
    }
}
