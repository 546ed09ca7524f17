//! The register file: properties at offsets 0h to FFFh of BAR 0, and what writing them does. [NVMe-2.0c §3.1.3]

use std::time::Duration;

use super::{Controller, Removal};
use crate::{
    bytes::{high32, index, join32, low16, low32},
    config::{Lie, Readiness},
};

const CAP: u32 = 0x00;
const VS: u32 = 0x08;
const INTMS: u32 = 0x0c;
const INTMC: u32 = 0x10;
const CC: u32 = 0x14;
const CSTS: u32 = 0x1c;
const AQA: u32 = 0x24;
const ASQ: u32 = 0x28;
const ACQ: u32 = 0x30;
/// First doorbell.
pub(super) const DOORBELLS: u32 = 0x1000;

/// NVMe 2.0.
const VERSION: u32 = 0x0002_0000;
const READY: u32 = 1;
const FATAL: u32 = 1 << 1;
const SHUTDOWN_COMPLETE: u32 = 2 << 2;
const SHUTDOWN_MASK: u32 = 3 << 2;
const ENABLE: u32 = 1;

/// What the host wrote, and the state that follows from it.
#[derive(Debug, Default)]
pub(super) struct Registers {
    pub(super) cc: u32,
    csts: u32,
    aqa: u32,
    asq: u64,
    acq: u64,
    interrupt_mask: u32,
    /// A change of CSTS.RDY under way: to what, and when.
    change: Option<(bool, Duration)>,
    /// The controller will never be ready, or never stop.
    is_stuck: bool,
}

impl Registers {
    /// Whether CSTS.RDY is set and nothing is fatal.
    pub(super) fn is_running(&self) -> bool {
        self.csts & (READY | FATAL) == READY && self.cc & ENABLE != 0
    }

    pub(super) fn page_bytes(&self) -> u64 {
        4096 << ((self.cc >> 7) & 0xf)
    }

    pub(super) fn is_masked(&self, vector: u16) -> bool {
        vector < 32 && self.interrupt_mask & (1 << vector) != 0
    }
}

impl Controller {
    /// CAP: queues of contiguous memory only, round robin, the NVM command set, pages of 4 KiB to 64 KiB.
    fn capabilities(&self) -> u64 {
        let lie = self.config.lies.iter().find_map(|lie| match lie {
            Lie::Capabilities(value) => Some(*value),
            _ => None,
        });
        let mqes = u64::from(self.config.queue_entries_max - 1) & 0xffff;
        let honest = mqes
            | (1 << 16)
            | (u64::from(self.config.timeout_units) << 24)
            | (u64::from(self.config.doorbell_stride & 0xf) << 32)
            | (1 << 37)
            | (4 << 52);
        lie.unwrap_or(honest)
    }

    fn version(&self) -> u32 {
        let lie = self.config.lies.iter().find_map(|lie| match lie {
            Lie::Version(value) => Some(*value),
            _ => None,
        });
        lie.unwrap_or(VERSION)
    }

    /// Reads 32 bits of BAR 0. Reserved registers and doorbells read as zero, a device that is gone as all ones.
    pub fn read32(&mut self, now: Duration, offset: u32) -> u32 {
        self.pass(now);
        if self.removal == Removal::Gone {
            return u32::MAX;
        }
        let half = |value: u64, low: u32| {
            if offset == low { low32(value) } else { high32(value) }
        };
        match offset {
            CAP | 0x04 => half(self.capabilities(), CAP),
            VS => self.version(),
            INTMS | INTMC => self.registers.interrupt_mask,
            CC => self.registers.cc,
            CSTS => self.registers.csts,
            AQA => self.registers.aqa,
            ASQ | 0x2c => half(self.registers.asq, ASQ),
            ACQ | 0x34 => half(self.registers.acq, ACQ),
            _ => 0,
        }
    }

    /// Reads 64 bits of BAR 0.
    pub fn read64(&mut self, now: Duration, offset: u32) -> u64 {
        join32(self.read32(now, offset), self.read32(now, offset.wrapping_add(4)))
    }

    /// Writes 32 bits of BAR 0. Read-only and reserved registers ignore it.
    pub fn write32(&mut self, now: Duration, offset: u32, value: u32) {
        self.pass(now);
        if self.removal == Removal::Gone {
            return;
        }
        match offset {
            INTMS => self.registers.interrupt_mask |= value,
            INTMC => self.registers.interrupt_mask &= !value,
            CC => self.write_configuration(value),
            AQA => self.registers.aqa = value & 0x0fff_0fff,
            ASQ => self.registers.asq = join32(value & !0xfff, high32(self.registers.asq)),
            0x2c => self.registers.asq = join32(low32(self.registers.asq), value),
            ACQ => self.registers.acq = join32(value & !0xfff, high32(self.registers.acq)),
            0x34 => self.registers.acq = join32(low32(self.registers.acq), value),
            DOORBELLS.. => self.doorbells.store(index(offset - DOORBELLS), value),
            _ => {}
        }
    }

    /// Writes 64 bits of BAR 0.
    pub fn write64(&mut self, now: Duration, offset: u32, value: u64) {
        self.write32(now, offset, low32(value));
        self.write32(now, offset.wrapping_add(4), high32(value));
    }

    fn write_configuration(&mut self, value: u32) {
        let before = self.registers.cc;
        self.registers.cc = value;
        match (before & ENABLE, value & ENABLE) {
            (0, 1) => self.begin_enable(),
            (1, 0) => self.begin_disable(),
            _ => {}
        }
        let (was, is) = (before & (3 << 14), value & (3 << 14));
        if is != 0 && was != is && self.registers.csts & SHUTDOWN_MASK == 0 {
            // Normal or abrupt: an abrupt one need not keep the cache.
            if is == 1 << 14 {
                self.flush_all();
            }
            self.registers.csts |= SHUTDOWN_COMPLETE;
        }
    }

    fn begin_enable(&mut self) {
        self.registers.csts &= !SHUTDOWN_MASK;
        self.begin_change(true, self.config.enable);
    }

    /// Queues are gone and no memory is touched from here on, before CSTS.RDY tells it.
    fn begin_disable(&mut self) {
        self.drop_queues();
        self.begin_change(false, self.config.disable);
    }

    fn begin_change(&mut self, to: bool, readiness: Readiness) {
        let wait = match readiness {
            Readiness::AtOnce => Some(Duration::ZERO),
            Readiness::After(time) => Some(time),
            Readiness::Never => None,
        };
        self.registers.is_stuck = wait.is_none();
        self.registers.change = wait.map(|wait| (to, self.now + wait));
        self.finish_change();
    }

    /// Ends a change of CSTS.RDY whose time has come.
    pub(super) fn finish_change(&mut self) {
        match self.registers.change {
            Some((to, at)) if self.now >= at => {
                self.registers.change = None;
                if to { self.become_ready() } else { self.become_disabled() }
            }
            _ => {}
        }
    }

    fn become_disabled(&mut self) {
        let cc = self.registers.cc;
        let (aqa, asq, acq) = (self.registers.aqa, self.registers.asq, self.registers.acq);
        // AQA, ASQ and ACQ outlive a controller reset. [NVMe-2.0c §3.7.2]
        self.registers = Registers { cc, aqa, asq, acq, ..Registers::default() };
        self.forget_session();
    }

    fn become_ready(&mut self) {
        let (asqs, acqs) = (low16(self.registers.aqa), low16(self.registers.aqa >> 16));
        let is_page_size_wrong = (self.registers.cc >> 7) & 0xf > 4;
        let is_set_unknown = (self.registers.cc >> 4) & 7 != 0;
        let is_queue_absent = asqs == 0 || acqs == 0;
        if is_page_size_wrong || is_set_unknown || is_queue_absent {
            self.fail();
            return;
        }
        if !self.create_admin_queues(asqs, acqs) {
            self.fail();
            return;
        }
        self.registers.csts |= READY;
    }

    fn create_admin_queues(&mut self, asqs: u16, acqs: u16) -> bool {
        let (sq, cq) = (u32::from(asqs) + 1, u32::from(acqs) + 1);
        let (asq, acq) = (self.registers.asq, self.registers.acq);
        if !self.memory.is_mapped(asq, 64 * index(sq))
            || !self.memory.is_mapped(acq, 16 * index(cq))
        {
            return false;
        }
        self.install_admin(asq, sq, acq, cq);
        true
    }

    /// Controller Fatal Status: nothing is carried out until a reset.
    pub fn fail(&mut self) {
        self.registers.csts |= FATAL;
    }

    /// A function level reset: as if it had just got power, but the cache is kept. [PCIe-5.0 §6.6.2]
    pub fn reset(&mut self) {
        self.drop_queues();
        self.registers = Registers::default();
        self.forget_session();
    }

    /// Whether the host asked for a change of state that will never come.
    #[must_use]
    pub fn is_stuck(&self) -> bool {
        self.registers.is_stuck
    }
}
