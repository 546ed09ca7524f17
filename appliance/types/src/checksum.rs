//! CRC32C (Castagnoli), the checksum of blocks, journal records and messages.

use crc_fast::{CrcAlgorithm, checksum, checksum_combine};

/// CRC32C of `bytes` (polynomial 0x1EDC6F41 reflected, as iSCSI and NVMe/TCP use it).
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    low32(checksum(CrcAlgorithm::Crc32Iscsi, bytes))
}

/// CRC32C of the concatenation A‖B, from those of A and B and the length of B in bytes.
#[must_use]
pub fn crc32c_combine(first: u32, second: u32, second_bytes: u64) -> u32 {
    low32(checksum_combine(CrcAlgorithm::Crc32Iscsi, u64::from(first), u64::from(second), second_bytes))
}

fn low32(value: u64) -> u32 {
    u32::try_from(value & 0xffff_ffff).unwrap_or(0)
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn the_checksum_is_the_one_of_rfc_3720() {
        // RFC 3720 B.4: 32 bytes of zeros; and the check value of the CRC catalogue.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn parts_combine_to_the_whole() {
        let whole: Vec<u8> = (0..10_000_u32).map(|i| (i % 251) as u8).collect();
        let (a, b) = whole.split_at(4096);
        assert_eq!(crc32c_combine(crc32c(a), crc32c(b), b.len() as u64), crc32c(&whole));
    }
}
