//! Names that are known to lead somewhere, so that they need not be asked for again.
//!
//! The kernel forgets every name at once when one of them is taken back (its epoch rises), and looks them up anew on their next
//! use. Those whose lease is still held are answered from here. A name is true as long as LOOKUP on the inode it leads to
//! was held without a gap; what this client itself does to a name takes it out.

use std::{collections::BTreeMap, sync::Arc};

use sheen_types::{Fid, FileKind, Name};
use sheen_wire::lease::bits;

use crate::{attributes::Caching, client::Client, inode::Inode, namespace::Found};

/// Most names kept of one directory; then they are all dropped.
const NAMES_MAX: usize = 4096;

/// Names of one directory, with the inode and how often LOOKUP on it had been lost by then.
#[derive(Debug, Default)]
pub(crate) struct KnownNames(BTreeMap<Name, (Fid, u64)>);

impl KnownNames {
    fn insert(&mut self, name: Name, fid: Fid, gaps: u64) {
        if self.0.len() >= NAMES_MAX {
            self.0.clear();
        }
        self.0.insert(name, (fid, gaps));
    }
}

impl Client {
    /// What a name leads to, if that is known for certain and all about it is.
    pub(crate) fn known_name(&self, parent: &Inode, name: &Name) -> Option<Found> {
        let (inode, losses) = self.known_inode(parent, name)?;
        let observed = self.cached(&inode)?;
        if observed.attributes.kind == FileKind::Regular {
            inode.lock().looked_up = Some(self.clock.now());
        }
        Some(Found { inode, observed, name: Caching::WhileLosses(losses) })
    }

    /// The inode a name leads to, if that is known for certain, and its losses at this moment.
    pub(crate) fn known_inode(&self, parent: &Inode, name: &Name) -> Option<(Arc<Inode>, u64)> {
        let (fid, gaps) = parent.lock().names.0.get(name).copied()?;
        let inode = self.inodes.find(fid)?;
        let state = inode.lock();
        let certain = state.name_gaps == gaps && state.holds(bits::LOOKUP);
        let losses = state.losses;
        drop(state);
        certain.then_some((inode, losses))
    }

    /// Keeps what a lookup that was asked at `stamp` found.
    pub(crate) fn learn_name(&self, parent: &Inode, name: Name, found: &Found, stamp: u64) {
        let Some(losses) = found.name.losses() else { return };
        let gaps = {
            let state = found.inode.lock();
            if state.losses != losses || !state.holds(bits::LOOKUP) {
                return;
            }
            state.name_gaps
        };
        let mut state = parent.lock();
        // A change of our own in this directory that ended since may have been one of this name.
        if state.changed_at <= stamp {
            state.names.insert(name, found.inode.fid, gaps);
        }
    }

    /// This client changes what the name leads to.
    pub(crate) fn forget_name(&self, parent: &Arc<Inode>, name: &Name) {
        parent.lock().names.0.remove(name);
    }
}
