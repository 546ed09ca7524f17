//! The reference model: an object is an array of cells of 500 bytes, each with the tag of the change that filled it.
//!
//! Cells begin anywhere in blocks and blocks end anywhere in cells. Tag 0 is zeros. A tag is the time of its change, too.

/// Bytes of a cell.
pub const CELL: usize = 500;

/// The state of an object.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct State {
    /// Whether it exists.
    pub exists: bool,
    /// One tag per cell; the length is the size.
    pub cells: Vec<u32>,
    /// Latest tag that altered it.
    pub mtime: u32,
}

/// A change of an object; places and sizes in cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are those of the store's requests")]
pub enum Change {
    Write { first: usize, end: usize },
    Truncate { size: usize },
    Hole { first: usize, end: usize, extend: bool },
    Zero { first: usize, end: usize, extend: bool },
    Allocate { first: usize, end: usize, keep_size: bool },
    Destroy,
}

impl State {
    /// Carries out a change.
    pub fn apply(&mut self, change: Change, tag: u32) {
        let size = self.cells.len();
        let (grown, cleared) = match change {
            Change::Write { end, .. } => (size.max(end), None),
            Change::Truncate { size: 0 } | Change::Hole { extend: false, .. } if !self.exists => {
                return;
            }
            Change::Truncate { size } => (size, None),
            Change::Hole { first, end, extend } | Change::Zero { first, end, extend } => {
                (if extend { size.max(end) } else { size }, Some((first, end)))
            }
            Change::Allocate { end, keep_size, .. } => {
                (if keep_size { size } else { size.max(end) }, None)
            }
            Change::Destroy => return *self = Self::default(),
        };
        self.cells.resize(grown, 0);
        if let Some((first, end)) = cleared {
            self.cells[first.min(grown)..end.min(grown)].fill(0);
        }
        if let Change::Write { first, end } = change {
            self.cells[first..end].fill(tag);
        }
        self.exists = true;
        self.mtime = self.mtime.max(tag);
    }
}
