//! Little-endian numbers in byte arrays.
//!
//! The model lays out its answers by the specification's tables on its own and does not use the driver's layouts: an
//! offset read wrongly there is not wrong here in the same way.

/// A structure under construction: bytes, and numbers put at offsets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bytes(Vec<u8>);

impl Bytes {
    /// `length` zero bytes.
    #[must_use]
    pub fn zeroed(length: usize) -> Self {
        Self(vec![0; length])
    }

    /// The bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.0
    }

    /// Puts raw bytes at `offset`.
    ///
    /// # Panics
    /// When they do not fit: structures have fixed sizes.
    pub fn put(&mut self, offset: usize, bytes: &[u8]) -> &mut Self {
        self.0[offset..offset + bytes.len()].copy_from_slice(bytes);
        self
    }

    /// Puts one byte.
    pub fn put8(&mut self, offset: usize, value: u8) -> &mut Self {
        self.put(offset, &[value])
    }

    /// Puts 16 bits.
    pub fn put16(&mut self, offset: usize, value: u16) -> &mut Self {
        self.put(offset, &value.to_le_bytes())
    }

    /// Puts 32 bits.
    pub fn put32(&mut self, offset: usize, value: u32) -> &mut Self {
        self.put(offset, &value.to_le_bytes())
    }

    /// Puts 64 bits.
    pub fn put64(&mut self, offset: usize, value: u64) -> &mut Self {
        self.put(offset, &value.to_le_bytes())
    }

    /// Puts ASCII text, padded with spaces to `length` bytes.
    pub fn put_text(&mut self, offset: usize, length: usize, text: &str) -> &mut Self {
        self.0[offset..offset + length].fill(b' ');
        let bytes = &text.as_bytes()[..text.len().min(length)];
        self.put(offset, bytes)
    }
}

/// 16 bits at `offset`; zero behind the end.
#[must_use]
pub fn get16(bytes: &[u8], offset: usize) -> u16 {
    bytes.get(offset..).and_then(|rest| rest.first_chunk()).map_or(0, |b| u16::from_le_bytes(*b))
}

/// 32 bits at `offset`; zero behind the end.
#[must_use]
pub fn get32(bytes: &[u8], offset: usize) -> u32 {
    bytes.get(offset..).and_then(|rest| rest.first_chunk()).map_or(0, |b| u32::from_le_bytes(*b))
}

/// 64 bits at `offset`; zero behind the end.
#[must_use]
pub fn get64(bytes: &[u8], offset: usize) -> u64 {
    bytes.get(offset..).and_then(|rest| rest.first_chunk()).map_or(0, |b| u64::from_le_bytes(*b))
}

/// The low 16 bits.
#[must_use]
pub const fn low16(value: u32) -> u16 {
    let [a, b, _, _] = value.to_le_bytes();
    u16::from_le_bytes([a, b])
}

/// The high 16 bits.
#[must_use]
pub const fn high16(value: u32) -> u16 {
    low16(value >> 16)
}

/// The low 8 bits.
#[must_use]
pub const fn low8(value: u32) -> u8 {
    value.to_le_bytes()[0]
}

/// The low 32 bits.
#[must_use]
pub const fn low32(value: u64) -> u32 {
    let [a, b, c, d, ..] = value.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// The high 32 bits.
#[must_use]
pub const fn high32(value: u64) -> u32 {
    low32(value >> 32)
}

/// Two halves joined.
#[must_use]
pub const fn join32(low: u32, high: u32) -> u64 {
    let ([a, b, c, d], [e, f, g, h]) = (low.to_le_bytes(), high.to_le_bytes());
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

/// A 32-bit count as an index. The model runs on 64-bit machines only.
#[must_use]
pub const fn index(value: u32) -> usize {
    const { assert!(usize::BITS >= 64) };
    value as usize
}

/// A 64-bit count as an index; values beyond the address space become the largest one, which no bound accepts.
#[must_use]
pub fn index64(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

/// A length as a 64-bit count.
#[must_use]
pub const fn count(value: usize) -> u64 {
    const { assert!(usize::BITS <= 64) };
    value as u64
}
