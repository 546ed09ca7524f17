//! Taking back what the kernel cached.

use std::{
    ops::Range,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use nix::unistd::Pid;
use sheen_client::CacheSink;
use sheen_types::{Errno, Fid};

use crate::{
    kernel::{NodeId, Notifier, NotifyError},
    mount::{name_cache::NameCache, node_of, nodes::Nodes, removed::RemovedDirectories},
};

/// An answer was written, but the program that waits for it did not run yet: how long to wait before trying again, how often.
const ON_ITS_WAY: (Duration, u32) = (Duration::from_millis(1), 1000);
/// How often the thread that tells a size is looked at: first, at last.
const SIZE_PAUSE: (Duration, Duration) = (Duration::from_micros(20), Duration::from_millis(1));
/// How long it may take until it waits for a page or is done, on a machine that is busy.
const SIZE_PATIENCE: Duration = Duration::from_secs(10);

/// The kernel's caches of one mount.
#[derive(Debug)]
pub(crate) struct KernelCaches {
    notifier: Notifier,
    root: Fid,
    nodes: Arc<Nodes>,
    names: Arc<NameCache>,
    removed: RemovedDirectories,
}

impl KernelCaches {
    pub(crate) fn new(
        notifier: Notifier,
        root: Fid,
        nodes: Arc<Nodes>,
        names: Arc<NameCache>,
    ) -> Self {
        let removed = RemovedDirectories::new(notifier.clone(), nodes.clone(), names.clone());
        Self { notifier, root, nodes, names, removed }
    }

    /// Notifies of an inode. One the kernel has just been told of it may not know yet: the answer is taken in by the program
    /// that waits for it, whenever that runs. Then the notification is repeated until it meets the inode.
    fn notify(
        &self,
        fid: Fid,
        what: &str,
        send: impl Fn(&Notifier, NodeId) -> Result<(), NotifyError>,
    ) {
        let node = node_of(fid, self.root);
        let size = self.nodes.outdate(node);
        for _ in 0..ON_ITS_WAY.1 {
            if let Some(size) = size {
                keep_size(&self.nodes, &self.notifier, node, size);
            }
            match send(&self.notifier, node) {
                Err(NotifyError::NotCached) if self.nodes.knows(node) => {
                    std::thread::sleep(ON_ITS_WAY.0);
                }
                result => return check(what, result),
            }
        }
        tracing::warn!(%fid, "the kernel does not know an inode it was told of");
    }
}

pub(crate) fn check(what: &str, result: Result<(), NotifyError>) {
    match result {
        Ok(()) | Err(NotifyError::NotCached | NotifyError::Gone) => {}
        // Without epochs no name was given for longer than its use.
        Err(NotifyError::Unsupported) => {}
        Err(error) => tracing::error!(%error, what, "the kernel keeps what is not true any more"),
    }
}

/// Makes the kernel's size as large as it was told, or is about to be, by an answer that a notification makes it drop. The size
/// was true after the kernel asked, so no page it has can show other bytes before that end than are there.
pub(crate) fn keep_size(nodes: &Nodes, notifier: &Notifier, node: NodeId, size: u64) {
    if raise_size(notifier, node, size).is_ok() {
        nodes.size_is_raised(node, size);
    }
}

/// Makes the kernel's size of a file as large as `size`. It takes it in at once and may wait then for a page that is locked
/// until our caller has answered: so another thread does it, and is left when it is seen to wait.
fn raise_size(notifier: &Notifier, node: NodeId, size: u64) -> Result<(), Errno> {
    let notifier = notifier.clone();
    let (number, began) = mpsc::channel();
    let (done, ended) = mpsc::channel();
    let raise = move || {
        // Nobody listens any more if patience ran out.
        let _ = number.send(nix::unistd::gettid());
        let _ = done.send(notifier.raise_size(node, size));
    };
    let name = "sheen-size".to_owned();
    thread::Builder::new().name(name).spawn(raise).map_err(|_| Errno::EIO)?;
    let thread = began.recv().map_err(|_| Errno::EIO)?;
    let mut pause = SIZE_PAUSE.0;
    let begun = Instant::now();
    while begun.elapsed() < SIZE_PATIENCE {
        match ended.recv_timeout(pause) {
            Ok(Ok(()) | Err(NotifyError::NotCached | NotifyError::Gone)) => return Ok(()),
            Ok(Err(error)) => {
                tracing::error!(%error, "the kernel does not take the size of a file");
                return Err(Errno::EIO);
            }
            Err(_) if waits_for_a_page(thread) => return Ok(()),
            Err(_) => pause = SIZE_PAUSE.1.min(pause * 2),
        }
    }
    Err(Errno::EIO)
}

/// Whether a thread of ours that sends a notification waits in the kernel for the page.
fn waits_for_a_page(thread: Pid) -> bool {
    let read = |what: &str| std::fs::read_to_string(format!("/proc/self/task/{thread}/{what}"));
    let sleeps =
        read("stat").is_ok_and(|stat| stat.rsplit(") ").next().is_some_and(|s| s.starts_with('D')));
    // It may wait for a page of its own program, too. Not every kernel tells.
    let writes = format!("{} ", libc::SYS_writev);
    sleeps && read("syscall").map_or(true, |call| call.starts_with(&writes))
}

impl CacheSink for KernelCaches {
    fn invalidate_data(&self, fid: Fid, range: Range<u64>) {
        // To the kernel, length 0 is "to the end"; so is what lies beyond its largest offset.
        let largest = i64::MAX.cast_unsigned();
        let length = if range.end > largest { 0 } else { range.end.saturating_sub(range.start) };
        if range.start > largest || range.start >= range.end {
            return;
        }
        self.notify(fid, "content", |notifier, node| {
            notifier.invalidate_data(node, range.start, length)
        });
    }

    fn invalidate_attributes(&self, fid: Fid) {
        self.notify(fid, "attributes", Notifier::invalidate_attributes);
    }

    fn invalidate_entries(&self) {
        check("names", self.names.take_back(&self.notifier));
    }

    fn lacks_size(&self, fid: Fid, losses: Option<u64>) -> bool {
        self.nodes.lacks_size(node_of(fid, self.root), losses)
    }

    fn tell_size(&self, fid: Fid, size: u64, losses: Option<u64>) -> Result<(), Errno> {
        let node = node_of(fid, self.root);
        raise_size(&self.notifier, node, size)?;
        self.nodes.size_is_told(node, losses);
        Ok(())
    }

    fn uses(&self, fid: Fid) -> bool {
        self.nodes.knows(node_of(fid, self.root))
    }

    fn drop_unused(&self, fids: &[Fid]) -> bool {
        let nodes: Vec<NodeId> = fids.iter().map(|fid| node_of(*fid, self.root)).collect();
        self.notifier.prune(&nodes).is_ok()
    }

    fn drop_removed_directory(&self, fid: Fid) -> bool {
        self.removed.tell(node_of(fid, self.root))
    }
}
