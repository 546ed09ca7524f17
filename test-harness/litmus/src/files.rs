//! What litmuses do with files, with errors that say which file and which side's path it was.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

/// Bytes of a block.
pub const BLOCK_BYTES: usize = 4096;

/// Makes or replaces a file.
///
/// # Errors
/// What the system says.
pub fn put(path: &Path, contents: &[u8]) -> Result<()> {
    fs::write(path, contents).with_context(|| format!("writing {}", path.display()))
}

/// Reads a whole file.
///
/// # Errors
/// What the system says.
pub fn get(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("reading {}", path.display()))
}

/// Opens a file for reading and writing.
///
/// # Errors
/// What the system says.
pub fn open(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).open(path).with_context(|| format!("opening {}", path.display()))
}

/// Opens a file for reading and writing past the page cache.
///
/// # Errors
/// What the system says.
pub fn open_direct(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(libc::O_DIRECT);
    options.open(path).with_context(|| format!("opening {} directly", path.display()))
}

/// Reads the 64-bit number at `offset`.
///
/// # Errors
/// What the system says, also when the file ends before.
pub fn number_at(file: &File, offset: u64) -> Result<u64> {
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(u64::from_le_bytes(bytes))
}

/// Writes a 64-bit number at `offset`.
///
/// # Errors
/// What the system says.
pub fn set_number_at(file: &File, offset: u64, number: u64) -> Result<()> {
    Ok(file.write_all_at(&number.to_le_bytes(), offset)?)
}

/// A block that holds `stamp` in every word.
#[must_use]
pub fn stamped(stamp: u64) -> Vec<u8> {
    stamp.to_le_bytes().repeat(BLOCK_BYTES / 8)
}

/// The stamp of a block; an error when its words differ.
///
/// # Errors
/// When the words are not all the same.
pub fn stamp_of(block: &[u8]) -> Result<u64> {
    let mut words = block.chunks_exact(8).map(|word| word.try_into().map_or(0, u64::from_le_bytes));
    let first = words.next().context("an empty block")?;
    match words.find(|word| *word != first) {
        None => Ok(first),
        Some(other) => bail!("a block holds {first} and {other}"),
    }
}

/// A buffer whose used part begins at a multiple of 4096, as direct I/O wants it.
#[derive(Debug)]
pub struct AlignedBlock {
    bytes: Vec<u8>,
    begin: usize,
}

impl AlignedBlock {
    /// A block holding `contents`, which is cut or padded with zeros.
    #[must_use]
    pub fn new(contents: &[u8]) -> Self {
        let bytes = vec![0; 2 * BLOCK_BYTES];
        let begin = bytes.as_ptr().align_offset(BLOCK_BYTES);
        let mut block = Self { bytes, begin };
        let count = contents.len().min(BLOCK_BYTES);
        block.as_mut()[..count].copy_from_slice(&contents[..count]);
        block
    }
}

impl AsRef<[u8]> for AlignedBlock {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[self.begin..self.begin + BLOCK_BYTES]
    }
}

impl AsMut<[u8]> for AlignedBlock {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.begin..self.begin + BLOCK_BYTES]
    }
}

/// Requires that something is not there.
///
/// # Errors
/// When it is there, or another error comes.
pub fn require_absent<T>(what: &str, outcome: io::Result<T>) -> Result<()> {
    match outcome {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => bail!("{what}: {error} instead of ENOENT"),
        Ok(_) => bail!("{what} is still there"),
    }
}

/// Requires that two values are the same.
///
/// # Errors
/// When they are not.
pub fn require_equal<T: PartialEq + std::fmt::Debug>(
    what: &str,
    found: &T,
    wanted: &T,
) -> Result<()> {
    ensure!(found == wanted, "{what} is {found:?}, should be {wanted:?}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mixed_block_has_no_stamp() {
        let mut block = stamped(7);
        assert_eq!(stamp_of(&block).unwrap(), 7);
        block[100] = 1;
        assert!(stamp_of(&block).is_err());
    }

    #[test]
    fn an_aligned_block_is_aligned() {
        let block = AlignedBlock::new(b"abc");
        assert_eq!(block.as_ref().as_ptr().align_offset(BLOCK_BYTES), 0);
        assert_eq!(&block.as_ref()[..4], b"abc\0");
    }
}
