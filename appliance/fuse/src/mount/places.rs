//! Under which name the kernel was last told of each directory it knows.
//!
//! It follows what the kernel does with its own tree when it takes an answer in: a directory that turns up under another name is
//! moved there, and one that another directory takes the place of has no name any more.

use std::{collections::HashMap, sync::Arc};

use crate::kernel::NodeId;

/// A name in a directory.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Place {
    pub(crate) parent: NodeId,
    pub(crate) name: Arc<[u8]>,
}

impl Place {
    fn new(parent: NodeId, name: &[u8]) -> Self {
        Self { parent, name: name.into() }
    }
}

/// Directories by place, and the reverse: each in both maps or in neither.
#[derive(Debug, Default)]
pub(crate) struct Places {
    places: HashMap<NodeId, Place>,
    directories: HashMap<Place, NodeId>,
}

impl Places {
    /// The kernel is told that a name leads to a directory.
    pub(crate) fn put(&mut self, directory: NodeId, (parent, name): (NodeId, &[u8])) {
        let is_there = |place: &Place| place.parent == parent && *place.name == *name;
        if !self.places.get(&directory).is_some_and(is_there) {
            self.insert(directory, Place::new(parent, name));
        }
    }

    fn insert(&mut self, directory: NodeId, place: Place) {
        if let Some(before) = self.directories.insert(place.clone(), directory) {
            self.places.remove(&before);
        }
        if let Some(before) = self.places.insert(directory, place) {
            self.directories.remove(&before);
        }
    }

    /// The kernel moves whatever a name leads to, or exchanges it with what the other leads to.
    pub(crate) fn rename(&mut self, from: (NodeId, &[u8]), to: (NodeId, &[u8]), exchange: bool) {
        let (from, to) = (Place::new(from.0, from.1), Place::new(to.0, to.1));
        let moved = self.take(&from);
        let replaced = self.take(&to);
        if let Some(directory) = moved {
            self.insert(directory, to);
        }
        if let Some(directory) = replaced.filter(|_| exchange) {
            self.insert(directory, from);
        }
    }

    fn take(&mut self, place: &Place) -> Option<NodeId> {
        let directory = self.directories.remove(place)?;
        self.places.remove(&directory);
        Some(directory)
    }

    pub(crate) fn of(&self, directory: NodeId) -> Option<Place> {
        self.places.get(&directory).cloned()
    }

    /// The kernel does not know the directory any more.
    pub(crate) fn forget(&mut self, directory: NodeId) {
        if let Some(place) = self.places.remove(&directory) {
            self.directories.remove(&place);
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    const ROOT: NodeId = NodeId::ROOT;
    const FIRST: NodeId = NodeId(10);
    const SECOND: NodeId = NodeId(11);

    fn place(places: &Places, directory: NodeId) -> Option<(NodeId, Vec<u8>)> {
        assert_eq!(places.places.len(), places.directories.len());
        places.of(directory).map(|place| (place.parent, place.name.to_vec()))
    }

    #[test]
    fn the_last_name_told_counts() {
        let mut places = Places::default();
        places.put(FIRST, (ROOT, b"a"));
        places.put(FIRST, (ROOT, b"a"));
        assert_eq!(place(&places, FIRST), Some((ROOT, b"a".to_vec())));
        places.put(FIRST, (SECOND, b"b"));
        assert_eq!(place(&places, FIRST), Some((SECOND, b"b".to_vec())));
        places.put(SECOND, (ROOT, b"a"));
        places.put(SECOND, (SECOND, b"b"));
        assert_eq!(place(&places, FIRST), None, "another has its name");
        assert_eq!(place(&places, SECOND), Some((SECOND, b"b".to_vec())));
        places.forget(SECOND);
        assert_eq!(place(&places, SECOND), None);
        assert!(places.places.is_empty() && places.directories.is_empty());
    }

    #[test]
    fn a_rename_moves_what_has_the_name() {
        let mut places = Places::default();
        places.put(FIRST, (ROOT, b"a"));
        places.put(SECOND, (ROOT, b"b"));
        places.rename((ROOT, b"a"), (ROOT, b"b"), true);
        assert_eq!(place(&places, FIRST), Some((ROOT, b"b".to_vec())));
        assert_eq!(place(&places, SECOND), Some((ROOT, b"a".to_vec())));
        places.rename((ROOT, b"a"), (ROOT, b"b"), false);
        assert_eq!(place(&places, FIRST), None, "it was replaced");
        assert_eq!(place(&places, SECOND), Some((ROOT, b"b".to_vec())));
        places.rename((ROOT, b"file"), (ROOT, b"b"), false);
        assert_eq!(place(&places, SECOND), None);
    }
}
