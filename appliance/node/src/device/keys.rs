//! The keys of a device: its key block on the medium, its data key in memory.
//!
//! Two copies, written one after the other, each durable before the other is touched, as those of the superblock; of two good ones the
//! higher generation holds. A change of keys is two such writes: first the block opens with the old key and the new one, then
//! with the new one alone. So at every instant there is a good copy, and it opens with the old key, with both, or with the new one.

use std::{
    fs::File,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use sheen_keys::{
    BlockCipher, DataKey, KEY_BLOCK_LBAS, KeyBlock, KeyBlockError, KeySource, LockError, Secret,
    SlotNames, UnlockError, Unlocked, ZoneTag,
};
use sheen_ports::Entropy;
use sheen_types::{BLOCK_BYTES, Lba, units::BLOCK_BYTES_U64};

use super::{DeviceError, Medium, QueueBudget, Superblock, Way, ZoneEntry, open_medium};

/// Offset of the uuid in a key block, for messages.
const UUID_OFFSET: usize = 32;

/// From what the cipher of each zone is made, on the thread that uses it.
#[derive(Clone, Debug)]
pub(super) struct ZoneKeys {
    data: Arc<DataKey>,
    uuid: [u8; 16],
}

/// The key block of an open device.
#[derive(Debug)]
struct Current {
    /// The newest one that may be on the device.
    block: KeyBlock,
    /// The slot of it that opened.
    slot: usize,
}

impl ZoneKeys {
    pub(super) fn cipher(&self, zone: ZoneEntry) -> Result<BlockCipher, LockError> {
        let (kind, number) = zone.kind.numbers();
        self.data.zone_cipher(&self.uuid, ZoneTag { kind, number, identity: zone.identity })
    }
}

/// The keys of an open device.
#[derive(Debug)]
pub(super) struct DeviceKeys {
    zones: ZoneKeys,
    /// Held while it is written: one change at a time.
    current: Mutex<Current>,
}

impl DeviceKeys {
    pub(super) fn zones(&self) -> ZoneKeys {
        self.zones.clone()
    }

    /// The key of the node's secrets.
    pub(super) fn identity_key(&self) -> Result<Secret, LockError> {
        self.zones.data.identity_key(&self.zones.uuid)
    }

    pub(super) fn block(&self) -> KeyBlock {
        self.current().block.clone()
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        // What a panic left is still a block that was made whole.
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// See [`super::Device::rotate_key`].
    pub(super) fn rotate(
        &self,
        path: &Path,
        medium: &Medium,
        new: &KeySource,
    ) -> Result<KeyBlock, DeviceError> {
        let mut current = self.current();
        let steps = self
            .change(&current, new)
            .map_err(|reason| DeviceError::Unlock { path: path.into(), reason })?;
        for block in steps {
            // Kept even if its write fails: it may be on the device, and the next change must be later than it. The key that
            // opens now stands first in both.
            *current = Current { block, slot: 0 };
            write(path, medium, &current.block)?;
        }
        Ok(current.block.clone())
    }

    /// The two blocks of a change of keys: with the new key as well, and with it alone.
    fn change(&self, current: &Current, new: &KeySource) -> Result<[KeyBlock; 2], UnlockError> {
        let key = new.open()?;
        let steps = current.block.change_key(&self.zones.data, current.slot, new, &*key)?;
        // Before the old key goes it is known that the new one opens what it wrapped.
        steps[1].unlock_with(new, &*key)?;
        Ok(steps)
    }
}

/// The keys of a device that is being opened. None: it is not encrypted. A bad copy of the key block is written anew.
pub(super) fn unlock(
    path: &Path,
    medium: &Medium,
    superblock: &Superblock,
    key: Option<&KeySource>,
) -> Result<Option<DeviceKeys>, DeviceError> {
    let (keys, is_whole) = unlock_unchanged(path, medium, superblock, key)?;
    if let (Some(keys), false) = (&keys, is_whole) {
        // Only whoever has a key of the newest copy makes the other one like it.
        write(path, medium, &keys.block())?;
    }
    Ok(keys)
}

/// As [`unlock`], but nothing is written; and whether both copies of the key block are good and the same.
pub(super) fn unlock_unchanged(
    path: &Path,
    medium: &Medium,
    superblock: &Superblock,
    key: Option<&KeySource>,
) -> Result<(Option<DeviceKeys>, bool), DeviceError> {
    if !superblock.encrypted {
        return match key {
            None => Ok((None, true)),
            Some(key) => Err(DeviceError::NotEncrypted { path: path.into(), key: key.to_string() }),
        };
    }
    let (block, is_whole) = read(path, medium, &superblock.uuid)?;
    let Some(source) = key else {
        return Err(DeviceError::Encrypted { path: path.into(), slots: SlotNames::of(&block) });
    };
    let Unlocked { data, slot } =
        block.unlock(source).map_err(|reason| DeviceError::Unlock { path: path.into(), reason })?;
    let zones = ZoneKeys { data: Arc::new(data), uuid: superblock.uuid };
    Ok((Some(DeviceKeys { zones, current: Mutex::new(Current { block, slot }) }), is_whole))
}

/// Makes the data key of a device that is being formatted, under `key`, and writes its key block. Without a key, key blocks of an
/// earlier format are overwritten: what they open is gone.
pub(super) fn make(
    path: &Path,
    medium: &Medium,
    superblock: &Superblock,
    key: Option<&KeySource>,
) -> Result<Option<ZoneKeys>, DeviceError> {
    let Some(source) = key else {
        for lba in KEY_BLOCK_LBAS {
            write_copy(path, medium, lba, &[0; BLOCK_BYTES])?;
        }
        return Ok(None);
    };
    let failed = |reason| DeviceError::Key { path: path.into(), reason };
    let data = DataKey::generate().map_err(failed)?;
    let key = source.open().map_err(failed)?;
    let block = KeyBlock::new(superblock.uuid, &data, source, &*key).map_err(failed)?;
    block
        .unlock_with(source, &*key)
        .map_err(|reason| DeviceError::Unlock { path: path.into(), reason })?;
    write(path, medium, &block)?;
    Ok(Some(ZoneKeys { data: Arc::new(data), uuid: superblock.uuid }))
}

/// The newer good copy, and whether the other is the same.
fn read(path: &Path, medium: &Medium, uuid: &[u8; 16]) -> Result<(KeyBlock, bool), DeviceError> {
    let [first, second] = KEY_BLOCK_LBAS.map(|lba| read_copy(medium, lba, uuid));
    match (first, second) {
        (Ok(first), Ok(second)) if first == second => Ok((first, true)),
        (Ok(first), Ok(second)) => {
            let is_first = first.generation >= second.generation;
            Ok((if is_first { first } else { second }, false))
        }
        (Ok(good), Err(bad)) | (Err(bad), Ok(good)) => {
            tracing::warn!(device = %path.display(), "key block copy is bad and will be written anew: {bad}");
            Ok((good, false))
        }
        (Err(first), Err(second)) => {
            Err(DeviceError::KeyBlock { path: path.into(), first, second })
        }
    }
}

fn read_copy(medium: &Medium, lba: Lba, uuid: &[u8; 16]) -> Result<KeyBlock, KeyBlockError> {
    let mut bytes = [0; BLOCK_BYTES];
    medium
        .read_exact_at(&mut bytes, lba.byte_offset())
        .map_err(|error| KeyBlockError::Unreadable { lba, kind: error.kind() })?;
    let block = KeyBlock::decode(&bytes, lba)?;
    if block.uuid != *uuid {
        let field = "uuid (that of the superblock)";
        return Err(KeyBlockError::Field { lba, offset: UUID_OFFSET, field });
    }
    Ok(block)
}

/// Writes both copies, one durable before the other is touched.
fn write(path: &Path, medium: &Medium, block: &KeyBlock) -> Result<(), DeviceError> {
    for lba in KEY_BLOCK_LBAS {
        write_copy(path, medium, lba, &block.encode(lba))?;
    }
    Ok(())
}

fn write_copy(
    path: &Path,
    medium: &Medium,
    lba: Lba,
    bytes: &[u8; BLOCK_BYTES],
) -> Result<(), DeviceError> {
    let written = medium.write_all_at(bytes, lba.byte_offset()).and_then(|()| medium.sync());
    written.map_err(|source| DeviceError::Io {
        path: path.into(),
        doing: "writing the key block",
        source,
    })
}

/// The key block of a device that may be in use: nothing is locked and nothing written. None: it is not encrypted.
///
/// # Errors
/// [`DeviceError`]. A controller of ours that is in use cannot be looked at.
pub fn key_block(path: &Path) -> Result<Option<KeyBlock>, DeviceError> {
    let medium = match Way::of(path)? {
        Way::Path(_) => Medium::File(File::open(path).map_err(|source| DeviceError::Io {
            path: path.into(),
            doing: "opening",
            source,
        })?),
        Way::Pci { .. } | Way::VfioUser { .. } => open_medium(path, QueueBudget::SMALL)?,
    };
    let superblock = super::newest_superblock(path, &medium)?;
    if !superblock.encrypted {
        return Ok(None);
    }
    Ok(Some(read(path, &medium, &superblock.uuid)?.0))
}

/// Destroys the data key of a device: both key blocks are overwritten, flushed, and given back to the medium. Nothing opens it any more,
/// and what it holds is noise for ever, wherever copies of it are; copies of the *key block* are not reached.
///
/// # Errors
/// [`DeviceError`]: not encrypted, or in use; after an error of the medium it may be repeated.
pub fn erase_keys(path: &Path, entropy: &mut dyn Entropy) -> Result<(), DeviceError> {
    let medium = open_medium(path, QueueBudget::SMALL)?;
    let superblock = super::newest_superblock(path, &medium)?;
    if !superblock.encrypted {
        let key = "that was to be erased".to_owned();
        return Err(DeviceError::NotEncrypted { path: path.into(), key });
    }
    for lba in KEY_BLOCK_LBAS {
        let mut noise = [0; BLOCK_BYTES];
        for word in noise.chunks_exact_mut(8) {
            word.copy_from_slice(&entropy.next_u64().to_le_bytes());
        }
        write_copy(path, &medium, lba, &noise)?;
    }
    for lba in KEY_BLOCK_LBAS {
        if let Err(error) = medium.discard(lba.byte_offset(), BLOCK_BYTES_U64) {
            tracing::debug!(device = %path.display(), %error, "the overwritten key block is not discarded");
        }
    }
    medium.sync().map_err(|source| DeviceError::Io { path: path.into(), doing: "flushing", source })
}

#[cfg(test)]
mod test;
