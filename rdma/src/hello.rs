//! The first bytes on a new connection, before any frame.
//!
//! | bytes  | client's hello                  | server's answer                      |
//! |--------|---------------------------------|--------------------------------------|
//! | 0..8   | `SHEENFAB`                      | `SHEENFAB`                           |
//! | 8..10  | version                         | version                              |
//! | 10..12 | [`Transport`]                   | 0 or the number of a [`Refusal`]     |
//! | 12..16 | service                         | 0                                    |
//! | 16..24 | bytes of the payload arena, or 0 | –                                   |
//!
//! Over a UNIX socket the hello carries two descriptors (message area, arena), the answer one (the eventfd that wakes
//! the service).

use sheen_wire::{DecodeError, Decoder, Encoder, Field, PROTOCOL_VERSION, number_enum};

/// Bytes of a client's hello.
pub(crate) const HELLO_BYTES: usize = 24;
/// Bytes of the server's answer.
pub(crate) const ANSWER_BYTES: usize = 16;

/// How a hello without a handshake begins, and its answer.
pub(crate) const MAGIC: [u8; 8] = *b"SHEENFAB";

number_enum! {
    /// How messages will travel.
    pub enum Transport: u16 {
        /// Shared memory of one host.
        Shared = 1,
        /// A TCP stream.
        Tcp = 2,
    }
}

number_enum! {
    /// Why a server does not take a connection.
    pub enum Refusal: u16 {
        /// It speaks another version.
        Version = 1,
        /// It has no such service.
        Service = 2,
        /// The hello is malformed, or its descriptors are not what they must be.
        Malformed = 3,
        /// It has too many connections.
        Full = 4,
        /// The window of shared memory is larger than a connection's may be.
        Window = 5,
        /// Its connections take all the memory they may.
        Memory = 6,
        /// Over TCP it lets in identities alone, and the client showed none.
        Identity = 7,
        /// It does not list the client's certificate.
        Unknown = 8,
        /// The identity was revoked.
        Revoked = 9,
        /// The identity's time is over.
        Expired = 10,
        /// It is another node than the one asked for.
        OtherNode = 11,
        /// The identity may not come from this address.
        Address = 12,
        /// It has too much to do to let anybody in.
        Busy = 13,
    }
}

impl Refusal {
    /// Returns what refusals of this kind are counted as.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Version => "version",
            Self::Service => "service",
            Self::Malformed => "malformed",
            Self::Full => "full",
            Self::Window => "window",
            Self::Memory => "memory",
            Self::Identity => "identity",
            Self::Unknown => "unknown",
            Self::Revoked => "revoked",
            Self::Expired => "expired",
            Self::OtherNode => "other-node",
            Self::Address => "address",
            Self::Busy => "busy",
        }
    }

    /// Returns what is wrong and what to do, for people.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Version => {
                "it speaks another version of the protocol; client and node must be of the same release"
            }
            Self::Service => "it has no such service",
            Self::Malformed => "it does not understand what the client offers",
            Self::Full => "it has too many connections; try again",
            Self::Window => {
                "the memory the client shares is more than the node takes of one connection (its limits.window)"
            }
            Self::Memory => {
                "its connections take all the memory they may (its limits.connections); unmount elsewhere or raise it"
            }
            Self::Identity => {
                "over TCP it lets in clients with an identity alone; give one (-o identity=FILE)"
            }
            Self::Unknown => {
                "it does not list this identity: it was revoked or renewed, or never was this node's; get a new \
                 identity file (`sheen client` on the node)"
            }
            Self::Revoked => "this identity was revoked",
            Self::Expired => "the time of this identity is over",
            Self::OtherNode => "it is another node than the identity file is for",
            Self::Address => "this identity may not be used from this address",
            Self::Busy => "it lets in nobody just now; try again",
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Hello {
    pub(crate) transport: Transport,
    pub(crate) service: u32,
    pub(crate) arena_bytes: u64,
}

impl Hello {
    pub(crate) fn to_bytes(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HELLO_BYTES);
        let mut out = Encoder(&mut bytes);
        MAGIC.encode(&mut out);
        PROTOCOL_VERSION.encode(&mut out);
        self.transport.encode(&mut out);
        self.service.encode(&mut out);
        self.arena_bytes.encode(&mut out);
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, Refusal> {
        let mut input = Decoder::new(bytes);
        let magic = <[u8; 8]>::decode(&mut input).map_err(|_| Refusal::Malformed)?;
        let version = u16::decode(&mut input).map_err(|_| Refusal::Malformed)?;
        if magic != MAGIC {
            return Err(Refusal::Malformed);
        }
        if version != PROTOCOL_VERSION {
            return Err(Refusal::Version);
        }
        let mut rest = || -> Result<Self, DecodeError> {
            Ok(Self {
                transport: Field::decode(&mut input)?,
                service: Field::decode(&mut input)?,
                arena_bytes: Field::decode(&mut input)?,
            })
        };
        rest().map_err(|_| Refusal::Malformed)
    }
}

/// The server's answer as bytes.
pub(crate) fn answer(refusal: Option<Refusal>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(ANSWER_BYTES);
    let mut out = Encoder(&mut bytes);
    MAGIC.encode(&mut out);
    PROTOCOL_VERSION.encode(&mut out);
    refusal.map_or(0, Refusal::number).encode(&mut out);
    0_u32.encode(&mut out);
    bytes
}

/// What the server's answer says: Ok(None) is yes.
pub(crate) fn read_answer(bytes: &[u8]) -> Result<Option<Refusal>, DecodeError> {
    let mut input = Decoder::new(bytes);
    if <[u8; 8]>::decode(&mut input)? != MAGIC {
        return Err(DecodeError::Value("magic"));
    }
    let version = u16::decode(&mut input)?;
    let status = u16::decode(&mut input)?;
    if status == 0 && version != PROTOCOL_VERSION {
        return Err(DecodeError::Version(version));
    }
    Ok(if status == 0 {
        None
    } else {
        Some(Refusal::from_number(status).unwrap_or(Refusal::Malformed))
    })
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_hello_reads_back_and_damage_is_refused() {
        let hello = Hello { transport: Transport::Shared, service: 3, arena_bytes: 1 << 20 };
        let bytes = hello.to_bytes();
        assert_eq!(bytes.len(), HELLO_BYTES);
        assert_eq!(Hello::from_bytes(&bytes), Ok(hello));
        let damaged = |at: usize| {
            let mut copy = bytes.clone();
            copy[at] ^= 0x40;
            Hello::from_bytes(&copy)
        };
        assert_eq!(damaged(0), Err(Refusal::Malformed));
        assert_eq!(damaged(8), Err(Refusal::Version));
        assert_eq!(damaged(10), Err(Refusal::Malformed));
        assert_eq!(Hello::from_bytes(&bytes[..20]), Err(Refusal::Malformed));
    }

    #[test]
    fn an_answer_reads_back() {
        for refusal in [None, Some(Refusal::Version), Some(Refusal::Full)] {
            let bytes = answer(refusal);
            assert_eq!(bytes.len(), ANSWER_BYTES);
            assert_eq!(read_answer(&bytes), Ok(refusal));
        }
        assert!(read_answer(b"HTTP/1.1 400 Bad Request").is_err());
    }
}
