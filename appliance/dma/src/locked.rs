//! Memory for secrets: never swapped, not in core dumps, not seen by a forked child, zeroed before it is given back.
//!
//! Whole pages of a mapping of their own, so that no neighbour's `munlock` or dump touches them. No safe crate gives all four.

use std::{fmt, num::NonZeroUsize, ptr::NonNull};

use nix::{
    errno::Errno,
    sys::{
        mman::{MmapAdvise, madvise, mlock},
        resource::{Resource, getrlimit},
    },
};

use crate::memory::Memory;

/// Bytes of a page.
const PAGE_BYTES: usize = 4096;

/// Why memory for a secret could not be had. Secrets are not kept in memory that may be written to disk instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockError {
    /// More than the process may lock.
    Limit {
        /// Bytes that were to be locked.
        bytes: usize,
        /// RLIMIT_MEMLOCK in bytes.
        limit: u64,
    },
    /// The system refuses.
    System {
        /// What was being done.
        doing: &'static str,
        /// What it said.
        errno: Errno,
    },
}

impl fmt::Display for LockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Limit { bytes, limit } => write!(
                f,
                "locking {bytes} bytes for a key: RLIMIT_MEMLOCK allows {limit} in all; raise it (`ulimit -l`, or \
                 LimitMEMLOCK= of the systemd unit)"
            ),
            Self::System { doing, errno } => write!(f, "{doing} memory for a key: {errno}"),
        }
    }
}

impl std::error::Error for LockError {}

/// Pages for secrets. Starts at a page.
pub struct LockedMemory(Memory);

impl LockedMemory {
    /// At least `bytes` bytes, zero; as many as fill pages.
    ///
    /// # Errors
    /// [`LockError`].
    pub fn new(bytes: usize) -> Result<Self, LockError> {
        let system = |doing| move |errno| LockError::System { doing, errno };
        let bytes = bytes.max(1).next_multiple_of(PAGE_BYTES);
        let length = NonZeroUsize::new(bytes).ok_or(system("mapping")(Errno::EINVAL))?;
        let memory = Memory::anonymous(length).map_err(system("mapping"))?;
        protect(&memory)?;
        Ok(Self(memory))
    }

    /// The bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        let (base, bytes) = self.range();
        // SAFETY: `base` is valid for `bytes` bytes that are initialised (zero at first), nobody else holds an address into them but by
        // borrowing `self`, and `&self` keeps writers out.
        unsafe { std::slice::from_raw_parts(base.as_ptr(), bytes) }
    }

    /// The bytes, to be changed.
    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        let (base, bytes) = self.range();
        // SAFETY: as above, and `&mut self` keeps everybody else out.
        unsafe { std::slice::from_raw_parts_mut(base.as_ptr(), bytes) }
    }

    /// Address and length, for C code that keeps its state here. The address holds as long as `self`.
    #[must_use]
    pub const fn range(&self) -> (NonNull<u8>, usize) {
        (self.0.base(), self.0.bytes())
    }
}

impl fmt::Debug for LockedMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockedMemory").field("bytes", &self.0.bytes()).finish_non_exhaustive()
    }
}

impl Drop for LockedMemory {
    fn drop(&mut self) {
        cleanse(self.as_mut_slice());
        // The unmapping unlocks.
    }
}

/// Zeroes `bytes` in a way the compiler does not leave out.
pub fn cleanse(bytes: &mut [u8]) {
    for byte in bytes.iter_mut() {
        // SAFETY: a reference is valid and aligned.
        unsafe { std::ptr::from_mut(byte).write_volatile(0) };
    }
    std::sync::atomic::compiler_fence(std::sync::atomic::Ordering::SeqCst);
}

#[cfg(not(miri))]
fn protect(memory: &Memory) -> Result<(), LockError> {
    let bytes = memory.bytes();
    for (advice, doing) in [
        (MmapAdvise::MADV_DONTDUMP, "keeping core dumps off"),
        (MmapAdvise::MADV_WIPEONFORK, "keeping child processes off"),
    ] {
        // SAFETY: the range is this mapping, which is private, anonymous and all zero: no advice given here changes what it holds.
        unsafe { madvise(memory.base().cast(), bytes, advice) }
            .map_err(|errno| LockError::System { doing, errno })?;
    }
    // SAFETY: the range is this mapping; locking changes no content.
    let locked = unsafe { mlock(memory.base().cast(), bytes) };
    locked.map_err(|errno| match (errno, getrlimit(Resource::RLIMIT_MEMLOCK)) {
        (Errno::ENOMEM | Errno::EPERM | Errno::EAGAIN, Ok((limit, _))) => {
            LockError::Limit { bytes, limit }
        }
        _ => LockError::System { doing: "locking", errno },
    })
}

#[cfg(miri)]
fn protect(_memory: &Memory) -> Result<(), LockError> {
    Ok(())
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn what_is_written_stays_until_it_is_cleansed() {
        let mut memory = LockedMemory::new(10).unwrap();
        assert_eq!(memory.as_slice(), [0; PAGE_BYTES]);
        memory.as_mut_slice()[9] = 7;
        assert_eq!(memory.as_slice()[9], 7);
        cleanse(memory.as_mut_slice());
        assert_eq!(memory.as_slice(), [0; PAGE_BYTES]);
        assert!(!format!("{memory:?}").contains('['), "no bytes are shown");
    }

    #[test]
    #[cfg_attr(miri, ignore = "needs /proc")]
    fn the_kernel_knows_it_as_locked_and_not_to_be_dumped() {
        let memory = LockedMemory::new(2 * PAGE_BYTES).unwrap();
        let start = format!("{:x}-", memory.range().0.as_ptr().addr());
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut lines = maps.lines().skip_while(|line| !line.starts_with(&start));
        assert!(lines.next().is_some(), "a mapping of its own starts at {start}");
        let flags = lines.find(|line| line.starts_with("VmFlags:")).unwrap();
        for flag in ["lo", "dd", "wf"] {
            assert!(flags.split(' ').any(|word| word == flag), "{flag} in {flags}");
        }
    }

    #[test]
    fn a_refusal_names_the_limit_and_what_to_do() {
        let text = LockError::Limit { bytes: 4096, limit: 0 }.to_string();
        assert!(text.contains("RLIMIT_MEMLOCK allows 0") && text.contains("ulimit -l"), "{text}");
    }
}
