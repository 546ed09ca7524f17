//! Takes records: the receiving end of one direction.
//!
//! Records come in order, each with the next number. The sender may go to its next phase with any record, whose number is the next
//! one all the same; the phase before it is forgotten then. The first error ends the [`Opener`]: there is no second record to try a
//! forgery on, and nothing behind a gap is taken.

use std::mem::replace;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use super::{
    MESSAGE_AT, Payload, PayloadTarget, RecordHeader, TAG_BYTES,
    record::{HEADER_BYTES, TransportHead},
    schedule::{KeyMaterial, NONCE_BYTES, TrafficSecret},
};

/// Why a record or payload is not taken. The connection has to be closed, whichever it is; the kinds are for counting.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OpenError {
    /// A length no record has, or a value a field must not have.
    #[error("malformed {0}")]
    Malformed(&'static str),
    /// A record that came before, or one whose predecessor did not come.
    #[error("record {found} where {expected} is next")]
    Sequence {
        /// The number that is next.
        expected: u64,
        /// The number of the record, or of the payload it names.
        found: u64,
    },
    /// Keys of neither this phase nor the next one.
    #[error("record of phase {found} in phase {current} (low bytes)")]
    Phase {
        /// Low byte of the phase records come in.
        current: u8,
        /// What the record says.
        found: u8,
    },
    /// Not sealed by the peer, or changed on its way.
    #[error("a record that the peer did not seal")]
    Forged,
    /// A payload without its seal, a seal without its payload, or one of a phase that is past.
    #[error("a payload that does not belong to its message")]
    Payload,
    /// There was an error before.
    #[error("an earlier record was not taken")]
    Ended,
}

/// A message that opened.
#[derive(Debug)]
pub struct Opened<'a> {
    /// Slot of the call, or `u32::MAX` for a callback.
    pub slot: u32,
    /// What opens the message's payload.
    pub payload: PayloadSeal,
    /// Frame and body.
    pub message: &'a [u8],
}

/// Permission to open the payload of one message, once.
#[derive(PartialEq, Eq, Debug)]
pub struct PayloadSeal(Option<SealedPayload>);

#[derive(PartialEq, Eq, Debug)]
struct SealedPayload {
    phase: u64,
    counter: u64,
    tag: [u8; TAG_BYTES],
}

/// Opens the messages and payloads of one direction.
#[derive(Debug)]
pub struct Opener {
    /// None: the connection is not encrypted.
    keys: Option<OpeningPhase>,
    /// Number of the phase.
    phase: u64,
    /// Number of the next record.
    next: u64,
    /// Number of the first record of the phase: its nonces count from there.
    phase_first: u64,
    /// Number of the next payload.
    payload_next: u64,
    ended: bool,
}

#[derive(Debug)]
struct OpeningPhase {
    secret: TrafficSecret,
    message: OpeningKey,
    payload: OpeningKey,
}

impl Opener {
    /// Expects record 0 of phase 0.
    #[must_use]
    pub fn new(secret: TrafficSecret) -> Self {
        Self::of(Some(OpeningPhase::new(secret)))
    }

    /// Takes records that are neither encrypted nor authenticated.
    #[must_use]
    pub const fn plain() -> Self {
        Self::of(None)
    }

    const fn of(keys: Option<OpeningPhase>) -> Self {
        Self { keys, phase: 0, next: 0, phase_first: 0, payload_next: 0, ended: false }
    }

    /// Returns the number of the phase that the last record was sealed in.
    #[must_use]
    pub const fn phase(&self) -> u64 {
        self.phase
    }

    /// Opens the next record in place. `record` is the whole record, see [`RecordHeader::record_bytes`].
    ///
    /// # Errors
    /// [`OpenError`]: nothing of the record may be used, and no later one opens.
    pub fn open<'a>(&mut self, record: &'a mut [u8]) -> Result<Opened<'a>, OpenError> {
        self.guarded(|opener| opener.open_record(record))
    }

    /// Opens a payload that came with or behind its message. `seal` is of this message.
    ///
    /// # Errors
    /// [`OpenError`]: the output is zeroed, and nothing opens any more.
    ///
    /// # Panics
    /// When no payload has this length.
    pub fn open_payload(
        &mut self,
        seal: PayloadSeal,
        target: PayloadTarget,
        payload: Payload<'_>,
    ) -> Result<(), OpenError> {
        self.guarded(|opener| opener.open_sealed(seal, target, payload))
    }

    /// Runs `act` unless there was an error, and notes one.
    fn guarded<T>(
        &mut self,
        act: impl FnOnce(&mut Self) -> Result<T, OpenError>,
    ) -> Result<T, OpenError> {
        // Set before, so that nothing that leaves early leaves the opener usable.
        if replace(&mut self.ended, true) {
            return Err(OpenError::Ended);
        }
        let done = act(self)?;
        self.ended = false;
        Ok(done)
    }

    fn open_record<'a>(&mut self, record: &'a mut [u8]) -> Result<Opened<'a>, OpenError> {
        let header = record.first_chunk().ok_or(OpenError::Malformed("record length"))?;
        let header = RecordHeader::from_bytes(header)?;
        if header.record_bytes() != record.len() {
            return Err(OpenError::Malformed("record length"));
        }
        self.enter_phase(header)?;
        if header.sequence != self.next {
            return Err(OpenError::Sequence { expected: self.next, found: header.sequence });
        }
        let (sealed, tag) = record.split_at_mut(header.record_bytes() - TAG_BYTES);
        let text = &mut sealed[HEADER_BYTES..];
        match &self.keys {
            Some(keys) => {
                let counter = self.next - self.phase_first;
                keys.message.open_in_place(counter, &header.to_bytes(), tag, text)?;
            }
            None if *tag == [0; TAG_BYTES] => {}
            None => return Err(OpenError::Malformed("tag of a record in clear")),
        }
        self.next += 1;
        let (head, message) = sealed.split_at(MESSAGE_AT);
        let head = head[HEADER_BYTES..].first_chunk().ok_or(OpenError::Malformed("head"))?;
        let head = TransportHead::from_bytes(head)?;
        let payload = PayloadSeal(head.payload.map(|seal| self.note_payload(seal)).transpose()?);
        Ok(Opened { slot: head.slot, payload, message })
    }

    /// Goes to the next phase if the record is of it.
    fn enter_phase(&mut self, header: RecordHeader) -> Result<(), OpenError> {
        let [current, ..] = self.phase.to_le_bytes();
        if header.phase == current {
            return Ok(());
        }
        let [next, ..] = (self.phase + 1).to_le_bytes();
        match &mut self.keys {
            // The record must still open under these keys. If it does not, this opener has ended.
            Some(keys) if header.phase == next => *keys = OpeningPhase::new(keys.secret.next()),
            Some(_) | None => {
                return Err(OpenError::Phase { current, found: header.phase });
            }
        }
        self.phase += 1;
        self.phase_first = self.next;
        self.payload_next = 0;
        Ok(())
    }

    /// Counts a payload that an opened message names.
    fn note_payload(
        &mut self,
        (counter, tag): (u64, [u8; TAG_BYTES]),
    ) -> Result<SealedPayload, OpenError> {
        if self.keys.is_none() {
            return Err(OpenError::Malformed("sealed payload on a connection in clear"));
        }
        if counter != self.payload_next {
            return Err(OpenError::Sequence { expected: self.payload_next, found: counter });
        }
        self.payload_next += 1;
        Ok(SealedPayload { phase: self.phase, counter, tag })
    }

    fn open_sealed(
        &self,
        seal: PayloadSeal,
        target: PayloadTarget,
        payload: Payload<'_>,
    ) -> Result<(), OpenError> {
        let bytes = payload.checked_bytes();
        let Some(keys) = &self.keys else {
            payload.copy_across();
            return Ok(());
        };
        let seal = match seal {
            PayloadSeal(None) if bytes == 0 => return Ok(()),
            PayloadSeal(Some(seal)) if bytes > 0 && seal.phase == self.phase => seal,
            PayloadSeal(_) => {
                payload.discard();
                return Err(OpenError::Payload);
            }
        };
        let associated = target.associated_data(bytes);
        match payload {
            Payload::Absent => Err(OpenError::Payload),
            Payload::InPlace(text) => {
                keys.payload.open_in_place(seal.counter, &associated, &seal.tag, text)
            }
            Payload::Across { from, into } => {
                keys.payload.open_across(seal.counter, &associated, &seal.tag, (from, into))
            }
        }
    }
}

impl Payload<'_> {
    /// Zeroes the output.
    fn discard(self) {
        match self {
            Self::Absent => {}
            Self::InPlace(text) | Self::Across { into: text, .. } => text.fill(0),
        }
    }
}

impl OpeningPhase {
    fn new(secret: TrafficSecret) -> Self {
        let keys = secret.keys();
        let message = OpeningKey::new(keys.message());
        let payload = OpeningKey::new(keys.payload());
        Self { secret, message, payload }
    }
}

#[derive(Debug)]
struct OpeningKey {
    key: LessSafeKey,
    iv: [u8; NONCE_BYTES],
}

impl OpeningKey {
    fn new(material: &KeyMaterial) -> Self {
        let key = UnboundKey::new(&AES_256_GCM, &material.key);
        let key = LessSafeKey::new(key.expect("AES-256 takes keys of 32 bytes"));
        Self { key, iv: material.iv }
    }

    fn nonce(&self, counter: u64) -> Nonce {
        Nonce::assume_unique_for_key(KeyMaterial::nonce(&self.iv, counter))
    }

    fn open_in_place(
        &self,
        counter: u64,
        associated: &[u8; 16],
        tag: &[u8],
        text: &mut [u8],
    ) -> Result<(), OpenError> {
        let associated = Aad::from(associated);
        let opened =
            self.key.open_in_place_separate_tag(self.nonce(counter), associated, tag, text);
        if opened.is_err() {
            // What the library leaves there is not specified.
            text.fill(0);
            return Err(OpenError::Forged);
        }
        Ok(())
    }

    fn open_across(
        &self,
        counter: u64,
        associated: &[u8; 16],
        tag: &[u8],
        (from, into): (&[u8], &mut [u8]),
    ) -> Result<(), OpenError> {
        let associated = Aad::from(associated);
        let nonce = self.nonce(counter);
        if self.key.open_separate_gather(nonce, associated, from, tag, into).is_err() {
            into.fill(0);
            return Err(OpenError::Forged);
        }
        Ok(())
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_message_that_names_another_payload_than_the_next_is_refused() {
        let mut opener = Opener::new(TrafficSecret::copy_of(&[1; 32]));
        for counter in 0..3 {
            assert_eq!(opener.note_payload((counter, [0; 16])).unwrap().counter, counter);
        }
        for found in [2, 4] {
            let noted = opener.note_payload((found, [0; 16]));
            assert_eq!(noted, Err(OpenError::Sequence { expected: 3, found }));
        }
    }
}
