//! Makes records: the sending end of one direction.
//!
//! Invariant: [`SealingKey::take`] is the one place where a nonce is made. It counts on before it returns, whatever becomes of the
//! record, and what it returns can be used once. The library refuses a nonce that does not rise, as a second guard.
//!
//! A record that was sealed has its number: it must be sent, and before the next one, or the peer ends the connection.

use std::time::Duration;

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, TlsProtocolId, TlsRecordSealingKey};
use sheen_types::Tick;

use super::{
    MESSAGE_AT, Payload, PayloadTarget, RecordHeader, TAG_BYTES,
    record::{HEADER_BYTES, TransportHead},
    schedule::{KeyMaterial, NONCE_BYTES, TrafficSecret},
};

/// What one phase may carry. At a limit the sender goes to the next phase, before the record that would pass it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PhaseLimits {
    /// Records.
    pub records: u64,
    /// Blocks of 16 bytes, of messages and payloads together.
    pub blocks: u64,
    /// Time since the phase began.
    pub age: Duration,
}

impl Default for PhaseLimits {
    /// 2^30 records, 2^32 blocks (64 GiB), one hour. TLS allows 2^24.5 records of 16 KiB for an advantage of 2^-57
    /// [RFC 8446 §5.5], which is 2^34.5 blocks: these limits are 5.6 times below.
    fn default() -> Self {
        Self { records: 1 << 30, blocks: 1 << 32, age: Duration::from_secs(3600) }
    }
}

/// The library did not seal: the connection has to be closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the cipher did not seal a record")]
pub struct SealError;

/// Seals the messages and payloads of one direction.
#[derive(Debug)]
pub struct Sealer {
    /// None: the connection is not encrypted.
    phase: Option<SealingPhase>,
    /// Number of the phase.
    number: u64,
    limits: PhaseLimits,
    /// Sequence of the next record. A new phase does not begin it again, so that nobody leaves out the last ones of a phase unseen.
    next: u64,
}

#[derive(Debug)]
struct SealingPhase {
    secret: TrafficSecret,
    message: SealingKey,
    payload: SealingKey,
    blocks: u64,
    begun: Tick,
}

impl Sealer {
    /// Begins phase 0 at `now`.
    #[must_use]
    pub fn new(secret: TrafficSecret, limits: PhaseLimits, now: Tick) -> Self {
        let phase = Some(SealingPhase::new(secret, now));
        Self { phase, number: 0, limits, next: 0 }
    }

    /// Makes records of the same layout that are neither encrypted nor authenticated.
    #[must_use]
    pub fn plain() -> Self {
        Self { phase: None, number: 0, limits: PhaseLimits::default(), next: 0 }
    }

    /// Whether records are encrypted.
    #[must_use]
    pub const fn is_encrypted(&self) -> bool {
        self.phase.is_some()
    }

    /// Returns the number of the phase that the last record was sealed in.
    #[must_use]
    pub const fn phase(&self) -> u64 {
        self.number
    }

    /// Seals a message and its payload. `record` is as long as the record: the message stands at [`MESSAGE_AT`], before it and in
    /// the last [`TAG_BYTES`] is room that this fills. The record, and behind it the payload's sealed form, must be the next to be
    /// sent.
    ///
    /// # Errors
    /// [`SealError`]: the connection has to be closed.
    ///
    /// # Panics
    /// When no record is as long as `record`, or no payload as long as `payload`.
    pub fn seal(
        &mut self,
        now: Tick,
        target: PayloadTarget,
        record: &mut [u8],
        payload: Payload<'_>,
    ) -> Result<(), SealError> {
        let payload_bytes = payload.checked_bytes();
        let record_bytes = record.len();
        let sequence = self.next;
        self.next += 1;
        if let Some(phase) = &mut self.phase
            && phase.is_full(&self.limits, now)
        {
            *phase = SealingPhase::new(phase.secret.next(), now);
            self.number += 1;
        }
        let Some(phase) = &mut self.phase else {
            payload.copy_across();
            let header = RecordHeader::new(record_bytes, 0, sequence);
            frame(record, header, TransportHead { slot: target.slot, payload: None });
            record[record_bytes - TAG_BYTES..].fill(0);
            return Ok(());
        };
        // Payload first: its tag is part of what the message seals.
        let sealed = match payload_bytes {
            0 => None,
            bytes => Some(phase.payload.seal_payload(&target.associated_data(bytes), payload)?),
        };
        phase.count(payload_bytes);
        phase.count(record_bytes);
        let (_, nonce) = phase.message.take();
        let header = RecordHeader::new(record_bytes, self.number, sequence);
        frame(record, header, TransportHead { slot: target.slot, payload: sealed });
        let (sealed, tag) = record.split_at_mut(record_bytes - TAG_BYTES);
        let found =
            phase.message.seal_in_place(nonce, &header.to_bytes(), &mut sealed[HEADER_BYTES..])?;
        tag.copy_from_slice(&found);
        Ok(())
    }
}

/// Writes what stands before the message.
fn frame(record: &mut [u8], header: RecordHeader, head: TransportHead) {
    record[..HEADER_BYTES].copy_from_slice(&header.to_bytes());
    record[HEADER_BYTES..MESSAGE_AT].copy_from_slice(&head.to_bytes());
}

impl SealingPhase {
    fn new(secret: TrafficSecret, now: Tick) -> Self {
        let keys = secret.keys();
        let message = SealingKey::new(keys.message());
        let payload = SealingKey::new(keys.payload());
        Self { secret, message, payload, blocks: 0, begun: now }
    }

    fn is_full(&self, limits: &PhaseLimits, now: Tick) -> bool {
        self.message.next >= limits.records
            || self.blocks >= limits.blocks
            || now.since(self.begun) >= limits.age
    }

    /// Counts what sealing `bytes` bytes costs: two blocks more, for associated data and tag.
    fn count(&mut self, bytes: usize) {
        self.blocks += bytes.div_ceil(16) as u64 + 2;
    }
}

/// A key, and the number of its next nonce.
#[derive(Debug)]
struct SealingKey {
    key: TlsRecordSealingKey,
    iv: [u8; NONCE_BYTES],
    next: u64,
}

impl SealingKey {
    fn new(material: &KeyMaterial) -> Self {
        let key = TlsRecordSealingKey::new(&AES_256_GCM, TlsProtocolId::TLS13, &material.key);
        Self { key: key.expect("AES-256 takes keys of 32 bytes"), iv: material.iv, next: 0 }
    }

    /// Returns the next number and its nonce, and counts on. The only place that makes a nonce.
    fn take(&mut self) -> (u64, Nonce) {
        let number = self.next;
        self.next += 1;
        assert!(number < self.next, "a nonce is used once");
        (number, Nonce::assume_unique_for_key(KeyMaterial::nonce(&self.iv, number)))
    }

    fn seal_in_place(
        &mut self,
        nonce: Nonce,
        associated: &[u8],
        text: &mut [u8],
    ) -> Result<[u8; TAG_BYTES], SealError> {
        let tag = self.key.seal_in_place_separate_tag(nonce, Aad::from(associated), text);
        let tag = tag.map_err(|_| SealError)?;
        tag.as_ref().first_chunk().copied().ok_or(SealError)
    }

    /// Seals a payload; returns its number and tag.
    fn seal_payload(
        &mut self,
        associated: &[u8; 16],
        payload: Payload<'_>,
    ) -> Result<(u64, [u8; TAG_BYTES]), SealError> {
        let (number, nonce) = self.take();
        let tag = match payload {
            Payload::Absent => return Err(SealError),
            Payload::InPlace(text) => self.seal_in_place(nonce, associated, text)?,
            Payload::Across { from, into } => {
                let mut tag = [0; TAG_BYTES];
                let associated = Aad::from(associated);
                let sealed = self.key.seal_out_of_place_scatter(
                    nonce,
                    associated,
                    from,
                    into,
                    &[],
                    &mut tag,
                );
                sealed.map_err(|_| SealError)?;
                tag
            }
        };
        Ok((number, tag))
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn the_library_refuses_a_nonce_a_second_time() {
        let mut key = SealingKey::new(TrafficSecret::copy_of(&[3; 32]).keys().message());
        let mut text = [0; 64];
        for _ in 0..3 {
            let (_, nonce) = key.take();
            key.seal_in_place(nonce, b"", &mut text).unwrap();
        }
        key.next = 1;
        let (_, nonce) = key.take();
        assert_eq!(key.seal_in_place(nonce, b"", &mut text), Err(SealError));
        assert_eq!(key.next, 2, "counted on all the same");
    }

    #[test]
    fn a_sealer_shows_no_key() {
        let sealer =
            Sealer::new(TrafficSecret::copy_of(&[0xab; 32]), PhaseLimits::default(), Tick(0));
        let shown = format!("{sealer:?}").to_lowercase();
        assert!(!shown.contains("171, 171") && !shown.contains("abab"), "{shown}");
    }
}
