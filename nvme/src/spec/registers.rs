//! Controller properties: the registers at the start of BAR0 [NVMe-2.0c §3.1.3].

use super::layout::bits;

/// Offsets of the properties in bytes [NVMe-2.0c §3.1.3, figure 35].
pub mod offset {
    /// CAP, Controller Capabilities, 64 bits.
    pub const CAP: u32 = 0x00;
    /// VS, Version.
    pub const VS: u32 = 0x08;
    /// INTMS, Interrupt Mask Set; not to be used with MSI-X.
    pub const INTMS: u32 = 0x0c;
    /// INTMC, Interrupt Mask Clear.
    pub const INTMC: u32 = 0x10;
    /// CC, Controller Configuration.
    pub const CC: u32 = 0x14;
    /// CSTS, Controller Status.
    pub const CSTS: u32 = 0x1c;
    /// NSSR, NVM Subsystem Reset.
    pub const NSSR: u32 = 0x20;
    /// AQA, Admin Queue Attributes.
    pub const AQA: u32 = 0x24;
    /// ASQ, Admin Submission Queue Base Address, 64 bits.
    pub const ASQ: u32 = 0x28;
    /// ACQ, Admin Completion Queue Base Address, 64 bits.
    pub const ACQ: u32 = 0x30;
    /// CMBLOC, Controller Memory Buffer Location.
    pub const CMBLOC: u32 = 0x38;
    /// CMBSZ, Controller Memory Buffer Size.
    pub const CMBSZ: u32 = 0x3c;
    /// BPINFO, Boot Partition Information.
    pub const BPINFO: u32 = 0x40;
    /// CMBMSC, Controller Memory Buffer Memory Space Control, 64 bits.
    pub const CMBMSC: u32 = 0x50;
    /// CMBSTS, Controller Memory Buffer Status.
    pub const CMBSTS: u32 = 0x58;
    /// NSSD, NVM Subsystem Shutdown.
    pub const NSSD: u32 = 0x64;
    /// CRTO, Controller Ready Timeouts.
    pub const CRTO: u32 = 0x68;
    /// The first doorbell: Submission Queue 0 Tail [NVMe-PCIe-1.0c §3.1.2.1]. The next ones follow by the stride.
    pub const DOORBELLS: u32 = 0x1000;
}

/// What NSSR takes: "NVMe" [NVMe-2.0c §3.1.3.7].
pub const NSSR_RESET: u32 = 0x4e56_4d65;

/// What a register reads as when the device is gone: PCIe answers reads of nobody with all ones.
pub const GONE_32: u32 = u32::MAX;

bits! {
    /// CAP, Controller Capabilities [NVMe-2.0c §3.1.3.1].
    ControllerCapabilities: u64 {
        /// MQES, Maximum Queue Entries Supported, of I/O queues; zero-based, 1 at least.
        15:0 mqes with_mqes: u16,
        /// CQR, Contiguous Queues Required.
        16:16 cqr with_cqr: bool,
        /// AMS, Arbitration Mechanism Supported: bit 0 weighted round robin, bit 1 vendor's.
        18:17 ams with_ams: u8,
        /// TO, Timeout: longest wait for CSTS.RDY, in units of 500 ms.
        31:24 to with_to: u8,
        /// DSTRD, Doorbell Stride: 4 bytes shifted left by this.
        35:32 dstrd with_dstrd: u8,
        /// NSSRS, NVM Subsystem Reset Supported.
        36:36 nssrs with_nssrs: bool,
        /// CSS, Command Sets Supported: bit 0 the NVM command set, bit 6 I/O command sets, bit 7 none.
        44:37 css with_css: u8,
        /// BPS, Boot Partition Support.
        45:45 bps with_bps: bool,
        /// CPS, Controller Power Scope.
        47:46 cps with_cps: u8,
        /// MPSMIN, Memory Page Size Minimum: 4 KiB shifted left by this.
        51:48 mpsmin with_mpsmin: u8,
        /// MPSMAX, Memory Page Size Maximum: 4 KiB shifted left by this.
        55:52 mpsmax with_mpsmax: u8,
        /// PMRS, Persistent Memory Region Supported.
        56:56 pmrs with_pmrs: bool,
        /// CMBS, Controller Memory Buffer Supported.
        57:57 cmbs with_cmbs: bool,
        /// NSSS, NVM Subsystem Shutdown Supported.
        58:58 nsss with_nsss: bool,
        /// CRMS, Controller Ready Modes Supported: bit 0 with media, bit 1 independent of media.
        60:59 crms with_crms: u8,
    }
}

bits! {
    /// VS, Version [NVMe-2.0c §3.1.3.2].
    Version: u32 {
        /// TER, Tertiary Version Number.
        7:0 ter with_ter: u8,
        /// MNR, Minor Version Number.
        15:8 mnr with_mnr: u8,
        /// MJR, Major Version Number.
        31:16 mjr with_mjr: u16,
    }
}

impl Version {
    /// Version `major.minor.tertiary`.
    #[must_use]
    pub fn new(major: u16, minor: u8, tertiary: u8) -> Self {
        Self::default().with_mjr(major).with_mnr(minor).with_ter(tertiary)
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.mjr(), self.mnr(), self.ter())
    }
}

bits! {
    /// CC, Controller Configuration [NVMe-2.0c §3.1.3.5].
    ControllerConfiguration: u32 {
        /// EN, Enable.
        0:0 en with_en: bool,
        /// CSS, I/O Command Set Selected: 0 NVM, 6 all supported, 7 admin only.
        6:4 css with_css: u8,
        /// MPS, Memory Page Size: 4 KiB shifted left by this.
        10:7 mps with_mps: u8,
        /// AMS, Arbitration Mechanism Selected: 0 round robin.
        13:11 ams with_ams: u8,
        /// SHN, Shutdown Notification: 1 normal, 2 abrupt.
        15:14 shn with_shn: u8,
        /// IOSQES, I/O Submission Queue Entry Size, a power of two: 6.
        19:16 iosqes with_iosqes: u8,
        /// IOCQES, I/O Completion Queue Entry Size, a power of two: 4.
        23:20 iocqes with_iocqes: u8,
        /// CRIME, Controller Ready Independent of Media Enable.
        24:24 crime with_crime: bool,
    }
}

/// CC.CSS: the NVM command set alone.
pub const CSS_NVM: u8 = 0;
/// CC.CSS: every I/O command set that is supported.
pub const CSS_ALL: u8 = 6;
/// CC.SHN: a normal shutdown.
pub const SHN_NORMAL: u8 = 1;

bits! {
    /// CSTS, Controller Status [NVMe-2.0c §3.1.3.6].
    ControllerStatus: u32 {
        /// RDY, Ready.
        0:0 rdy with_rdy: bool,
        /// CFS, Controller Fatal Status.
        1:1 cfs with_cfs: bool,
        /// SHST, Shutdown Status: 0 none, 1 under way, 2 complete.
        3:2 shst with_shst: u8,
        /// NSSRO, NVM Subsystem Reset Occurred; cleared by writing 1.
        4:4 nssro with_nssro: bool,
        /// PP, Processing Paused (firmware is being activated).
        5:5 pp with_pp: bool,
        /// ST, Shutdown Type: 1 of the subsystem.
        6:6 st with_st: bool,
    }
}

/// CSTS.SHST: shutdown is complete.
pub const SHST_COMPLETE: u8 = 2;

bits! {
    /// AQA, Admin Queue Attributes [NVMe-2.0c §3.1.3.8].
    AdminQueueAttributes: u32 {
        /// ASQS, Admin Submission Queue Size, zero-based.
        11:0 asqs with_asqs: u16,
        /// ACQS, Admin Completion Queue Size, zero-based.
        27:16 acqs with_acqs: u16,
    }
}

bits! {
    /// CMBLOC, Controller Memory Buffer Location [NVMe-2.0c §3.1.3.11].
    ControllerMemoryBufferLocation: u32 {
        /// BIR, Base Indicator Register: which BAR.
        2:0 bir with_bir: u8,
        /// CQMMS, Queue Mixed Memory Support.
        3:3 cqmms with_cqmms: bool,
        /// CQPDS, Queue Physically Discontiguous Support.
        4:4 cqpds with_cqpds: bool,
        /// CDPMLS, Data Pointer Mixed Locations Support.
        5:5 cdpmls with_cdpmls: bool,
        /// CDPCILS, Data Pointer and Command Independent Locations Support.
        6:6 cdpcils with_cdpcils: bool,
        /// CDMMMS, Data Metadata Mixed Memory Support.
        7:7 cdmmms with_cdmmms: bool,
        /// CQDA, Queue Dword Alignment.
        8:8 cqda with_cqda: bool,
        /// OFST, Offset, in units of CMBSZ.SZU.
        31:12 ofst with_ofst: u32,
    }
}

bits! {
    /// CMBSZ, Controller Memory Buffer Size [NVMe-2.0c §3.1.3.12].
    ControllerMemoryBufferSize: u32 {
        /// SQS, Submission Queue Support.
        0:0 sqs with_sqs: bool,
        /// CQS, Completion Queue Support.
        1:1 cqs with_cqs: bool,
        /// LISTS, PRP SGL List Support.
        2:2 lists with_lists: bool,
        /// RDS, Read Data Support.
        3:3 rds with_rds: bool,
        /// WDS, Write Data Support.
        4:4 wds with_wds: bool,
        /// SZU, Size Units: 4 KiB times 16 to the power of this.
        11:8 szu with_szu: u8,
        /// SZ, Size, in units of SZU.
        31:12 sz with_sz: u32,
    }
}

bits! {
    /// CRTO, Controller Ready Timeouts [NVMe-2.0c §3.1.3.20].
    ControllerReadyTimeouts: u32 {
        /// CRWMT, Controller Ready With Media Timeout, in units of 500 ms.
        15:0 crwmt with_crwmt: u16,
        /// CRIMT, Controller Ready Independent of Media Timeout, in units of 500 ms.
        31:16 crimt with_crimt: u16,
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn capabilities_of_an_emulated_controller_read_as_its_maker_says() {
        // QEMU: MQES 2047, CQR, TO 15, CSS 0xc1, MPSMAX 4, CMBS as asked.
        let cap =
            ControllerCapabilities(2047 | 1 << 16 | 0xf << 24 | 0xc1 << 37 | 4 << 52 | 1 << 57);
        assert_eq!((cap.mqes(), cap.to(), cap.css(), cap.mpsmin()), (2047, 15, 0xc1, 0));
        assert_eq!((cap.mpsmax(), cap.dstrd(), cap.cqr(), cap.cmbs()), (4, 0, true, true));
        assert!(!cap.nssrs());
    }

    #[test]
    fn the_configuration_for_our_entry_sizes_is_the_number_everybody_writes() {
        let cc = ControllerConfiguration::default().with_en(true).with_iosqes(6).with_iocqes(4);
        assert_eq!(cc.0, 0x0046_0001);
        assert_eq!(Version::new(1, 4, 0).0, 0x0001_0400);
        assert_eq!(Version(0x0002_0000).to_string(), "2.0.0");
    }
}
