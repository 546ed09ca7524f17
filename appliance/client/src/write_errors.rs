//! Changes of a file that were acknowledged and lost: told once to everyone who has the file open, as Linux' `errseq`
//! does for write-back.
//!
//! Each open file remembers up to which loss `fsync` told it. One that is opened later is told of losses nobody was told of yet.
//! `close` says so too, each time, but does not count as having told the open file: a child that exits closes its copies of
//! what its parent has open, and nobody hears the answer. Files opened later are not told again of what `close` said.

use std::sync::atomic::{AtomicU64, Ordering};

use sheen_types::Errno;

use crate::inode::Inode;

/// Of an inode.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct WriteErrors {
    noted: u64,
    /// Up to here somebody was told.
    told: u64,
}

impl WriteErrors {
    /// Something was lost.
    pub(crate) fn note(&mut self) {
        self.noted += 1;
    }
}

/// Up to which loss an open file was told.
#[derive(Debug)]
pub struct ErrorCursor(AtomicU64);

impl Inode {
    /// For a file that is opened now.
    #[must_use]
    pub fn error_cursor(&self) -> ErrorCursor {
        ErrorCursor(AtomicU64::new(self.lock().write_errors.told))
    }

    /// Tells an open file of what was lost, once.
    ///
    /// # Errors
    /// EIO: something that was written to the file was lost since it was opened or was told last.
    pub fn check_write_errors(&self, cursor: &ErrorCursor) -> Result<(), Errno> {
        let mut state = self.lock();
        let errors = &mut state.write_errors;
        if cursor.0.swap(errors.noted, Ordering::Relaxed) == errors.noted {
            return Ok(());
        }
        errors.told = errors.noted;
        Err(Errno::EIO)
    }

    /// Says whether an open file has not been told of a loss; [`Inode::check_write_errors`] still tells it.
    ///
    /// # Errors
    /// EIO: something that was written to the file was lost since it was opened or was told last.
    pub fn untold_write_errors(&self, cursor: &ErrorCursor) -> Result<(), Errno> {
        let mut state = self.lock();
        let errors = &mut state.write_errors;
        if cursor.0.load(Ordering::Relaxed) == errors.noted {
            return Ok(());
        }
        errors.told = errors.noted;
        Err(Errno::EIO)
    }
}

#[cfg(test)]
mod test {
    use sheen_types::Fid;

    use super::*;

    #[test]
    fn a_loss_is_told_once_to_each_open_file_and_to_the_next_if_nobody_knew() {
        let inode = Inode::new(Fid::ROOT, 0, 0);
        let (one, other) = (inode.error_cursor(), inode.error_cursor());
        assert_eq!(inode.check_write_errors(&one), Ok(()));
        inode.lock().write_errors.note();
        inode.lock().write_errors.note();
        let late = inode.error_cursor();
        assert_eq!(inode.untold_write_errors(&late), Err(Errno::EIO), "as often as it is closed");
        assert_eq!(inode.untold_write_errors(&late), Err(Errno::EIO));
        let later = inode.error_cursor();
        assert_eq!(inode.untold_write_errors(&later), Ok(()), "somebody heard of it");
        assert_eq!(inode.check_write_errors(&late), Err(Errno::EIO), "nobody knew of it");
        assert_eq!(inode.check_write_errors(&late), Ok(()));
        assert_eq!(inode.untold_write_errors(&late), Ok(()));
        assert_eq!(inode.check_write_errors(&one), Err(Errno::EIO));
        assert_eq!(inode.check_write_errors(&one), Ok(()));
        let later = inode.error_cursor();
        assert_eq!(inode.check_write_errors(&later), Ok(()), "it is known already");
        assert_eq!(inode.check_write_errors(&other), Err(Errno::EIO));
    }
}
