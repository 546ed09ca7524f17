//! A connection over TCP in the middle of its handshake: bytes in, bytes out, and how it ended.
//!
//! Reads no byte behind the client's hello: what follows are records, for the service. Who is not let in is told why before its
//! connection is closed; what it sent meanwhile is read and dropped for a moment, since closing a socket with unread bytes takes back
//! what was sent on it.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, Shutdown, TcpStream},
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
    time::{Duration, Instant},
};

use nix::poll::PollFlags;
use sheen_ports::Peer;

use super::{gate::RefusalReason, handshake_places::HandshakePlace};
use crate::{
    Refusal,
    budget::Reserved,
    handshake::{
        Applicant, Established, HandshakeError, ServerHandshake, ServerOutcome, ServerSettings,
    },
    hello::{MAGIC, answer},
};

/// Time for a handshake.
pub(super) const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// Time for it while all places are taken.
pub(super) const HANDSHAKE_PRESSED_MAX: Duration = Duration::from_secs(2);
/// Time to take the refusal.
const LEAVE_MAX: Duration = Duration::from_secs(1);
/// Bytes that are read at a time.
const READ_BYTES: usize = 4 << 10;
/// Most bytes that are dropped while a peer leaves.
const DROPPED_BYTES_MAX: usize = 64 << 10;

/// The connection.
#[derive(Debug)]
pub(super) struct HalfOpen {
    stream: TcpStream,
    address: IpAddr,
    handshake: ServerHandshake,
    output: Vec<u8>,
    state: State,
    began: Instant,
    certificate: Option<[u8; 32]>,
    place: HandshakePlace,
}

#[derive(Debug)]
enum State {
    Shaking,
    /// Let in, once the answer is sent.
    Admitted(Box<Admitted>),
    /// Not let in: the refusal is on its way.
    Leaving {
        until: Instant,
        dropped: usize,
        shut: bool,
    },
}

/// What came of a handshake.
#[derive(Debug)]
pub(super) struct Admitted {
    pub(super) peer: Peer,
    pub(super) reserved: Reserved,
    pub(super) service: u32,
    pub(super) established: Established,
}

/// What is to be done with a connection.
#[derive(Debug)]
pub(super) enum Step {
    /// Nothing: it goes on.
    Wait,
    /// Tell of it: it was refused, and is told so.
    Refused(RefusalReason),
    /// Close it: it was refused, and that was told of.
    Close,
}

/// Decides on an applicant: who it is, its share of the memory.
pub(super) type Admit<'a> = &'a dyn Fn(&Applicant, IpAddr) -> Result<(Peer, Reserved), Refusal>;

impl HalfOpen {
    /// Begins at `now`.
    ///
    /// # Errors
    /// The library's.
    pub(super) fn new(
        stream: TcpStream,
        address: IpAddr,
        settings: Arc<ServerSettings>,
        place: HandshakePlace,
        now: Instant,
    ) -> Result<Self, HandshakeError> {
        Ok(Self {
            stream,
            address,
            handshake: ServerHandshake::new(settings)?,
            output: Vec::new(),
            state: State::Shaking,
            began: now,
            certificate: None,
            place,
        })
    }

    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    pub(super) const fn address(&self) -> IpAddr {
        self.address
    }

    /// The digest of its certificate, if it was asked for.
    pub(super) const fn certificate(&self) -> Option<[u8; 32]> {
        self.certificate
    }

    /// Returns what it waits for.
    pub(super) fn waits_for(&self) -> PollFlags {
        let reads = match &self.state {
            State::Shaking => PollFlags::POLLIN,
            State::Admitted(_) => PollFlags::empty(),
            State::Leaving { .. } => PollFlags::POLLIN,
        };
        if self.output.is_empty() { reads } else { reads | PollFlags::POLLOUT }
    }

    /// Returns when its time is over.
    pub(super) fn deadline(&self, pressed: bool) -> Instant {
        match &self.state {
            State::Leaving { until, .. } => *until,
            State::Shaking | State::Admitted(_) if pressed => self.began + HANDSHAKE_PRESSED_MAX,
            State::Shaking | State::Admitted(_) => self.began + HANDSHAKE_MAX,
        }
    }

    /// Whether it is let in and knows it.
    pub(super) fn is_ready(&self) -> bool {
        matches!(self.state, State::Admitted(_)) && self.output.is_empty()
    }

    /// Takes a connection that [`Self::is_ready`] apart.
    pub(super) fn into_admitted(self) -> Option<(TcpStream, Admitted)> {
        match self.state {
            State::Admitted(admitted) => Some((self.stream, *admitted)),
            State::Shaking | State::Leaving { .. } => None,
        }
    }

    /// Looks whether its time or its place is gone.
    pub(super) fn check(&mut self, now: Instant, pressed: bool) -> Step {
        let replaced = self.place.is_replaced();
        match &self.state {
            State::Leaving { until, .. } if *until <= now || replaced => Step::Close,
            State::Leaving { .. } => Step::Wait,
            State::Shaking | State::Admitted(_) if replaced => self.end(RefusalReason::Crowded),
            State::Shaking | State::Admitted(_) if self.deadline(pressed) <= now => {
                self.end(RefusalReason::Late)
            }
            State::Shaking | State::Admitted(_) => Step::Wait,
        }
    }

    /// Does what the socket lets it do.
    pub(super) fn advance(&mut self, now: Instant, admit: Admit<'_>) -> Step {
        let read = match self.state {
            State::Shaking => self.shake(now, admit),
            State::Leaving { .. } => self.discard(),
            State::Admitted(_) => Step::Wait,
        };
        let written = match self.write() {
            Ok(()) => Step::Wait,
            Err(_) => self.end(RefusalReason::Left),
        };
        match (read, written) {
            (Step::Wait, written) => written,
            (read, _) => read,
        }
    }

    /// Closes without a word.
    fn end(&mut self, reason: RefusalReason) -> Step {
        let told = matches!(self.state, State::Leaving { .. });
        self.output.clear();
        self.state = State::Leaving { until: self.began, dropped: 0, shut: false };
        if told { Step::Close } else { Step::Refused(reason) }
    }

    /// Closes when the peer has taken what is to be sent.
    fn leave(&mut self, now: Instant, reason: RefusalReason) -> Step {
        self.state = State::Leaving { until: now + LEAVE_MAX, dropped: 0, shut: false };
        Step::Refused(reason)
    }

    fn shake(&mut self, now: Instant, admit: Admit<'_>) -> Step {
        let mut bytes = [0; READ_BYTES];
        let count = match self.stream.read(&mut bytes) {
            Ok(0) => return self.end(RefusalReason::Left),
            Ok(count) => count,
            Err(error) if is_for_now(&error) => return Step::Wait,
            Err(_) => return self.end(RefusalReason::Left),
        };
        self.place.note_heard();
        let bytes = &bytes[..count];
        if bytes.starts_with(&MAGIC) {
            // A client without an identity; it understands this answer.
            self.output = answer(Some(Refusal::Identity));
            return self.leave(now, RefusalReason::Answered(Refusal::Identity));
        }
        let (address, certificate) = (self.address, &mut self.certificate);
        let outcome = self.handshake.receive(bytes, |applicant| {
            *certificate = Some(applicant.certificate);
            admit(applicant, address).map(|(peer, reserved)| (peer, reserved, applicant.service))
        });
        self.output.extend(self.handshake.take_output());
        match outcome {
            Ok(None) => Step::Wait,
            Ok(Some(ServerOutcome::Admitted { admitted, established })) => {
                let (peer, reserved, service) = admitted;
                let admitted = Admitted { peer, reserved, service, established };
                self.state = State::Admitted(Box::new(admitted));
                Step::Wait
            }
            Ok(Some(ServerOutcome::Refused(refusal))) => {
                self.leave(now, RefusalReason::Answered(refusal))
            }
            Err(error) => self.leave(now, RefusalReason::Handshake(error)),
        }
    }

    fn write(&mut self) -> io::Result<()> {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => drop(self.output.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_for_now(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        if let State::Leaving { shut: shut @ false, .. } = &mut self.state {
            *shut = true;
            self.stream.shutdown(Shutdown::Write)?;
        }
        Ok(())
    }

    /// Reads what a peer that leaves still sends.
    fn discard(&mut self) -> Step {
        let State::Leaving { dropped, .. } = &mut self.state else { return Step::Wait };
        let mut bytes = [0; READ_BYTES];
        match self.stream.read(&mut bytes) {
            Ok(0) => Step::Close,
            Ok(count) => {
                *dropped += count;
                if *dropped > DROPPED_BYTES_MAX { Step::Close } else { Step::Wait }
            }
            Err(error) if is_for_now(&error) => Step::Wait,
            Err(_) => Step::Close,
        }
    }
}

fn is_for_now(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
