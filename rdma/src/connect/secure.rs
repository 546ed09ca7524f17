//! Shaking hands with a node over TCP.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    sync::Arc,
    time::{Duration, Instant},
};

use super::ConnectError;
use crate::{
    handshake::{ClientHandshake, ClientSettings, Established},
    hello::MAGIC,
};

/// Time for a handshake: as long as a node gives it.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// Bytes that are read at a time.
const READ_BYTES: usize = 4 << 10;

/// Who connects over TCP, and to whom.
#[derive(Clone, Debug)]
pub struct ClientIdentity {
    /// Certificate and key, the authorities that are believed, and whether a connection in clear will do.
    pub settings: Arc<ClientSettings>,
    /// The uuid of the node that must answer; None: any whose certificate is believed.
    pub node: Option<[u8; 16]>,
}

/// Shakes hands on a connection that was just made. Its time-outs are this function's afterwards.
///
/// # Errors
/// [`ConnectError`].
pub(super) fn shake_hands(
    stream: &mut TcpStream,
    service: u32,
    identity: &ClientIdentity,
) -> Result<Established, ConnectError> {
    let deadline = Instant::now() + HANDSHAKE_MAX;
    let mut handshake =
        ClientHandshake::new(Arc::clone(&identity.settings), service, identity.node)
            .map_err(ConnectError::Handshake)?;
    let mut bytes = [0; READ_BYTES];
    let mut begun = false;
    loop {
        write(stream, &handshake.take_output(), deadline)?;
        let count = match read(stream, &mut bytes, deadline) {
            Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            Ok(count) => count,
            Err(error) => return Err(error.into()),
        };
        let received = &bytes[..count];
        if !begun && received.starts_with(&MAGIC) {
            return Err(ConnectError::InClear);
        }
        begun = true;
        match handshake.receive(received) {
            Ok(None) => {}
            Ok(Some(established)) => return Ok(established),
            Err(error) => {
                // The node is told why, if it listens.
                let _told = write(stream, &handshake.take_output(), deadline);
                return Err(ConnectError::of_handshake(error));
            }
        }
    }
}

/// Time that is left, at least a moment: none at all would mean no end.
fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

fn write(stream: &mut TcpStream, bytes: &[u8], deadline: Instant) -> io::Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    stream.set_write_timeout(Some(left(deadline)?))?;
    stream.write_all(bytes)
}

fn read(stream: &mut TcpStream, bytes: &mut [u8], deadline: Instant) -> io::Result<usize> {
    loop {
        stream.set_read_timeout(Some(left(deadline)?))?;
        match stream.read(bytes) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // How a time-out shows.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::ErrorKind::TimedOut.into());
            }
            other => return other,
        }
    }
}
