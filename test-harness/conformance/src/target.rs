//! What a check runs on: a plain directory, or a mount of a cluster that may be killed and looked at from a second mount.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::ensure;

use crate::cluster::{Cluster, Mount, is_mount_point};

/// Where checks run.
#[derive(Debug)]
pub enum Target {
    /// A directory of some file system; there is nothing to kill.
    Directory(PathBuf),
    /// A mount of a cluster of our own.
    Cluster {
        /// The working mount; unmounted before the cluster ends.
        mount: Mount,
        /// The node.
        cluster: Box<Cluster>,
    },
}

/// Another way to see the same files.
#[derive(Debug)]
pub struct View {
    path: PathBuf,
    mount: Option<Mount>,
}

impl View {
    /// The directory to look at.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Ends the view.
    ///
    /// # Errors
    /// When it cannot be unmounted.
    pub fn close(self) -> anyhow::Result<()> {
        self.mount.map_or(Ok(()), Mount::unmount)
    }
}

impl Target {
    /// Mounts a cluster and makes that mount the target.
    ///
    /// # Errors
    /// When it cannot be mounted.
    pub fn on_cluster(mut cluster: Cluster) -> anyhow::Result<Self> {
        let mount = cluster.mount()?;
        Ok(Self::Cluster { mount, cluster: Box::new(cluster) })
    }

    /// The directory checks work in.
    #[must_use]
    pub fn directory(&self) -> &Path {
        match self {
            Self::Directory(path) => path,
            Self::Cluster { mount, .. } => mount.directory(),
        }
    }

    /// A fresh directory for one check.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn fresh_directory(&self, name: &str) -> anyhow::Result<PathBuf> {
        self.assert_mounted()?;
        let path = self.directory().join(name);
        if path.exists() {
            std::fs::remove_dir_all(&path)?;
        }
        std::fs::create_dir(&path)?;
        Ok(path)
    }

    /// Requires that the mount is there: what lies below it must not be tested in its place.
    ///
    /// # Errors
    /// When nothing is mounted.
    pub fn assert_mounted(&self) -> anyhow::Result<()> {
        match self {
            Self::Directory(_) => Ok(()),
            Self::Cluster { mount, .. } => {
                ensure!(
                    is_mount_point(mount.directory())?,
                    "the mount is gone: {}",
                    mount.last_words()
                );
                Ok(())
            }
        }
    }

    /// Kills the node with SIGKILL; does nothing on a directory.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub fn kill_node(&mut self) -> anyhow::Result<()> {
        match self {
            Self::Directory(_) => Ok(()),
            Self::Cluster { cluster, .. } => cluster.kill(),
        }
    }

    /// Starts the node again and gives the time until it accepted connections.
    ///
    /// # Errors
    /// When it does not serve.
    pub fn restart_node(&mut self) -> anyhow::Result<Duration> {
        match self {
            Self::Directory(_) => Ok(Duration::ZERO),
            Self::Cluster { cluster, .. } => cluster.restart(),
        }
    }

    /// A second mount, which has nothing cached, seeing what this one has at `below`.
    ///
    /// # Errors
    /// When it cannot be mounted.
    pub fn second_view(&mut self, below: &Path) -> anyhow::Result<View> {
        match self {
            Self::Directory(_) => Ok(View { path: below.to_path_buf(), mount: None }),
            Self::Cluster { mount, cluster } => {
                let relative = below.strip_prefix(mount.directory())?.to_path_buf();
                let second = cluster.mount()?;
                Ok(View { path: second.directory().join(relative), mount: Some(second) })
            }
        }
    }

    /// Requires that the node, if there is one, still runs.
    ///
    /// # Errors
    /// When it ended.
    pub fn assert_alive(&mut self) -> anyhow::Result<()> {
        match self {
            Self::Directory(_) => Ok(()),
            Self::Cluster { cluster, .. } => cluster.assert_running(),
        }
    }

    /// Unmounts and stops, and requires that both end by themselves.
    ///
    /// # Errors
    /// When one does not.
    pub fn close(self) -> anyhow::Result<()> {
        match self {
            Self::Directory(_) => Ok(()),
            Self::Cluster { mount, mut cluster } => {
                mount.unmount()?;
                cluster.stop()
            }
        }
    }
}
