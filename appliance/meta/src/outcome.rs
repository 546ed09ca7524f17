//! What applying an entry answers.

use sheen_types::{ClientId, Epoch, Errno, Fid, OstIndex, TransactionNumber};

/// The answer to an entry: what the client is told, and what the service must do about it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// Reply or error. Attributes, layouts and the like are read from the state afterwards.
    pub result: Result<Reply, Errno>,
    /// Transaction number of the change: the entry's own, or that of the first application when
    /// this was a replay.
    pub transaction: TransactionNumber,
    /// The answer came from the reply slot; nothing was changed now.
    pub replayed: bool,
    /// What follows from the change, in order. Empty on errors and replays.
    pub effects: Vec<Effect>,
}

/// Data of a successful answer; small, because reply slots keep it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reply {
    /// Nothing to tell.
    Done,
    /// The new server epoch.
    ServerEpoch(Epoch),
    /// A session is open.
    Session(SessionReply),
    /// The granted sequence.
    Sequence(u64),
    /// Root of the file system.
    Filesystem(Fid),
    /// An inode made, found or linked.
    Entry {
        /// The inode.
        fid: Fid,
        /// Whether this request made it.
        created: bool,
    },
    /// A name is gone.
    Unlinked {
        /// The inode it led to.
        fid: Fid,
        /// Links it has now.
        nlink: u32,
    },
    /// A name moved.
    Renamed {
        /// The inode that moved.
        moved: Fid,
        /// The inode that was replaced or exchanged, or [`Fid::NONE`].
        replaced: Fid,
    },
    /// A deletion step was done.
    Reaped {
        /// Inodes removed.
        inodes: u32,
        /// The file system is gone.
        finished: bool,
    },
}

/// What Connect gives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SessionReply {
    /// The session.
    pub client: ClientId,
    /// Its incarnation: one higher with every Connect.
    pub epoch: Epoch,
    /// Root of its file system; [`Fid::NONE`] for an administrative session.
    pub root: Fid,
    /// Slots granted.
    pub slots: u16,
    /// Whether the session was known.
    pub resumed: bool,
}

/// What follows from a change.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Effect {
    /// An object is to be destroyed. The state lists it too ([`crate::State::pending_destroys`])
    /// until [`crate::Operation::ObjectsDestroyed`].
    DestroyObject {
        /// Where it lies.
        ost: OstIndex,
        /// The object.
        object: Fid,
    },
    /// The inode is gone for good: leases, opens and locks on it are void.
    InodeRemoved {
        /// The inode.
        fid: Fid,
    },
    /// The inode has no name any more but was kept, because it may be open.
    Orphaned {
        /// The inode.
        fid: Fid,
    },
    /// The session ended: fence it, and drop its leases, opens and locks.
    SessionEnded {
        /// The session.
        client: ClientId,
        /// First epoch OSTs may accept from it again (none will come: ids are not reused).
        epoch: Epoch,
    },
    /// An identity may do less than before, or nothing: connections under it are to be closed. Its sessions ended, each with an
    /// effect of its own before this one.
    IdentityEnded {
        /// Its number.
        number: u32,
    },
}
