//! Making a link to a service of a node.

mod secure;

use std::{
    fmt,
    io::{self, Read, Write},
    mem::ManuallyDrop,
    net::{Shutdown, TcpStream, ToSocketAddrs},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    sync::Arc,
    time::Duration,
};

use nix::sys::socket::{getsockopt, sockopt};
use sheen_dma::Arena;
use sheen_ports::Link;
use sheen_wire::DecodeError;

pub use secure::ClientIdentity;

use crate::{
    apart::Apart,
    area::Area,
    descriptors,
    handshake::{CertificateFault, HandshakeError},
    hello::{ANSWER_BYTES, Hello, Refusal, Transport, read_answer},
    peer_socket::{PeerSocket, Unclosed},
    places::readers,
    shared_link::SharedLink,
    stream::StreamSeals,
    tcp_link::TcpLink,
    tcp_options::set_tcp_options,
    window::Window,
};

/// How long to wait for the server at each step of connecting.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Why there is no link, split by what the caller must do.
#[derive(Debug)]
pub enum ConnectError {
    /// The address is neither `unix:/path` nor `tcp:host:port`.
    Address,
    /// Nobody there, or the connection broke: try again later.
    System(io::Error),
    /// The server refused.
    Refused(Refusal),
    /// What answers is no server of ours.
    Protocol(DecodeError),
    /// The handshake failed: what must be changed is an identity, here or there.
    Handshake(HandshakeError),
    /// The node does no handshakes; the client has an identity, so it would not send its data in clear.
    InClear,
}

impl ConnectError {
    /// A refusal is one, however it was told.
    fn of_handshake(error: HandshakeError) -> Self {
        match error {
            HandshakeError::Refused(refusal) => Self::Refused(refusal),
            other => Self::Handshake(other),
        }
    }
}

/// Says what is wrong and what to do.
fn explain(error: &HandshakeError) -> String {
    let fixed = match error {
        HandshakeError::Certificate(CertificateFault::Authority) => {
            "no authority of this identity signed the node's certificate: it is another node than the \
             identity is for, or its authority was changed; get a new identity file"
        }
        HandshakeError::Certificate(CertificateFault::Expired) => {
            "the node's certificate or its authority is not valid now; look at the clocks of both hosts, then \
             at `sheen ca show` on the node"
        }
        HandshakeError::Certificate(CertificateFault::Purpose) => {
            "what answers shows a certificate that is not a node's"
        }
        HandshakeError::Certificate(CertificateFault::Missing | CertificateFault::Other) => {
            "the node's certificate cannot be believed"
        }
        HandshakeError::OwnCertificate(CertificateFault::Authority) => {
            "the node does not know the authority that signed this identity; get a new identity file from this node"
        }
        HandshakeError::OwnCertificate(CertificateFault::Expired) => {
            "this identity is not valid now: it has expired, or the clocks of the hosts differ; get a new identity file"
        }
        HandshakeError::OwnCertificate(CertificateFault::Purpose) => {
            "this identity is not a client's"
        }
        HandshakeError::OwnCertificate(CertificateFault::Missing | CertificateFault::Other) => {
            "the node does not accept this identity"
        }
        HandshakeError::NoCommonTransit => {
            "one side encrypts and the other is told not to (encryption = \"off\"); both must say the same, and be of \
             the same release"
        }
        HandshakeError::Refused(refusal) => refusal.reason(),
        HandshakeError::OtherNode => "another node answers than the one this identity is for",
        HandshakeError::Protocol(_) | HandshakeError::TooLong(_) | HandshakeError::Tls(_) => {
            return format!("the handshake with the node failed: {error}");
        }
    };
    fixed.to_owned()
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address => {
                f.write_str("expected an address such as unix:/run/sheen.sock or tcp:host:7000")
            }
            Self::System(error) => write!(f, "connecting: {error}"),
            Self::Refused(refusal) => {
                write!(f, "the node refuses the connection: {}", refusal.reason())
            }
            Self::Protocol(error) => write!(f, "the server's answer makes no sense: {error}"),
            Self::Handshake(error) => f.write_str(&explain(error)),
            Self::InClear => f.write_str(
                "the node has no identity and encrypts nothing; give it one, or connect without an identity",
            ),
        }
    }
}

impl std::error::Error for ConnectError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::System(error) => Some(error),
            Self::Protocol(error) => Some(error),
            Self::Handshake(error) => Some(error),
            Self::Address | Self::Refused(_) | Self::InClear => None,
        }
    }
}

impl From<io::Error> for ConnectError {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

/// Connects to service number `service` of the node at `address`: `unix:/path` for shared memory, `tcp:host:port`.
/// Buffers of the link come from `arena`, which many links may share and no server ever sees; a link over shared memory has a window of
/// the same size beside it, of which payload in flight takes pages. Blocks for some seconds at most. When the link is lost, connect
/// again.
///
/// Over TCP it shows no certificate, and nothing is encrypted: see [`connect_as`].
///
/// # Errors
/// [`ConnectError`].
pub fn connect(address: &str, service: u32, arena: &Arena) -> Result<Arc<dyn Link>, ConnectError> {
    connect_as(address, service, arena, None)
}

/// As [`connect`], with an identity to show over TCP: then the node must show one too, and what travels is encrypted if both want it.
/// Over shared memory the kernel tells the node who connects, and the identity is not looked at.
///
/// # Errors
/// [`ConnectError`].
pub fn connect_as(
    address: &str,
    service: u32,
    arena: &Arena,
    identity: Option<&ClientIdentity>,
) -> Result<Arc<dyn Link>, ConnectError> {
    if let Some(path) = address.strip_prefix("unix:") {
        Ok(Arc::new(connect_shared(path, service, arena)?))
    } else if let Some(host) = address.strip_prefix("tcp:") {
        Ok(Arc::new(connect_tcp(host, service, arena, identity)?))
    } else {
        Err(ConnectError::Address)
    }
}

fn check_answer(bytes: &[u8]) -> Result<(), ConnectError> {
    match read_answer(bytes).map_err(ConnectError::Protocol)? {
        None => Ok(()),
        Some(refusal) => Err(ConnectError::Refused(refusal)),
    }
}

fn connect_shared(path: &str, service: u32, arena: &Arena) -> Result<SharedLink, ConnectError> {
    let window = Window::new(arena.bytes())?;
    let (area, area_descriptor) = Area::create()?;
    let socket = connect_peer(path)?;
    socket.set_read_timeout(Some(CONNECT_TIMEOUT))?;
    socket.set_write_timeout(Some(CONNECT_TIMEOUT))?;
    let hello = Hello { transport: Transport::Shared, service, arena_bytes: window.bytes() as u64 };
    let shared = [area_descriptor.as_fd(), window.descriptor()?];
    descriptors::send(&socket, &hello.to_bytes(), &shared)?;
    let mut answer = [0; ANSWER_BYTES];
    let (count, event) = receive_answer(&socket, &mut answer)?;
    if count == 0 {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    check_answer(&answer[..count])?;
    let event = event.ok_or(ConnectError::Protocol(DecodeError::Value("eventfd")))?;
    socket.set_read_timeout(None)?;
    Ok(SharedLink::new((area, window), arena.clone(), socket, event)?)
}

/// Connects to whoever listens at `path`, unless its user holds all threads that it may.
fn connect_peer(path: &str) -> io::Result<PeerSocket> {
    let socket = UnixStream::connect(path)?;
    let uid = getsockopt(&socket, sockopt::PeerCredentials)?.uid();
    if !readers().has_room(uid) {
        return Err(io::Error::new(
            io::ErrorKind::ResourceBusy,
            format!("descriptors that user {uid} passed cannot be closed"),
        ));
    }
    Ok(PeerSocket::new(socket, uid, Unclosed::new(None)))
}

/// Receives the answer to the hello and the eventfd that came with it, in a thread apart: nothing but an eventfd comes out of it.
fn receive_answer(socket: &PeerSocket, answer: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let (near, far) = UnixStream::pair()?;
    far.set_read_timeout(Some(CONNECT_TIMEOUT))?;
    let thread = Apart::start(&[&**socket, &near], |sockets| {
        let [socket, near] = &sockets[..] else { return };
        let mut bytes = [0; ANSWER_BYTES];
        if let Ok(received) = descriptors::receive(socket, &mut bytes) {
            let passed = ManuallyDrop::new(received.descriptors);
            let event = match &passed[..] {
                [one] if !received.truncated && descriptors::is_eventfd(one) => &[one.as_fd()][..],
                _ => &[],
            };
            // Without it the other end finds nothing.
            let _sent = descriptors::send(near, &bytes[..received.bytes], event);
        }
        // Not left to the end of the thread, which may take long.
        let _ended = near.shutdown(Shutdown::Both);
    })?;
    readers().take(socket.uid(), thread);
    drop(near);
    let received = descriptors::receive(&far, answer)?;
    Ok((received.bytes, received.descriptors.into_iter().next()))
}

fn connect_tcp(
    host: &str,
    service: u32,
    arena: &Arena,
    identity: Option<&ClientIdentity>,
) -> Result<TcpLink, ConnectError> {
    let mut result = Err(ConnectError::Address);
    for address in host.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
            Ok(stream) => {
                result = Ok(stream);
                break;
            }
            Err(error) => result = Err(error.into()),
        }
    }
    let mut stream = result?;
    set_tcp_options(&stream)?;
    let seals = match identity {
        Some(identity) => StreamSeals::of(secure::shake_hands(&mut stream, service, identity)?),
        None => {
            say_hello(&mut stream, service)?;
            StreamSeals::plain()
        }
    };
    stream.set_read_timeout(None)?;
    Ok(TcpLink::new(stream, seals, arena.clone())?)
}

/// Asks for a service in clear.
fn say_hello(stream: &mut TcpStream, service: u32) -> Result<(), ConnectError> {
    stream.set_read_timeout(Some(CONNECT_TIMEOUT))?;
    let hello = Hello { transport: Transport::Tcp, service, arena_bytes: 0 };
    stream.write_all(&hello.to_bytes())?;
    let mut answer = [0; ANSWER_BYTES];
    stream.read_exact(&mut answer)?;
    check_answer(&answer)
}
