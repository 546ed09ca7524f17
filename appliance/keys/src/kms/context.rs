//! The context of a wrapped key as KMS's encryption context: pairs of text, which policies can ask for.

use super::signature::hex;

const DEVICE: &str = "sheen-device";
const PURPOSE: &str = "sheen-purpose";
const OTHER: &str = "sheen-context";
const UUID_BYTES: usize = 16;

/// The pairs. Two contexts that differ have pairs that differ.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Context(Vec<(&'static str, String)>);

impl Context {
    /// Text that ends with sixteen bytes, a device's uuid, is a purpose and a device; anything else is written in hexadecimal.
    pub(super) fn of(context: &[u8]) -> Self {
        let purpose = context.len().checked_sub(UUID_BYTES).map(|length| context.split_at(length));
        match purpose {
            Some((purpose, uuid)) if is_text(purpose) => Self(vec![
                (PURPOSE, String::from_utf8_lossy(purpose).into_owned()),
                (DEVICE, uuid_text(uuid)),
            ]),
            _ => Self(vec![(OTHER, hex(context))]),
        }
    }

    /// Names and values.
    pub(super) fn pairs(&self) -> &[(&'static str, String)] {
        &self.0
    }
}

fn is_text(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|byte| (b' '..=b'~').contains(byte))
}

fn uuid_text(uuid: &[u8]) -> String {
    let digits = hex(uuid);
    [0..8, 8..12, 12..16, 16..20, 20..32].map(|range| &digits[range]).join("-")
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_device_is_named_as_people_name_it() {
        let context = [&b"sheen data key v1"[..], &(0..16).collect::<Vec<u8>>()].concat();
        let pairs = [
            (PURPOSE, "sheen data key v1".to_owned()),
            (DEVICE, "00010203-0405-0607-0809-0a0b0c0d0e0f".to_owned()),
        ];
        assert_eq!(Context::of(&context).pairs(), pairs);
    }

    #[test]
    fn anything_else_is_hexadecimal() {
        for bytes in [&b"x"[..], &[7; 16], &[7; 17], b""] {
            assert_eq!(Context::of(bytes).pairs(), [(OTHER, hex(bytes))]);
        }
    }
}
