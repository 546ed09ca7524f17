//! What goes wrong with a server, for the driver and for people.

use std::{fmt, path::PathBuf};

use nix::errno::Errno;

use super::{
    message::{Command, HeaderError},
    socket::SocketError,
    version::VersionError,
};
use crate::transport::TransportError;

/// Why a controller could not be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenError {
    /// The server's socket.
    pub path: PathBuf,
    /// What happened there.
    pub reason: OpenReason,
}

/// See [`OpenError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenReason {
    /// Nobody could be connected to.
    Connect(Errno),
    /// The server did not do what was asked.
    Call(CallError),
    /// The server answered, but with what no NVMe controller is.
    Device(TransportError),
}

/// Why a call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallError {
    /// The server closed the connection, or it was ended after an earlier error.
    Gone,
    /// No reply in time; the connection is ended.
    TimedOut(Command),
    /// The server carried nothing out and gave this errno; the connection lives.
    Refused(Command, Errno),
    /// The server broke the protocol; the connection is ended.
    Protocol(Violation),
    /// The system refused; the connection is ended.
    System(Errno),
}

/// How a server broke the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// A header, a size, or a number of descriptors no message has; or an end within a message.
    Framing(SocketError),
    /// A reply while no call was waiting, or on the socket for commands.
    Unexpected(u16),
    /// A reply to another call.
    Id {
        /// Sent.
        sent: u16,
        /// In the reply.
        got: u16,
    },
    /// A reply about another command.
    Command {
        /// Sent.
        sent: u16,
        /// In the reply.
        got: u16,
    },
    /// A payload of another length than the command has.
    Length {
        /// What was asked.
        command: Command,
        /// Least and exact length, where there is one.
        expected: usize,
        /// In the reply.
        got: usize,
    },
    /// More descriptors than the reply has.
    Descriptors {
        /// What was asked.
        command: Command,
        /// Most.
        expected: usize,
        /// In the reply.
        got: usize,
    },
    /// A field with a value it cannot have.
    Field {
        /// What was asked.
        command: Command,
        /// The field.
        name: &'static str,
        /// What was expected, or the bound.
        expected: u64,
        /// In the reply.
        got: u64,
    },
    /// The first reply.
    Version(VersionError),
    /// A version or capability that was not proposed.
    Negotiation(&'static str),
}

impl CallError {
    /// What an error of the socket means for a call.
    pub(super) const fn of_socket(error: SocketError, command: Command) -> Self {
        match error {
            SocketError::Closed => CallError::Gone,
            SocketError::TimedOut => CallError::TimedOut(command),
            SocketError::System(errno) => CallError::System(errno),
            SocketError::Torn | SocketError::Header(_) | SocketError::Descriptors => {
                CallError::Protocol(Violation::Framing(error))
            }
        }
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vfio-user {}: ", self.path.display())?;
        match self.reason {
            OpenReason::Connect(Errno::ENOENT) => {
                f.write_str("no such socket: start the server, or correct the path")
            }
            OpenReason::Connect(Errno::ECONNREFUSED) => {
                f.write_str("nobody listens at this socket: the server has ended, start it again")
            }
            OpenReason::Connect(Errno::EACCES | Errno::EPERM) => f.write_str(
                "permission denied: run as the user of the server, or open the socket's mode",
            ),
            OpenReason::Connect(errno) => write!(f, "connecting: {errno}"),
            OpenReason::Call(error) => error.fmt(f),
            OpenReason::Device(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for OpenError {}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone => f.write_str("the server closed the connection"),
            Self::TimedOut(command) => write!(f, "the server did not answer {command:?} in time"),
            Self::Refused(command, errno) => write!(f, "the server refused {command:?}: {errno}"),
            Self::Protocol(violation) => violation.fmt(f),
            Self::System(errno) => write!(f, "the connection failed: {errno}"),
        }
    }
}

impl std::error::Error for CallError {}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the server broke the protocol: ")?;
        match self {
            Self::Version(error) => write!(f, "its version message is malformed ({error:?})"),
            Self::Negotiation(what) => f.write_str(what),
            other => {
                let (what, expected, found) = other.numbers();
                write!(f, "{what}: expected {expected:#x}, found {found:#x}")
            }
        }
    }
}

impl Violation {
    /// The rule, what was expected, what was found.
    fn numbers(&self) -> (&'static str, u64, u64) {
        match *self {
            Self::Framing(SocketError::Header(HeaderError::Size(size))) => {
                ("size of a message", u64::from(super::message::MESSAGE_BYTES_MAX), u64::from(size))
            }
            Self::Framing(SocketError::Header(HeaderError::Type(kind))) => {
                ("type of a message", 1, u64::from(kind))
            }
            Self::Framing(SocketError::Torn) => ("the connection ended within a message", 0, 0),
            Self::Framing(SocketError::Descriptors) => {
                ("descriptors of a message", super::message::DESCRIPTORS_MAX as u64, u64::MAX)
            }
            Self::Framing(_) => ("no message", 0, 0),
            Self::Unexpected(id) => ("a reply nobody waits for", 0, u64::from(id)),
            Self::Id { sent, got } => ("id of a reply", u64::from(sent), u64::from(got)),
            Self::Command { sent, got } => ("command of a reply", u64::from(sent), u64::from(got)),
            Self::Length { expected, got, .. } => {
                ("length of a reply", expected as u64, got as u64)
            }
            Self::Descriptors { expected, got, .. } => {
                ("descriptors of a reply", expected as u64, got as u64)
            }
            Self::Field { name, expected, got, .. } => (name, expected, got),
            Self::Version(_) => ("a malformed version message", 0, 0),
            Self::Negotiation(what) => (what, 0, 0),
        }
    }
}

/// To continue the sentence "cannot ...".
const fn doing(command: Command) -> &'static str {
    match command {
        Command::Version => "agree on a version with the vfio-user server",
        Command::DmaMap => "map memory for the vfio-user server",
        Command::DmaUnmap => "unmap memory from the vfio-user server",
        Command::DeviceGetInfo | Command::DeviceGetRegionInfo | Command::DeviceGetRegionIoFds => {
            "learn what the vfio-user device is"
        }
        Command::DeviceGetIrqInfo => "learn which interrupts the vfio-user device has",
        Command::DeviceSetIrqs => "connect an interrupt of the vfio-user device",
        Command::RegionRead => "read a register of the vfio-user device",
        Command::RegionWrite | Command::RegionWriteMulti => {
            "write a register of the vfio-user device"
        }
        Command::DeviceReset => "reset the vfio-user device",
        Command::DmaRead | Command::DmaWrite => "answer the vfio-user server",
        Command::DeviceFeature | Command::MigDataRead | Command::MigDataWrite => {
            "use a feature of the vfio-user device"
        }
    }
}

impl From<CallError> for TransportError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Gone => Self::Gone,
            // The connection is ended; the next call says that the device is gone.
            CallError::TimedOut(command) => {
                Self::System { doing: doing(command), errno: Errno::ETIMEDOUT }
            }
            CallError::Refused(command, errno) => Self::System { doing: doing(command), errno },
            CallError::System(errno) => Self::System { doing: "reach the vfio-user server", errno },
            CallError::Protocol(violation) => {
                let (what, expected, found) = violation.numbers();
                Self::Protocol { what, expected, found }
            }
        }
    }
}
