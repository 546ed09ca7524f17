//! What outlives a controller reset: namespaces and their media, firmware, health. [NVMe-2.0c §3.2]

use std::time::Duration;

use super::firmware::Firmware;
use crate::{
    bytes::{Bytes, low16},
    chance::Chance,
    config::Config,
    medium::{Medium, MediumKind, PowerCut},
};

/// Namespaces there can be: NN.
pub(super) const NAMESPACES_MAX: u32 = 16;

/// One namespace.
#[derive(Debug)]
pub(super) struct Namespace {
    pub(super) medium: Medium,
    pub(super) is_attached: bool,
}

/// What SMART shows beside traffic.
#[derive(Debug)]
pub(super) struct Smart {
    pub(super) critical_warning: u8,
    pub(super) temperature_kelvin: u16,
    pub(super) spare_percent: u8,
    pub(super) power_cycles: u64,
    pub(super) unsafe_shutdowns: u64,
    pub(super) media_errors: u64,
}

/// State of the sanitize operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sanitize {
    /// When it began and ends.
    pub(super) running: Option<(Duration, Duration)>,
    /// Sanitize Status, SSTAT bits 2:0.
    pub(super) status: u16,
    /// Dword 10 of the command that started it.
    pub(super) command: u32,
    /// Erased since the last write.
    pub(super) is_erased: bool,
}

impl Sanitize {
    #[inline]
    pub(super) fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// [NVMe-2.0c §5.16.1.25, figure 291]
    pub(super) fn page(&self, now: Duration) -> Bytes {
        let progress = self.running.map_or(0xffff, |(begun, end)| {
            let done = now.saturating_sub(begun).as_micros();
            let all = end.saturating_sub(begun).as_micros().max(1);
            low16(u32::try_from((done * 0xffff / all).min(0xfffe)).unwrap_or(0xfffe))
        });
        let mut page = Bytes::zeroed(512);
        page.put16(0, progress)
            .put16(2, self.status | (u16::from(self.is_erased) << 8))
            .put32(4, self.command);
        for estimate in [8, 12, 16, 20, 24, 28] {
            page.put32(estimate, u32::MAX);
        }
        page
    }
}

/// The subsystem.
#[derive(Debug)]
pub(super) struct Subsystem {
    /// Namespace `n` at index `n - 1`.
    namespaces: Vec<Option<Namespace>>,
    kind: MediumKind,
    /// Bytes no namespace has.
    pub(super) spare_bytes: u64,
    /// All bytes.
    pub(super) total_bytes: u64,
    pub(super) firmware: Firmware,
    pub(super) smart: Smart,
    pub(super) sanitize: Sanitize,
    /// Namespaces that changed since the host read the list.
    pub(super) changed: Vec<u32>,
}

impl Subsystem {
    pub(super) fn new(config: &Config) -> Self {
        let medium = Medium::new(config.medium, config.bytes, config.block_bytes);
        let mut namespaces = vec![Some(Namespace { medium, is_attached: true })];
        namespaces.resize_with(crate::bytes::index(NAMESPACES_MAX), || None);
        Self {
            namespaces,
            kind: config.medium,
            spare_bytes: config.spare_bytes,
            total_bytes: config.bytes + config.spare_bytes,
            firmware: Firmware::default(),
            smart: Smart {
                critical_warning: 0,
                temperature_kelvin: 313,
                spare_percent: 100,
                power_cycles: 1,
                unsafe_shutdowns: 0,
                media_errors: 0,
            },
            sanitize: Sanitize::default(),
            changed: Vec::new(),
        }
    }

    fn slot(&self, nsid: u32) -> Option<usize> {
        let index = crate::bytes::index(nsid.checked_sub(1)?);
        (index < self.namespaces.len()).then_some(index)
    }

    /// An allocated namespace.
    #[inline]
    pub(super) fn namespace(&self, nsid: u32) -> Option<&Namespace> {
        self.namespaces[self.slot(nsid)?].as_ref()
    }

    /// An allocated namespace.
    #[inline]
    pub(super) fn namespace_mut(&mut self, nsid: u32) -> Option<&mut Namespace> {
        let slot = self.slot(nsid)?;
        self.namespaces[slot].as_mut()
    }

    /// A namespace that commands reach.
    #[inline]
    pub(super) fn attached(&self, nsid: u32) -> Option<&Namespace> {
        self.namespace(nsid).filter(|namespace| namespace.is_attached)
    }

    /// A namespace that commands reach.
    #[inline]
    pub(super) fn attached_mut(&mut self, nsid: u32) -> Option<&mut Namespace> {
        self.namespace_mut(nsid).filter(|namespace| namespace.is_attached)
    }

    /// Identifiers above `after`, in order.
    pub(super) fn list(&self, after: u32, only_attached: bool) -> Vec<u32> {
        (after.saturating_add(1)..=NAMESPACES_MAX)
            .filter(|nsid| self.namespace(*nsid).is_some_and(|n| n.is_attached || !only_attached))
            .collect()
    }

    /// Puts a namespace at the first free identifier.
    pub(super) fn create(&mut self, bytes: u64, block_bytes: usize) -> Option<u32> {
        let slot = self.namespaces.iter().position(Option::is_none)?;
        let medium = Medium::new(self.kind, bytes, block_bytes);
        self.namespaces[slot] = Some(Namespace { medium, is_attached: false });
        self.spare_bytes -= bytes;
        u32::try_from(slot + 1).ok()
    }

    /// Takes a namespace away. False: there is none.
    pub(super) fn delete(&mut self, nsid: u32) -> bool {
        let Some(slot) = self.slot(nsid) else { return false };
        let Some(namespace) = self.namespaces[slot].take() else { return false };
        let medium = &namespace.medium;
        self.spare_bytes += medium.blocks() * crate::bytes::count(medium.block_bytes());
        true
    }

    /// Gives a namespace an empty medium with blocks of another size.
    pub(super) fn format(&mut self, nsid: u32, block_bytes: usize) {
        let kind = self.kind;
        if let Some(namespace) = self.namespace_mut(nsid) {
            let old = &namespace.medium;
            let bytes = old.blocks() * crate::bytes::count(old.block_bytes());
            namespace.medium = Medium::new(kind, bytes, block_bytes);
        }
    }

    /// Makes what was written durable: of one namespace, or of all.
    pub(super) fn flush(&mut self, nsid: Option<u32>) {
        match nsid {
            Some(nsid) => {
                if let Some(namespace) = self.namespace_mut(nsid) {
                    namespace.medium.flush();
                }
            }
            None => self.namespaces.iter_mut().flatten().for_each(|n| n.medium.flush()),
        }
    }

    /// Remembers that a namespace changed; at most one entry each.
    pub(super) fn note_changed(&mut self, nsid: u32) {
        if !self.changed.contains(&nsid) {
            self.changed.push(nsid);
            self.changed.sort_unstable();
        }
    }

    pub(super) fn cut_power(&mut self, chance: &mut Chance) -> PowerCut {
        self.smart.power_cycles += 1;
        self.smart.unsafe_shutdowns += 1;
        let mut sum = PowerCut::default();
        for namespace in self.namespaces.iter_mut().flatten() {
            let cut = namespace.medium.cut_power(chance);
            sum.at_risk += cut.at_risk;
            sum.reverted += cut.reverted;
        }
        sum
    }

    pub(super) fn activate_firmware(&mut self) {
        self.firmware.activate();
    }
}
