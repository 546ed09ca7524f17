//! Which leases of other clients a change is in conflict with.

use sheen_types::Fid;

use crate::{Operation, State};

/// The inodes and lease bits `operation` changes: what other clients hold of these bits (in any
/// mode) must be given back before it may be proposed. Pairs are unique per inode and ordered; a
/// change that will fail may name more than it needs to.
#[must_use]
pub fn touches(state: &State, operation: &Operation) -> Vec<(Fid, u32)> {
    let _ = (state, operation);
    Vec::new()
}
