//! TLS one record at a time, within bounds, so that it is known what came in which record and what behind it.

use std::io::{Read, Write};

use super::{HandshakeError, hello::MessageBytes};

/// Most bytes of a handshake that are read: a chain of three certificates of 2 KiB, and much more than that.
const READ_MAX: usize = 32 << 10;
/// Most bytes of it that are written.
const WRITTEN_MAX: usize = 16 << 10;
/// Bytes before a record's content: type, version, length.
const HEADER_BYTES: usize = 5;
/// Most bytes of its content [RFC 8446 §5.2].
const CONTENT_BYTES_MAX: usize = (16 << 10) + 256;
/// Types of records [RFC 8446 §5.1]: change_cipher_spec to application_data.
const TYPES: std::ops::RangeInclusive<u8> = 20..=23;

/// A TLS session, and what it has yet to send.
#[derive(Debug)]
pub(super) struct TlsRecords {
    pub(super) tls: rustls::Connection,
    /// What came of the current record.
    record: Vec<u8>,
    read: usize,
    written: usize,
    output: Vec<u8>,
}

impl TlsRecords {
    pub(super) fn new(tls: impl Into<rustls::Connection>) -> Result<Self, HandshakeError> {
        let mut records =
            Self { tls: tls.into(), record: Vec::new(), read: 0, written: 0, output: Vec::new() };
        records.collect()?;
        Ok(records)
    }

    /// Takes what is to be sent.
    pub(super) fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// Takes bytes from the front of `input` up to the end of a record. True: there is a whole one, for [`Self::process`].
    pub(super) fn fill(&mut self, input: &mut &[u8]) -> Result<bool, HandshakeError> {
        self.take(input, HEADER_BYTES)?;
        let Some(&[kind, major, _, high, low]) = self.record.first_chunk() else {
            return Ok(false);
        };
        let content = usize::from(u16::from_be_bytes([high, low]));
        if !TYPES.contains(&kind) || major != 3 || content > CONTENT_BYTES_MAX {
            return Err(HandshakeError::Protocol("not a record of TLS"));
        }
        self.take(input, HEADER_BYTES + content)?;
        Ok(self.record.len() == HEADER_BYTES + content)
    }

    /// Takes bytes until the record has `upto`.
    fn take(&mut self, input: &mut &[u8], upto: usize) -> Result<(), HandshakeError> {
        let wanted = upto.saturating_sub(self.record.len());
        let (taken, rest) = input.split_at(wanted.min(input.len()));
        self.read += taken.len();
        if self.read > READ_MAX {
            return Err(HandshakeError::TooLong(READ_MAX));
        }
        self.record.extend_from_slice(taken);
        *input = rest;
        Ok(())
    }

    /// Gives the record to TLS. Returns how many bytes of plaintext wait then.
    pub(super) fn process(&mut self) -> Result<usize, HandshakeError> {
        let mut rest = &self.record[..];
        while !rest.is_empty() {
            match self.tls.read_tls(&mut rest) {
                Ok(1..) => {}
                Ok(0) | Err(_) => return Err(HandshakeError::Protocol("more than TLS takes")),
            }
        }
        let state = self.tls.process_new_packets();
        self.record.clear();
        // An error has an alert to send.
        self.collect()?;
        let state = state?;
        if state.peer_has_closed() {
            return Err(HandshakeError::Protocol("closed within the handshake"));
        }
        Ok(state.plaintext_bytes_to_read())
    }

    /// Gives a record to TLS that must hold a message and nothing else, and be the last of `input`.
    pub(super) fn process_message(&mut self, input: &[u8]) -> Result<MessageBytes, HandshakeError> {
        let mut message = [0; size_of::<MessageBytes>()];
        if self.process()? != message.len() {
            return Err(HandshakeError::Protocol("a record that is not a hello or an answer"));
        }
        if !input.is_empty() {
            return Err(HandshakeError::Protocol("bytes behind a hello or an answer"));
        }
        let read = self.tls.reader().read_exact(&mut message);
        read.map_err(|_| HandshakeError::Protocol("a message that is gone"))?;
        Ok(message)
    }

    /// Puts a message into a record of its own.
    pub(super) fn write_message(&mut self, message: &MessageBytes) -> Result<(), HandshakeError> {
        let written = self.tls.writer().write_all(message);
        written.map_err(|_| HandshakeError::Protocol("a message that TLS does not take"))?;
        self.collect()
    }

    /// Says that nothing follows.
    pub(super) fn close(&mut self) -> Result<(), HandshakeError> {
        self.tls.send_close_notify();
        self.collect()
    }

    /// Moves what TLS wants to send to the output.
    fn collect(&mut self) -> Result<(), HandshakeError> {
        while self.tls.wants_write() {
            // Writing to a vector does not fail.
            let written = self.tls.write_tls(&mut self.output).unwrap_or(0);
            self.written += written;
            if written == 0 || self.written > WRITTEN_MAX {
                return Err(HandshakeError::TooLong(WRITTEN_MAX));
            }
        }
        Ok(())
    }
}
