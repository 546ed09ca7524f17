//! What Identify answers.

use super::layout::{bits, layout};
pub use super::lists::{
    ControllerList, NamespaceCreate, NamespaceIdentifier, namespace_descriptors, namespace_list,
};

/// Bytes of every Identify data structure [NVMe-2.0c §5.17].
pub const IDENTIFY_BYTES: usize = 4096;
/// Entries of a namespace identifier list [NVMe-2.0c §4.4.2].
pub const NAMESPACE_LIST_ENTRIES: usize = 1024;

bits! {
    /// OACS, Optional Admin Command Support [NVMe-2.0c §5.17.2.1, bytes 257:256].
    OptionalAdminCommands: u16 {
        /// Security Send and Security Receive.
        0:0 security with_security: bool,
        /// Format NVM.
        1:1 format with_format: bool,
        /// Firmware Commit and Firmware Image Download.
        2:2 firmware with_firmware: bool,
        /// Namespace Management and Namespace Attachment.
        3:3 namespaces with_namespaces: bool,
        /// Device Self-test.
        4:4 self_test with_self_test: bool,
        /// Directives.
        5:5 directives with_directives: bool,
        /// NVMe-MI Send and Receive.
        6:6 nvme_mi with_nvme_mi: bool,
        /// Virtualization Management.
        7:7 virtualization with_virtualization: bool,
        /// Doorbell Buffer Config.
        8:8 doorbell_buffer with_doorbell_buffer: bool,
        /// Get LBA Status.
        9:9 lba_status with_lba_status: bool,
        /// Command and Feature Lockdown.
        10:10 lockdown with_lockdown: bool,
    }
}

bits! {
    /// ONCS, Optional NVM Command Support [NVMe-2.0c §5.17.2.1, bytes 521:520].
    OptionalNvmCommands: u16 {
        /// Compare.
        0:0 compare with_compare: bool,
        /// Write Uncorrectable.
        1:1 write_uncorrectable with_write_uncorrectable: bool,
        /// Dataset Management.
        2:2 dataset_management with_dataset_management: bool,
        /// Write Zeroes.
        3:3 write_zeroes with_write_zeroes: bool,
        /// Save field of Set Features and Select field of Get Features.
        4:4 save_and_select with_save_and_select: bool,
        /// Reservations.
        5:5 reservations with_reservations: bool,
        /// Timestamp feature.
        6:6 timestamp with_timestamp: bool,
        /// Verify.
        7:7 verify with_verify: bool,
        /// Copy.
        8:8 copy with_copy: bool,
    }
}

bits! {
    /// OAES, Optional Asynchronous Events Supported [NVMe-2.0c §5.17.2.1, bytes 95:92].
    OptionalEvents: u32 {
        /// Namespace Attribute Notices.
        8:8 namespace_attribute with_namespace_attribute: bool,
        /// Firmware Activation Notices.
        9:9 firmware_activation with_firmware_activation: bool,
        /// Asymmetric Namespace Access Change Notices.
        11:11 ana_change with_ana_change: bool,
        /// Predictable Latency Event Aggregate Log Change Notices.
        12:12 predictable_latency with_predictable_latency: bool,
        /// LBA Status Information Notices.
        13:13 lba_status with_lba_status: bool,
        /// Endurance Group Event Aggregate Log Page Change Notices.
        14:14 endurance_group with_endurance_group: bool,
        /// Normal NVM Subsystem Shutdown.
        15:15 subsystem_shutdown with_subsystem_shutdown: bool,
    }
}

bits! {
    /// FRMW, Firmware Updates [NVMe-2.0c §5.17.2.1, byte 260].
    FirmwareUpdates: u8 {
        /// The first slot is read only.
        0:0 first_read_only with_first_read_only: bool,
        /// How many slots, 1 to 7.
        3:1 slots with_slots: u8,
        /// Activation without reset.
        4:4 without_reset with_without_reset: bool,
        /// SMUD, Support Multiple Update Detection.
        5:5 smud with_smud: bool,
    }
}

bits! {
    /// LPA, Log Page Attributes [NVMe-2.0c §5.17.2.1, byte 261].
    LogPageAttributes: u8 {
        /// SMART log per namespace.
        0:0 smart_per_namespace with_smart_per_namespace: bool,
        /// Commands Supported and Effects log.
        1:1 effects with_effects: bool,
        /// Extended data for Get Log Page: 32-bit lengths and offsets.
        2:2 extended with_extended: bool,
        /// Telemetry.
        3:3 telemetry with_telemetry: bool,
        /// Persistent Event log.
        4:4 persistent_event with_persistent_event: bool,
    }
}

bits! {
    /// FNA, Format NVM Attributes [NVMe-2.0c §5.17.2.1, byte 524].
    FormatAttributes: u8 {
        /// A format is of all namespaces.
        0:0 formats_all with_formats_all: bool,
        /// A secure erase is of all namespaces.
        1:1 erases_all with_erases_all: bool,
        /// Cryptographic erase is supported.
        2:2 crypto_erase with_crypto_erase: bool,
        /// NSID FFFFFFFFh is not supported.
        3:3 no_broadcast with_no_broadcast: bool,
    }
}

bits! {
    /// VWC, Volatile Write Cache [NVMe-2.0c §5.17.2.1, byte 525].
    VolatileWriteCache: u8 {
        /// There is one.
        0:0 present with_present: bool,
        /// Flush with NSID FFFFFFFFh: 0 not said, 2 not supported, 3 supported.
        2:1 flush_broadcast with_flush_broadcast: u8,
    }
}

bits! {
    /// SGLS, SGL Support [NVMe-2.0c §5.17.2.1, bytes 539:536].
    SglSupport: u32 {
        /// 0 not supported, 1 supported with any alignment, 2 supported with dword alignment and granularity.
        1:0 support with_support: u8,
        /// Keyed SGL Data Block descriptor.
        2:2 keyed with_keyed: bool,
        /// SGL Bit Bucket descriptor.
        16:16 bit_bucket with_bit_bucket: bool,
        /// Byte-aligned contiguous metadata buffer.
        17:17 metadata_contiguous with_metadata_contiguous: bool,
        /// An SGL longer than the data.
        18:18 longer with_longer: bool,
        /// MPTR containing an SGL descriptor.
        19:19 metadata_sgl with_metadata_sgl: bool,
        /// Address field as an offset.
        20:20 offset with_offset: bool,
        /// Transport SGL Data Block descriptor.
        21:21 transport with_transport: bool,
    }
}

bits! {
    /// SANICAP, Sanitize Capabilities [NVMe-2.0c §5.17.2.1, bytes 331:328].
    SanitizeCapabilities: u32 {
        /// CES, Crypto Erase Support.
        0:0 ces with_ces: bool,
        /// BES, Block Erase Support.
        1:1 bes with_bes: bool,
        /// OWS, Overwrite Support.
        2:2 ows with_ows: bool,
        /// NDI, No-Deallocate Inhibited.
        29:29 ndi with_ndi: bool,
        /// NODMMAS, No-Deallocate Modifies Media After Sanitize.
        31:30 nodmmas with_nodmmas: u8,
    }
}

bits! {
    /// SQES or CQES: entry sizes as powers of two [NVMe-2.0c §5.17.2.1, bytes 512 and 513].
    EntrySizes: u8 {
        /// Required size.
        3:0 required with_required: u8,
        /// Greatest size.
        7:4 greatest with_greatest: u8,
    }
}

layout! {
    /// Identify Controller [NVMe-2.0c §5.17.2.1, figure 275].
    IdentifyController: 4096 {
        /// VID, PCI Vendor ID.
        0 vid: u16,
        /// SSVID, PCI Subsystem Vendor ID.
        2 ssvid: u16,
        /// SN, Serial Number, ASCII.
        4 sn: [u8; 20],
        /// MN, Model Number, ASCII.
        24 mn: [u8; 40],
        /// FR, Firmware Revision, ASCII.
        64 fr: [u8; 8],
        /// RAB, Recommended Arbitration Burst.
        72 rab: u8,
        /// IEEE, OUI Identifier.
        73 ieee: [u8; 3],
        /// CMIC, Controller Multi-Path I/O and Namespace Sharing Capabilities.
        76 cmic: u8,
        /// MDTS, Maximum Data Transfer Size: CAP.MPSMIN pages, a power of two; 0 no limit.
        77 mdts: u8,
        /// CNTLID, Controller ID.
        78 cntlid: u16,
        /// VER, Version.
        80 ver: super::registers::Version,
        /// RTD3R, RTD3 Resume Latency in microseconds.
        84 rtd3r: u32,
        /// RTD3E, RTD3 Entry Latency in microseconds.
        88 rtd3e: u32,
        /// OAES, Optional Asynchronous Events Supported.
        92 oaes: OptionalEvents,
        /// CTRATT, Controller Attributes.
        96 ctratt: u32,
        /// RRLS, Read Recovery Levels Supported.
        100 rrls: u16,
        /// CNTRLTYPE, Controller Type: 0 not said, 1 I/O, 2 discovery, 3 administrative.
        111 cntrltype: u8,
        /// FGUID, FRU Globally Unique Identifier.
        112 fguid: [u8; 16],
        /// CRDT1, Command Retry Delay Time 1, in units of 100 ms.
        128 crdt1: u16,
        /// CRDT2, Command Retry Delay Time 2.
        130 crdt2: u16,
        /// CRDT3, Command Retry Delay Time 3.
        132 crdt3: u16,
        /// OACS, Optional Admin Command Support.
        256 oacs: OptionalAdminCommands,
        /// ACL, Abort Command Limit, zero-based.
        258 acl: u8,
        /// AERL, Asynchronous Event Request Limit, zero-based.
        259 aerl: u8,
        /// FRMW, Firmware Updates.
        260 frmw: FirmwareUpdates,
        /// LPA, Log Page Attributes.
        261 lpa: LogPageAttributes,
        /// ELPE, Error Log Page Entries, zero-based.
        262 elpe: u8,
        /// NPSS, Number of Power States Support, zero-based.
        263 npss: u8,
        /// AVSCC, Admin Vendor Specific Command Configuration.
        264 avscc: u8,
        /// APSTA, Autonomous Power State Transition Attributes.
        265 apsta: u8,
        /// WCTEMP, Warning Composite Temperature Threshold in kelvins.
        266 wctemp: u16,
        /// CCTEMP, Critical Composite Temperature Threshold in kelvins.
        268 cctemp: u16,
        /// MTFA, Maximum Time for Firmware Activation, in units of 100 ms.
        270 mtfa: u16,
        /// HMPRE, Host Memory Buffer Preferred Size, in units of 4 KiB.
        272 hmpre: u32,
        /// HMMIN, Host Memory Buffer Minimum Size, in units of 4 KiB.
        276 hmmin: u32,
        /// TNVMCAP, Total NVM Capacity in bytes.
        280 tnvmcap: u128,
        /// UNVMCAP, Unallocated NVM Capacity in bytes.
        296 unvmcap: u128,
        /// RPMBS, Replay Protected Memory Block Support.
        312 rpmbs: u32,
        /// EDSTT, Extended Device Self-test Time in minutes.
        316 edstt: u16,
        /// DSTO, Device Self-test Options.
        318 dsto: u8,
        /// FWUG, Firmware Update Granularity, in units of 4 KiB; 0 not said, FFh none.
        319 fwug: u8,
        /// KAS, Keep Alive Support, in units of 100 ms.
        320 kas: u16,
        /// HCTMA, Host Controlled Thermal Management Attributes.
        322 hctma: u16,
        /// MNTMT, Minimum Thermal Management Temperature in kelvins.
        324 mntmt: u16,
        /// MXTMT, Maximum Thermal Management Temperature in kelvins.
        326 mxtmt: u16,
        /// SANICAP, Sanitize Capabilities.
        328 sanicap: SanitizeCapabilities,
        /// HMMINDS, Host Memory Buffer Minimum Descriptor Entry Size, in units of 4 KiB.
        332 hmminds: u32,
        /// HMMAXD, Host Memory Maximum Descriptors Entries.
        336 hmmaxd: u16,
        /// NSETIDMAX, NVM Set Identifier Maximum.
        338 nsetidmax: u16,
        /// ENDGIDMAX, Endurance Group Identifier Maximum.
        340 endgidmax: u16,
        /// ANATT, ANA Transition Time in seconds.
        342 anatt: u8,
        /// ANACAP, Asymmetric Namespace Access Capabilities.
        343 anacap: u8,
        /// ANAGRPMAX, ANA Group Identifier Maximum.
        344 anagrpmax: u32,
        /// NANAGRPID, Number of ANA Group Identifiers.
        348 nanagrpid: u32,
        /// PELS, Persistent Event Log Size, in units of 64 KiB.
        352 pels: u32,
        /// Domain Identifier.
        356 domain: u16,
        /// MEGCAP, Max Endurance Group Capacity in bytes.
        368 megcap: u128,
        /// SQES, Submission Queue Entry Size.
        512 sqes: EntrySizes,
        /// CQES, Completion Queue Entry Size.
        513 cqes: EntrySizes,
        /// MAXCMD, Maximum Outstanding Commands; 0 not said.
        514 maxcmd: u16,
        /// NN, Number of Namespaces: the greatest valid identifier.
        516 nn: u32,
        /// ONCS, Optional NVM Command Support.
        520 oncs: OptionalNvmCommands,
        /// FUSES, Fused Operation Support; bit 0 compare and write.
        522 fuses: u16,
        /// FNA, Format NVM Attributes.
        524 fna: FormatAttributes,
        /// VWC, Volatile Write Cache.
        525 vwc: VolatileWriteCache,
        /// AWUN, Atomic Write Unit Normal, in logical blocks, zero-based.
        526 awun: u16,
        /// AWUPF, Atomic Write Unit Power Fail, in logical blocks, zero-based.
        528 awupf: u16,
        /// ICSVSCC, I/O Command Set Vendor Specific Command Configuration.
        530 icsvscc: u8,
        /// NWPC, Namespace Write Protection Capabilities.
        531 nwpc: u8,
        /// ACWU, Atomic Compare and Write Unit, in logical blocks, zero-based.
        532 acwu: u16,
        /// OCFS, Optional Copy Formats Supported.
        534 ocfs: u16,
        /// SGLS, SGL Support.
        536 sgls: SglSupport,
        /// MNAN, Maximum Number of Allowed Namespaces; 0: NN.
        540 mnan: u32,
        /// SUBNQN, NVM Subsystem NVMe Qualified Name, UTF-8, ended by a zero.
        768 subnqn: [u8; 256],
        /// PSD, Power State Descriptors.
        2048 psd: [[u8; 32]; 32],
    }
}

bits! {
    /// LBAF, an LBA format [NVM-1.0c §4.1.5.1, figure 98].
    LbaFormat: u32 {
        /// MS, Metadata Size in bytes.
        15:0 ms with_ms: u16,
        /// LBADS, LBA Data Size, a power of two; below 9 the format is not available.
        23:16 lbads with_lbads: u8,
        /// RP, Relative Performance: 0 best, 3 degraded.
        25:24 rp with_rp: u8,
    }
}

bits! {
    /// NSFEAT, Namespace Features [NVM-1.0c §4.1.5.1, byte 24].
    NamespaceFeatures: u8 {
        /// THINP: thin provisioning.
        0:0 thinp with_thinp: bool,
        /// NSABP: NAWUN, NAWUPF and NACWU are defined for this namespace.
        1:1 nsabp with_nsabp: bool,
        /// DAE: deallocated or unwritten logical block error.
        2:2 dae with_dae: bool,
        /// UIDREUSE: NGUID and EUI64 are never used again.
        3:3 uidreuse with_uidreuse: bool,
        /// OPTPERF: NPWG, NPWA, NPDG, NPDA and NOWS are defined.
        4:4 optperf with_optperf: bool,
    }
}

bits! {
    /// FLBAS, Formatted LBA Size [NVM-1.0c §4.1.5.1, byte 26].
    FormattedLbaSize: u8 {
        /// Low four bits of the format's index.
        3:0 low with_low: u8,
        /// Metadata is part of an extended data LBA.
        4:4 extended with_extended: bool,
        /// High two bits of the format's index; of use when there are more than 16 formats.
        6:5 high with_high: u8,
    }
}

layout! {
    /// Identify Namespace, NVM command set [NVM-1.0c §4.1.5.1, figure 97].
    IdentifyNamespace: 4096 {
        /// NSZE, Namespace Size in logical blocks.
        0 nsze: u64,
        /// NCAP, Namespace Capacity in logical blocks.
        8 ncap: u64,
        /// NUSE, Namespace Utilization in logical blocks.
        16 nuse: u64,
        /// NSFEAT, Namespace Features.
        24 nsfeat: NamespaceFeatures,
        /// NLBAF, Number of LBA Formats, zero-based.
        25 nlbaf: u8,
        /// FLBAS, Formatted LBA Size.
        26 flbas: FormattedLbaSize,
        /// MC, Metadata Capabilities.
        27 mc: u8,
        /// DPC, End-to-end Data Protection Capabilities.
        28 dpc: u8,
        /// DPS, End-to-end Data Protection Type Settings; bits 2:0 nonzero: enabled.
        29 dps: u8,
        /// NMIC, Namespace Multi-path I/O and Namespace Sharing Capabilities; bit 0: may be shared.
        30 nmic: u8,
        /// RESCAP, Reservation Capabilities.
        31 rescap: u8,
        /// FPI, Format Progress Indicator: bit 7 supported, bits 6:0 percent that remains.
        32 fpi: u8,
        /// DLFEAT, Deallocate Logical Block Features; bits 2:0: 1 reads zeros, 2 reads FFh; bit 3: Write Zeroes may deallocate.
        33 dlfeat: u8,
        /// NAWUN, Namespace Atomic Write Unit Normal, zero-based.
        34 nawun: u16,
        /// NAWUPF, Namespace Atomic Write Unit Power Fail, zero-based.
        36 nawupf: u16,
        /// NACWU, Namespace Atomic Compare and Write Unit, zero-based.
        38 nacwu: u16,
        /// NABSN, Namespace Atomic Boundary Size Normal, zero-based.
        40 nabsn: u16,
        /// NABO, Namespace Atomic Boundary Offset.
        42 nabo: u16,
        /// NABSPF, Namespace Atomic Boundary Size Power Fail, zero-based.
        44 nabspf: u16,
        /// NOIOB, Namespace Optimal I/O Boundary in logical blocks; 0 none.
        46 noiob: u16,
        /// NVMCAP, NVM Capacity in bytes.
        48 nvmcap: u128,
        /// NPWG, Namespace Preferred Write Granularity, zero-based.
        64 npwg: u16,
        /// NPWA, Namespace Preferred Write Alignment, zero-based.
        66 npwa: u16,
        /// NPDG, Namespace Preferred Deallocate Granularity, zero-based.
        68 npdg: u16,
        /// NPDA, Namespace Preferred Deallocate Alignment, zero-based.
        70 npda: u16,
        /// NOWS, Namespace Optimal Write Size, zero-based.
        72 nows: u16,
        /// MSSRL, Maximum Single Source Range Length.
        74 mssrl: u16,
        /// MCL, Maximum Copy Length.
        76 mcl: u32,
        /// MSRC, Maximum Source Range Count.
        80 msrc: u8,
        /// ANAGRPID, ANA Group Identifier.
        92 anagrpid: u32,
        /// NSATTR, Namespace Attributes; bit 0: write protected now.
        99 nsattr: u8,
        /// NVMSETID, NVM Set Identifier.
        100 nvmsetid: u16,
        /// ENDGID, Endurance Group Identifier.
        102 endgid: u16,
        /// NGUID, Namespace Globally Unique Identifier, big-endian.
        104 nguid: [u8; 16],
        /// EUI64, IEEE Extended Unique Identifier, big-endian.
        120 eui64: [u8; 8],
        /// LBAF0 to LBAF63, LBA formats.
        128 lbaf: [LbaFormat; 64],
    }
}

impl IdentifyNamespace {
    /// Index of the format in use. May lie past NLBAF, when the controller lies.
    #[must_use]
    pub fn format_index(&self) -> usize {
        let high = if self.nlbaf > 15 { self.flbas.high() } else { 0 };
        usize::from(high) << 4 | usize::from(self.flbas.low())
    }

    /// The format in use. None: the index names none.
    #[must_use]
    pub fn format(&self) -> Option<LbaFormat> {
        let index = self.format_index();
        self.formats().get(index).copied()
    }

    /// The formats there are.
    #[must_use]
    pub fn formats(&self) -> &[LbaFormat] {
        let count = (usize::from(self.nlbaf) + 1).min(self.lbaf.len());
        &self.lbaf[..count]
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_format_index_past_the_formats_names_none() {
        let mut namespace = IdentifyNamespace { nlbaf: 3, ..IdentifyNamespace::default() };
        namespace.lbaf[2] = LbaFormat::default().with_lbads(12);
        namespace.flbas = FormattedLbaSize::default().with_low(2).with_high(3);
        assert_eq!(namespace.format().map(LbaFormat::lbads), Some(12), "high bits are of no use");
        namespace.flbas = FormattedLbaSize(4);
        assert_eq!(namespace.format(), None);
        namespace.nlbaf = u8::MAX;
        namespace.flbas = FormattedLbaSize(0x6f);
        assert_eq!(namespace.format_index(), 63);
        assert!(namespace.format().is_some());
    }
}
