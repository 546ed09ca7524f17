//! Serving a mount: threads that read requests, call the file system and write answers.
//!
//! Path: `worker` reads, `message` decodes, `crew` says who serves, `service` calls the [`Filesystem`] and answers.

use std::{fmt, io, sync::Arc, time::Duration};

use sheen_dma::Buffer;
use sheen_types::BLOCK_BYTES;

use crate::kernel::{
    Filesystem,
    abi::init::InitLimits,
    crew::{Crew, CrewLimits},
    device::Device,
    in_flight::{Eyes, InFlight},
    message::Lane,
    service::Service,
    signals, worker,
};

/// Where the memory comes from that payload is read into and written from.
pub trait BufferSource: Send + Sync {
    /// A buffer of `bytes` bytes, 4 KiB-aligned. None when the arena is used up: a worker then takes memory of its
    /// own, which the file system gets as any other buffer but which peers do not share.
    fn buffer(&self, bytes: usize) -> Option<Buffer>;
}

impl<F: Fn(usize) -> Option<Buffer> + Send + Sync> BufferSource for F {
    fn buffer(&self, bytes: usize) -> Option<Buffer> {
        self(bytes)
    }
}

/// How a session works. Each reader, and each thread that serves content, holds one buffer of `transfer_bytes_max`.
#[derive(Clone)]
pub struct SessionOptions {
    /// Where buffers come from.
    pub buffers: Arc<dyn BufferSource>,
    /// Most bytes of a READ or WRITE: a multiple of 4 KiB, 8 KiB..=1 MiB.
    pub transfer_bytes_max: u32,
    /// Most requests in the kernel that nobody waits for (readahead, write-back).
    pub background: u16,
    /// Most threads that serve names and attributes at a time.
    pub namespace_threads_max: usize,
    /// Most threads that serve content at a time; half as many more are kept for writing back
    /// dirty pages, as many for unlocking, and as many for closing. Of threads of a kind, half may wait for one target.
    pub content_threads_max: usize,
    /// Most threads that wait for locks. Further waits are parked and tried every 50 ms, up to 4096, of which a user gets as
    /// many as are left free; beyond, they are answered ENOLCK.
    pub waiters_max: usize,
    /// Most threads that read while nothing is to do.
    pub readers_max: usize,
}

impl SessionOptions {
    /// The usual ones.
    #[must_use]
    pub fn new(buffers: Arc<dyn BufferSource>) -> Self {
        Self {
            buffers,
            transfer_bytes_max: 1 << 20,
            background: 1024,
            namespace_threads_max: 128,
            content_threads_max: 128,
            waiters_max: 256,
            readers_max: 8,
        }
    }

    fn crew_limits(&self) -> CrewLimits {
        let content = self.content_threads_max.max(1);
        let half = content.div_ceil(2);
        let namespace = self.namespace_threads_max.max(1);
        let mut serving = [half; Lane::COUNT];
        serving[Lane::Content as usize] = content;
        serving[Lane::Namespace as usize] = namespace;
        serving[Lane::Wait as usize] = self.waiters_max;
        let mut share = serving.map(|most: usize| most.div_ceil(2));
        // All of them wait for the MDT.
        share[Lane::Wait as usize] = self.waiters_max;
        CrewLimits { serving, share, readers: self.readers_max.max(1) }
    }
}

impl fmt::Debug for SessionOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionOptions")
            .field("transfer_bytes_max", &self.transfer_bytes_max)
            .field("background", &self.background)
            .field("namespace_threads_max", &self.namespace_threads_max)
            .field("content_threads_max", &self.content_threads_max)
            .field("waiters_max", &self.waiters_max)
            .field("readers_max", &self.readers_max)
            .finish_non_exhaustive()
    }
}

/// Why a session did not start.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// [`SessionOptions::transfer_bytes_max`] is out of its range.
    #[error("{0} bytes a request: not a multiple of 4 KiB between 8 KiB and 1 MiB")]
    TransferSize(u32),
    /// The system has no thread for us.
    #[error("starting the first thread")]
    Thread(#[source] io::Error),
}

/// What the threads of a session share.
pub(crate) struct Shared {
    pub(crate) device: Device,
    pub(crate) buffers: Arc<dyn BufferSource>,
    pub(crate) transfer_bytes_max: usize,
    pub(crate) crew: Crew,
    pub(crate) in_flight: InFlight,
    pub(crate) service: Service,
}

impl Shared {
    /// The mount is gone: whoever waits, stops.
    pub(crate) fn end(&self) {
        self.device.end();
        self.crew.end();
        self.in_flight.end();
    }
}

/// A mount being served. Dropping it changes nothing: the mount is served until it is unmounted.
pub struct Session(Arc<Shared>);

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("threads", &self.0.crew.threads()).finish_non_exhaustive()
    }
}

impl Session {
    /// Starts to serve a mount.
    ///
    /// # Errors
    /// [`SessionError`]; the mount then answers ENOTCONN as soon as `device` is dropped: unmount it.
    pub fn start(
        device: Device,
        filesystem: Arc<dyn Filesystem>,
        options: SessionOptions,
    ) -> Result<Self, SessionError> {
        let transfer_bytes_max = transfer_size(options.transfer_bytes_max)?;
        let limits = InitLimits {
            transfer_bytes_max: options.transfer_bytes_max,
            background: options.background,
        };
        let shared = Arc::new(Shared {
            device,
            transfer_bytes_max,
            crew: Crew::new(options.crew_limits()),
            buffers: options.buffers,
            in_flight: InFlight::new(Eyes { fate: signals::fate, is_over: signals::is_over }),
            service: Service::new(filesystem, limits),
        });
        worker::start_looking(&shared).map_err(SessionError::Thread)?;
        worker::start_trying(&shared).map_err(SessionError::Thread)?;
        shared.crew.open();
        if let Err(error) = worker::start(&shared, shared.device.channel()) {
            shared.in_flight.end();
            return Err(SessionError::Thread(error));
        }
        Ok(Self(shared))
    }

    /// Requests being served now.
    #[must_use]
    pub fn serving(&self) -> usize {
        self.0.crew.serving()
    }

    /// Requests that wait for a thread.
    #[must_use]
    pub fn parked(&self) -> usize {
        self.0.crew.parked()
    }

    /// Threads there are now.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.0.crew.threads()
    }

    /// Waits until the mount is unmounted and all threads have ended.
    pub fn wait(&self) {
        self.0.crew.wait_finished();
    }

    /// As [`Session::wait`], at most for `patience`; returns whether all threads have ended. After an unmount by force
    /// one may be stuck in a call that does not look at its [`crate::kernel::Context::cancel`].
    #[must_use]
    pub fn wait_for(&self, patience: Duration) -> bool {
        self.0.crew.wait_finished_for(patience)
    }
}

fn transfer_size(bytes: u32) -> Result<usize, SessionError> {
    let size = usize::try_from(bytes).map_err(|_| SessionError::TransferSize(bytes))?;
    let fits = (2 * BLOCK_BYTES..=1 << 20).contains(&size) && size.is_multiple_of(BLOCK_BYTES);
    if fits { Ok(size) } else { Err(SessionError::TransferSize(bytes)) }
}
