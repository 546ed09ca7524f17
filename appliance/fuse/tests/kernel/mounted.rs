//! A mount that ends with the test, whatever the test does.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{RecvTimeoutError, Sender, channel},
    },
    time::Duration,
};

use sheen_dma::Arena;
use sheen_fuse::kernel::{
    Filesystem, Notifier, Session, SessionOptions,
    mountpoint::{Detach, MountOptions, attach, detach, wait_until_answers},
};

#[derive(Debug)]
pub(crate) struct Mounted {
    pub(crate) path: PathBuf,
    pub(crate) session: Session,
    pub(crate) notifier: Notifier,
    _watched: Sender<()>,
    _directory: tempfile::TempDir,
}

impl Mounted {
    pub(crate) fn new(filesystem: Arc<dyn Filesystem>) -> Self {
        Self::with(filesystem, "", |_| {})
    }

    pub(crate) fn with(
        filesystem: Arc<dyn Filesystem>,
        options: &str,
        adjust: impl FnOnce(&mut SessionOptions),
    ) -> Self {
        let directory = tempfile::Builder::new().prefix("sheen-fuse-").tempdir().unwrap();
        let path = directory.path().join("mount");
        std::fs::create_dir(&path).unwrap();
        let arena = Arena::anonymous(64 << 20).unwrap();
        let mut session_options = SessionOptions::new(Arc::new(move |bytes| arena.allocate(bytes)));
        adjust(&mut session_options);
        let device = attach(&path, &MountOptions::parse(options, &[]).unwrap()).unwrap();
        let notifier = device.notifier();
        let session = Session::start(device, filesystem, session_options).unwrap();
        let _watched = watch(&path);
        let mounted = Self { path, session, notifier, _watched, _directory: directory };
        wait_until_answers(&mounted.path, Duration::from_secs(10)).unwrap();
        mounted
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Not there any more if the test unmounted it. Lazily first, so that what is open ends in order.
        let _ = detach(&self.path, Detach::Lazy);
    }
}

/// Ends the mount by force if the test gets stuck in it: a thread that waits for its own process to answer cannot be
/// killed.
fn watch(path: &Path) -> Sender<()> {
    const PATIENCE: Duration = Duration::from_secs(60);
    let (sender, receiver) = channel();
    let path = path.to_owned();
    std::thread::spawn(move || {
        if receiver.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
            let _ = detach(&path, Detach::Force);
        }
    });
    sender
}
