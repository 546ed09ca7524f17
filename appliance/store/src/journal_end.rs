//! How the journal of a zone ended when it was read.

use std::fmt;

use sheen_journal::{Fault, Tail};
use sheen_types::{Fid, Lba};

/// Objects kept by name; further ones are counted.
const OBJECTS_MAX: usize = 64;

/// What an opening or an inspection found at the journal's end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JournalEnd {
    /// The first block behind the journal.
    pub lba: Lba,
    /// Why what stands there is no batch, if something was being written there, or has rotted. A blank place and an earlier
    /// lap's batch are neither.
    pub torn: Option<Fault>,
    /// Whether the journal said of all its batches that they are durable. If not, nothing tells a last batch that was never whole from
    /// one that has rotted.
    pub is_proved: bool,
    /// Records that were whole, not known durable, and whose data is not what they say: they count as never written.
    pub dropped: u64,
    /// Their objects, the first of so many.
    pub objects: Vec<Fid>,
}

impl JournalEnd {
    pub(crate) fn new(tail: &Tail, dropped: &[Fid]) -> Self {
        Self {
            lba: tail.lba,
            torn: tail.torn(),
            is_proved: tail.is_proved(),
            dropped: dropped.len() as u64,
            objects: dropped.iter().copied().take(OBJECTS_MAX).collect(),
        }
    }

    /// Whether something is not there that was being written when the store ended, or was acknowledged and has rotted since.
    #[must_use]
    pub const fn is_torn(&self) -> bool {
        self.torn.is_some() || self.dropped > 0
    }
}

impl fmt::Display for JournalEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the journal ends at {} of its zone", self.lba)?;
        match self.torn {
            Some(fault) => write!(f, ", torn: {fault}")?,
            None if self.is_proved => f.write_str(", marked as durable")?,
            None => f.write_str(", without a mark")?,
        }
        if self.dropped > 0 {
            write!(f, "; dropped, their data is not what they say: {} records, of", self.dropped)?;
            for object in &self.objects {
                write!(f, " {object}")?;
            }
        }
        Ok(())
    }
}
