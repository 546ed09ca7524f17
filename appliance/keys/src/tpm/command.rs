//! The bytes of TPM commands and answers. Both lie in locked memory: some hold the key.
//!
//! Layouts of [TPM-2.0 part 3]; everything is big-endian. Only what sealing needs; a library for all of TPM 2.0 would copy the key
//! into structures that are neither locked nor zeroed.

use crate::{LockError, Secret};

/// Most bytes of a command or an answer of any TPM.
pub(super) const MESSAGE_BYTES_MAX: usize = 4096;
/// Tag, size, code.
pub(super) const HEADER_BYTES: usize = 10;

const TAG_NO_SESSIONS: u16 = 0x8001;
const TAG_SESSIONS: u16 = 0x8002;
/// What a TPM 1.2 answers to anything of 2.0.
const TAG_OLD: u16 = 0x00c4;
/// The password session.
const PASSWORD: u32 = 0x4000_0009;

/// A command that is used here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    CreatePrimary,
    Create,
    Load,
    Unseal,
    FlushContext,
    ReadPublic,
    StartAuthSession,
}

impl Code {
    pub(super) const fn number(self) -> u32 {
        match self {
            Self::CreatePrimary => 0x131,
            Self::Create => 0x153,
            Self::Load => 0x157,
            Self::Unseal => 0x15e,
            Self::FlushContext => 0x165,
            Self::ReadPublic => 0x173,
            Self::StartAuthSession => 0x176,
        }
    }
}

/// Bytes being written, in locked memory.
#[derive(Debug)]
pub(super) struct Writer {
    bytes: Secret,
    length: usize,
}

impl Writer {
    /// Nothing yet.
    ///
    /// # Errors
    /// [`LockError`].
    pub(super) fn new() -> Result<Self, LockError> {
        Ok(Self { bytes: Secret::zeroed(MESSAGE_BYTES_MAX)?, length: 0 })
    }

    /// # Panics
    /// When a command gets longer than any: its parts are bounded by who calls.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.expose_mut()[self.length..self.length + bytes.len()].copy_from_slice(bytes);
        self.length += bytes.len();
    }

    pub(super) fn u16(&mut self, value: u16) {
        self.push(&value.to_be_bytes());
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.push(&value.to_be_bytes());
    }

    /// Bytes with their number in front.
    pub(super) fn sized(&mut self, bytes: &[u8]) {
        self.u16(u16::try_from(bytes.len()).unwrap_or(u16::MAX));
        self.push(bytes);
    }

    /// What `write` writes, with its number of bytes in front.
    pub(super) fn sized_of(&mut self, write: impl FnOnce(&mut Self)) {
        let place = self.length;
        self.u16(0);
        write(self);
        let size = u16::try_from(self.length - place - 2).unwrap_or(u16::MAX);
        self.bytes.expose_mut()[place..place + 2].copy_from_slice(&size.to_be_bytes());
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes.expose()[..self.length]
    }

    /// The content of the first field, which has its number of bytes in front.
    ///
    /// # Panics
    /// When that was not written.
    pub(super) fn first_mut(&mut self) -> &mut [u8] {
        let bytes = &mut self.bytes.expose_mut()[..self.length];
        let length = usize::from(u16::from_be_bytes([bytes[0], bytes[1]]));
        &mut bytes[2..2 + length]
    }
}

/// One session's part of an authorization area.
#[derive(Debug)]
pub(super) struct Authorization<'a> {
    /// The session.
    pub(super) session: u32,
    /// Our nonce.
    pub(super) nonce: &'a [u8],
    /// The session's attributes.
    pub(super) attributes: u8,
    /// Password, or proof that we know it.
    pub(super) proof: &'a [u8],
}

impl<'a> Authorization<'a> {
    /// The password itself.
    pub(super) fn password(password: &'a [u8]) -> Self {
        Self { session: PASSWORD, nonce: &[], attributes: 0, proof: password }
    }
}

/// A whole command.
#[derive(Debug)]
pub(super) struct Command {
    code: Code,
    whole: Writer,
}

impl Command {
    /// With handles that need no authorization, or none.
    ///
    /// # Errors
    /// [`LockError`].
    pub(super) fn plain(
        code: Code,
        handles: &[u32],
        parameters: &Writer,
    ) -> Result<Self, LockError> {
        Self::new(code, handles, None, parameters)
    }

    /// With one handle that is authorized.
    ///
    /// # Errors
    /// [`LockError`].
    pub(super) fn authorized(
        code: Code,
        handle: u32,
        authorization: &Authorization<'_>,
        parameters: &Writer,
    ) -> Result<Self, LockError> {
        Self::new(code, &[handle], Some(authorization), parameters)
    }

    fn new(
        code: Code,
        handles: &[u32],
        authorization: Option<&Authorization<'_>>,
        parameters: &Writer,
    ) -> Result<Self, LockError> {
        let area = authorization.map_or(0, |authorization| {
            4 + 4 + 2 + authorization.nonce.len() + 1 + 2 + authorization.proof.len()
        });
        let size = HEADER_BYTES + 4 * handles.len() + area + parameters.length;
        let mut whole = Writer::new()?;
        whole.u16(if authorization.is_some() { TAG_SESSIONS } else { TAG_NO_SESSIONS });
        whole.u32(u32::try_from(size).unwrap_or(u32::MAX));
        whole.u32(code.number());
        for handle in handles {
            whole.u32(*handle);
        }
        if let Some(authorization) = authorization {
            whole.u32(u32::try_from(area - 4).unwrap_or(u32::MAX));
            whole.u32(authorization.session);
            whole.sized(authorization.nonce);
            whole.push(&[authorization.attributes]);
            whole.sized(authorization.proof);
        }
        whole.push(parameters.bytes());
        assert!(whole.length == size, "the size says {size}, the command has {}", whole.length);
        Ok(Self { code, whole })
    }

    /// Which it is.
    pub(super) fn code(&self) -> Code {
        self.code
    }

    /// All of it.
    pub(super) fn bytes(&self) -> &[u8] {
        self.whole.bytes()
    }
}

/// What is wrong with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Malformed {
    /// It ends early, or says another length than it has.
    Length,
    /// It has a tag that no TPM 2.0 gives.
    Tag,
    /// A TPM 1.2 gave it.
    Old,
}

/// A whole answer.
#[derive(Debug)]
pub(super) struct Answer {
    bytes: Secret,
    length: usize,
    has_sessions: bool,
    code: u32,
}

impl Answer {
    /// Reads the header of the first `length` bytes of `bytes`.
    ///
    /// # Errors
    /// [`Malformed`].
    pub(super) fn new(bytes: Secret, length: usize) -> Result<Self, Malformed> {
        let mut header = Reader(bytes.expose().get(..length).ok_or(Malformed::Length)?);
        let (tag, size, code) = (header.u16()?, header.u32()?, header.u32()?);
        if tag == TAG_OLD {
            return Err(Malformed::Old);
        }
        if tag != TAG_SESSIONS && tag != TAG_NO_SESSIONS {
            return Err(Malformed::Tag);
        }
        if usize::try_from(size) != Ok(length) {
            return Err(Malformed::Length);
        }
        Ok(Self { bytes, length, has_sessions: tag == TAG_SESSIONS, code })
    }

    /// The response code; 0 is success.
    pub(super) fn code(&self) -> u32 {
        self.code
    }

    /// The parameters, of an answer without handles.
    ///
    /// # Errors
    /// [`Malformed`].
    pub(super) fn parameters(&self) -> Result<Reader<'_>, Malformed> {
        self.parameters_of(Reader(&self.bytes.expose()[HEADER_BYTES..self.length]))
    }

    /// The handle and the parameters, of an answer with one.
    ///
    /// # Errors
    /// [`Malformed`].
    pub(super) fn handle_and_parameters(&self) -> Result<(u32, Reader<'_>), Malformed> {
        let mut reader = Reader(&self.bytes.expose()[HEADER_BYTES..self.length]);
        Ok((reader.u32()?, self.parameters_of(reader)?))
    }

    /// The parameters as they came and the session's part behind them, of an answer without handles.
    ///
    /// # Errors
    /// [`Malformed`]; also when it has no session.
    pub(super) fn parameters_and_authorization(
        &self,
    ) -> Result<(&[u8], Authorization<'_>), Malformed> {
        if !self.has_sessions {
            return Err(Malformed::Tag);
        }
        let mut reader = Reader(&self.bytes.expose()[HEADER_BYTES..self.length]);
        let length = usize::try_from(reader.u32()?).map_err(|_| Malformed::Length)?;
        let parameters = reader.take(length)?;
        let nonce = reader.sized()?;
        let attributes = reader.take(1)?[0];
        let proof = reader.sized()?;
        Ok((parameters, Authorization { session: 0, nonce, attributes, proof }))
    }

    fn parameters_of<'a>(&self, mut reader: Reader<'a>) -> Result<Reader<'a>, Malformed> {
        if !self.has_sessions {
            return Ok(reader);
        }
        let length = usize::try_from(reader.u32()?).map_err(|_| Malformed::Length)?;
        Ok(Reader(reader.take(length)?))
    }
}

/// Reads from the front.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Over bytes of an answer.
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (front, rest) = self.0.split_at_checked(length).ok_or(Malformed::Length)?;
        self.0 = rest;
        Ok(front)
    }

    /// # Errors
    /// [`Malformed::Length`].
    pub(super) fn u16(&mut self) -> Result<u16, Malformed> {
        let (front, rest) = self.0.split_first_chunk().ok_or(Malformed::Length)?;
        self.0 = rest;
        Ok(u16::from_be_bytes(*front))
    }

    /// # Errors
    /// [`Malformed::Length`].
    pub(super) fn u32(&mut self) -> Result<u32, Malformed> {
        let (front, rest) = self.0.split_first_chunk().ok_or(Malformed::Length)?;
        self.0 = rest;
        Ok(u32::from_be_bytes(*front))
    }

    /// Bytes with their number in front.
    ///
    /// # Errors
    /// [`Malformed::Length`].
    pub(super) fn sized(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.u16()?;
        self.take(length.into())
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn answer(bytes: &[u8]) -> Result<Answer, Malformed> {
        let mut room = Secret::zeroed(MESSAGE_BYTES_MAX).unwrap();
        room.expose_mut()[..bytes.len()].copy_from_slice(bytes);
        Answer::new(room, bytes.len())
    }

    #[test]
    fn a_command_is_laid_out_as_the_specification_draws_it() {
        let mut parameters = Writer::new().unwrap();
        parameters.sized_of(|inner| inner.u16(7));
        assert_eq!(parameters.first_mut(), [0, 7]);
        let password = Authorization::password(b"pw");
        let command =
            Command::authorized(Code::Unseal, 0x8000_0001, &password, &parameters).unwrap();
        assert_eq!(
            command.bytes(),
            [
                0x80, 0x02, 0, 0, 0, 0x21, 0, 0, 0x01, 0x5e, // header: 33 bytes
                0x80, 0, 0, 1, // handle
                0, 0, 0, 11, 0x40, 0, 0, 9, 0, 0, 0, 0, 2, b'p', b'w', // authorization
                0, 2, 0, 7,
            ]
        );
    }

    #[test]
    fn an_answer_is_read_back() {
        let bytes = [
            0x80, 0x02, 0, 0, 0, 0x19, 0, 0, 0, 0, // header: 25 bytes
            0x80, 0, 0, 2, // handle
            0, 0, 0, 4, 0, 2, 8, 9, // parameters
            0, 0, 1, // authorization
        ];
        let answer = answer(&bytes).unwrap();
        assert_eq!(answer.code(), 0);
        let (handle, mut parameters) = answer.handle_and_parameters().unwrap();
        assert_eq!((handle, parameters.sized()), (0x8000_0002, Ok(&[8, 9][..])));
        assert_eq!(parameters.sized(), Err(Malformed::Length));
    }

    #[test]
    fn damaged_answers_are_refused() {
        let good = [0x80, 1, 0, 0, 0, 12, 0, 0, 0, 0, 0, 9];
        assert!(answer(&good).unwrap().parameters().unwrap().sized().is_err());
        for length in 0..good.len() {
            assert_eq!(answer(&good[..length]).err(), Some(Malformed::Length), "{length}");
        }
        let mut bytes = good;
        bytes[0] = 0x81;
        assert_eq!(answer(&bytes).err(), Some(Malformed::Tag));
        assert_eq!(answer(&[0, 0xc4, 0, 0, 0, 10, 0, 0, 0, 10]).err(), Some(Malformed::Old));
    }
}
