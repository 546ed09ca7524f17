//! What stands behind `tpm:` in a configuration: where the TPM is, and under which of its keys to seal.

use std::path::PathBuf;

/// Persistent handles: where an administrator keeps keys.
const PERSISTENT: std::ops::RangeInclusive<u32> = 0x8100_0000..=0x81ff_ffff;

/// `/dev/tpmrm0`, `unix:PATH` or `tcp:HOST:PORT`, and `?parent=HANDLE` behind it if there is a storage key to be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reference {
    pub(super) place: Place,
    pub(super) parent: Parent,
}

/// Where a TPM listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The kernel's device.
    Device(PathBuf),
    /// An emulator's command socket.
    Unix(PathBuf),
    /// An emulator's command port.
    Tcp(String),
}

/// The key under which is sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parent {
    /// The owner hierarchy's primary key of our template, made anew each time: always the same of one TPM.
    Primary,
    /// A storage key an administrator made persistent, without an authorization value.
    Persistent(u32),
}

impl Parent {
    /// The form in wrapped bytes.
    pub(super) fn to_word(self) -> u32 {
        match self {
            Self::Primary => 0,
            Self::Persistent(handle) => handle,
        }
    }

    /// Reads [`Parent::to_word`].
    pub(super) fn of_word(word: u32) -> Option<Self> {
        match word {
            0 => Some(Self::Primary),
            handle if PERSISTENT.contains(&handle) => Some(Self::Persistent(handle)),
            _ => None,
        }
    }
}

impl Reference {
    /// Reads what stands behind `tpm:`.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub(super) fn parse(parameters: &str) -> Result<Self, String> {
        let (place, parent) = match parameters.split_once('?') {
            None => (parameters, Parent::Primary),
            Some((place, rest)) => (place, parent(rest)?),
        };
        let place = if let Some(path) = place.strip_prefix("unix:").filter(|path| !path.is_empty())
        {
            Place::Unix(path.into())
        } else if let Some(address) = place.strip_prefix("tcp:").filter(|rest| rest.contains(':')) {
            Place::Tcp(address.to_owned())
        } else if place.starts_with('/') {
            Place::Device(place.into())
        } else {
            return Err(format!("`{place:.80}` is none of /dev/tpmrm0, unix:PATH, tcp:HOST:PORT"));
        };
        Ok(Self { place, parent })
    }
}

fn parent(text: &str) -> Result<Parent, String> {
    let wrong =
        || format!("`{text:.80}` is not parent=HANDLE, a persistent handle such as 0x81000001");
    let digits = text.strip_prefix("parent=0x").ok_or_else(wrong)?;
    let handle = u32::from_str_radix(digits, 16).map_err(|_| wrong())?;
    PERSISTENT.contains(&handle).then_some(Parent::Persistent(handle)).ok_or_else(wrong)
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn references_are_read() {
        for (text, place, parent) in [
            ("/dev/tpmrm0", Place::Device("/dev/tpmrm0".into()), Parent::Primary),
            ("unix:/run/tpm", Place::Unix("/run/tpm".into()), Parent::Primary),
            (
                "tcp:localhost:2321?parent=0x81000001",
                Place::Tcp("localhost:2321".into()),
                Parent::Persistent(0x8100_0001),
            ),
        ] {
            assert_eq!(Reference::parse(text), Ok(Reference { place, parent }));
            assert_eq!(Parent::of_word(parent.to_word()), Some(parent));
        }
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        for text in [
            "",
            "tpmrm0",
            "unix:",
            "tcp:",
            "tcp:2321",
            "/dev/tpmrm0?parent=1",
            "/dev/tpmrm0?parent=0x40000001",
            "/dev/tpmrm0?parents=0x81000001",
        ] {
            assert!(Reference::parse(text).is_err(), "{text}");
        }
    }
}
