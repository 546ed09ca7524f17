//! `copy_file_range`: read and write in the client, a slab at a time.

use std::sync::Arc;

use sheen_ports::Cancel;
use sheen_types::{Errno, units::TRANSFER_BYTES_MAX};

use crate::{client::Client, data_lease::Access, inode::Inode, write::WriteOptions};

impl Client {
    /// Copies up to `length` bytes; returns how many (fewer at the end of the source, or when an error came in the middle).
    /// Ranges of one file must not overlap.
    ///
    /// # Errors
    /// EINVAL for overlapping ranges; those of reading and writing.
    pub fn copy(
        self: &Arc<Self>,
        source: (&Arc<Inode>, u64),
        target: (&Arc<Inode>, u64),
        length: u64,
        cancel: &Cancel,
    ) -> Result<u64, Errno> {
        let overlap = source.1 < target.1.saturating_add(length)
            && target.1 < source.1.saturating_add(length);
        if Arc::ptr_eq(source.0, target.0) && overlap {
            return Err(Errno::EINVAL);
        }
        let mut copied = 0;
        while copied < length {
            if copied > 0 && cancel.is_cancelled() {
                break;
            }
            match self.copy_slab(source, target, copied, length - copied, cancel) {
                Ok(0) => break,
                Ok(bytes) => copied += bytes,
                Err(errno) if copied == 0 => return Err(errno),
                Err(_) => break,
            }
        }
        Ok(copied)
    }

    fn copy_slab(
        self: &Arc<Self>,
        source: (&Arc<Inode>, u64),
        target: (&Arc<Inode>, u64),
        done: u64,
        left: u64,
        cancel: &Cancel,
    ) -> Result<u64, Errno> {
        let bytes = usize::try_from(left).unwrap_or(usize::MAX).min(TRANSFER_BYTES_MAX);
        let lane = self.session.lane(cancel)?;
        let room = self.buffer(&lane, bytes, cancel)?;
        let from = source.1 + done;
        // One lease at a time: two clients that copy crosswise must not wait for each other.
        let read = self.read(source.0, from, room, Access::Direct, cancel)?;
        self.note_access(source.0);
        let Some(mut payload) = read.buffer.filter(|_| read.bytes > 0) else { return Ok(0) };
        payload.truncate(read.bytes);
        let options = WriteOptions { append: false, durable: false, access: Access::Direct };
        let (written, _) = self.write(target.0, target.1 + done, payload, &options, cancel)?;
        Ok(written as u64)
    }
}
