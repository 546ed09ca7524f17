//! Addresses of PCI functions, as sysfs writes them: `0000:01:00.0`.

use std::{fmt, str::FromStr};

use thiserror::Error;

/// Domain, bus, device and function.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PciAddress {
    /// Host bridge segment.
    pub domain: u32,
    /// Bus.
    pub bus: u8,
    /// Device on the bus, 0 to 31.
    pub device: u8,
    /// Function of the device, 0 to 7.
    pub function: u8,
}

/// Not the address of a PCI function.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("not a PCI address; expected DOMAIN:BUS:DEVICE.FUNCTION in hexadecimal, like 0000:01:00.0")]
pub struct AddressError;

impl FromStr for PciAddress {
    type Err = AddressError;

    /// Reads an address. The domain may be left out: it is 0.
    fn from_str(text: &str) -> Result<Self, AddressError> {
        let (rest, function) = text.rsplit_once('.').ok_or(AddressError)?;
        let parts: Vec<&str> = rest.split(':').collect();
        let (domain, bus, device) = match parts[..] {
            [domain, bus, device] => (domain, bus, device),
            [bus, device] => ("0", bus, device),
            _ => return Err(AddressError),
        };
        // `from_str_radix` takes a sign.
        let is_plain = |part: &str| part.bytes().all(|byte| byte.is_ascii_hexdigit());
        if ![domain, bus, device, function].into_iter().all(is_plain) {
            return Err(AddressError);
        }
        let byte = |part: &str, most: u8| match u8::from_str_radix(part, 16) {
            Ok(value) if value <= most => Ok(value),
            _ => Err(AddressError),
        };
        Ok(Self {
            domain: u32::from_str_radix(domain, 16).map_err(|_| AddressError)?,
            bus: byte(bus, u8::MAX)?,
            device: byte(device, 31)?,
            function: byte(function, 7)?,
        })
    }
}

impl fmt::Display for PciAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { domain, bus, device, function } = self;
        write!(formatter, "{domain:04x}:{bus:02x}:{device:02x}.{function}")
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn an_address_is_written_as_it_was_read() {
        for text in ["0000:01:00.0", "10000:e1:1f.7"] {
            assert_eq!(text.parse::<PciAddress>().unwrap().to_string(), text);
        }
        assert_eq!("3b:00.1".parse::<PciAddress>().unwrap().to_string(), "0000:3b:00.1");
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in
            ["", "nvme0", "01:00", "0000:01:20.0", "0000:01:00.8", "+1:00.0", "a:b:c:d.0", ":00.0"]
        {
            assert!(text.parse::<PciAddress>().is_err(), "{text}");
        }
    }
}
