//! Makes the kernel drop the names of directories that another client removed, with what it caches below them.
//!
//! Without that it keeps a directory for as long as it caches an absence under it. The notification is that of a name that leads
//! elsewhere: the kernel unhashes the directory and drops what is below and unused. A program whose current directory it is goes on
//! using it, and is answered ENOENT for its path, as on a local file system.
//!
//! The kernel takes the parent's lock for it, exclusively and without being killable. A program may hold that lock and wait for a
//! lease that this or another client must give back first. No circle comes of it: the only waiter is a thread of this module, which holds no lock, lease,
//! window or answer of ours, so nothing that gives a lease back, answers a request or ends the mount waits for it. To
//! other programs it is what a local `mkdir` in the parent is, but for inodes below it with pages to be written back, which other
//! threads serve. The end of a mount waits in the kernel for notifications that have begun, but comes when no program is
//! in a directory of it any more, or when the requests of those were aborted; both free the lock. A process that is killed meanwhile
//! is ended by its guard. There is one thread at most, and it ends when nothing is left to tell.
//!
//! A name may be an old one: another client moved the directory before it removed it. Then there is nothing under it, or a file,
//! which only shows as deleted where its path is looked at until its name is looked up again; a directory that the kernel was told
//! of there has taken the place over ([`crate::mount::places`]), but for one whose answer is on its way at that moment, to which the same happens.
//!
//! What is mounted on a directory goes with its name, so nothing is told while anything is mounted on one of ours.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    thread,
};

use crate::{
    kernel::{NodeId, Notifier},
    mount::{name_cache::NameCache, nodes::Nodes, sink},
};

/// Directories that wait to be told of. What comes beyond stays open while the kernel knows it.
const WAITING_MAX: usize = 4096;

#[derive(Debug, Default)]
struct Waiting {
    directories: VecDeque<NodeId>,
    /// A thread tells of them.
    is_told: bool,
}

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct RemovedDirectories {
    notifier: Notifier,
    nodes: Arc<Nodes>,
    names: Arc<NameCache>,
    waiting: Arc<Mutex<Waiting>>,
}

impl RemovedDirectories {
    pub(crate) fn new(notifier: Notifier, nodes: Arc<Nodes>, names: Arc<NameCache>) -> Self {
        Self { notifier, nodes, names, waiting: Arc::default() }
    }

    /// Begins to tell the kernel that a directory has no name. Returns whether it does; it never waits.
    pub(crate) fn tell(&self, directory: NodeId) -> bool {
        if !self.names.keeps() || self.nodes.place_of(directory).is_none() {
            return false;
        }
        let mut waiting = self.waiting.lock().expect("no panic while locked");
        if waiting.directories.len() >= WAITING_MAX {
            return false;
        }
        waiting.directories.push_back(directory);
        if !waiting.is_told {
            let this = self.clone();
            let thread = thread::Builder::new().name("sheen-removed".to_owned());
            waiting.is_told = thread.spawn(move || this.tell_all()).is_ok();
        }
        if !waiting.is_told {
            waiting.directories.clear();
        }
        waiting.is_told
    }

    fn tell_all(&self) {
        // Another namespace's mounts are not heard of.
        self.names.look();
        while let Some(directory) = self.next() {
            let place = self.nodes.place_of(directory).filter(|_| self.names.keeps());
            if let Some(place) = place {
                let told = self.notifier.invalidate_entry(place.parent, &place.name);
                sink::check("the name of a removed directory", told);
            }
        }
    }

    /// The next directory; None ends the thread.
    fn next(&self) -> Option<NodeId> {
        let mut waiting = self.waiting.lock().expect("no panic while locked");
        let next = waiting.directories.pop_front();
        waiting.is_told = next.is_some();
        next
    }
}
