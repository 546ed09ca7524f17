//! The two messages inside TLS, of 64 bytes each.
//!
//! | bytes  | client's hello                        | node's answer                           |
//! |--------|---------------------------------------|-----------------------------------------|
//! | 0..8   | `SHEENHI1`                            | `SHEENHI1`                              |
//! | 8..10  | version of the frames                 | version of the frames                   |
//! | 10..12 | [`Transport`], 2                      | 0 or the number of a [`Refusal`]        |
//! | 12..16 | service                               | 1: records are sealed, 2: in clear; zeros |
//! | 16..32 | uuid of the node that is wanted, or 0 | uuid of the node                        |
//! | 32..64 | random                                | random                                  |

use sheen_wire::{DecodeError, Decoder, Encoder, Field, PROTOCOL_VERSION};

use super::{HandshakeError, Transit};
use crate::{Refusal, hello::Transport};

/// Bytes of either message.
pub const HELLO_BYTES: usize = 64;
/// Either message as it travels.
pub type MessageBytes = [u8; HELLO_BYTES];

const MAGIC: [u8; 8] = *b"SHEENHI1";

/// What a client wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TlsHello {
    /// Number of the service.
    pub service: u32,
    /// Uuid of the node, or zeros: any.
    pub node: [u8; 16],
    /// Random bytes, which make the secrets of this connection its own.
    pub random: [u8; 32],
}

/// What the node says to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TlsAnswer {
    /// None: the client is let in.
    pub refusal: Option<Refusal>,
    /// Whether records are encrypted.
    pub transit: Transit,
    /// Uuid of the node.
    pub node: [u8; 16],
    /// Random bytes, which make the secrets of this connection its own.
    pub random: [u8; 32],
}

impl TlsHello {
    /// Returns it as it travels.
    #[must_use]
    pub fn to_bytes(self) -> MessageBytes {
        message(|out| {
            Transport::Tcp.encode(out);
            self.service.encode(out);
            self.node.encode(out);
            self.random.encode(out);
        })
    }

    /// Reads a hello.
    ///
    /// # Errors
    /// The refusal to answer with.
    pub fn from_bytes(bytes: &MessageBytes) -> Result<Self, Refusal> {
        let malformed = |_| Refusal::Malformed;
        let (version, mut rest) = begin(bytes).map_err(malformed)?;
        if version != PROTOCOL_VERSION {
            return Err(Refusal::Version);
        }
        let mut fields = || -> Result<(Transport, Self), DecodeError> {
            let transport = Transport::decode(&mut rest)?;
            let hello = Self {
                service: Field::decode(&mut rest)?,
                node: Field::decode(&mut rest)?,
                random: Field::decode(&mut rest)?,
            };
            Ok((transport, hello))
        };
        let (transport, hello) = fields().map_err(malformed)?;
        if transport == Transport::Tcp { Ok(hello) } else { Err(Refusal::Malformed) }
    }
}

impl TlsAnswer {
    /// Returns it as it travels.
    #[must_use]
    pub fn to_bytes(self) -> MessageBytes {
        message(|out| {
            self.refusal.map_or(0, Refusal::number).encode(out);
            let transit: u32 = match self.transit {
                Transit::Sealed => 1,
                Transit::Plain => 2,
            };
            transit.encode(out);
            self.node.encode(out);
            self.random.encode(out);
        })
    }

    /// Reads an answer, of any version if it is a refusal.
    ///
    /// # Errors
    /// [`HandshakeError::Protocol`].
    pub fn from_bytes(bytes: &MessageBytes) -> Result<Self, HandshakeError> {
        let malformed = |_| HandshakeError::Protocol("answer");
        let (version, mut rest) = begin(bytes).map_err(malformed)?;
        let mut fields = || -> Result<Self, DecodeError> {
            let refusal = match u16::decode(&mut rest)? {
                0 => None,
                number => Some(Refusal::from_number(number).unwrap_or(Refusal::Malformed)),
            };
            let transit = match u32::decode(&mut rest)? {
                1 => Transit::Sealed,
                2 => Transit::Plain,
                _ => return Err(DecodeError::Value("transit")),
            };
            let node = Field::decode(&mut rest)?;
            Ok(Self { refusal, transit, node, random: Field::decode(&mut rest)? })
        };
        let answer = fields().map_err(malformed)?;
        if answer.refusal.is_none() && version != PROTOCOL_VERSION {
            return Err(HandshakeError::Protocol("version of the answer"));
        }
        Ok(answer)
    }
}

/// Makes a message: magic, version, and what `fields` writes.
fn message(fields: impl FnOnce(&mut Encoder<'_>)) -> MessageBytes {
    let mut bytes = Vec::with_capacity(HELLO_BYTES);
    let mut out = Encoder(&mut bytes);
    MAGIC.encode(&mut out);
    PROTOCOL_VERSION.encode(&mut out);
    fields(&mut out);
    bytes.first_chunk().copied().expect("both messages have 64 bytes")
}

/// Reads magic and version.
fn begin(bytes: &MessageBytes) -> Result<(u16, Decoder<'_>), DecodeError> {
    let mut input = Decoder::new(bytes);
    if <[u8; 8]>::decode(&mut input)? != MAGIC {
        return Err(DecodeError::Value("magic"));
    }
    let version = u16::decode(&mut input)?;
    Ok((version, input))
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_hello_reads_back_and_damage_is_refused() {
        let hello = TlsHello { service: 7, node: [3; 16], random: [9; 32] };
        let bytes = hello.to_bytes();
        assert_eq!(TlsHello::from_bytes(&bytes), Ok(hello));
        for (at, refusal) in [
            (0, Refusal::Malformed),
            (7, Refusal::Malformed),
            (8, Refusal::Version),
            (9, Refusal::Version),
            (10, Refusal::Malformed),
            (11, Refusal::Malformed),
        ] {
            let mut damaged = bytes;
            damaged[at] ^= 0x40;
            assert_eq!(TlsHello::from_bytes(&damaged), Err(refusal), "byte {at}");
        }
        let mut shared = bytes;
        shared[10] = 1;
        assert_eq!(TlsHello::from_bytes(&shared), Err(Refusal::Malformed), "another transport");
    }

    #[test]
    fn an_answer_reads_back_and_a_refusal_is_read_of_any_version() {
        for refusal in [None, Some(Refusal::Unknown), Some(Refusal::Busy)] {
            for transit in [Transit::Sealed, Transit::Plain] {
                let answer = TlsAnswer { refusal, transit, node: [3; 16], random: [9; 32] };
                let mut bytes = answer.to_bytes();
                assert_eq!(TlsAnswer::from_bytes(&bytes), Ok(answer));
                bytes[8] ^= 0x40;
                match refusal {
                    Some(_) => assert_eq!(TlsAnswer::from_bytes(&bytes), Ok(answer)),
                    None => assert!(TlsAnswer::from_bytes(&bytes).is_err()),
                }
                for at in [0, 12, 13, 15] {
                    let mut damaged = answer.to_bytes();
                    damaged[at] ^= 0x40;
                    assert!(TlsAnswer::from_bytes(&damaged).is_err(), "byte {at}");
                }
            }
        }
    }
}
