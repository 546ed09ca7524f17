//! Clients by the dozen, without kernel mounts: the shipped client library, called directly.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use sheen_client::{
    Client, ClientConfig, ConnectError, Inode, LookedUp, NewInode, NewOpen, RealConnector,
    SystemClock,
};
use sheen_dma::Arena;
use sheen_ports::Cancel;
use sheen_types::{Errno, FileKind};

use crate::actor::{answer, orders, tell};

const ARENA_BYTES: usize = 4 << 20;
const OWNER: (u32, u32) = (0, 0);

/// A client, and its root directory.
#[derive(Debug)]
pub(super) struct Bare {
    client: Arc<Client>,
    root: Arc<Inode>,
}

/// Opens a session; `None`: the node has no room for it now.
pub(super) fn connect(address: &str, filesystem: &str) -> anyhow::Result<Option<Bare>> {
    let connector = Arc::new(RealConnector::new(Arena::shared(ARENA_BYTES)?));
    let mut config = ClientConfig::new(address, filesystem, "conformance: tables")?;
    // It gives nothing back by itself: the node has to ask.
    config.idle_inodes_max = usize::MAX / 4;
    config.transfer_threads = 1;
    match Client::connect(config, connector, Arc::new(SystemClock::default())) {
        Ok(client) => {
            let root = client.inode(client.root());
            Ok(Some(Bare { client, root }))
        }
        Err(ConnectError::Refused(Errno::EAGAIN | Errno::EBUSY | Errno::ENOSPC)) => Ok(None),
        Err(error) => bail!("a session: {error}"),
    }
}

impl Bare {
    /// Says good-bye.
    pub(super) fn disconnect(self) {
        self.client.disconnect();
    }

    /// The directory `name` of the root.
    pub(super) fn directory(&self, name: &str) -> anyhow::Result<Arc<Inode>> {
        self.find(&self.root, name)
    }

    /// Asks for a name, and so for leases on what it leads to.
    pub(super) fn find(&self, parent: &Arc<Inode>, name: &str) -> anyhow::Result<Arc<Inode>> {
        let found = self.client.lookup(parent, Some(name.as_bytes()), &Cancel::new());
        match found {
            Ok(LookedUp::Found(found)) => Ok(found.inode),
            Ok(LookedUp::Absent(_)) => bail!("{name} is not there"),
            Err(error) => bail!("looking {name} up: {error}"),
        }
    }

    /// Makes an empty file; false: there is no room for it.
    pub(super) fn create(&self, parent: &Arc<Inode>, name: &str) -> anyhow::Result<bool> {
        let new = NewInode {
            name: Some(name.as_bytes()),
            kind: FileKind::Regular,
            permissions: 0o644,
            umask: 0,
            rdev: 0,
            target: &[],
            owner: OWNER,
            exclusive: true,
        };
        match self.client.create(parent, &new, None, &Cancel::new()) {
            Ok(_) => Ok(true),
            Err(Errno::ENOSPC) => Ok(false),
            Err(error) => bail!("making {name}: {error}"),
        }
    }

    /// Opens a file and keeps it open; false: this client has as many as it may.
    pub(super) fn open(&self, inode: &Arc<Inode>) -> anyhow::Result<bool> {
        match self.client.open(
            inode,
            NewOpen { read: true, write: false, append: false },
            &Cancel::new(),
        ) {
            Ok(_) => Ok(true),
            Err(Errno::ENFILE) => Ok(false),
            Err(error) => bail!("opening: {error}"),
        }
    }
}

/// An actor that opens sessions and waits to be killed: `tables-sessions ADDRESS FILESYSTEM COUNT`.
pub(super) fn run_actor(address: &str, filesystem: &str, count: &str) -> anyhow::Result<()> {
    let mut all = Vec::new();
    let opened = (0..count.parse()?).try_for_each(|_: u32| {
        // Sessions of those that were killed before make room when their leases end.
        for _ in 0..200 {
            if let Some(bare) = connect(address, filesystem)? {
                all.push(bare);
                return anyhow::Ok(());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        bail!("no room for a session after ten seconds")
    });
    tell(opened)?;
    ensure!(!all.is_empty());
    answer("open").context("nobody listens")?;
    while orders().recv().is_ok() {}
    Ok(())
}
