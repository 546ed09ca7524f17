//! Queue entries: commands and completions, and how a command points to its data.

use super::{
    layout::{bits, layout},
    opcode::{AdminOpcode, IoOpcode},
    status::{Status, StatusField},
};

/// Bytes of a submission queue entry; CC.IOSQES is its logarithm [NVMe-2.0c §3.3.3.1].
pub const SQE_BYTES: usize = 64;
/// Logarithm of [`SQE_BYTES`].
pub const SQE_BYTES_LOG2: u8 = 6;
/// Bytes of a completion queue entry; CC.IOCQES is its logarithm [NVMe-2.0c §3.3.3.2].
pub const CQE_BYTES: usize = 16;
/// Logarithm of [`CQE_BYTES`].
pub const CQE_BYTES_LOG2: u8 = 4;
/// The namespace identifier that means every namespace [NVMe-2.0c §3.2.1.1].
pub const NSID_ALL: u32 = u32::MAX;
/// No completion queue entry's command identifier: reserved for the error log [NVMe-2.0c §3.3.3.1, CID].
pub const CID_NONE: u16 = u16::MAX;

bits! {
    /// Command Dwords 0 and 1 [NVMe-2.0c §3.3.3.1, figures 86 and 87].
    CommandHead: u64 {
        /// OPC, Opcode.
        7:0 opc with_opc: u8,
        /// FUSE, Fused Operation.
        9:8 fuse with_fuse: u8,
        /// PSDT, PRP or SGL for Data Transfer: 0 PRP, 1 SGL with MPTR an address.
        15:14 psdt with_psdt: u8,
        /// CID, Command Identifier.
        31:16 cid with_cid: u16,
        /// NSID, Namespace Identifier.
        63:32 nsid with_nsid: u32,
    }
}

/// PSDT: PRPs are used for this transfer.
pub const PSDT_PRP: u8 = 0;
/// PSDT: SGLs are used; MPTR, if used, is the address of a contiguous buffer.
pub const PSDT_SGL: u8 = 1;

/// A submission queue entry as the eight 64-bit words it is written by [NVMe-2.0c §3.3.3.1].
///
/// | word | dwords | field |
/// |---|---|---|
/// | 0 | 0, 1 | [`CommandHead`] |
/// | 1 | 2, 3 | command specific (reserved for most) |
/// | 2 | 4, 5 | MPTR, Metadata Pointer |
/// | 3 | 6, 7 | DPTR: PRP Entry 1, or SGL address |
/// | 4 | 8, 9 | DPTR: PRP Entry 2, or SGL length and type |
/// | 5 to 7 | 10 to 15 | command specific |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Sqe(pub [u64; 8]);

const _: () = assert!(size_of::<Sqe>() == SQE_BYTES, "an entry is 64 bytes");

impl Sqe {
    /// An admin command with nothing but its opcode and namespace.
    #[must_use]
    pub fn admin(opcode: AdminOpcode, nsid: u32) -> Self {
        Self::default().with_head(CommandHead::default().with_opc(opcode.0).with_nsid(nsid))
    }

    /// An I/O command with nothing but its opcode and namespace.
    #[must_use]
    pub fn io(opcode: IoOpcode, nsid: u32) -> Self {
        Self::default().with_head(CommandHead::default().with_opc(opcode.0).with_nsid(nsid))
    }

    /// Command Dwords 0 and 1.
    #[must_use]
    pub const fn head(&self) -> CommandHead {
        CommandHead(self.0[0])
    }

    /// With these Command Dwords 0 and 1.
    #[must_use]
    pub const fn with_head(mut self, head: CommandHead) -> Self {
        self.0[0] = head.0;
        self
    }

    /// With this command identifier.
    #[must_use]
    pub fn with_cid(self, cid: u16) -> Self {
        self.with_head(self.head().with_cid(cid))
    }

    /// DPTR: PRP entries 1 and 2, or the two words of an SGL descriptor.
    #[must_use]
    pub const fn data_pointer(&self) -> [u64; 2] {
        [self.0[3], self.0[4]]
    }

    /// With this DPTR.
    #[must_use]
    pub const fn with_data_pointer(mut self, pointer: [u64; 2]) -> Self {
        self.0[3] = pointer[0];
        self.0[4] = pointer[1];
        self
    }

    /// Command dword `number`.
    ///
    /// # Panics
    /// There are 16 dwords.
    #[must_use]
    pub const fn dword(&self, number: usize) -> u32 {
        let halves = self.0[number / 2].to_le_bytes();
        let [a, b, c, d, e, f, g, h] = halves;
        if number.is_multiple_of(2) {
            u32::from_le_bytes([a, b, c, d])
        } else {
            u32::from_le_bytes([e, f, g, h])
        }
    }

    /// With this command dword `number`.
    ///
    /// # Panics
    /// There are 16 dwords.
    #[must_use]
    pub const fn with_dword(mut self, number: usize, value: u32) -> Self {
        let word = self.0[number / 2];
        self.0[number / 2] = if number.is_multiple_of(2) {
            word & !0xffff_ffff | value as u64
        } else {
            word & 0xffff_ffff | (value as u64) << 32
        };
        self
    }
}

bits! {
    /// Completion dwords 2 and 3: the word that carries the phase [NVMe-2.0c §3.3.3.2].
    CompletionTail: u64 {
        /// SQHD, SQ Head Pointer.
        15:0 sqhd with_sqhd: u16,
        /// SQID, SQ Identifier.
        31:16 sqid with_sqid: u16,
        /// CID, Command Identifier.
        47:32 cid with_cid: u16,
        /// Phase tag and status.
        63:48 status_bits with_status_bits: u16,
    }
}

impl CompletionTail {
    /// Phase tag and status.
    #[must_use]
    pub fn status_field(self) -> StatusField {
        StatusField(self.status_bits())
    }
}

/// A completion queue entry [NVMe-2.0c §3.3.3.2].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Cqe {
    /// Dwords 0 and 1: command specific.
    pub result: u64,
    /// Dwords 2 and 3.
    pub tail: CompletionTail,
}

const _: () = assert!(size_of::<Cqe>() == CQE_BYTES, "an entry is 16 bytes");

impl Cqe {
    /// The entry as the words it is read by.
    #[must_use]
    pub const fn from_words([result, tail]: [u64; 2]) -> Self {
        Self { result, tail: CompletionTail(tail) }
    }

    /// Dword 0.
    #[must_use]
    pub fn dword0(&self) -> u32 {
        super::layout::Bits::from_bits(self.result & 0xffff_ffff)
    }

    /// The entry a controller posts.
    #[must_use]
    pub fn words(
        sqhd: u16,
        sqid: u16,
        cid: u16,
        status: Status,
        phase: bool,
        dword0: u32,
    ) -> [u64; 2] {
        let tail = CompletionTail::default().with_sqhd(sqhd).with_sqid(sqid).with_cid(cid);
        [u64::from(dword0), tail.with_status_bits(status.field(phase).0).0]
    }
}

bits! {
    /// The second word of an SGL descriptor [NVMe-2.0c §4.1.2].
    SglTail: u64 {
        /// Length in bytes.
        31:0 length with_length: u32,
        /// SGL Descriptor Sub Type: 0 address, 1 offset.
        59:56 sub_type with_sub_type: u8,
        /// SGL Descriptor Type: 0 Data Block, 1 Bit Bucket, 2 Segment, 3 Last Segment.
        63:60 sgl_type with_sgl_type: u8,
    }
}

/// SGL Descriptor Type: Data Block [NVMe-2.0c §4.1.2].
pub const SGL_DATA_BLOCK: u8 = 0;
/// SGL Descriptor Type: Segment.
pub const SGL_SEGMENT: u8 = 2;
/// SGL Descriptor Type: Last Segment.
pub const SGL_LAST_SEGMENT: u8 = 3;

layout! {
    /// A range of Dataset Management [NVM-1.0c §3.2.3].
    DsmRange: 16 {
        /// CATTR, Context Attributes.
        0 cattr: u32,
        /// NLB, Length in Logical Blocks; not zero-based.
        4 nlb: u32,
        /// SLBA, Starting LBA.
        8 slba: u64,
    }
}

/// Most ranges of one Dataset Management command: NR is a byte, zero-based.
pub const DSM_RANGES_MAX: usize = 256;

bits! {
    /// Command Dword 11 of Dataset Management [NVM-1.0c §3.2.3].
    DsmAttributes: u32 {
        /// IDR, Integral Dataset for Read.
        0:0 idr with_idr: bool,
        /// IDW, Integral Dataset for Write.
        1:1 idw with_idw: bool,
        /// AD, Deallocate.
        2:2 ad with_ad: bool,
    }
}

bits! {
    /// Command Dword 12 of Read, Write, Compare, Write Zeroes and Verify [NVM-1.0c §3.2.4, §3.2.6, §3.2.1, §3.2.8, §3.2.5].
    BlocksAndFlags: u32 {
        /// NLB, Number of Logical Blocks, zero-based.
        15:0 nlb with_nlb: u16,
        /// DTYPE, Directive Type (Write).
        23:20 dtype with_dtype: u8,
        /// STC, Storage Tag Check.
        24:24 stc with_stc: bool,
        /// DEAC, Deallocate (Write Zeroes).
        25:25 deac with_deac: bool,
        /// PRINFO, Protection Information.
        29:26 prinfo with_prinfo: u8,
        /// FUA, Force Unit Access.
        30:30 fua with_fua: bool,
        /// LR, Limited Retry.
        31:31 lr with_lr: bool,
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_read_command_has_its_fields_where_the_figures_say() {
        let sqe = Sqe::io(IoOpcode::READ, 1)
            .with_cid(0x1234)
            .with_data_pointer([0x1000, 0x2000])
            .with_dword(10, 5)
            .with_dword(11, 6)
            .with_dword(12, BlocksAndFlags::default().with_nlb(7).with_fua(true).0);
        assert_eq!(sqe.0, [0x1_1234_0002, 0, 0, 0x1000, 0x2000, 0x6_0000_0005, 0x4000_0007, 0]);
        assert_eq!((sqe.dword(0), sqe.dword(1), sqe.dword(11)), (0x1234_0002, 1, 6));
    }

    #[test]
    fn a_completion_is_read_back_as_it_was_posted() {
        let words = Cqe::words(3, 1, 0xabcd, Status::LBA_OUT_OF_RANGE, true, 9);
        assert_eq!(words, [9, 0x0101_abcd_0001_0003]);
        let cqe = Cqe::from_words(words);
        assert_eq!((cqe.tail.sqhd(), cqe.tail.sqid(), cqe.tail.cid()), (3, 1, 0xabcd));
        assert_eq!(cqe.tail.status_field().status(), Status::LBA_OUT_OF_RANGE);
        assert_eq!(cqe.dword0(), 9);
    }

    #[test]
    fn a_data_block_descriptor_has_length_below_and_type_above() {
        let tail = SglTail::default().with_length(4096).with_sgl_type(SGL_LAST_SEGMENT);
        assert_eq!(tail.0, 0x3000_0000_0000_1000);
        let range = DsmRange { cattr: 0, nlb: 8, slba: 0x11 };
        assert_eq!(range.encode()[4..9], [8, 0, 0, 0, 0x11]);
    }
}
