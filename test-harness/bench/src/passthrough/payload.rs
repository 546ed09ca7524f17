//! Each thread's own buffer, aligned as direct I/O wants it, so that no request allocates.

use std::cell::RefCell;

const ALIGNMENT: usize = 4096;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Lends `bytes` aligned bytes, with whatever they held before.
pub(super) fn with_aligned<T>(bytes: usize, work: impl FnOnce(&mut [u8]) -> T) -> T {
    BUFFER.with_borrow_mut(|buffer| {
        if buffer.len() < bytes + ALIGNMENT {
            buffer.resize(bytes + ALIGNMENT, 0);
        }
        let begin = buffer.as_ptr().align_offset(ALIGNMENT);
        work(&mut buffer[begin..begin + bytes])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lent_is_aligned_and_as_long_as_asked() {
        for bytes in [1, 4096, 1 << 20] {
            with_aligned(bytes, |buffer| {
                assert_eq!(buffer.len(), bytes);
                assert_eq!(buffer.as_ptr().align_offset(ALIGNMENT), 0);
            });
        }
    }
}
