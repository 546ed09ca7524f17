//! PCI configuration space of the model: identity, one 64-bit BAR, MSI-X. [PCIe-5.0 §7.5; NVMe-PCIe-1.0c §3.8]

/// The space of one function.
#[derive(Clone, Debug)]
pub struct ConfigSpace {
    bytes: [u8; Self::BYTES],
}

const COMMAND: usize = 0x04;
const BAR0: usize = 0x10;
const MSIX: usize = 0x40;

impl ConfigSpace {
    /// Size: a conventional header and its capabilities.
    pub const BYTES: usize = 256;

    /// An NVMe controller with this many vectors.
    #[must_use]
    pub fn new(vectors: u16) -> Self {
        let mut bytes = [0; Self::BYTES];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0x00, &0x1b36_u16.to_le_bytes());
        put(0x02, &0x0010_u16.to_le_bytes());
        // Status: there is a capabilities list.
        put(0x06, &0x0010_u16.to_le_bytes());
        // Revision 1, class code 01_08_02h.
        put(0x08, &[1, 0x02, 0x08, 0x01]);
        // Memory, 64 bits wide.
        put(BAR0, &[4]);
        put(0x2c, &0x1b36_u16.to_le_bytes());
        put(0x2e, &0x1100_u16.to_le_bytes());
        put(0x34, &[0x40]);
        // MSI-X: table in BAR 4, pending bits in BAR 5.
        let table = vectors.saturating_sub(1) & 0x7ff;
        put(MSIX, &[0x11, 0]);
        put(MSIX + 2, &table.to_le_bytes());
        put(MSIX + 4, &[4]);
        put(MSIX + 8, &[5]);
        Self { bytes }
    }

    /// Copies out. None: outside.
    pub fn read(&self, offset: usize, data: &mut [u8]) -> Option<()> {
        let end = offset.checked_add(data.len())?;
        data.copy_from_slice(self.bytes.get(offset..end)?);
        Some(())
    }

    /// Copies in what can be written: Command, MSI-X Message Control's upper bits. None: outside.
    pub fn write(&mut self, offset: usize, data: &[u8]) -> Option<()> {
        let end = offset.checked_add(data.len())?;
        self.bytes.get(offset..end)?;
        for (at, byte) in (offset..).zip(data) {
            match at {
                COMMAND | 0x05 => self.bytes[at] = *byte,
                0x43 => self.bytes[at] = (self.bytes[at] & 0x3f) | (*byte & 0xc0),
                _ => {}
            }
        }
        Some(())
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn identity_is_read_only_and_the_command_register_is_not() {
        let mut space = ConfigSpace::new(17);
        space.write(0, &[0xff; 8]).unwrap();
        let mut header = [0; 12];
        space.read(0, &mut header).unwrap();
        assert_eq!(header, [0x36, 0x1b, 0x10, 0, 0xff, 0xff, 0x10, 0, 1, 2, 8, 1]);
        assert_eq!(space.read(250, &mut header), None);
        assert_eq!(space.write(usize::MAX, &[1]), None);
    }
}
