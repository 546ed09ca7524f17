//! The client's side of a handshake.

use std::sync::Arc;

use super::{
    Binding, ClientSettings, Established, HandshakeError, Secrets, Transit,
    hello::{MessageBytes, TlsAnswer, TlsHello},
    peer_digest, random,
    settings::node_name,
    tls_records::TlsRecords,
};

/// Handshake under way: TLS, then the node's answer to the hello, then the end.
#[derive(Debug)]
pub struct ClientHandshake {
    settings: Arc<ClientSettings>,
    records: TlsRecords,
    hello: TlsHello,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Tls,
    Answer(Transit),
    Ended,
}

impl ClientHandshake {
    /// Begins: there is something to send. `node` is the uuid of the node that must answer; None: any whose certificate is
    /// believed.
    ///
    /// # Errors
    /// [`HandshakeError::Tls`]: the library does not begin.
    pub fn new(
        settings: Arc<ClientSettings>,
        service: u32,
        node: Option<[u8; 16]>,
    ) -> Result<Self, HandshakeError> {
        let tls = rustls::ClientConnection::new(Arc::clone(&settings.tls), node_name())?;
        let hello = TlsHello { service, node: node.unwrap_or_default(), random: random()? };
        Ok(Self { settings, records: TlsRecords::new(tls)?, hello, state: State::Tls })
    }

    /// Takes what must be sent to the node, after [`Self::new`] and after each call of [`Self::receive`], also one that failed.
    pub fn take_output(&mut self) -> Vec<u8> {
        self.records.take_output()
    }

    /// Takes bytes of the node. Returns the connection when the node let this client in, None while the handshake goes on.
    ///
    /// # Errors
    /// [`HandshakeError`]: the connection has to be closed, behind what is to be sent.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<Option<Established>, HandshakeError> {
        let mut input = bytes;
        // Behind an error nothing goes on.
        let mut state = std::mem::replace(&mut self.state, State::Ended);
        if state == State::Ended {
            return Err(HandshakeError::Protocol("bytes behind a handshake"));
        }
        while self.records.fill(&mut input)? {
            match state {
                State::Answer(transit) => {
                    // A refusal is followed by the end of the TLS session, which is nobody's business any more.
                    let answer = self.records.process_message(&[])?;
                    return self.finish(&answer, transit, input).map(Some);
                }
                State::Tls | State::Ended => {
                    if self.records.process()? != 0 {
                        return Err(HandshakeError::Protocol("data before the handshake's end"));
                    }
                }
            }
            if !self.records.tls.is_handshaking() {
                state = State::Answer(Transit::of_protocol(self.records.tls.alpn_protocol())?);
                self.records.write_message(&self.hello.to_bytes())?;
            }
        }
        self.state = state;
        Ok(None)
    }

    fn finish(
        &self,
        answer_bytes: &MessageBytes,
        transit: Transit,
        behind: &[u8],
    ) -> Result<Established, HandshakeError> {
        let answer = TlsAnswer::from_bytes(answer_bytes)?;
        if let Some(refusal) = answer.refusal {
            return Err(HandshakeError::Refused(refusal));
        }
        if !behind.is_empty() {
            return Err(HandshakeError::Protocol("bytes behind a hello or an answer"));
        }
        if answer.transit != transit {
            return Err(HandshakeError::Protocol("another transit than was agreed on"));
        }
        if self.hello.node != [0; 16] && self.hello.node != answer.node {
            return Err(HandshakeError::OtherNode);
        }
        let binding = Binding {
            hello: &self.hello.to_bytes(),
            answer: answer_bytes,
            node: peer_digest(&self.records.tls)?,
            client: self.settings.certificate,
        };
        let Secrets { client, node } = Secrets::export(&self.records.tls, &binding)?;
        Ok(Established { transit, node: answer.node, sending: client, receiving: node })
    }
}
