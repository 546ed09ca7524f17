//! What the kernel's error numbers of block commands mean to the caller.

use libc::c_int;
use sheen_ports::BlockError;

/// The error the caller acts on, for a positive errno.
///
/// The kernel turns block layer status into errnos (`blk_errors`): ENODATA is a media error, EILSEQ a failed
/// protection check, ENOLINK and ENODEV a lost device, ETIMEDOUT a command it gave up on.
pub(crate) fn block_error(errno: c_int) -> BlockError {
    match errno {
        libc::EAGAIN
        | libc::EINTR
        | libc::EBUSY
        | libc::ENOMEM
        | libc::ENOBUFS
        | libc::EMFILE
        | libc::ENFILE
        | libc::ETIMEDOUT => BlockError::Retry,
        libc::ENOSPC | libc::EDQUOT | libc::EFBIG => BlockError::NoSpace,
        libc::EINVAL
        | libc::EFAULT
        | libc::EBADF
        | libc::EOPNOTSUPP
        | libc::EPERM
        | libc::EACCES
        | libc::EROFS => BlockError::Rejected,
        libc::ENODEV | libc::ENXIO | libc::ENOLINK | libc::ESHUTDOWN | libc::ECANCELED => {
            BlockError::Gone
        }
        // EIO, ENODATA, EILSEQ, EREMOTEIO and what nobody has met: the blocks cannot be trusted.
        _ => BlockError::MediaLost,
    }
}

/// Whether the command may be sent again at once without the caller's help.
pub(crate) fn is_transient(errno: c_int) -> bool {
    matches!(errno, libc::EAGAIN | libc::EINTR)
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn each_errno_leads_to_what_the_caller_can_do() {
        assert_eq!(block_error(libc::ENOSPC), BlockError::NoSpace);
        assert_eq!(block_error(libc::EIO), BlockError::MediaLost);
        assert_eq!(block_error(libc::ENODATA), BlockError::MediaLost);
        assert_eq!(block_error(libc::ENODEV), BlockError::Gone);
        assert_eq!(block_error(libc::EINVAL), BlockError::Rejected);
        for exhausted in [libc::EAGAIN, libc::ENOMEM, libc::ENOBUFS, libc::ENFILE] {
            assert_eq!(block_error(exhausted), BlockError::Retry);
        }
    }
}
