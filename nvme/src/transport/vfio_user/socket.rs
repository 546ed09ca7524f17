//! Whole messages over a UNIX stream socket, descriptors included; used by both ends.
//!
//! Invariants: exactly the bytes of one message are taken, so descriptors can never belong to the next one; every
//! descriptor received is owned at once and closed unless somebody takes it; nothing blocks past its deadline.
//! Deliberately absent: what the messages mean.

use std::{
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    time::{Duration, Instant},
};

use nix::errno::Errno;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, Shutdown, recvmsg, sendmsg, shutdown,
    },
};

use super::message::{DESCRIPTORS_MAX, Header, HeaderError, Kind, MESSAGE_BYTES_MAX};

/// Why a message could not be sent or received. After any of them the stream has no known position: close it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketError {
    /// The peer closed the connection between messages.
    Closed,
    /// The peer closed the connection within a message.
    Torn,
    /// The deadline passed.
    TimedOut,
    /// The peer sent something that is no message.
    Header(HeaderError),
    /// The peer sent more than [`DESCRIPTORS_MAX`] descriptors; some are lost.
    Descriptors,
    /// The system refused.
    System(Errno),
}

/// A message as it was received.
#[derive(Debug)]
pub struct Message {
    /// Checked header.
    pub header: Header,
    /// As many bytes as the header says.
    pub payload: Vec<u8>,
    /// Closed when dropped.
    pub descriptors: Vec<OwnedFd>,
}

/// One end of a connection.
#[derive(Debug)]
pub struct Socket(UnixStream);

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<OwnedFd> for Socket {
    fn from(descriptor: OwnedFd) -> Self {
        Self(descriptor.into())
    }
}

impl Socket {
    /// Takes over a connected stream.
    #[must_use]
    pub const fn new(stream: UnixStream) -> Self {
        Self(stream)
    }

    /// Sends one message whole. The header's `payload_bytes` is set from `payload`.
    ///
    /// # Errors
    /// [`SocketError`]; the connection is of no use afterwards.
    ///
    /// # Panics
    /// When `payload` or `descriptors` exceed what a message may hold; callers check what they do not know.
    pub fn send(
        &self,
        (id, command, kind): (u16, u16, Kind),
        payload: &[u8],
        descriptors: &[BorrowedFd<'_>],
        deadline: Option<Instant>,
    ) -> Result<(), SocketError> {
        let payload_bytes = u32::try_from(payload.len()).expect("a bounded payload");
        assert!(payload_bytes <= MESSAGE_BYTES_MAX - 16, "a payload of {payload_bytes} bytes");
        assert!(descriptors.len() <= DESCRIPTORS_MAX, "{} descriptors", descriptors.len());
        // Header and payload leave in one call: servers read the payload without waiting for it.
        let mut bytes = Vec::with_capacity(Header::BYTES + payload.len());
        Header { id, command, payload_bytes, kind }.encode(&mut bytes);
        bytes.extend_from_slice(payload);
        let mut sent = 0;
        while let Some(rest) = bytes.get(sent..).filter(|rest| !rest.is_empty()) {
            let with = if sent == 0 { descriptors } else { &[] };
            match self.send_part(rest, with) {
                Ok(count) => sent += count,
                Err(Errno::EAGAIN) => self.wait(PollFlags::OUT, deadline)?,
                Err(Errno::EINTR) => {}
                Err(Errno::EPIPE | Errno::ECONNRESET) => return Err(SocketError::Closed),
                Err(errno) => return Err(SocketError::System(errno)),
            }
        }
        Ok(())
    }

    fn send_part(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<usize, Errno> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            let pushed = control.push(SendAncillaryMessage::ScmRights(descriptors));
            assert!(pushed, "the space is made for the most descriptors");
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        sendmsg(&self.0, &[IoSlice::new(bytes)], &mut control, flags).map_err(errno)
    }

    /// Receives one message whole.
    ///
    /// # Errors
    /// [`SocketError`]; the connection is of no use afterwards.
    pub fn receive(&self, deadline: Option<Instant>) -> Result<Message, SocketError> {
        let mut descriptors = Vec::new();
        let mut head = [0; Header::BYTES];
        self.fill(&mut head, true, &mut descriptors, deadline)?;
        let header = Header::decode(&head).map_err(SocketError::Header)?;
        let length = usize::try_from(header.payload_bytes).unwrap_or(usize::MAX);
        // Bounded by `MESSAGE_BYTES_MAX`, which `Header::decode` has checked.
        let mut payload = vec![0; length];
        self.fill(&mut payload, false, &mut descriptors, deadline)?;
        Ok(Message { header, payload, descriptors })
    }

    /// Whether a message (or the end of the connection) waits, or comes within `patience`.
    ///
    /// # Errors
    /// What the system says.
    pub fn is_readable(&self, patience: Duration) -> Result<bool, SocketError> {
        match self.wait(PollFlags::IN, Some(Instant::now() + patience)) {
            Ok(()) => Ok(true),
            Err(SocketError::TimedOut) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Ends the connection in both directions; whoever waits on it wakes up.
    pub fn shutdown(&self) {
        // It may be closed already, which is what is wanted.
        let _ = shutdown(&self.0, Shutdown::Both);
    }

    fn fill(
        &self,
        bytes: &mut [u8],
        first: bool,
        descriptors: &mut Vec<OwnedFd>,
        deadline: Option<Instant>,
    ) -> Result<(), SocketError> {
        let mut filled = 0;
        while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.receive_part(rest, descriptors) {
                Ok(0) if first && filled == 0 => return Err(SocketError::Closed),
                Ok(0) => return Err(SocketError::Torn),
                Ok(count) => filled += count,
                Err(SocketError::System(Errno::EAGAIN)) => self.wait(PollFlags::IN, deadline)?,
                Err(SocketError::System(Errno::EINTR)) => {}
                Err(SocketError::System(Errno::ECONNRESET)) => return Err(SocketError::Closed),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn receive_part(
        &self,
        bytes: &mut [u8],
        descriptors: &mut Vec<OwnedFd>,
    ) -> Result<usize, SocketError> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let received = recvmsg(&self.0, &mut [IoSliceMut::new(bytes)], &mut control, flags)
            .map_err(|error| SocketError::System(errno(error)))?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                descriptors.extend(rights);
            }
        }
        if received.flags.contains(ReturnFlags::CTRUNC) || descriptors.len() > DESCRIPTORS_MAX {
            return Err(SocketError::Descriptors);
        }
        Ok(received.bytes)
    }

    fn wait(&self, event: PollFlags, deadline: Option<Instant>) -> Result<(), SocketError> {
        let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        let patience = left.map(|left| Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        });
        match poll(&mut [PollFd::new(&self.0, event)], patience.as_ref()) {
            Ok(0) => Err(SocketError::TimedOut),
            Ok(_) => Ok(()),
            Err(error) if errno(error) == Errno::EINTR => Ok(()),
            Err(error) => Err(SocketError::System(errno(error))),
        }
    }
}

fn errno(error: rustix::io::Errno) -> Errno {
    Errno::from_raw(error.raw_os_error())
}

#[cfg(test)]
mod test {
    use super::*;
    use std::io::Write;

    fn pair() -> (Socket, Socket) {
        let (one, other) = UnixStream::pair().unwrap();
        (Socket::new(one), Socket::new(other))
    }

    fn soon() -> Option<Instant> {
        Some(Instant::now() + Duration::from_secs(5))
    }

    #[test]
    fn a_message_arrives_whole_with_its_descriptors_and_not_the_next_ones() {
        let (one, other) = pair();
        let (file, _rest) = UnixStream::pair().unwrap();
        one.send((7, 2, Kind::Command), &[1; 32], &[file.as_fd()], soon()).unwrap();
        one.send((8, 2, Kind::Posted), &[2; 3], &[file.as_fd(), file.as_fd()], soon()).unwrap();
        let first = other.receive(soon()).unwrap();
        assert_eq!((first.header.id, first.payload.len(), first.descriptors.len()), (7, 32, 1));
        let second = other.receive(soon()).unwrap();
        assert_eq!((second.header.kind, second.descriptors.len()), (Kind::Posted, 2));
        drop(one);
        assert_eq!(other.receive(soon()).unwrap_err(), SocketError::Closed);
    }

    #[test]
    fn a_message_larger_than_the_socket_buffer_arrives_whole() {
        let (one, other) = pair();
        let payload: Vec<u8> = (0..=u8::MAX).cycle().take(1 << 20).collect();
        std::thread::scope(|scope| {
            scope.spawn(|| one.send((1, 9, Kind::Reply), &payload, &[], soon()).unwrap());
            assert_eq!(other.receive(soon()).unwrap().payload, payload);
        });
    }

    #[test]
    fn torn_oversize_and_missing_messages_are_told_apart() {
        let (one, other) = pair();
        let early = Some(Instant::now() + Duration::from_millis(10));
        assert_eq!(other.receive(early).unwrap_err(), SocketError::TimedOut);
        (&one.0).write_all(&[0; 10]).unwrap();
        drop(one);
        assert_eq!(other.receive(soon()).unwrap_err(), SocketError::Torn);
        let (one, other) = pair();
        let mut header = [0; 16];
        header[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        (&one.0).write_all(&header).unwrap();
        let error = other.receive(soon()).unwrap_err();
        assert_eq!(error, SocketError::Header(HeaderError::Size(u32::MAX)));
    }
}
