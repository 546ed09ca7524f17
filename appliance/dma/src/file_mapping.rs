//! A file mapped into memory and shared with everyone who maps, reads or writes it.
//!
//! Seen as 64-bit words that are loaded and stored whole; no reference into it is handed out, since others may change it
//! at any time. Used by the harness, which tests that mapped files are coherent; the appliance itself maps no files.

use std::fmt;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, MsFlags, ProtFlags, mmap, msync, munmap};

/// A shared mapping of the first bytes of a file.
///
/// Touching a page that lies past the end of the file ends the process with SIGBUS; the file must not shrink below the
/// mapping while it is used.
pub struct FileMapping {
    base: NonNull<u64>,
    words: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread, and is touched through atomics only.
unsafe impl Send for FileMapping {}
// SAFETY: as above.
unsafe impl Sync for FileMapping {}

impl fmt::Debug for FileMapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileMapping").field("words", &self.words).finish_non_exhaustive()
    }
}

impl FileMapping {
    /// Maps `words` 64-bit words of a file that is open for reading and writing.
    ///
    /// # Errors
    /// EINVAL for zero words; whatever the system says.
    pub fn shared(file: impl AsFd, words: usize) -> Result<Self, Errno> {
        let bytes = words.checked_mul(8).and_then(NonZeroUsize::new).ok_or(Errno::EINVAL)?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a fresh mapping at an address the kernel picks; nothing else is replaced.
        let base = unsafe { mmap(None, bytes, protection, MapFlags::MAP_SHARED, file, 0) }?;
        Ok(Self { base: base.cast(), words })
    }

    /// Loads word `index`.
    ///
    /// # Panics
    /// When the index lies outside of the mapping.
    #[must_use]
    pub fn load(&self, index: usize) -> u64 {
        self.word(index).load(Ordering::SeqCst)
    }

    /// Stores word `index`.
    ///
    /// # Panics
    /// When the index lies outside of the mapping.
    pub fn store(&self, index: usize, value: u64) {
        self.word(index).store(value, Ordering::SeqCst);
    }

    /// Writes what was stored to the file and waits for it (`msync`).
    ///
    /// # Errors
    /// What the system says.
    pub fn sync(&self) -> Result<(), Errno> {
        // SAFETY: the range is the mapping made in `shared`, alive until `self` is dropped.
        unsafe { msync(self.base.cast(), self.words * 8, MsFlags::MS_SYNC) }
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        assert!(index < self.words, "word {index} of {}", self.words);
        // SAFETY: `index` is below the number of words mapped.
        let address = unsafe { self.base.add(index) };
        // SAFETY: mapped, aligned (the base is page-aligned), alive as long as `self`, and only touched by atomics here;
        // other processes may write at any time, which whole-word atomic loads and stores bear.
        unsafe { AtomicU64::from_ptr(address.as_ptr()) }
    }
}

impl Drop for FileMapping {
    fn drop(&mut self) {
        // SAFETY: the range is the mapping made in `shared`; no reference to it outlives `self`.
        let result = unsafe { munmap(self.base.cast(), self.words * 8) };
        debug_assert_eq!(result, Ok(()), "unmapping our own mapping");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::memfd::{MFdFlags, memfd_create};
    use nix::unistd::ftruncate;

    #[test]
    #[cfg_attr(miri, ignore = "needs memfd")]
    fn a_store_is_seen_through_another_mapping_of_the_same_file() {
        let file = memfd_create(c"words", MFdFlags::MFD_CLOEXEC).unwrap();
        ftruncate(&file, 4096).unwrap();
        let one = FileMapping::shared(&file, 512).unwrap();
        let other = FileMapping::shared(&file, 512).unwrap();
        one.store(511, 7);
        one.sync().unwrap();
        assert_eq!(other.load(511), 7);
        assert_eq!(other.load(0), 0);
        assert!(FileMapping::shared(&file, 0).is_err());
    }
}
