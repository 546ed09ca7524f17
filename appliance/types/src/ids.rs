//! Small identifiers that must not be mixed up with each other.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

id! {
    /// A client session as the metadata group knows it; given at Connect, never reused. 0 is no client.
    ClientId(u64)
}
id! {
    /// Incarnation of a session or of the metadata leader. Messages of an older epoch are refused.
    Epoch(u32)
}
id! {
    /// An object storage target: one shard of one device. Below 65,536 (Lustre's layout limit).
    OstIndex(u32)
}
id! {
    /// Request number of a client, rising within its session.
    Xid(u64)
}
id! {
    /// Reply slot of a client: at most one mutating request is in flight per tag.
    Tag(u16)
}
id! {
    /// Order of a committed metadata change: leader epoch in the high 32 bits, then a count.
    TransactionNumber(u64)
}

impl TransactionNumber {
    /// Joins an epoch and a sequence.
    #[must_use]
    pub const fn new(epoch: Epoch, sequence: u32) -> Self {
        Self(((epoch.0 as u64) << 32) | sequence as u64)
    }
}
