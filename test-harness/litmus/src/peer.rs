//! The other side: a thread that does what it is handed, one piece of work at a time.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::bail;

type Work = Box<dyn FnOnce() + Send>;

/// No operation of a litmus takes this long.
const DEADLINE: Duration = Duration::from_secs(30);

/// A thread of the other side.
#[derive(Debug)]
pub struct Peer {
    work: Option<SyncSender<Work>>,
    thread: Option<JoinHandle<()>>,
}

/// Work the peer has not been asked about yet.
#[derive(Debug)]
pub struct Pending<T>(Receiver<T>);

impl<T> Pending<T> {
    /// The result, if the work has ended within `limit`.
    #[must_use]
    pub fn within(&self, limit: Duration) -> Option<T> {
        self.0.recv_timeout(limit).ok()
    }

    /// Waits for the result.
    ///
    /// # Errors
    /// When it does not come within 30 s.
    pub fn wait(self) -> anyhow::Result<T> {
        match self.0.recv_timeout(DEADLINE) {
            Ok(result) => Ok(result),
            Err(RecvTimeoutError::Timeout) => bail!("the other side hangs"),
            Err(RecvTimeoutError::Disconnected) => bail!("the other side panicked"),
        }
    }
}

impl Peer {
    /// Starts the thread.
    #[must_use]
    pub fn start() -> Self {
        // Nothing is buffered: handing over means that the other side has it.
        let (work, inbox) = sync_channel::<Work>(0);
        let thread = std::thread::spawn(move || inbox.iter().for_each(|piece| piece()));
        Self { work: Some(work), thread: Some(thread) }
    }

    /// Hands over work and waits for its result.
    ///
    /// # Errors
    /// What the work says, or that it hangs.
    pub fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        self.begin(work)?.wait()?
    }

    /// Hands over work and does not wait.
    ///
    /// # Errors
    /// When the thread is gone.
    pub fn begin<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> anyhow::Result<Pending<T>> {
        let (reply, result) = sync_channel(1);
        let piece: Work = Box::new(move || {
            // Nobody may be waiting any more.
            let _ = reply.send(work());
        });
        match self.work.as_ref().map(|inbox| inbox.send(piece)) {
            Some(Ok(())) => Ok(Pending(result)),
            Some(Err(_)) | None => bail!("the other side is gone"),
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.work = None;
        if let Some(thread) = self.thread.take() {
            // A thread stuck in the kernel must not keep the run from ending.
            if thread.is_finished() || std::thread::panicking() {
                let _ = thread.join();
            }
        }
    }
}
