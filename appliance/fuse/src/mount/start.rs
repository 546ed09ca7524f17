//! Making a mount and serving it until it is unmounted.

use std::{ffi::OsString, fmt, io, path::PathBuf, sync::Arc, time::Duration};

use sheen_client::{
    AccessTimes, Client, ClientConfig, ConnectError, RealConnector, ShowIdentity, SystemClock,
};
use sheen_dma::{Arena, ArenaError};

use crate::{
    kernel::{
        Session, SessionError, SessionOptions,
        mountpoint::{self, AtimePolicy, AttachError, Guard, MountOptions, MountPoint},
    },
    mount::Mount,
};

/// How long a fresh mount may take to answer.
const ANSWER_PATIENCE: Duration = Duration::from_secs(30);
/// Read ahead in bytes: several requests on their way to keep several OSTs busy.
const READAHEAD_BYTES: u32 = 8 << 20;

/// What to mount where.
#[derive(Clone, Debug)]
pub struct MountConfig {
    /// The client.
    pub client: ClientConfig,
    /// Where to mount.
    pub target: PathBuf,
    /// Options of mount(8).
    pub options: MountOptions,
    /// Memory shared with the node, for payloads: a power of two in bytes.
    pub arena_bytes: usize,
    /// How this program is started as the guard of the mount ([`mountpoint::stand_guard`]): with this word, the number of this
    /// process, the minor device number and the target. None: without one; killed at a bad moment, this process leaves a
    /// mount that answers nobody.
    pub guard: Option<OsString>,
    /// What is shown to a node over TCP.
    pub identity: Option<Arc<dyn ShowIdentity>>,
}

impl MountConfig {
    /// The usual, with 256 MiB for payloads (taken from the system as it is used).
    #[must_use]
    pub fn new(client: ClientConfig, target: PathBuf, options: MountOptions) -> Self {
        Self { client, target, options, arena_bytes: 256 << 20, guard: None, identity: None }
    }
}

/// Why there is no mount.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// No memory for payloads.
    #[error(transparent)]
    Arena(#[from] ArenaError),
    /// No session with the node.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The kernel does not mount.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// The mount cannot be served.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The mount does not answer.
    #[error("the mount does not answer")]
    Silent(#[source] io::Error),
}

/// A mount being served.
pub struct MountHandle {
    session: Session,
    client: Arc<Client>,
    target: PathBuf,
    guard: Option<Guard>,
}

impl fmt::Debug for MountHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MountHandle").field("target", &self.target).finish_non_exhaustive()
    }
}

impl MountHandle {
    /// Connects, mounts and starts to serve; the mount answers when this returns.
    ///
    /// # Errors
    /// [`MountError`]; nothing is mounted then.
    pub fn start(config: MountConfig) -> Result<Self, MountError> {
        // No server sees it: links copy.
        let arena = Arena::anonymous(config.arena_bytes)?;
        let mut client_config = config.client;
        client_config.access_times = match config.options.atime {
            Some(AtimePolicy::Never) => AccessTimes::Never,
            Some(AtimePolicy::Strict) => AccessTimes::Always,
            Some(AtimePolicy::Relative) | None => AccessTimes::Relative,
        };
        client_config.no_directory_access_times = config.options.without_directory_atime();
        let connector = Arc::new(RealConnector::with_identity(arena.clone(), config.identity));
        let client = Client::connect(client_config, connector, Arc::new(SystemClock::default()))?;
        let served = Self::serve(&client, &arena, &config.target, &config.options);
        let (session, mount) = match served {
            Ok(served) => served,
            Err(error) => {
                client.disconnect();
                return Err(error);
            }
        };
        let mut handle = Self { session, client, target: config.target, guard: None };
        if let Err(error) = mountpoint::wait_until_answers(&handle.target, ANSWER_PATIENCE) {
            handle.abandon();
            return Err(MountError::Silent(error));
        }
        if let Ok(Some(point)) = MountPoint::at(&handle.target) {
            mount.mounted(point.device);
            if let Err(error) = point.set_readahead(READAHEAD_BYTES) {
                tracing::debug!(%error, "setting the readahead");
            }
            if let Some(word) = config.guard {
                handle.guard = guarded(word, &point);
            }
        }
        Ok(handle)
    }

    fn serve(
        client: &Arc<Client>,
        arena: &Arena,
        target: &std::path::Path,
        options: &MountOptions,
    ) -> Result<(Session, Arc<Mount>), MountError> {
        let device = mountpoint::attach(target, options)?;
        let mount = Mount::new(client.clone(), device.notifier());
        let arena = arena.clone();
        let buffers = Arc::new(move |bytes: usize| arena.allocate(bytes));
        match Session::start(device, mount.clone(), SessionOptions::new(buffers)) {
            Ok(session) => Ok((session, mount)),
            Err(error) => {
                drop(mountpoint::detach(target, mountpoint::Detach::Force));
                Err(error.into())
            }
        }
    }

    fn abandon(self) {
        drop(mountpoint::detach(&self.target, mountpoint::Detach::Force));
        self.wait();
    }

    /// The client, for its counters.
    #[must_use]
    pub fn client(&self) -> &Arc<Client> {
        &self.client
    }

    /// Serves until the mount is unmounted, then says good-bye to the node.
    pub fn wait(self) {
        self.session.wait();
        self.client.disconnect();
    }

    /// Where it is mounted.
    #[must_use]
    pub fn target(&self) -> &std::path::Path {
        &self.target
    }
}

/// Starts the guard of a mount. Without one it is served all the same.
fn guarded(word: OsString, point: &MountPoint) -> Option<Guard> {
    let numbers = [std::process::id(), point.device.1];
    let mut words = vec![word];
    words.extend(numbers.map(|number| OsString::from(number.to_string())));
    words.extend([OsString::from("--"), point.path.clone().into_os_string()]);
    let started = Guard::start(words);
    if let Err(error) = &started {
        tracing::warn!(%error, "no guard: if this process is killed the mount may have to be taken away by force");
    }
    started.ok()
}
