//! The folder in which `sheen up` keeps a node, who serves it, and what is mounted of it.

use std::{
    cell::OnceCell,
    fs::{File, TryLockError},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use sheen_fuse::kernel::mountpoint::MountPoint;
use sheen_node::Config;

use super::server::Server;
use crate::{
    admin, answer,
    failure::{Failure, FailureKind},
    process,
    source::Source,
};

/// How long a killed node may take to give its memory back.
const END_PATIENCE: Duration = Duration::from_secs(30);

/// The files of a node that `sheen up` keeps.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// The folder.
    pub dir: PathBuf,
}

/// Where a node is found.
pub(super) struct Reached {
    pub(super) socket: PathBuf,
    listen: Option<SocketAddr>,
}

impl Place {
    /// The place in `dir`, made absolute; it need not exist.
    ///
    /// # Errors
    /// When the current directory is gone.
    pub(crate) fn new(dir: &Path) -> Result<Self> {
        Ok(Self { dir: absolute(dir)? })
    }

    /// Its configuration.
    pub(crate) fn config(&self) -> PathBuf {
        self.dir.join("node.toml")
    }

    /// Refuses the configuration of another folder: one that was copied or moved has what leads to where it was, and who is
    /// served or stopped is the node there.
    ///
    /// # Errors
    /// Refused.
    pub(super) fn check_config(&self, config: &Config) -> Result<()> {
        let of = |path: &Path, name: &str| {
            path.file_name()
                .is_some_and(|there| there == name)
                .then(|| path.parent())?
                .map(Path::to_owned)
        };
        let made_for = of(&config.socket, "node.sock")
            .filter(|there| of(&config.device.path, "device").as_ref() == Some(there));
        let Some(other) = made_for.filter(|there| *there != self.dir) else { return Ok(()) };
        // Another way to the same folder.
        let same = |path: &Path| path.canonicalize().ok();
        if same(&other).is_some_and(|other| same(&self.dir) == Some(other)) {
            return Ok(());
        }
        let text =
            format!("{} is the configuration of {}", self.config().display(), other.display());
        let hint = format!(
            "the folder was copied or moved: put it back, or write {} in place of {} in its node.toml",
            self.dir.display(),
            other.display()
        );
        Err(Failure::new(FailureKind::Refused, text).hint(hint).into())
    }

    /// The key of its device, if that is encrypted.
    pub(super) fn key(&self) -> PathBuf {
        self.dir.join("key")
    }

    /// Number of the process started last is written here.
    pub(super) fn pid_file(&self) -> PathBuf {
        self.dir.join("node.pid")
    }

    /// Whether a node keeps something in `dir`.
    pub(crate) fn is_one(dir: &Path) -> bool {
        dir.join("node.toml").exists() || dir.join("node.sock").exists()
    }

    /// The socket clients of this machine use.
    pub(crate) fn socket(&self) -> PathBuf {
        self.reached().socket
    }

    pub(super) fn reached(&self) -> Reached {
        match Config::load(&self.config()) {
            Ok(config) => Reached { socket: config.socket, listen: Some(config.listen) },
            // Its user alone may read the configuration.
            Err(_) => Reached { socket: self.dir.join("node.sock"), listen: None },
        }
    }

    /// Keeps others that start or stop the node of this folder out, until it is dropped; waits for them.
    ///
    /// # Errors
    /// When the folder cannot be opened, or is on a file system without locks.
    pub(super) fn lock(&self) -> Result<File> {
        let failed = || format!("locking {}", self.dir.display());
        let folder = File::open(&self.dir).with_context(failed)?;
        match folder.try_lock() {
            Ok(()) => return Ok(folder),
            Err(TryLockError::Error(error)) => return Err(error).with_context(failed),
            Err(TryLockError::WouldBlock) => {}
        }
        answer::progress("waiting for another `sheen up` or `sheen down` of this folder");
        folder.lock().with_context(failed)?;
        Ok(folder)
    }

    fn last_node(&self) -> Option<i32> {
        std::fs::read_to_string(self.pid_file()).ok()?.trim().parse().ok()
    }

    /// Waits for a node that was killed and still has the device, the sockets and the ports.
    pub(super) fn await_ending_node(&self) -> Result<()> {
        match self.last_node() {
            Some(pid) if process::is_ending(pid) => {
                answer::progress(&format!("waiting for the end of process {pid}"));
                process::await_end(pid, END_PATIENCE)
            }
            Some(_) | None => Ok(()),
        }
    }

    /// The process that serves it, if one does: the one started last, or who listens at its socket.
    pub(crate) fn running_node(&self) -> Option<i32> {
        self.noted_node().or_else(|| listener(&self.socket()))
    }

    fn noted_node(&self) -> Option<i32> {
        let pid = self.last_node()?;
        // The number may belong to another program by now: ours has our configuration on its command line.
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let config = self.config();
        let ours =
            line.split(|byte| *byte == 0).any(|word| word == config.as_os_str().as_encoded_bytes());
        (ours && process::is_alive(pid)).then_some(pid)
    }

    /// Mounts of its file systems in this mount namespace, the last made first. What each leads to its process was told; of names
    /// and addresses that could be anybody's, the node is asked who its clients are.
    ///
    /// # Errors
    /// When the mount table cannot be read.
    pub(super) fn mounts(&self) -> Result<Vec<MountPoint>> {
        let reached = self.reached();
        let clients = OnceCell::new();
        let is_of_this = |mount: &MountPoint| {
            let server = Server::of(mount);
            let (source, folder) = match &server {
                Some(server) => (&server.source, server.folder.as_deref()),
                None => (&mount.source, None),
            };
            let is_client = |server: Server| {
                let all = clients.get_or_init(|| admin::local_clients(&reached.socket));
                all.contains(&server.pid)
            };
            match reached.leads_here(source, folder) {
                Leads::Here => true,
                Leads::Elsewhere => false,
                Leads::Somewhere => server.is_some_and(is_client),
            }
        };
        let mut mounts = MountPoint::all()?;
        mounts.retain(|mount| mount.is_sheen() && is_of_this(mount));
        mounts.reverse();
        Ok(mounts)
    }
}

/// Where a source leads.
#[derive(Debug, PartialEq, Eq)]
enum Leads {
    /// To this node.
    Here,
    /// To the socket of another, or nowhere.
    Elsewhere,
    /// To a host's name or address that may be one of this host's.
    Somewhere,
}

impl Reached {
    /// A node that is found at this address and nowhere else.
    pub(super) fn over_tcp(listen: SocketAddr) -> Self {
        Self { socket: PathBuf::new(), listen: Some(listen) }
    }

    /// Whether a source leads there for certain, whoever reads it.
    pub(super) fn is_here(&self, source: &str) -> bool {
        self.leads_here(source, None) == Leads::Here
    }

    /// Where a source leads that a process in `folder` was told. Without it nobody knows where a relative path leads.
    fn leads_here(&self, source: &str, folder: Option<&Path>) -> Leads {
        let parsed = Source::parse_in(folder.unwrap_or(Path::new("/")), source);
        let Ok(Source { node, .. }) = parsed else { return Leads::Elsewhere };
        if folder.is_none() && is_relative(source) {
            return Leads::Somewhere;
        }
        if let Some(path) = node.strip_prefix("unix:") {
            let same = |path: &Path| path.canonicalize().ok();
            let path = Path::new(path);
            let is_here = path == self.socket
                || same(path).is_some_and(|there| same(&self.socket) == Some(there));
            return if is_here { Leads::Here } else { Leads::Elsewhere };
        }
        let named = node.strip_prefix("tcp:").unwrap_or(&node);
        let at = match named.strip_prefix("localhost:") {
            Some(port) => {
                port.parse().ok().map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
            }
            None => named.parse().ok(),
        };
        let (Some(at), Some(listen)) = (at, self.listen) else { return Leads::Somewhere };
        let is_this =
            |ip: IpAddr| ip == listen.ip() || listen.ip().is_unspecified() && ip.is_loopback();
        let is_here = at.port() == listen.port() && is_this(at.ip());
        if is_here { Leads::Here } else { Leads::Somewhere }
    }
}

/// Whether a source names its node by a path that depends on who reads it.
fn is_relative(source: &str) -> bool {
    let named = source.strip_prefix("unix:");
    !named.unwrap_or(source).starts_with('/')
        && (named.is_some() || source.matches('/').count() > 1)
}

/// The process that listens at a socket; None: nobody does, or nobody this process can name.
fn listener(socket: &Path) -> Option<i32> {
    let stream = UnixStream::connect(socket).ok()?;
    let peer = getsockopt(&stream, PeerCredentials).ok()?.pid();
    (peer > 0).then_some(peer)
}

/// `path` seen from the root; `.` and the like are removed, links are kept.
///
/// # Errors
/// When the current directory is gone.
pub(crate) fn absolute(path: &Path) -> Result<PathBuf> {
    let path = std::path::absolute(path).with_context(|| format!("`{}`", path.display()))?;
    Ok(path.components().collect())
}

#[cfg(test)]
mod test {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_mount_is_of_the_node_its_source_leads_to() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("a");
        std::fs::create_dir(&dir).unwrap();
        std::os::unix::fs::symlink(&dir, folder.path().join("link")).unwrap();
        let _listener = UnixListener::bind(dir.join("node.sock")).unwrap();
        let at = |listen: &str| Reached {
            socket: dir.join("node.sock"),
            listen: Some(listen.parse().unwrap()),
        };
        let here = at("127.0.0.1:9810");
        let of = |name: &str| format!("unix:{}/{name}:/sheen", folder.path().display());
        for ours in [&of("a/node.sock"), &of("link/node.sock"), "127.0.0.1:/x", "localhost:/x"] {
            assert_eq!(here.leads_here(ours, Some(Path::new(""))), Leads::Here, "{ours}");
        }
        for (source, expected) in [
            (&of("b/node.sock")[..], Leads::Elsewhere),
            ("none", Leads::Elsewhere),
            ("127.0.0.1:9811:/x", Leads::Somewhere),
            ("10.0.0.1:/x", Leads::Somewhere),
            ("host:/x", Leads::Somewhere),
            ("./a/node.sock:/x", Leads::Elsewhere),
        ] {
            assert_eq!(here.leads_here(source, Some(Path::new(""))), expected, "{source}");
        }
        for ours in ["./a/node.sock:/x", "a/node.sock:/x", "unix:link/node.sock:/x"] {
            assert_eq!(here.leads_here(ours, Some(folder.path())), Leads::Here, "{ours}");
        }
        let all = at("0.0.0.0:9810");
        assert_eq!(all.leads_here("127.0.0.1:9810:/x", Some(Path::new(""))), Leads::Here);
        for relative in ["unix:.sheen/node.sock:/x", "unix:.sheen:/x", "a/.sheen:/x"] {
            assert_eq!(all.leads_here(relative, None), Leads::Somewhere, "{relative}");
        }
        assert_eq!(all.leads_here("unix:/nosuch/node.sock:/x", None), Leads::Elsewhere);
        assert_eq!(all.leads_here("10.0.0.1:9810:/x", Some(Path::new(""))), Leads::Somewhere);
    }

    #[test]
    fn who_listens_at_the_socket_serves_though_no_number_is_noted() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::new(folder.path()).unwrap();
        assert!(!Place::is_one(folder.path()));
        assert_eq!(place.running_node(), None);
        let listener = UnixListener::bind(place.socket()).unwrap();
        // The number of a process that has nothing to do with it.
        std::fs::write(place.pid_file(), "1\n").unwrap();
        assert!(Place::is_one(folder.path()));
        assert_eq!(place.running_node(), i32::try_from(std::process::id()).ok());
        drop(listener);
        assert_eq!(place.running_node(), None);
    }

    #[test]
    fn a_folder_is_locked_for_one_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::new(folder.path()).unwrap();
        let first = place.lock().unwrap();
        let other = File::open(&place.dir).unwrap();
        assert!(matches!(other.try_lock(), Err(TryLockError::WouldBlock)));
        drop(first);
        other.try_lock().unwrap();
    }
}
