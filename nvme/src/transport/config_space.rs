//! What the driver needs of a PCI function's configuration space, whatever way leads there.
//!
//! Offsets and bits: [PCIe-5.0 §7.5.1] (header), [PCIe-5.0 §7.7.2] (MSI-X capability). What is read comes from a device and
//! may be anything: walks are bounded, all ones mean that nobody answers.

use super::{PciIdentity, TransportError};

/// Access to the configuration space of one function.
pub(super) trait ConfigSpace {
    /// Fills `into` from `offset`.
    ///
    /// # Errors
    /// [`TransportError`].
    fn read_config(&self, offset: u8, into: &mut [u8]) -> Result<(), TransportError>;

    /// Writes `from` at `offset`.
    ///
    /// # Errors
    /// [`TransportError`].
    fn write_config(&self, offset: u8, from: &[u8]) -> Result<(), TransportError>;
}

const VENDOR: u8 = 0x00;
const COMMAND: u8 = 0x04;
const STATUS: u8 = 0x06;
const REVISION_AND_CLASS: u8 = 0x08;
const SUBSYSTEM: u8 = 0x2c;
const CAPABILITIES: u8 = 0x34;

/// Command: Memory Space Enable, Bus Master Enable, Interrupt Disable (of the line interrupt, which nobody here serves).
const MEMORY_SPACE: u16 = 1 << 1;
const BUS_MASTER: u16 = 1 << 2;
const INTERRUPT_DISABLE: u16 = 1 << 10;
/// Status: Capabilities List.
const HAS_CAPABILITIES: u16 = 1 << 4;
/// Capability ID of MSI-X.
const MSIX: u8 = 0x11;
/// Capabilities that fit between the header and the end of the 256 bytes.
const CAPABILITIES_MAX: usize = 48;

fn read16(space: &impl ConfigSpace, offset: u8) -> Result<u16, TransportError> {
    let mut bytes = [0; 2];
    space.read_config(offset, &mut bytes)?;
    Ok(u16::from_le_bytes(bytes))
}

/// Who made the function and what it is.
///
/// # Errors
/// [`TransportError::Gone`] when nobody answers.
pub(super) fn identity(space: &impl ConfigSpace) -> Result<PciIdentity, TransportError> {
    let vendor = check_present(space)?;
    let mut class = [0; 4];
    space.read_config(REVISION_AND_CLASS, &mut class)?;
    Ok(PciIdentity {
        vendor,
        device: read16(space, VENDOR + 2)?,
        subsystem_vendor: read16(space, SUBSYSTEM)?,
        subsystem: read16(space, SUBSYSTEM + 2)?,
        class: u32::from_le_bytes(class) >> 8,
    })
}

/// Whether a function answers: its vendor. The class is looked at too: VFIO answers for the vendor itself, from memory, also
/// when the device is not there any more (`vfio_pci_config.c`, `PCI_VENDOR_ID` is virtual), but asks the device for its class.
///
/// # Errors
/// [`TransportError::Gone`] when none does.
pub(super) fn check_present(space: &impl ConfigSpace) -> Result<u16, TransportError> {
    let mut class = [0; 4];
    space.read_config(REVISION_AND_CLASS, &mut class)?;
    match read16(space, VENDOR)? {
        u16::MAX => Err(TransportError::Gone),
        _ if class == [u8::MAX; 4] => Err(TransportError::Gone),
        vendor => Ok(vendor),
    }
}

/// Lets the function answer to its registers and reach memory.
///
/// # Errors
/// [`TransportError::Protocol`] when the bits do not stick.
pub(super) fn enable(space: &impl ConfigSpace) -> Result<(), TransportError> {
    let wanted = MEMORY_SPACE | BUS_MASTER;
    let command = read16(space, COMMAND)? | wanted | INTERRUPT_DISABLE;
    space.write_config(COMMAND, &command.to_le_bytes())?;
    let found = read16(space, COMMAND)?;
    if found & wanted == wanted {
        return Ok(());
    }
    Err(TransportError::Protocol {
        what: "the PCI Command register does not keep memory space and bus master enable",
        expected: u64::from(wanted),
        found: u64::from(found),
    })
}

/// Keeps the function from reaching memory; registers still answer.
///
/// # Errors
/// [`TransportError`].
pub(super) fn stop_bus_master(space: &impl ConfigSpace) -> Result<(), TransportError> {
    let command = read16(space, COMMAND)? & !BUS_MASTER;
    space.write_config(COMMAND, &command.to_le_bytes())
}

/// The MSI-X capability of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Msix {
    /// Where its header is.
    offset: u8,
    /// Vectors in its table.
    pub(super) vectors: u16,
}

impl Msix {
    /// Message Control: MSI-X Enable, Function Mask.
    const ENABLE: u16 = 1 << 15;
    const MASK: u16 = 1 << 14;

    /// Lets the function send its interrupts by MSI-X. Behind the kernel's VFIO this is the kernel's; a device in another
    /// process has only its configuration space to tell by, and some send nothing before.
    ///
    /// # Errors
    /// [`TransportError`].
    pub(super) fn enable(self, space: &impl ConfigSpace) -> Result<(), TransportError> {
        let control = self.offset + 2;
        let value = (read16(space, control)? | Self::ENABLE) & !Self::MASK;
        space.write_config(control, &value.to_le_bytes())
    }
}

/// The MSI-X capability, if there is one.
///
/// # Errors
/// [`TransportError`].
pub(super) fn msix(space: &impl ConfigSpace) -> Result<Option<Msix>, TransportError> {
    if read16(space, STATUS)? & HAS_CAPABILITIES == 0 {
        return Ok(None);
    }
    let mut pointer = [0];
    space.read_config(CAPABILITIES, &mut pointer)?;
    for _ in 0..CAPABILITIES_MAX {
        // The two lowest bits are reserved; capabilities lie behind the header.
        let [offset] = pointer.map(|byte| byte & 0xfc);
        if offset < 0x40 {
            return Ok(None);
        }
        let mut head = [0; 4];
        space.read_config(offset, &mut head)?;
        let [id, next, low, high] = head;
        if id == MSIX {
            // Message Control, Table Size: bits 10:0, less one.
            let vectors = (u16::from_le_bytes([low, high]) & 0x7ff) + 1;
            return Ok(Some(Msix { offset, vectors }));
        }
        pointer = [next];
    }
    Ok(None)
}

#[cfg(test)]
mod test {
    use super::*;
    use std::cell::RefCell;

    struct Bytes(RefCell<[u8; 256]>);

    impl ConfigSpace for Bytes {
        fn read_config(&self, offset: u8, into: &mut [u8]) -> Result<(), TransportError> {
            let bytes = self.0.borrow();
            into.iter_mut().zip(&bytes[usize::from(offset)..]).for_each(|(to, from)| *to = *from);
            Ok(())
        }

        fn write_config(&self, offset: u8, from: &[u8]) -> Result<(), TransportError> {
            let mut bytes = self.0.borrow_mut();
            bytes[usize::from(offset)..].iter_mut().zip(from).for_each(|(to, from)| *to = *from);
            Ok(())
        }
    }

    fn space(set: &[(usize, u8)]) -> Bytes {
        let mut bytes = [0; 256];
        set.iter().for_each(|&(at, value)| bytes[at] = value);
        Bytes(RefCell::new(bytes))
    }

    #[test]
    fn the_msix_table_size_is_found_behind_other_capabilities() {
        let chain = [
            (6, 0x10),
            (0x34, 0x80),
            (0x80, 0x05),
            (0x81, 0x40),
            (0x40, 0x11),
            (0x42, 0x40),
            (0x43, 0x84),
        ];
        let one = space(&chain);
        let found = msix(&one).unwrap().unwrap();
        assert_eq!(found, Msix { offset: 0x40, vectors: 0x440 + 1 });
        one.0.borrow_mut()[0x43] = 0x44;
        found.enable(&one).unwrap();
        assert_eq!(one.0.borrow()[0x42..0x44], [0x40, 0x84], "enabled, not masked, size kept");
        assert_eq!(msix(&space(&chain[1..])).unwrap(), None, "no list by the Status register");
        let circle = [(6, 0x10), (0x34, 0x80), (0x80, 0x05), (0x81, 0x80)];
        assert_eq!(msix(&space(&circle)).unwrap(), None);
    }

    #[test]
    fn all_ones_are_a_function_that_is_gone() {
        let gone = Bytes(RefCell::new([0xff; 256]));
        assert_eq!(identity(&gone), Err(TransportError::Gone));
        gone.0.borrow_mut()[..8].fill(0x10);
        assert_eq!(check_present(&gone), Err(TransportError::Gone), "a vendor from memory");
    }

    #[test]
    fn identity_and_enable_use_the_fields_of_the_header() {
        let one = space(&[
            (0, 0x44),
            (1, 0x14),
            (2, 0x0a),
            (3, 0xa8),
            (8, 7),
            (9, 2),
            (10, 8),
            (11, 1),
            (0x2d, 0x12),
            (0x2e, 1),
        ]);
        let identity = identity(&one).unwrap();
        assert_eq!((identity.vendor, identity.device), (0x144d & 0xff00 | 0x44, 0xa80a));
        assert_eq!((identity.subsystem_vendor, identity.subsystem), (0x1200, 1));
        assert_eq!(identity.class, super::super::CLASS_NVME);
        enable(&one).unwrap();
        assert_eq!(one.0.borrow()[4..6], [0x06, 0x04]);
        stop_bus_master(&one).unwrap();
        assert_eq!(one.0.borrow()[4..6], [0x02, 0x04]);
    }
}
