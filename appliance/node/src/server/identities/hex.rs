//! Bytes in orders: two hexadecimal digits each.

/// Writes bytes.
#[must_use]
pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads bytes. None: they are none.
#[must_use]
pub fn from_hex(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return None;
    }
    let digits = (0..text.len()).step_by(2).map(|at| &text[at..at + 2]);
    digits.map(|pair| u8::from_str_radix(pair, 16).ok()).collect()
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn bytes_read_back() {
        assert_eq!(from_hex(&to_hex(&[0, 1, 0xfe])), Some(vec![0, 1, 0xfe]));
        for wrong in ["0", "0g", "\u{e4}a"] {
            assert_eq!(from_hex(wrong), None, "{wrong}");
        }
    }
}
