//! Work nobody waits for: one thread, in order.

use std::{
    fmt,
    sync::{Arc, Mutex, mpsc},
};

use crate::client::Client;

type Chore = Box<dyn FnOnce(&Arc<Client>) + Send>;

/// Most chores waiting; more are not done.
const CHORES_MAX: usize = 1 << 16;

/// The queue of chores.
pub(crate) struct Janitor {
    queue: Mutex<Option<mpsc::SyncSender<Chore>>>,
}

/// What the thread takes from.
pub(crate) type Chores = mpsc::Receiver<Chore>;

impl fmt::Debug for Janitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Janitor")
    }
}

impl Janitor {
    /// The queue and its end.
    pub(crate) fn new() -> (Self, Chores) {
        let (queue, chores) = mpsc::sync_channel(CHORES_MAX);
        (Self { queue: Mutex::new(Some(queue)) }, chores)
    }

    /// Has `chore` done some time. A full queue drops it: chores only spare others work.
    pub(crate) fn ask(&self, chore: impl FnOnce(&Arc<Client>) + Send + 'static) {
        if let Some(queue) = &*self.queue.lock().expect("no panic while locked") {
            drop(queue.try_send(Box::new(chore)));
        }
    }

    /// No more chores.
    pub(crate) fn close(&self) {
        self.queue.lock().expect("no panic while locked").take();
    }
}

/// The thread.
pub(crate) fn clean(client: &Arc<Client>, chores: &Chores) {
    while let Ok(chore) = chores.recv() {
        chore(client);
    }
}
