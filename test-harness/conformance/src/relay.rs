//! A TCP port in front of a server: closed and opened again, it takes the server away and brings it back with all it knows.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// Passes connections on while it is open. Each takes two threads; it is for a few.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    to: SocketAddr,
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
        Ok(Self { address, to, open: Some(Open::start(listener, to)) })
    }

    /// The port; it stays the same.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
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
            self.open = Some(Open::start(TcpListener::bind(self.address)?, self.to));
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
    fn start(listener: TcpListener, to: SocketAddr) -> Self {
        let is_closing = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&is_closing);
        let listener = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if seen.load(Ordering::SeqCst) {
                    break;
                }
                let Ok(stream) = stream else { continue };
                std::thread::spawn(move || pass(&stream, to));
            }
        });
        Self { is_closing, listener }
    }
}

/// Both ways, until both have ended.
fn pass(client: &TcpStream, to: SocketAddr) {
    let Ok(server) = TcpStream::connect(to) else { return };
    std::thread::scope(|scope| {
        scope.spawn(|| one_way(client, &server));
        one_way(&server, client);
    });
}

fn one_way(mut from: &TcpStream, mut to: &TcpStream) {
    // A connection that breaks ends for both sides.
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

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
            relay.reopen().unwrap();
        }
    }
}
