//! Whom a request will mostly wait for, told without waiting: so that those that wait for one target can be counted.

use std::{collections::BTreeSet, ops::Range};

use sheen_types::{Fid, Layout, OstIndex};

use crate::{
    client::Client,
    data_lease::DataMode,
    inode::InodeState,
    layout::{has_objects, parts},
};

/// What a request does with a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FileUse {
    /// Reads or writes these bytes.
    Bytes(Range<u64>),
    /// Looks at its size and times.
    Attributes,
    /// Does something to every object: cuts, reserves, searches or copies them, or makes them durable.
    Objects,
}

impl Client {
    /// The OST a use of files waits for; None: the MDT, or nobody. Of several OSTs the one that most callers wait for: it is
    /// what the use will last for.
    #[must_use]
    pub fn waits_for(&self, fids: &[Fid], file_use: &FileUse) -> Option<OstIndex> {
        let osts = fids.iter().filter_map(|fid| self.osts_of(*fid, file_use)).flatten();
        osts.max_by_key(|ost| (self.callers_of(*ost), std::cmp::Reverse(ost.0)))
    }

    fn osts_of(&self, fid: Fid, file_use: &FileUse) -> Option<BTreeSet<OstIndex>> {
        let inode = self.inodes.find(fid)?;
        let state = inode.lock();
        let layout = state.layout.as_ref()?;
        match file_use {
            FileUse::Bytes(range) => content(&state, layout, range),
            FileUse::Attributes => attributes(&state, layout),
            FileUse::Objects => Some(osts(layout, &(0..u64::MAX))),
        }
    }
}

/// Without the lease, or objects, the MDT is asked first.
fn content(state: &InodeState, layout: &Layout, range: &Range<u64>) -> Option<BTreeSet<OstIndex>> {
    let ready = state.data.mode != DataMode::None && !state.data.revoking;
    (ready && has_objects(layout, range)).then(|| osts(layout, range))
}

/// Without attributes the MDT is asked first; with the lease on content nobody is asked.
fn attributes(state: &InodeState, layout: &Layout) -> Option<BTreeSet<OstIndex>> {
    let asks = state.attributes.is_some() && state.known.is_none();
    asks.then(|| osts(layout, &(0..u64::MAX)))
}

fn osts(layout: &Layout, range: &Range<u64>) -> BTreeSet<OstIndex> {
    parts(layout, range).iter().map(|part| part.object.ost).collect()
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::{
        fake::FILE,
        scenarios::{WRITE, start, write},
    };

    #[test]
    fn with_known_content_looking_asks_nobody_and_cutting_asks_the_objects() {
        let (fake, client) = start();
        let file = client.inode(FILE);
        let never = sheen_ports::Cancel::new();
        client.open(&file, WRITE, &never).unwrap();
        write(&fake, &client, &file, 0, b"content");
        client.attributes(&file, &never).unwrap();
        assert!(file.lock().known.is_some());
        assert_eq!(client.waits_for(&[FILE], &FileUse::Attributes), None);
        assert!(client.waits_for(&[FILE], &FileUse::Objects).is_some());
        let unknown = sheen_types::Fid::NONE;
        assert!(client.waits_for(&[unknown, FILE], &FileUse::Objects).is_some());
    }
}
