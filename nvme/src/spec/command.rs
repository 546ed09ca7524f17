//! Command dwords of admin commands.

use super::layout::bits;

bits! {
    /// Create I/O Submission or Completion Queue, dword 10; Delete uses QID alone [NVMe-2.0c §5.4, §5.5, §5.6, §5.7].
    QueueDword10: u32 {
        /// QID, Queue Identifier.
        15:0 qid with_qid: u16,
        /// QSIZE, Queue Size, zero-based.
        31:16 qsize with_qsize: u16,
    }
}

bits! {
    /// Create I/O Completion Queue, dword 11 [NVMe-2.0c §5.4].
    CreateCqDword11: u32 {
        /// PC, Physically Contiguous.
        0:0 pc with_pc: bool,
        /// IEN, Interrupts Enabled.
        1:1 ien with_ien: bool,
        /// IV, Interrupt Vector.
        31:16 iv with_iv: u16,
    }
}

bits! {
    /// Create I/O Submission Queue, dword 11 [NVMe-2.0c §5.5].
    CreateSqDword11: u32 {
        /// PC, Physically Contiguous.
        0:0 pc with_pc: bool,
        /// QPRIO, Queue Priority; for weighted round robin.
        2:1 qprio with_qprio: u8,
        /// CQID, Completion Queue Identifier.
        31:16 cqid with_cqid: u16,
    }
}

bits! {
    /// Identify, dword 10 [NVMe-2.0c §5.17].
    IdentifyDword10: u32 {
        /// CNS, Controller or Namespace Structure.
        7:0 cns with_cns: u8,
        /// CNTID, Controller Identifier.
        31:16 cntid with_cntid: u16,
    }
}

bits! {
    /// Identify, dword 11 [NVMe-2.0c §5.17].
    IdentifyDword11: u32 {
        /// CNS Specific Identifier.
        15:0 cnssid with_cnssid: u16,
        /// CSI, Command Set Identifier.
        31:24 csi with_csi: u8,
    }
}

/// CNS values [NVMe-2.0c §5.17.1, figure 273].
pub mod cns {
    /// Identify Namespace, of the NVM command set.
    pub const NAMESPACE: u8 = 0x00;
    /// Identify Controller.
    pub const CONTROLLER: u8 = 0x01;
    /// Active Namespace ID list: identifiers above NSID, ascending, at most 1,024.
    pub const ACTIVE_NAMESPACES: u8 = 0x02;
    /// Namespace Identification Descriptor list.
    pub const NAMESPACE_DESCRIPTORS: u8 = 0x03;
    /// Identify Namespace of a command set.
    pub const CSI_NAMESPACE: u8 = 0x05;
    /// Identify Controller of a command set.
    pub const CSI_CONTROLLER: u8 = 0x06;
    /// Allocated Namespace ID list.
    pub const ALLOCATED_NAMESPACES: u8 = 0x10;
    /// Identify Namespace of an allocated namespace.
    pub const ALLOCATED_NAMESPACE: u8 = 0x11;
    /// Controllers attached to a namespace.
    pub const NAMESPACE_CONTROLLERS: u8 = 0x12;
    /// Controllers of the subsystem.
    pub const CONTROLLERS: u8 = 0x13;
}

bits! {
    /// Get Log Page, dword 10 [NVMe-2.0c §5.16].
    GetLogPageDword10: u32 {
        /// LID, Log Page Identifier.
        7:0 lid with_lid: u8,
        /// LSP, Log Specific Parameter.
        14:8 lsp with_lsp: u8,
        /// RAE, Retain Asynchronous Event.
        15:15 rae with_rae: bool,
        /// NUMDL, Number of Dwords Lower, zero-based.
        31:16 numdl with_numdl: u16,
    }
}

bits! {
    /// Get Log Page, dword 11 [NVMe-2.0c §5.16].
    GetLogPageDword11: u32 {
        /// NUMDU, Number of Dwords Upper.
        15:0 numdu with_numdu: u16,
        /// Log Specific Identifier.
        31:16 lsid with_lsid: u16,
    }
}

bits! {
    /// Get Features, dword 10 [NVMe-2.0c §5.15].
    GetFeaturesDword10: u32 {
        /// FID, Feature Identifier.
        7:0 fid with_fid: u8,
        /// SEL, Select: 0 current, 1 default, 2 saved, 3 supported capabilities.
        10:8 sel with_sel: u8,
    }
}

bits! {
    /// Set Features, dword 10 [NVMe-2.0c §5.27].
    SetFeaturesDword10: u32 {
        /// FID, Feature Identifier.
        7:0 fid with_fid: u8,
        /// SV, Save.
        31:31 sv with_sv: bool,
    }
}

bits! {
    /// Abort, dword 10 [NVMe-2.0c §5.1].
    AbortDword10: u32 {
        /// SQID, Submission Queue Identifier.
        15:0 sqid with_sqid: u16,
        /// CID, Command Identifier.
        31:16 cid with_cid: u16,
    }
}

/// Bit 0 of Abort's completion dword 0: set if the command was not aborted [NVMe-2.0c §5.1].
pub const ABORT_NOT_DONE: u32 = 1;

bits! {
    /// Format NVM, dword 10 [NVMe-2.0c §5.14].
    FormatDword10: u32 {
        /// LBAFL, LBA Format Lower.
        3:0 lbafl with_lbafl: u8,
        /// MSET, Metadata Settings: 1 as part of an extended LBA.
        4:4 mset with_mset: bool,
        /// PI, Protection Information: 0 none.
        7:5 pi with_pi: u8,
        /// PIL, Protection Information Location.
        8:8 pil with_pil: bool,
        /// SES, Secure Erase Settings: 0 none, 1 user data, 2 cryptographic.
        11:9 ses with_ses: u8,
        /// LBAFU, LBA Format Upper.
        13:12 lbafu with_lbafu: u8,
    }
}

bits! {
    /// Sanitize, dword 10 [NVMe-2.0c §5.24].
    SanitizeDword10: u32 {
        /// SANACT, Sanitize Action.
        2:0 sanact with_sanact: u8,
        /// AUSE, Allow Unrestricted Sanitize Exit.
        3:3 ause with_ause: bool,
        /// OWPASS, Overwrite Pass Count; 0 means 16.
        7:4 owpass with_owpass: u8,
        /// OIPBP, Overwrite Invert Pattern Between Passes.
        8:8 oipbp with_oipbp: bool,
        /// NDAS, No-Deallocate After Sanitize.
        9:9 ndas with_ndas: bool,
    }
}

/// SANACT values [NVMe-2.0c §5.24].
pub mod sanact {
    /// Exit Failure Mode.
    pub const EXIT_FAILURE_MODE: u8 = 1;
    /// Start a Block Erase sanitize operation.
    pub const BLOCK_ERASE: u8 = 2;
    /// Start an Overwrite sanitize operation; the pattern is dword 11.
    pub const OVERWRITE: u8 = 3;
    /// Start a Crypto Erase sanitize operation.
    pub const CRYPTO_ERASE: u8 = 4;
}

bits! {
    /// Firmware Commit, dword 10 [NVMe-2.0c §5.12].
    FirmwareCommitDword10: u32 {
        /// FS, Firmware Slot; 0: the controller chooses.
        2:0 fs with_fs: u8,
        /// CA, Commit Action.
        5:3 ca with_ca: u8,
        /// BPID, Boot Partition ID.
        31:31 bpid with_bpid: bool,
    }
}

/// CA values of Firmware Commit [NVMe-2.0c §5.12].
pub mod commit_action {
    /// The image replaces that in the slot and is not activated.
    pub const REPLACE: u8 = 0;
    /// The image replaces that in the slot and is activated at the next controller level reset.
    pub const REPLACE_AND_ACTIVATE_AT_RESET: u8 = 1;
    /// The slot's image is activated at the next controller level reset.
    pub const ACTIVATE_AT_RESET: u8 = 2;
    /// The slot's image is activated at once.
    pub const ACTIVATE_NOW: u8 = 3;
}

/// SEL of Namespace Management: create [NVMe-2.0c §5.23].
pub const NAMESPACE_CREATE: u32 = 0;
/// SEL of Namespace Management: delete.
pub const NAMESPACE_DELETE: u32 = 1;
/// SEL of Namespace Attachment: attach [NVMe-2.0c §5.22].
pub const NAMESPACE_ATTACH: u32 = 0;
/// SEL of Namespace Attachment: detach.
pub const NAMESPACE_DETACH: u32 = 1;
