//! What goes wrong, split by what the caller must do.

use std::fmt;

use sheen_ports::BlockError;

use crate::spec::{Status, StatusType};

/// How a controller broke the rules of a queue. The queue is stopped, and the controller reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueFault {
    /// A completion for a command that is not in flight: out of range, ended already, or never sent.
    UnknownCommand {
        /// What the entry said.
        cid: u16,
    },
    /// A completion that names another submission queue.
    WrongQueue {
        /// Our queue.
        expected: u16,
        /// What the entry said.
        found: u16,
    },
    /// A head pointer at an entry that was not fetched yet, or past the queue.
    WrongHead {
        /// Our tail.
        tail: u16,
        /// What the entry said.
        found: u16,
    },
    /// A command outlived its abort and the reset that followed too often.
    NeverCompletes,
    /// After a reset the namespace is not what it was.
    NamespaceChanged,
}

impl fmt::Display for QueueFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownCommand { cid } => {
                write!(f, "a completion for command {cid:#06x}, which is not in flight")
            }
            Self::WrongQueue { expected, found } => {
                write!(f, "a completion for submission queue {found} in that of queue {expected}")
            }
            Self::WrongHead { tail, found } => {
                write!(f, "a completion with submission head {found}, our tail being {tail}")
            }
            Self::NeverCompletes => f.write_str("commands do not complete, abort or not"),
            Self::NamespaceChanged => f.write_str("the namespace changed during a reset"),
        }
    }
}

impl std::error::Error for QueueFault {}

/// Why a command of ours was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Blocks outside of the namespace.
    Range,
    /// No bytes, a part of a block, or more than one command carries.
    Length,
    /// The buffer does not start at a multiple of 4 bytes.
    Alignment,
    /// The buffer's arena is not mapped for this controller.
    NotMapped,
    /// The controller does not offer this command.
    NotOffered,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Range => "blocks outside of the namespace",
            Self::Length => "no whole blocks, or more than one command carries",
            Self::Alignment => "a buffer that does not start at a multiple of 4 bytes",
            Self::NotMapped => "a buffer of an arena that is not mapped for the controller",
            Self::NotOffered => "the controller does not offer this command",
        })
    }
}

/// How an I/O command failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoError {
    /// The controller refuses for now; the blocks are as they were. Try again.
    Retry(Status),
    /// These blocks are lost here: use another copy.
    MediaLost(Status),
    /// Compare: the blocks differ from the buffer.
    Mismatch,
    /// The namespace has no space behind these blocks.
    NoSpace(Status),
    /// The controller will not do it, now or later.
    Failed(Status),
    /// It was not sent: a bug of the caller's.
    Refused(Refusal),
    /// It was sent anew after resets, as often as is sensible. Blocks of a write hold the old or the new.
    GaveUp,
    /// The queue was stopped. Blocks of a write hold the old or the new.
    Stopped(QueueFault),
    /// The controller is gone. Blocks of a write hold the old or the new.
    Gone,
}

impl IoError {
    /// What a failed status means to the caller.
    #[must_use]
    pub fn of_status(status: Status, do_not_retry: bool) -> Self {
        match status {
            Status::COMPARE_FAILURE => Self::Mismatch,
            Status::CAPACITY_EXCEEDED => Self::NoSpace(status),
            Status::ABORTED_SQ_DELETION
            | Status::ABORT_REQUESTED
            | Status::ABORTED_POWER_LOSS
            | Status::COMMAND_INTERRUPTED
            | Status::TRANSIENT_TRANSPORT_ERROR
            | Status::FORMAT_IN_PROGRESS
            | Status::SANITIZE_IN_PROGRESS
            | Status::NAMESPACE_NOT_READY
            | Status::ASYMMETRIC_ACCESS_TRANSITION => Self::Retry(status),
            Status::INTERNAL_ERROR | Status::DATA_TRANSFER_ERROR if !do_not_retry => {
                Self::Retry(status)
            }
            Status::ACCESS_DENIED => Self::Failed(status),
            _ if status.status_type() == StatusType::Media => Self::MediaLost(status),
            _ if status.status_type() == StatusType::Path && !do_not_retry => Self::Retry(status),
            _ => Self::Failed(status),
        }
    }
}

impl From<IoError> for BlockError {
    fn from(error: IoError) -> Self {
        match error {
            IoError::Retry(_) | IoError::GaveUp => Self::Retry,
            IoError::MediaLost(_) | IoError::Mismatch => Self::MediaLost,
            IoError::NoSpace(_) => Self::NoSpace,
            // A controller that fails what it should do cannot be trusted with these blocks.
            IoError::Failed(status) => match status {
                Status::INVALID_FIELD
                | Status::INVALID_OPCODE
                | Status::LBA_OUT_OF_RANGE
                | Status::NAMESPACE_WRITE_PROTECTED
                | Status::WRITE_TO_READ_ONLY_RANGE => Self::Rejected,
                _ => Self::MediaLost,
            },
            IoError::Refused(Refusal::NotMapped) => Self::Unreachable,
            IoError::Refused(
                Refusal::Range | Refusal::Length | Refusal::Alignment | Refusal::NotOffered,
            ) => Self::Rejected,
            IoError::Stopped(_) | IoError::Gone => Self::Gone,
        }
    }
}

impl fmt::Display for IoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Retry(status) => write!(f, "the controller asks to try again: {status}"),
            Self::MediaLost(status) => write!(f, "unrecovered media error: {status}"),
            Self::Mismatch => f.write_str("the blocks differ"),
            Self::NoSpace(status) => write!(f, "no space behind the namespace: {status}"),
            Self::Failed(status) => write!(f, "the controller refused: {status}"),
            Self::Refused(refusal) => write!(f, "not sent: {refusal}"),
            Self::GaveUp => f.write_str("interrupted by controller resets too often"),
            Self::Stopped(fault) => write!(f, "the queue was stopped: {fault}"),
            Self::Gone => f.write_str("the controller is gone"),
        }
    }
}

impl std::error::Error for IoError {}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn each_status_leads_to_what_the_caller_can_do() {
        let of = |status| BlockError::from(IoError::of_status(status, false));
        assert_eq!(of(Status::UNRECOVERED_READ_ERROR), BlockError::MediaLost);
        assert_eq!(of(Status::WRITE_FAULT), BlockError::MediaLost);
        assert_eq!(of(Status::COMMAND_INTERRUPTED), BlockError::Retry);
        assert_eq!(of(Status::INTERNAL_ERROR), BlockError::Retry);
        assert_eq!(of(Status::CAPACITY_EXCEEDED), BlockError::NoSpace);
        assert_eq!(of(Status::LBA_OUT_OF_RANGE), BlockError::Rejected);
        assert_eq!(IoError::of_status(Status::COMPARE_FAILURE, true), IoError::Mismatch);
        let error = IoError::of_status(Status::INTERNAL_ERROR, true);
        assert_eq!(error, IoError::Failed(Status::INTERNAL_ERROR));
        assert_eq!(
            BlockError::from(IoError::Stopped(QueueFault::NeverCompletes)),
            BlockError::Gone
        );
    }
}
