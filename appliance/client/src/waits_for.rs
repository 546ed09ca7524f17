//! Whom a request will mostly wait for, told without waiting: so that those that wait for one target can be counted.

use std::{collections::BTreeSet, ops::Range};

use sheen_types::{Fid, Layout, OstIndex};

use crate::{
    client::Client,
    data_lease::DataMode,
    inode::InodeState,
    layout::{has_objects, parts},
};

impl Client {
    /// The OST a use of bytes of a file (None: of its size and times) waits for; None: the MDT, or nobody. Of several OSTs the
    /// one that most callers wait for: it is what the use will last for.
    #[must_use]
    pub fn waits_for(&self, fid: Fid, range: Option<Range<u64>>) -> Option<OstIndex> {
        let inode = self.inodes.find(fid)?;
        let osts = {
            let state = inode.lock();
            let layout = state.layout.as_ref()?;
            match range {
                Some(range) => content(&state, layout, range)?,
                None => whole(&state, layout)?,
            }
        };
        osts.into_iter().max_by_key(|ost| (self.callers_of(*ost), std::cmp::Reverse(ost.0)))
    }
}

/// Without the lease, or objects, the MDT is asked first.
fn content(state: &InodeState, layout: &Layout, range: Range<u64>) -> Option<BTreeSet<OstIndex>> {
    let ready = state.data.mode != DataMode::None && !state.data.revoking;
    (ready && has_objects(layout, &range)).then(|| osts(layout, &range))
}

/// Without attributes the MDT is asked first; with the lease on content nobody is asked.
fn whole(state: &InodeState, layout: &Layout) -> Option<BTreeSet<OstIndex>> {
    let asks = state.attributes.is_some() && state.known.is_none();
    asks.then(|| osts(layout, &(0..u64::MAX)))
}

fn osts(layout: &Layout, range: &Range<u64>) -> BTreeSet<OstIndex> {
    parts(layout, range).iter().map(|part| part.object.ost).collect()
}
