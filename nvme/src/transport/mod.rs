//! Ways to a controller: its registers, its doorbells, its view of our memory, its interrupts.
//!
//! The driver above knows nothing of PCI or sockets; a way below knows nothing of queues. Who implements [`Transport`] promises:
//! after [`Transport::map`] the controller reaches the whole arena at [`Arena::iova`] (or at [`Arena::granules`], where there is no
//! IOMMU), until `unmap` returns; the transport keeps a clone of what it has mapped; and dropping the transport leaves the
//! controller unable to reach any of it.

mod config_space;
pub mod vfio;
pub mod vfio_user;

use std::{fmt, os::fd::BorrowedFd};

use nix::errno::Errno;
use sheen_dma::{Arena, Register32};

/// What a controller is, by its PCI configuration space: for quirks and for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct PciIdentity {
    /// Vendor ID.
    pub vendor: u16,
    /// Device ID.
    pub device: u16,
    /// Subsystem Vendor ID.
    pub subsystem_vendor: u16,
    /// Subsystem ID.
    pub subsystem: u16,
    /// Class code: 01_08_02h is an NVMe I/O controller [NVMe-PCIe-1.0c §3.8.1.3].
    pub class: u32,
}

/// Class code of an NVMe I/O controller: mass storage, non-volatile memory, NVM Express.
pub const CLASS_NVME: u32 = 0x01_08_02;

/// A way to a controller. One thread uses it: the controller's supervisor. Doorbells leave it, for the threads that ring them.
pub trait Transport: Send + fmt::Debug {
    /// How people call it: `vfio 0000:00:04.0`, `vfio-user /run/x.sock`, `model`.
    fn describe(&self) -> String;

    /// What the controller is.
    fn identity(&self) -> PciIdentity;

    /// Reads a 32-bit property at a BAR0 offset.
    ///
    /// # Errors
    /// [`TransportError`]. A device that is gone may answer all ones instead; the driver knows.
    fn read32(&mut self, offset: u32) -> Result<u32, TransportError>;

    /// Reads a 64-bit property, in one access or low half first.
    ///
    /// # Errors
    /// As [`Transport::read32`].
    fn read64(&mut self, offset: u32) -> Result<u64, TransportError>;

    /// Writes a 32-bit property.
    ///
    /// # Errors
    /// As [`Transport::read32`].
    fn write32(&mut self, offset: u32, value: u32) -> Result<(), TransportError>;

    /// Writes a 64-bit property, in one access or low half first.
    ///
    /// # Errors
    /// As [`Transport::read32`].
    fn write64(&mut self, offset: u32, value: u64) -> Result<(), TransportError>;

    /// The doorbells of queues 0 to `queue_pairs - 1`. The tail of queue y is at `first_offset + 2y * stride_bytes`, its head
    /// doorbell one stride behind.
    ///
    /// # Errors
    /// [`TransportError::Protocol`] when the device's register range does not hold as many.
    fn doorbells(
        &mut self,
        first_offset: u32,
        stride_bytes: u32,
        queue_pairs: u16,
    ) -> Result<Vec<DoorbellPair>, TransportError>;

    /// Lets the controller read and write the arena at its device addresses. Mapping what is mapped already is fine.
    ///
    /// # Errors
    /// [`TransportError::Unsupported`] when this arena cannot be shared that way (no descriptor for another process).
    fn map(&mut self, arena: &Arena) -> Result<(), TransportError>;

    /// Ends [`Transport::map`]: when it returns the controller cannot reach the arena.
    ///
    /// # Errors
    /// [`TransportError`]; the arena stays mapped.
    fn unmap(&mut self, arena: &Arena) -> Result<(), TransportError>;

    /// Interrupt vectors there are. 0: the controller must be polled.
    fn vectors(&self) -> u16;

    /// From now on the vector's interrupts are written to `event`, an eventfd; None: they are dropped.
    ///
    /// # Errors
    /// [`TransportError::Unsupported`] when there is no such vector.
    fn arm(&mut self, vector: u16, event: Option<BorrowedFd<'_>>) -> Result<(), TransportError>;

    /// Function-level reset: the controller is as after power-on, and reaches no memory until it is enabled again. Mappings stay.
    ///
    /// # Errors
    /// [`TransportError::Unsupported`] where there is none.
    fn reset(&mut self) -> Result<(), TransportError>;

    /// Polls readable when the device is being taken away, or its process ended.
    fn removal(&self) -> Option<BorrowedFd<'_>>;
}

/// Why a transport failed, split by what the driver does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransportError {
    /// The device is not there any more: end everything.
    Gone,
    /// This way cannot do that: do without.
    Unsupported,
    /// The system refused: give up, and say so.
    System {
        /// What was being done, to continue the sentence "cannot ...".
        doing: &'static str,
        /// What the system said.
        errno: Errno,
    },
    /// The other side broke the rules of this way: stop using it.
    Protocol {
        /// What rule, as a sentence about what was found.
        what: &'static str,
        /// What was expected (0 where there is no number).
        expected: u64,
        /// What was found.
        found: u64,
    },
}

impl fmt::Display for TransportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone => f.write_str("the device is gone"),
            Self::Unsupported => f.write_str("not supported by this way to the device"),
            Self::System { doing, errno } => write!(f, "cannot {doing}: {errno}"),
            Self::Protocol { what, expected, found } => {
                write!(f, "{what}: expected {expected:#x}, found {found:#x}")
            }
        }
    }
}

impl std::error::Error for TransportError {}

/// A doorbell that is not memory: a write to it is a message.
pub trait DoorbellPort: Send + fmt::Debug {
    /// Writes the doorbell after every earlier store to DMA memory is visible to the device. A failure is found by the
    /// supervisor through the transport; there is nobody to tell here.
    fn ring(&mut self, value: u32);
}

/// How a doorbell is rung.
#[derive(Debug)]
pub enum Doorbell {
    /// By a store.
    Mapped(Register32),
    /// By a message.
    Message(Box<dyn DoorbellPort>),
}

impl Doorbell {
    /// Writes `value` after every earlier store to DMA memory has become visible to the device.
    #[inline]
    pub fn ring(&mut self, value: u32) {
        match self {
            Self::Mapped(register) => register.publish(value),
            Self::Message(port) => port.ring(value),
        }
    }
}

/// The two doorbells of a queue pair.
#[derive(Debug)]
pub struct DoorbellPair {
    /// Submission Queue y Tail.
    pub submission_tail: Doorbell,
    /// Completion Queue y Head.
    pub completion_head: Doorbell,
}
