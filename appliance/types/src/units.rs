//! Quantities of storage.

use std::fmt;

/// Bytes of a device block, of a checksum unit and of a memory page here.
pub const BLOCK_BYTES: usize = 4096;
/// [`BLOCK_BYTES`] for 64-bit arithmetic.
pub const BLOCK_BYTES_U64: u64 = 4096;
/// Largest payload of one bulk transfer (the slab of LNet, 1 MiB).
pub const TRANSFER_BYTES_MAX: usize = 1 << 20;

/// Address of a 4 KiB block on a device or in a zone of it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Lba(pub u64);

/// A count of 4 KiB blocks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Blocks(pub u64);

/// A count of bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Bytes(pub u64);

impl Lba {
    /// The address `blocks` further on.
    #[must_use]
    pub const fn plus(self, blocks: u64) -> Self {
        Self(self.0 + blocks)
    }

    /// Byte offset of the block's first byte.
    #[must_use]
    pub const fn byte_offset(self) -> u64 {
        self.0 * BLOCK_BYTES_U64
    }
}

impl Blocks {
    /// The blocks that `bytes` bytes need, the last one perhaps in part.
    #[must_use]
    pub const fn covering(bytes: u64) -> Self {
        Self(bytes.div_ceil(BLOCK_BYTES_U64))
    }

    /// The size in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0 * BLOCK_BYTES_U64
    }
}

impl fmt::Display for Lba {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LBA {}", self.0)
    }
}

impl fmt::Display for Bytes {
    /// Writes the size as people read it: `1.5 GiB`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        let mut unit = 0;
        let mut whole = self.0;
        let mut rest = 0;
        while whole >= 1024 && unit + 1 < UNITS.len() {
            rest = whole % 1024;
            whole /= 1024;
            unit += 1;
        }
        if unit == 0 || rest == 0 {
            write!(f, "{whole} {}", UNITS[unit])
        } else {
            write!(f, "{whole}.{} {}", rest * 10 / 1024, UNITS[unit])
        }
    }
}

/// Why a size could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SizeError;

impl fmt::Display for SizeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected a size such as 4096, 64KiB, 1.5 GiB or 10GB")
    }
}

impl std::error::Error for SizeError {}

impl std::str::FromStr for Bytes {
    type Err = SizeError;

    /// Reads `4096`, `64KiB`, `64K`, `1.5 GiB` (binary) and `10GB` (decimal).
    fn from_str(text: &str) -> Result<Self, SizeError> {
        let text = text.trim();
        let digits_end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(digits_end);
        let scale: u128 = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "k" | "kib" => 1 << 10,
            "m" | "mib" => 1 << 20,
            "g" | "gib" => 1 << 30,
            "t" | "tib" => 1 << 40,
            "p" | "pib" => 1 << 50,
            "kb" => 1_000,
            "mb" => 1_000_000,
            "gb" => 1_000_000_000,
            "tb" => 1_000_000_000_000,
            _ => return Err(SizeError),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if fraction.len() > 9 {
            return Err(SizeError);
        }
        let whole: u128 = whole.parse().map_err(|_| SizeError)?;
        let mut bytes = whole.checked_mul(scale).ok_or(SizeError)?;
        if !fraction.is_empty() {
            let divisor = 10_u128.pow(u32::try_from(fraction.len()).map_err(|_| SizeError)?);
            bytes += fraction.parse::<u128>().map_err(|_| SizeError)? * scale / divisor;
        }
        u64::try_from(bytes).map(Self).map_err(|_| SizeError)
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        let read = |text: &str| text.parse::<Bytes>();
        assert_eq!(read("4096"), Ok(Bytes(4096)));
        assert_eq!(read("64 KiB"), Ok(Bytes(65536)));
        assert_eq!(read("1.5GiB"), Ok(Bytes(3 << 29)));
        assert_eq!(read("10GB"), Ok(Bytes(10_000_000_000)));
        for wrong in ["", "x", "-1", "1.5.2G", "1 furlong", "99999999999999P"] {
            assert_eq!(read(wrong), Err(SizeError), "{wrong}");
        }
    }

    #[test]
    fn sizes_are_shown_in_the_largest_unit_that_fits() {
        assert_eq!(Bytes(1023).to_string(), "1023 B");
        assert_eq!(Bytes(3 << 29).to_string(), "1.5 GiB");
        assert_eq!(Bytes(1 << 20).to_string(), "1 MiB");
    }
}
