//! Interrupt types, and what SET_IRQS asks `[vfio-user §VFIO_USER_DEVICE_SET_IRQS]`.
//!
//! The structures and numbers are those of `<linux/vfio.h>` (`struct vfio_irq_set`), where the eventfds stand behind the
//! structure as numbers; over a socket they go along as descriptors.

use super::layout::layout;

layout! {
    /// Head of SET_IRQS; booleans may follow, descriptors may go along.
    pub struct IrqSetHead: 20 {
        /// Size of this structure and of the data behind it.
        0 argsz: u32,
        /// One [`Data`] bit and one [`Action`] bit.
        4 flags: u32,
        /// Interrupt type.
        8 index: u32,
        /// First interrupt of the range.
        12 start: u32,
        /// Interrupts in the range; zero with [`Data::None`]: all.
        16 count: u32,
    }
}

/// Interrupt type of a PCI device: line interrupt (`VFIO_PCI_INTX_IRQ_INDEX`).
pub const IRQ_INTX: u32 = 0;
/// Interrupt type: MSI (`VFIO_PCI_MSI_IRQ_INDEX`).
pub const IRQ_MSI: u32 = 1;
/// Interrupt type: MSI-X (`VFIO_PCI_MSIX_IRQ_INDEX`).
pub const IRQ_MSIX: u32 = 2;
/// Interrupt type: the device reported an error (`VFIO_PCI_ERR_IRQ_INDEX`).
pub const IRQ_ERROR: u32 = 3;
/// Interrupt type: the device is asked back (`VFIO_PCI_REQ_IRQ_INDEX`).
pub const IRQ_REQUEST: u32 = 4;

/// Flag of an interrupt type: eventfds can be signalled (`VFIO_IRQ_INFO_EVENTFD`).
pub const IRQ_EVENTFD: u32 = 1 << 0;
/// Flag: MASK and UNMASK work (`VFIO_IRQ_INFO_MASKABLE`).
pub const IRQ_MASKABLE: u32 = 1 << 1;
/// Flag: masks itself when triggered (`VFIO_IRQ_INFO_AUTOMASKED`).
pub const IRQ_AUTOMASKED: u32 = 1 << 2;
/// Flag: interrupts are enabled as a set (`VFIO_IRQ_INFO_NORESIZE`).
pub const IRQ_NORESIZE: u32 = 1 << 3;

/// What data a SET_IRQS brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Data {
    /// None: the action is performed.
    None,
    /// A boolean byte for each interrupt.
    Bools,
    /// An eventfd for each interrupt, or none at all: de-assign.
    Eventfds,
}

/// What SET_IRQS does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Masks, or says what to signal on masking.
    Mask,
    /// Unmasks, or says what to signal on unmasking.
    Unmask,
    /// Triggers, or says what to signal on triggering.
    Trigger,
}

impl Data {
    /// `VFIO_IRQ_SET_DATA_*`.
    #[must_use]
    pub const fn bits(self) -> u32 {
        match self {
            Self::None => 1 << 0,
            Self::Bools => 1 << 1,
            Self::Eventfds => 1 << 2,
        }
    }
}

impl Action {
    /// `VFIO_IRQ_SET_ACTION_*`.
    #[must_use]
    pub const fn bits(self) -> u32 {
        match self {
            Self::Mask => 1 << 3,
            Self::Unmask => 1 << 4,
            Self::Trigger => 1 << 5,
        }
    }
}

impl IrqSetHead {
    /// Appends a head for `data` of `data_bytes` bytes.
    pub fn new(data: Data, action: Action, index: u32, start: u32, count: u32) -> Self {
        let data_bytes = if data == Data::Bools { count } else { 0 };
        let argsz = 20 + data_bytes;
        Self { argsz, flags: data.bits() | action.bits(), index, start, count }
    }

    /// Splits the flags; None unless exactly one data and one action bit are set and nothing else.
    #[must_use]
    pub fn parts(&self) -> Option<(Data, Action)> {
        let data = [Data::None, Data::Bools, Data::Eventfds];
        let actions = [Action::Mask, Action::Unmask, Action::Trigger];
        data.into_iter()
            .flat_map(|data| actions.map(|action| (data, action)))
            .find(|(data, action)| data.bits() | action.bits() == self.flags)
    }
}
