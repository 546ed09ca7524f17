//! A namespace: what it is like, or why it is not used.

use std::fmt;

use sheen_types::BLOCK_BYTES;

use super::limits::Limits;
use crate::spec::identify::{IdentifyController, IdentifyNamespace, NamespaceIdentifier};

/// Logarithm of our block's bytes.
const BLOCK_LOG2: u8 = 12;
const _: () = assert!(BLOCK_BYTES == 1 << BLOCK_LOG2, "a block is 4 KiB");

/// Optional commands the controller offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offers {
    /// Compare.
    pub compare: bool,
    /// Verify.
    pub verify: bool,
    /// Write Zeroes.
    pub write_zeroes: bool,
    /// Dataset Management.
    pub discard: bool,
}

/// A namespace of 4 KiB blocks, whatever it is formatted to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// NSID.
    pub nsid: u32,
    /// Size in whole 4 KiB blocks.
    pub blocks: u64,
    /// Logarithm of the logical blocks in 4 KiB: 3 at 512 bytes, 0 at 4 KiB.
    pub block_shift: u32,
    /// Most 4 KiB blocks in one command (MDTS).
    pub transfer_blocks_max: u32,
    /// Whether a completed write may be lost at power loss until a flush or FUA (VWC, and the cache is on).
    pub volatile_write_cache: bool,
    /// 4 KiB blocks written all or nothing at power loss; 0 where not even one is promised.
    pub atomic_write_blocks: u32,
    /// Optional commands.
    pub offers: Offers,
}

/// Why a namespace is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamespaceError {
    /// There is none of this number, or it is not attached to the controller.
    Absent {
        /// Its number.
        nsid: u32,
    },
    /// Its logical blocks are of another size than 512 bytes or 4 KiB: format it.
    BlockSize {
        /// Its number.
        nsid: u32,
        /// Logarithm of the size (LBADS).
        log2: u8,
    },
    /// It is formatted with metadata: format it without.
    Metadata {
        /// Its number.
        nsid: u32,
        /// Bytes per logical block.
        bytes: u16,
    },
    /// It is formatted with end-to-end protection: format it without.
    Protection {
        /// Its number.
        nsid: u32,
        /// DPS.
        dps: u8,
    },
    /// It is of another command set (1 key value, 2 zoned).
    CommandSet {
        /// Its number.
        nsid: u32,
        /// CSI.
        csi: u8,
    },
    /// What it says of itself cannot be.
    Impossible {
        /// Its number.
        nsid: u32,
        /// What is wrong.
        what: &'static str,
    },
}

impl fmt::Display for NamespaceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent { nsid } => write!(f, "namespace {nsid}: there is none"),
            Self::BlockSize { nsid, log2 } => write!(
                f,
                "namespace {nsid}: logical blocks of 2^{log2} bytes; expected 512 or 4096: format it (`sheen nvme format`)"
            ),
            Self::Metadata { nsid, bytes } => write!(
                f,
                "namespace {nsid}: {bytes} bytes of metadata per block; expected none: format it (`sheen nvme format`)"
            ),
            Self::Protection { nsid, dps } => write!(
                f,
                "namespace {nsid}: end-to-end protection is on (DPS {dps:#x}); expected none: format it"
            ),
            Self::CommandSet { nsid, csi } => write!(
                f,
                "namespace {nsid}: of command set {csi:#x} (1 key value, 2 zoned); expected NVM"
            ),
            Self::Impossible { nsid, what } => write!(f, "namespace {nsid}: {what}"),
        }
    }
}

impl std::error::Error for NamespaceError {}

impl Namespace {
    /// Judges what Identify says.
    pub(crate) fn new(
        nsid: u32,
        identify: &IdentifyNamespace,
        descriptors: &[NamespaceIdentifier],
        controller: &IdentifyController,
        limits: &Limits,
    ) -> Result<Self, NamespaceError> {
        let impossible = |what| NamespaceError::Impossible { nsid, what };
        let csi = descriptors.iter().find_map(|descriptor| match descriptor {
            NamespaceIdentifier::Csi(csi) if *csi != 0 => Some(*csi),
            _ => None,
        });
        if let Some(csi) = csi {
            return Err(NamespaceError::CommandSet { nsid, csi });
        }
        if identify.nsze == 0 {
            // An inactive namespace is answered with zeros [NVMe-2.0c §3.2.1].
            return Err(NamespaceError::Absent { nsid });
        }
        if identify.ncap > identify.nsze || identify.nuse > identify.ncap {
            return Err(impossible("NUSE, NCAP and NSZE are not in order"));
        }
        let format = identify.format().ok_or(impossible("FLBAS names a format past NLBAF"))?;
        let log2 = format.lbads();
        if log2 != 9 && log2 != BLOCK_LOG2 {
            return Err(NamespaceError::BlockSize { nsid, log2 });
        }
        if format.ms() != 0 {
            return Err(NamespaceError::Metadata { nsid, bytes: format.ms() });
        }
        if identify.dps & 7 != 0 {
            return Err(NamespaceError::Protection { nsid, dps: identify.dps });
        }
        let block_shift = u32::from(BLOCK_LOG2 - log2);
        if identify
            .nsze
            .checked_shl(u32::from(log2))
            .is_none_or(|_| identify.nsze > u64::MAX >> log2)
        {
            return Err(impossible("NSZE is more than 2^64 bytes"));
        }
        let blocks = identify.nsze >> block_shift;
        if blocks == 0 {
            return Err(impossible("NSZE is less than 4 KiB"));
        }
        Ok(Self {
            nsid,
            blocks,
            block_shift,
            transfer_blocks_max: limits.transfer_blocks_max(),
            volatile_write_cache: limits.volatile_write_cache,
            atomic_write_blocks: atomic_write_blocks(identify, controller, block_shift),
            offers: Offers {
                compare: controller.oncs.compare(),
                verify: controller.oncs.verify(),
                write_zeroes: controller.oncs.write_zeroes(),
                discard: controller.oncs.dataset_management(),
            },
        })
    }
}

/// AWUPF or NAWUPF, in whole 4 KiB blocks. Where atomicity ends at a boundary inside of an aligned write of that size, one block
/// is promised at most.
fn atomic_write_blocks(
    namespace: &IdentifyNamespace,
    controller: &IdentifyController,
    block_shift: u32,
) -> u32 {
    let is_own = namespace.nsfeat.nsabp();
    let unit = if is_own { namespace.nawupf } else { controller.awupf };
    let blocks = (u32::from(unit) + 1) >> block_shift;
    if !is_own || namespace.nabspf == 0 {
        return blocks;
    }
    let boundary = u32::from(namespace.nabspf) + 1;
    let is_aligned = boundary.is_multiple_of(1 << block_shift)
        && u32::from(namespace.nabo).is_multiple_of(1 << block_shift);
    blocks.min(u32::from(is_aligned))
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::spec::{
        identify::{EntrySizes, FormattedLbaSize, LbaFormat, OptionalNvmCommands},
        registers::{ControllerCapabilities, Version},
    };

    fn judge(
        change: impl FnOnce(&mut IdentifyNamespace),
        descriptors: &[NamespaceIdentifier],
    ) -> Result<Namespace, NamespaceError> {
        let controller = IdentifyController {
            sqes: EntrySizes(0x66),
            cqes: EntrySizes(0x44),
            nn: 1,
            awupf: 7,
            oncs: OptionalNvmCommands::default().with_verify(true),
            ..IdentifyController::default()
        };
        let cap = ControllerCapabilities::default().with_mqes(7).with_css(1);
        let capabilities =
            super::super::limits::Capabilities::new(cap, Version::new(2, 0, 0)).unwrap();
        let limits = Limits::new(&controller, &capabilities).unwrap();
        let mut identify = IdentifyNamespace {
            nsze: 1 << 20,
            ncap: 1 << 20,
            nlbaf: 1,
            ..IdentifyNamespace::default()
        };
        identify.lbaf[0] = LbaFormat::default().with_lbads(9);
        identify.lbaf[1] = LbaFormat::default().with_lbads(12);
        change(&mut identify);
        Namespace::new(1, &identify, descriptors, &controller, &limits)
    }

    #[test]
    fn both_formats_are_seen_as_blocks_of_4_kib() {
        let small = judge(|_| {}, &[]).unwrap();
        assert_eq!((small.blocks, small.block_shift, small.atomic_write_blocks), (1 << 17, 3, 1));
        let large = judge(|it| it.flbas = FormattedLbaSize(1), &[]).unwrap();
        assert_eq!((large.blocks, large.block_shift, large.atomic_write_blocks), (1 << 20, 0, 8));
        assert!(large.offers.verify && !large.offers.compare);
    }

    #[test]
    fn every_other_format_is_refused_by_name() {
        let text = |change: fn(&mut IdentifyNamespace)| judge(change, &[]).unwrap_err().to_string();
        assert!(text(|it| it.nsze = 0).contains("there is none"));
        assert!(text(|it| it.ncap = it.nsze + 1).contains("NCAP"));
        assert!(text(|it| it.flbas = FormattedLbaSize(2)).contains("NLBAF"));
        assert!(text(|it| it.lbaf[0] = LbaFormat::default().with_lbads(16)).contains("2^16"));
        assert!(text(|it| it.lbaf[0] = LbaFormat::default().with_lbads(255)).contains("2^255"));
        assert!(text(|it| it.lbaf[0] = it.lbaf[0].with_ms(8)).contains("8 bytes of metadata"));
        assert!(text(|it| it.dps = 1).contains("protection"));
        assert!(text(|it| (it.nsze, it.ncap) = (u64::MAX, 0)).contains("2^64"));
        assert!(text(|it| (it.nsze, it.ncap) = (7, 7)).contains("less than 4 KiB"));
        let zoned = judge(|_| {}, &[NamespaceIdentifier::Csi(2)]).unwrap_err();
        assert_eq!(zoned, NamespaceError::CommandSet { nsid: 1, csi: 2 });
    }

    #[test]
    fn atomicity_is_the_namespaces_own_where_it_says_so() {
        use crate::spec::identify::NamespaceFeatures;
        let own = |nawupf, nabspf| {
            let change = |it: &mut IdentifyNamespace| {
                it.nsfeat = NamespaceFeatures::default().with_nsabp(true);
                (it.nawupf, it.nabspf) = (nawupf, nabspf);
            };
            judge(change, &[]).unwrap().atomic_write_blocks
        };
        assert_eq!((own(63, 0), own(63, 63), own(63, 4), own(0, 0)), (8, 1, 0, 0));
    }
}
