//! Sleeping on a word of shared memory, and waking who sleeps there.
//!
//! No crate of our list wraps futex(2) for words that two processes share (std's are private to a process).

use std::{sync::atomic::AtomicU32, time::Duration};

/// Sleeps while `word` is `expected`, at most `limit`. May return early for no reason.
pub(crate) fn wait(word: &AtomicU32, expected: u32, limit: Duration) {
    let timeout = libc::timespec {
        tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(limit.subsec_nanos()),
    };
    // SAFETY: FUTEX_WAIT reads the word, which the reference keeps mapped and aligned, and the time-out, which lives
    // until the call returns; it writes neither. An error (EAGAIN, EINTR, ETIMEDOUT) is an early return.
    let _result = unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAIT,
            expected,
            &raw const timeout,
        )
    };
}

/// Wakes every sleeper on `word`.
pub(crate) fn wake(word: &AtomicU32) {
    // SAFETY: FUTEX_WAKE uses the word's address as a key only; the reference keeps it mapped.
    let _result =
        unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, i32::MAX) };
}
