//! Networks as people write them: `10.0.0.0/8`, `2001:db8::/32`, or one address.

use std::net::{IpAddr, Ipv6Addr};

use sheen_meta::identity::Network;

use super::IdentitiesError;

/// Bits of an IPv6 address, and of them those in front of an IPv4 address that is mapped.
const BITS: u8 = 128;
const MAPPED_BITS: u8 = 96;

/// Reads a network.
pub(super) fn parse(text: &str) -> Result<Network, IdentitiesError> {
    let wrong = |reason| IdentitiesError::Network { text: text.to_owned(), reason };
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (text, None),
    };
    let address: IpAddr = address
        .parse()
        .map_err(|_| wrong("expected an address and perhaps /BITS, as 10.0.0.0/8"))?;
    let (bits, ahead) = match address {
        IpAddr::V4(_) => (BITS - MAPPED_BITS, MAPPED_BITS),
        IpAddr::V6(_) => (BITS, 0),
    };
    let prefix = match prefix {
        None => bits,
        Some(prefix) => prefix.parse().map_err(|_| wrong("behind the / stands no number"))?,
    };
    if prefix > bits {
        return Err(wrong("the address has fewer bits"));
    }
    let address = mapped(address);
    let network = Network { address, prefix: prefix + ahead };
    let canonical = u128::MAX.checked_shl(u32::from(BITS - network.prefix)).unwrap_or(0);
    if u128::from_be_bytes(address) & !canonical != 0 {
        return Err(wrong("it has bits behind its prefix; write those as 0"));
    }
    Ok(network)
}

/// An address as networks have it: of IPv6, with one of IPv4 mapped.
#[must_use]
pub fn mapped(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// Writes a network as [`parse`] reads it.
pub(super) fn text(network: &Network) -> String {
    let address = Ipv6Addr::from(network.address);
    match address.to_ipv4_mapped().filter(|_| network.prefix >= MAPPED_BITS) {
        Some(address) => format!("{address}/{}", network.prefix - MAPPED_BITS),
        None => format!("{address}/{}", network.prefix),
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn networks_read_back_as_they_are_written() {
        for (written, shown) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("192.168.1.7", "192.168.1.7/32"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("::1", "::1/128"),
            ("::/0", "::/0"),
        ] {
            let network = parse(written).unwrap();
            assert_eq!(text(&network), shown);
            assert_eq!(parse(shown), Ok(network));
        }
        let ten = parse("10.0.0.0/8").unwrap();
        assert!(ten.contains(mapped("10.1.2.3".parse().unwrap())));
        assert!(!ten.contains(mapped("11.1.2.3".parse().unwrap())));
    }

    #[test]
    fn what_is_no_network_is_told_why() {
        for (written, word) in [
            ("10.0.0.1/8", "behind its prefix"),
            ("10.0.0.0/33", "fewer bits"),
            ("10.0.0.0/x", "no number"),
            ("host", "expected an address"),
            ("", "expected an address"),
        ] {
            let error = parse(written).unwrap_err().to_string();
            assert!(error.contains(word) && error.contains(written), "{error}");
        }
    }
}
