//! What a controller can do, from its capabilities and Identify data, checked: nothing here is believed that cannot be.

use std::{fmt, time::Duration};

use sheen_types::{BLOCK_BYTES, units::TRANSFER_BYTES_MAX};

use crate::spec::{
    entry::{CQE_BYTES_LOG2, SQE_BYTES_LOG2},
    identify::IdentifyController,
    registers::{ControllerCapabilities, Version},
};

/// Logarithm of the smallest memory page there is.
const PAGE_LOG2_MIN: u32 = 12;
/// Largest memory page we use: larger ones would waste memory, and no controller known asks for one.
const PAGE_LOG2_MAX: u32 = 16;
/// Bit of CAP.CSS: the NVM command set.
const CSS_NVM_BIT: u8 = 1;
/// Bit of CAP.CSS: I/O command sets by CC.CSS 110b.
const CSS_SETS_BIT: u8 = 1 << 6;

/// A value that no controller can have. The device is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Impossible {
    /// The field, by the specification's name, and what is wrong with it.
    pub what: &'static str,
    /// Its value.
    pub value: u64,
}

impl fmt::Display for Impossible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:#x})", self.what, self.value)
    }
}

impl std::error::Error for Impossible {}

/// What is known before the controller is enabled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Capabilities {
    pub(crate) version: Version,
    /// Entries of an I/O queue at most.
    pub(crate) entries_max: u32,
    /// Longest wait for CSTS.RDY.
    pub(crate) ready_wait: Duration,
    pub(crate) doorbell_stride: u32,
    /// Memory page: 4 KiB unless the controller wants larger ones.
    pub(crate) page_log2: u32,
    /// What CC.CSS is to be.
    pub(crate) css: u8,
    pub(crate) subsystem_reset: bool,
}

impl Capabilities {
    /// Reads CAP and VS.
    pub(crate) fn new(cap: ControllerCapabilities, version: Version) -> Result<Self, Impossible> {
        let page_log2 = PAGE_LOG2_MIN + u32::from(cap.mpsmin());
        let refuse = |what, value| Err(Impossible { what, value });
        if cap.mqes() == 0 {
            return refuse("CAP.MQES is zero: a queue has two entries at least", cap.0);
        }
        if cap.mpsmin() > cap.mpsmax() {
            return refuse("CAP.MPSMIN is greater than MPSMAX", cap.0);
        }
        if page_log2 > PAGE_LOG2_MAX {
            return refuse("CAP.MPSMIN wants memory pages of more than 64 KiB", cap.0);
        }
        let css = if cap.css() & CSS_NVM_BIT != 0 {
            crate::spec::registers::CSS_NVM
        } else if cap.css() & CSS_SETS_BIT != 0 {
            crate::spec::registers::CSS_ALL
        } else {
            return refuse("CAP.CSS: the controller has no NVM command set", cap.0);
        };
        Ok(Self {
            version,
            entries_max: u32::from(cap.mqes()) + 1,
            // Zero means below one unit, as early controllers say.
            ready_wait: Duration::from_millis(500) * u32::from(cap.to().max(1)),
            doorbell_stride: 4 << cap.dstrd(),
            page_log2,
            css,
            subsystem_reset: cap.nssrs(),
        })
    }

    pub(crate) const fn page_bytes(&self) -> u64 {
        1 << self.page_log2
    }
}

/// What Identify Controller says, as far as the driver acts on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Bytes of one transfer at most.
    pub(crate) transfer_bytes_max: u64,
    /// Aborts at a time.
    pub(crate) aborts_max: u32,
    /// Asynchronous event requests at a time.
    pub(crate) events_max: u32,
    /// One SGL descriptor can take the place of a PRP list.
    pub(crate) sgl: bool,
    pub(crate) shadow_doorbells: bool,
    pub(crate) volatile_write_cache: bool,
    pub(crate) namespaces_max: u32,
}

impl Limits {
    pub(crate) fn new(
        identify: &IdentifyController,
        capabilities: &Capabilities,
    ) -> Result<Self, Impossible> {
        let refuse = |what, value: u8| Err(Impossible { what, value: u64::from(value) });
        let is_within = |sizes: crate::spec::identify::EntrySizes, log2| {
            sizes.required() <= log2 && log2 <= sizes.greatest()
        };
        if !is_within(identify.sqes, SQE_BYTES_LOG2) {
            return refuse("SQES does not allow entries of 64 bytes", identify.sqes.0);
        }
        if !is_within(identify.cqes, CQE_BYTES_LOG2) {
            return refuse("CQES does not allow entries of 16 bytes", identify.cqes.0);
        }
        if identify.cntrltype > 1 {
            return refuse("CNTRLTYPE: this is no I/O controller", identify.cntrltype);
        }
        if identify.nn == 0 {
            return Err(Impossible { what: "NN is zero: it can have no namespace", value: 0 });
        }
        let unit = 1_u64 << capabilities.page_log2;
        let transfer_bytes_max = match u32::from(identify.mdts) {
            0 => u64::MAX,
            shift => unit.checked_shl(shift).filter(|&bytes| bytes > unit).unwrap_or(u64::MAX),
        };
        Ok(Self {
            transfer_bytes_max: transfer_bytes_max.min(TRANSFER_BYTES_MAX as u64),
            aborts_max: u32::from(identify.acl) + 1,
            events_max: u32::from(identify.aerl) + 1,
            sgl: matches!(identify.sgls.support(), 1 | 2),
            shadow_doorbells: identify.oacs.doorbell_buffer(),
            volatile_write_cache: identify.vwc.present(),
            namespaces_max: identify.nn,
        })
    }

    pub(crate) fn transfer_blocks_max(&self) -> u32 {
        let blocks = self.transfer_bytes_max / BLOCK_BYTES as u64;
        u32::try_from(blocks).expect("a transfer is at most 1 MiB")
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::spec::identify::EntrySizes;

    fn capable() -> ControllerCapabilities {
        ControllerCapabilities::default().with_mqes(1023).with_css(1).with_to(4).with_mpsmax(4)
    }

    fn identified() -> IdentifyController {
        IdentifyController {
            sqes: EntrySizes(0x66),
            cqes: EntrySizes(0x44),
            nn: 1,
            ..IdentifyController::default()
        }
    }

    #[test]
    fn what_no_controller_can_be_is_refused_by_name() {
        let of = |cap| Capabilities::new(cap, Version::new(1, 4, 0));
        assert_eq!(of(capable()).unwrap().ready_wait, Duration::from_secs(2));
        assert_eq!(of(capable().with_mqes(1)).unwrap().entries_max, 2);
        let text = |cap| of(cap).unwrap_err().to_string();
        assert!(text(capable().with_mqes(0)).contains("MQES"));
        assert!(text(capable().with_mpsmin(5)).contains("MPSMIN"));
        assert!(text(capable().with_mpsmin(8).with_mpsmax(9)).contains("64 KiB"));
        assert!(text(capable().with_css(0x80)).contains("CSS"));
        assert_eq!(of(capable().with_css(0x40)).unwrap().css, crate::spec::registers::CSS_ALL);
    }

    #[test]
    fn an_impossible_identify_is_refused_and_an_odd_one_bounded() {
        let capabilities = Capabilities::new(capable(), Version::new(1, 4, 0)).unwrap();
        let of = |identify: &IdentifyController| Limits::new(identify, &capabilities);
        assert_eq!(of(&identified()).unwrap().transfer_blocks_max(), 256);
        let mdts = |mdts| of(&IdentifyController { mdts, ..identified() }).unwrap();
        assert_eq!(mdts(5).transfer_blocks_max(), 32);
        for odd in [52, 63, 64, 200, 255] {
            assert_eq!(mdts(odd).transfer_blocks_max(), 256, "{odd}");
        }
        assert!(of(&IdentifyController { nn: 0, ..identified() }).is_err());
        assert!(of(&IdentifyController { sqes: EntrySizes(0x77), ..identified() }).is_err());
        assert!(of(&IdentifyController { cqes: EntrySizes(0x33), ..identified() }).is_err());
        assert!(of(&IdentifyController { cntrltype: 2, ..identified() }).is_err());
    }
}
