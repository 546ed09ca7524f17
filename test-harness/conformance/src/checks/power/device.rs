//! A drive with a volatile write cache whose power can be cut: an NVMe controller made of software, in this process.
//!
//! The node reaches it over vfio-user, with the driver it would use on a real drive. Nothing in the node knows of it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};

use anyhow::Context as _;
use sheen_nvme_model::{Config, MediumKind, ModelServer, PowerCut};

/// A drive that forgets.
#[derive(Debug)]
pub(super) struct VolatileDevice {
    server: Arc<ModelServer>,
    socket: PathBuf,
}

impl VolatileDevice {
    /// Serves an empty drive at `socket`, as long as this process lives.
    pub(super) fn start(socket: &Path, bytes: u64) -> anyhow::Result<Self> {
        let kind = Config { bytes, medium: MediumKind::PowerCut, ..Config::default() };
        let server = Arc::new(ModelServer::new(kind)?);
        let (ready, listening) = mpsc::channel();
        let (serving, place) = (Arc::clone(&server), socket.to_path_buf());
        std::thread::spawn(move || {
            let announced = ready.clone();
            // Nobody waits any more once it listened.
            let ended = serving.serve(&place, || drop(announced.send(Ok(()))));
            drop(ready.send(ended.map_err(|error| error.to_string())));
        });
        let outcome = listening.recv().context("the drive's thread ended")?;
        outcome.map_err(anyhow::Error::msg).context("serving the drive")?;
        Ok(Self { server, socket: socket.to_path_buf() })
    }

    /// How a node's configuration names it.
    pub(super) fn name(&self) -> String {
        format!("vfio-user:{}", self.socket.display())
    }

    /// The power goes, at once and for good: each block that was not flushed keeps its content or goes back to an earlier
    /// one, by `seed`. Nothing is carried out any more until [`VolatileDevice::power_on`].
    pub(super) fn cut_power(&self, seed: u64) -> PowerCut {
        self.server.model().with(|controller, _| {
            controller.remove_by_surprise();
            controller.cut_power(seed)
        })
    }

    /// The power is back.
    pub(super) fn power_on(&self) {
        self.server.model().with(|controller, _| controller.insert());
    }
}
