//! The node's side of a handshake.

use std::sync::Arc;

use super::{
    Binding, Established, HandshakeError, Secrets, ServerSettings, Transit,
    hello::{MessageBytes, TlsAnswer, TlsHello},
    peer_digest, random,
    tls_records::TlsRecords,
};
use crate::Refusal;

/// Who asks to be let in: it has the key of this certificate, an authority signed it, it is a client's and valid now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Applicant {
    /// SHA-256 of its certificate.
    pub certificate: [u8; 32],
    /// The service it wants.
    pub service: u32,
    /// Whether its records will be sealed.
    pub transit: Transit,
}

/// How a handshake ended that was in order. What is to be sent must be sent either way.
#[derive(Debug)]
pub enum ServerOutcome<T> {
    /// The client is let in.
    Admitted {
        /// What the caller said of it.
        admitted: T,
        /// Its connection.
        established: Established,
    },
    /// It is not, and told so; the connection has to be closed.
    Refused(Refusal),
}

/// Handshake under way: TLS, then the client's hello, then the end.
#[derive(Debug)]
pub struct ServerHandshake {
    settings: Arc<ServerSettings>,
    records: TlsRecords,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Tls,
    Hello(Transit),
    Ended,
}

impl ServerHandshake {
    /// Waits for the first byte of a client.
    ///
    /// # Errors
    /// [`HandshakeError::Tls`]: the library does not begin.
    pub fn new(settings: Arc<ServerSettings>) -> Result<Self, HandshakeError> {
        let tls = rustls::ServerConnection::new(Arc::clone(&settings.tls))?;
        Ok(Self { settings, records: TlsRecords::new(tls)?, state: State::Tls })
    }

    /// Takes what must be sent to the client, after each call of [`Self::receive`], also one that failed.
    pub fn take_output(&mut self) -> Vec<u8> {
        self.records.take_output()
    }

    /// Takes bytes of the client. Returns how the handshake ended, or None while it goes on; `admit` is asked at most once in a
    /// handshake, at its end.
    ///
    /// # Errors
    /// [`HandshakeError`]: the connection has to be closed, behind what is to be sent.
    pub fn receive<T>(
        &mut self,
        bytes: &[u8],
        admit: impl FnOnce(&Applicant) -> Result<T, Refusal>,
    ) -> Result<Option<ServerOutcome<T>>, HandshakeError> {
        // Behind an error nothing goes on.
        let state = std::mem::replace(&mut self.state, State::Ended);
        let mut input = bytes;
        let mut state = match state {
            State::Ended => return Err(HandshakeError::Protocol("bytes behind a handshake")),
            State::Tls | State::Hello(_) => state,
        };
        while self.records.fill(&mut input)? {
            match state {
                State::Hello(transit) => {
                    let hello = self.records.process_message(input)?;
                    return self.answer(&hello, transit, admit).map(Some);
                }
                State::Tls | State::Ended => {
                    if self.records.process()? != 0 {
                        return Err(HandshakeError::Protocol("data before the handshake's end"));
                    }
                }
            }
            if !self.records.tls.is_handshaking() {
                state = State::Hello(Transit::of_protocol(self.records.tls.alpn_protocol())?);
            }
        }
        self.state = state;
        Ok(None)
    }

    fn answer<T>(
        &mut self,
        hello_bytes: &MessageBytes,
        transit: Transit,
        admit: impl FnOnce(&Applicant) -> Result<T, Refusal>,
    ) -> Result<ServerOutcome<T>, HandshakeError> {
        let node = self.settings.node;
        let client = peer_digest(&self.records.tls)?;
        let decided = TlsHello::from_bytes(hello_bytes).and_then(|hello| {
            if hello.node != [0; 16] && hello.node != node {
                return Err(Refusal::OtherNode);
            }
            admit(&Applicant { certificate: client, service: hello.service, transit })
        });
        let refusal = decided.as_ref().err().copied();
        let answer = TlsAnswer { refusal, transit, node, random: random()? }.to_bytes();
        self.records.write_message(&answer)?;
        match decided {
            Err(refusal) => {
                self.records.close()?;
                Ok(ServerOutcome::Refused(refusal))
            }
            Ok(admitted) => {
                let binding = Binding {
                    hello: hello_bytes,
                    answer: &answer,
                    node: self.settings.certificate,
                    client,
                };
                let Secrets { client, node: own } = Secrets::export(&self.records.tls, &binding)?;
                let established = Established { transit, node, sending: own, receiving: client };
                Ok(ServerOutcome::Admitted { admitted, established })
            }
        }
    }
}
