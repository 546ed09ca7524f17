//! Submission queue entries, read by dwords. [NVMe-2.0c §3.3.3.1, figure 87]

use crate::bytes::{high16, high32, low8, low16, low32};

/// Admin opcodes the model knows. [NVMe-2.0c §5, figure 138]
pub mod admin {
    #![allow(missing_docs)]
    pub const DELETE_SQ: u8 = 0x00;
    pub const CREATE_SQ: u8 = 0x01;
    pub const GET_LOG_PAGE: u8 = 0x02;
    pub const DELETE_CQ: u8 = 0x04;
    pub const CREATE_CQ: u8 = 0x05;
    pub const IDENTIFY: u8 = 0x06;
    pub const ABORT: u8 = 0x08;
    pub const SET_FEATURES: u8 = 0x09;
    pub const GET_FEATURES: u8 = 0x0a;
    pub const ASYNC_EVENT: u8 = 0x0c;
    pub const NAMESPACE_MANAGEMENT: u8 = 0x0d;
    pub const FIRMWARE_COMMIT: u8 = 0x10;
    pub const FIRMWARE_DOWNLOAD: u8 = 0x11;
    pub const NAMESPACE_ATTACHMENT: u8 = 0x15;
    pub const DOORBELL_BUFFER: u8 = 0x7c;
    pub const FORMAT: u8 = 0x80;
    pub const SANITIZE: u8 = 0x84;
}

/// NVM command set opcodes the model knows. [NVM-1.0c §3.2, figure 13]
pub mod nvm {
    #![allow(missing_docs)]
    pub const FLUSH: u8 = 0x00;
    pub const WRITE: u8 = 0x01;
    pub const READ: u8 = 0x02;
    pub const COMPARE: u8 = 0x05;
    pub const WRITE_ZEROES: u8 = 0x08;
    pub const DATASET_MANAGEMENT: u8 = 0x09;
    pub const VERIFY: u8 = 0x0c;
}

/// One command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command {
    words: [u64; 8],
}

impl Command {
    /// A command as it lies in the queue.
    #[must_use]
    pub const fn new(words: [u64; 8]) -> Self {
        Self { words }
    }

    /// Dword `number` (0..=15).
    ///
    /// # Panics
    /// When there is no such dword.
    #[must_use]
    pub const fn dword(&self, number: usize) -> u32 {
        let word = self.words[number / 2];
        if number.is_multiple_of(2) { low32(word) } else { high32(word) }
    }

    /// Opcode (CDW0 07:00).
    #[must_use]
    pub const fn opcode(&self) -> u8 {
        low8(self.dword(0))
    }

    /// Fused operation (CDW0 09:08); the model supports none.
    #[must_use]
    pub const fn fused(&self) -> u32 {
        (self.dword(0) >> 8) & 3
    }

    /// PRP or SGL for Data Transfer (CDW0 15:14).
    #[must_use]
    pub const fn psdt(&self) -> u32 {
        (self.dword(0) >> 14) & 3
    }

    /// Command Identifier (CDW0 31:16).
    #[must_use]
    pub const fn cid(&self) -> u16 {
        high16(self.dword(0))
    }

    /// Namespace Identifier.
    #[must_use]
    pub const fn nsid(&self) -> u32 {
        self.dword(1)
    }

    /// First PRP entry, or the first half of the SGL descriptor.
    #[must_use]
    pub const fn pointer1(&self) -> u64 {
        self.words[3]
    }

    /// Second PRP entry, or the second half of the SGL descriptor.
    #[must_use]
    pub const fn pointer2(&self) -> u64 {
        self.words[4]
    }

    /// Starting LBA of an NVM command (CDW10 and CDW11).
    #[must_use]
    pub const fn lba(&self) -> u64 {
        self.words[5]
    }

    /// Number of Logical Blocks of an NVM command (CDW12 15:00), made one-based.
    #[must_use]
    pub const fn blocks(&self) -> u32 {
        low16(self.dword(12)) as u32 + 1
    }

    /// Force Unit Access (CDW12 bit 30).
    #[must_use]
    pub const fn is_forced(&self) -> bool {
        self.dword(12) & (1 << 30) != 0
    }
}
