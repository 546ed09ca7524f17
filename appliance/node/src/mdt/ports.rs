//! What an MDT stands on, and why it may not stand.

use sheen_consensus::RecoveryError;
use sheen_dma::Arena;
use sheen_ports::BlockError;

/// Memory for device commands: some log writes and a snapshot's, of 1 MiB each at most. What does not fit waits for others to end.
pub(crate) const LOG_BUFFER_BYTES: usize = 8 << 20;

/// What an MDT runs on.
#[derive(Debug)]
pub struct MdtPorts<B, F, C, E, G> {
    /// The device its zone lies on.
    pub block: B,
    /// Where clients come from.
    pub fabric: F,
    /// Time.
    pub clock: C,
    /// Chance.
    pub entropy: E,
    /// The OSTs.
    pub osts: G,
    /// Memory for commands to the device, which reaches it; [`LOG_BUFFER_BYTES`] or more. No peer gets any of it: what the log
    /// waits for, all wait for.
    pub arena: Arena,
    /// Memory for payloads of requests and replies.
    pub payloads: Arena,
}

/// Why an MDT cannot serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MdtFailure {
    /// Its zone could not be recovered.
    Recovery(RecoveryError),
    /// The snapshot is whole but does not make a state.
    Snapshot(sheen_meta::SnapshotError),
    /// A committed record is whole but holds no changes.
    Record,
    /// The log, or a snapshot, could not be written: what the device said of it, if it was the device.
    Log(Option<BlockError>),
}

impl std::fmt::Display for MdtFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Recovery(error) => write!(f, "the metadata zone cannot be used: {error}"),
            Self::Snapshot(error) => write!(f, "the metadata snapshot cannot be used: {error}"),
            Self::Record => f.write_str("a committed metadata record cannot be read"),
            Self::Log(None) => f.write_str("the metadata log cannot be written"),
            Self::Log(Some(BlockError::NoSpace)) => f.write_str(
                "the metadata log cannot be written: the disk that holds the device is full; make room there",
            ),
            Self::Log(Some(error)) => write!(f, "the metadata log cannot be written: {error}"),
        }
    }
}

impl std::error::Error for MdtFailure {}
