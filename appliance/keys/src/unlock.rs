//! Opening a key block with a key-encryption key, and wrapping its data key anew.

use std::fmt;

use thiserror::Error;

use crate::{DataKey, KekError, KeyBlock, KeyEncryption, KeySource, Slot, WRAPPED_BYTES_MAX};

/// What wrapped data keys are bound to, before the device's uuid.
const CONTEXT: &[u8] = b"sheen data key v1";

/// Why a key block did not open.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum UnlockError {
    /// The key itself cannot be used; it was not tried.
    #[error(transparent)]
    Key(#[from] KekError),
    /// It opens none of the slots: name a key that does.
    #[error("{tried} opens none of the keys of this device: it is wrapped under {slots}")]
    WrongKey {
        /// The key that was tried.
        tried: String,
        /// What would open it.
        slots: SlotNames,
    },
    /// What came out is not the data key of this device: the holder of the key does not work as it should.
    #[error("{tried} opened slot {slot}, but what is in it is not the key of this device")]
    Check {
        /// The key that was tried.
        tried: String,
        /// The slot.
        slot: usize,
    },
}

/// An open key block.
#[derive(Debug)]
pub struct Unlocked {
    /// The data key.
    pub data: DataKey,
    /// The slot it came from.
    pub slot: usize,
}

/// The slots of a key block, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotNames(pub Vec<KeySource>);

impl SlotNames {
    /// Those of `block`.
    #[must_use]
    pub fn of(block: &KeyBlock) -> Self {
        Self(block.slots.iter().map(|slot| slot.source.clone()).collect())
    }
}

impl fmt::Display for SlotNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, source) in self.0.iter().enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            write!(f, "{comma}{source} (slot {index}, a {} key)", source.kind())?;
        }
        Ok(())
    }
}

fn context(uuid: &[u8; 16]) -> Vec<u8> {
    [CONTEXT, uuid].concat()
}

fn wrap(
    uuid: &[u8; 16],
    data: &DataKey,
    source: &KeySource,
    key: &dyn KeyEncryption,
) -> Result<Slot, KekError> {
    let wrapped = key.wrap(&context(uuid), data.secret())?;
    if wrapped.is_empty() || wrapped.len() > WRAPPED_BYTES_MAX {
        let reason = format!("it wraps into {} bytes, a slot holds 1 to 512", wrapped.len());
        return Err(KekError::NotSupported { key: key.describe(), reason });
    }
    Ok(Slot { source: source.clone(), wrapped })
}

impl KeyBlock {
    /// The first key block of a device.
    ///
    /// # Errors
    /// [`KekError`].
    pub fn new(
        uuid: [u8; 16],
        data: &DataKey,
        source: &KeySource,
        key: &dyn KeyEncryption,
    ) -> Result<Self, KekError> {
        let slot = wrap(&uuid, data, source, key)?;
        Ok(Self { generation: 1, uuid, check: data.check_value(&uuid), slots: vec![slot] })
    }

    /// Opens it with the key that `source` names, whatever name that key had when it wrapped: files are moved, endpoints renamed.
    ///
    /// # Errors
    /// [`UnlockError`].
    pub fn unlock(&self, source: &KeySource) -> Result<Unlocked, UnlockError> {
        self.unlock_with(source, &*source.open()?)
    }

    /// As [`KeyBlock::unlock`], with a key that is at hand.
    ///
    /// # Errors
    /// [`UnlockError`].
    pub fn unlock_with(
        &self,
        source: &KeySource,
        key: &dyn KeyEncryption,
    ) -> Result<Unlocked, UnlockError> {
        let tried = || source.to_string();
        for (index, slot) in self.slots.iter().enumerate() {
            if slot.source.kind() != source.kind() {
                continue;
            }
            match key.unwrap(&context(&self.uuid), &slot.wrapped) {
                Ok(secret) => {
                    let data = DataKey::of(secret);
                    let data = data.filter(|data| data.check_value(&self.uuid) == self.check);
                    let wrong = || UnlockError::Check { tried: tried(), slot: index };
                    return Ok(Unlocked { data: data.ok_or_else(wrong)?, slot: index });
                }
                Err(KekError::WrongKey { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(UnlockError::WrongKey { tried: tried(), slots: SlotNames::of(self) })
    }

    /// The two steps from the key in `slot` to `key`: a block that both open, and a later one that `key` alone opens. Other slots,
    /// which a change that did not end may have left, go with the first.
    ///
    /// # Errors
    /// [`KekError`].
    ///
    /// # Panics
    /// When there is no such slot.
    pub fn change_key(
        &self,
        data: &DataKey,
        slot: usize,
        source: &KeySource,
        key: &dyn KeyEncryption,
    ) -> Result<[Self; 2], KekError> {
        let new = wrap(&self.uuid, data, source, key)?;
        let step = |generation, slots| Self { generation, slots, ..self.clone() };
        Ok([
            step(self.generation + 1, vec![self.slots[slot].clone(), new.clone()]),
            step(self.generation + 2, vec![new]),
        ])
    }
}

#[cfg(test)]
mod test {
    use std::path::Path;

    use super::*;
    use crate::KeyFile;

    fn source(directory: &Path, name: &str) -> KeySource {
        let path = directory.join(name);
        if !path.exists() {
            KeyFile::create(&path).unwrap();
        }
        format!("file:{}", path.display()).parse().unwrap()
    }

    fn open(source: &KeySource) -> Box<dyn KeyEncryption> {
        source.open().unwrap()
    }

    #[test]
    fn a_block_opens_with_its_keys_and_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let [old, new, other] = ["old", "new", "other"].map(|name| source(directory.path(), name));
        let data = DataKey::generate().unwrap();
        let first = KeyBlock::new([7; 16], &data, &old, &*open(&old)).unwrap();
        let unlocked = first.unlock(&old).unwrap();
        let [both, last] = first.change_key(&data, unlocked.slot, &new, &*open(&new)).unwrap();
        assert!(first.generation < both.generation && both.generation < last.generation);
        for (block, opens) in [
            (&first, [true, false, false]),
            (&both, [true, true, false]),
            (&last, [false, true, false]),
        ] {
            for (source, opens) in [&old, &new, &other].into_iter().zip(opens) {
                match block.unlock(source) {
                    Ok(found) => {
                        assert!(opens, "{source}");
                        assert_eq!(found.data.secret().expose(), data.secret().expose());
                    }
                    Err(UnlockError::WrongKey { tried, slots }) => {
                        assert!(!opens, "{source}");
                        assert_eq!((tried, slots), (source.to_string(), SlotNames::of(block)));
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        }
    }

    #[test]
    fn the_message_names_slots_their_kinds_and_what_was_tried() {
        let directory = tempfile::tempdir().unwrap();
        let [one, other] = ["one", "other"].map(|name| source(directory.path(), name));
        let data = DataKey::generate().unwrap();
        let block = KeyBlock::new([7; 16], &data, &one, &*open(&one)).unwrap();
        let text = block.unlock(&other).unwrap_err().to_string();
        for part in [other.to_string(), one.to_string(), "slot 0, a file key".into()] {
            assert!(text.contains(&part), "{part} in {text}");
        }
        let absent: KeySource = "file:/nowhere/key".parse().unwrap();
        let error = block.unlock(&absent).unwrap_err();
        assert!(matches!(error, UnlockError::Key(KekError::Unreachable { .. })), "{error}");
    }

    #[test]
    fn a_moved_key_file_opens_what_it_wrapped_and_another_devices_block_does_not_open() {
        let directory = tempfile::tempdir().unwrap();
        let one = source(directory.path(), "one");
        let data = DataKey::generate().unwrap();
        let mut block = KeyBlock::new([7; 16], &data, &one, &*open(&one)).unwrap();
        std::fs::rename(directory.path().join("one"), directory.path().join("moved")).unwrap();
        let moved = source(directory.path(), "moved");
        assert!(block.unlock(&moved).is_ok());
        block.check[0] ^= 1;
        assert!(matches!(block.unlock(&moved), Err(UnlockError::Check { slot: 0, .. })));
        block.uuid = [8; 16];
        assert!(matches!(block.unlock(&moved), Err(UnlockError::WrongKey { .. })));
    }

    #[test]
    fn changes_that_did_not_end_leave_no_slots_behind() {
        let directory = tempfile::tempdir().unwrap();
        let one = source(directory.path(), "one");
        let data = DataKey::generate().unwrap();
        let mut block = KeyBlock::new([7; 16], &data, &one, &*open(&one)).unwrap();
        for round in 0..10 {
            let other = source(directory.path(), &format!("other{round}"));
            let unlocked = block.unlock(&one).unwrap();
            let [both, _] = block.change_key(&data, unlocked.slot, &other, &*open(&other)).unwrap();
            assert_eq!(both.slots.len(), 2);
            block = both;
        }
    }
}
