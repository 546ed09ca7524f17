//! A cluster of one node on this machine, and its mounts: the one place that knows how `sheen` is called.
//!
//! Owns a temporary directory with the node's configuration and its sparse device file, the node process and the mount
//! processes. Everything is ended and removed when the values are dropped. Only processes started here are signalled.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use tempfile::TempDir;

use crate::interruption::{self, Guard};
use crate::process::{self, pid_of};

const START_DEADLINE: Duration = Duration::from_secs(30);
const STOP_DEADLINE: Duration = Duration::from_secs(20);
const MOUNT_DEADLINE: Duration = Duration::from_secs(20);
/// The name of its file system, as it stands in a source.
pub const FILE_SYSTEM: &str = "/conformance";

/// What kind of cluster to start.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// The `sheen` program.
    pub program: PathBuf,
    /// Where the temporary directory with the device file is made.
    pub directory: PathBuf,
    /// Size of the sparse device file, in bytes.
    pub device_bytes: u64,
    /// Object storage targets the device is cut into.
    pub osts: u32,
    /// Data reactors the node runs; zero for as many as it finds fit.
    pub reactors: u32,
    /// The key that opens the device, as the configuration names it; `None` for a device that is not encrypted.
    pub key: Option<String>,
    /// Further environment variables of `sheen`.
    pub environment: Vec<(String, String)>,
    /// The device, as the configuration names it; `None` for a sparse file of `device_bytes`.
    pub device: Option<String>,
    /// The address the node's TCP listener has; `None` for this machine's own.
    pub listen: Option<IpAddr>,
    /// Further sections of the configuration, as they are written.
    pub sections: String,
}

/// Where a mount finds the node, and from where it looks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The node's address.
    pub address: String,
    /// The network namespace the mount's process lives in; `None` for that of this process.
    pub namespace: Option<String>,
    /// The file of the identity that is shown; `None` on the node's own machine.
    pub identity: Option<PathBuf>,
}

impl ClusterOptions {
    /// A cluster in `directory` with the program `$SHEEN` names, else the release build of this workspace.
    #[must_use]
    pub fn new(directory: &Path) -> Self {
        Self {
            program: sheen_program(),
            directory: directory.to_path_buf(),
            device_bytes: 32 << 30,
            osts: 2,
            reactors: 0,
            key: None,
            environment: Vec::new(),
            device: None,
            listen: None,
            sections: String::new(),
        }
    }

    /// A call of `sheen` in its environment.
    fn sheen(&self) -> Command {
        // From the root, since calls may have a directory of their own. What is not there is told by the call.
        let program = self.program.canonicalize();
        let mut command = Command::new(program.as_ref().unwrap_or(&self.program));
        let variables = self.environment.iter().map(|(name, value)| (name, value));
        command.envs(variables);
        command
    }
}

/// The `sheen` program: `$SHEEN`, else the one beside the running program, else the release build.
#[must_use]
pub fn sheen_program() -> PathBuf {
    if let Some(named) = std::env::var_os("SHEEN") {
        return named.into();
    }
    let beside = std::env::current_exe().ok().map(|program| program.with_file_name("sheen"));
    match beside {
        Some(program) if program.exists() => program,
        _ => workspace_root().join("target/release/sheen"),
    }
}

/// The workspace this program was built from.
#[must_use]
pub fn workspace_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A node with its file system.
#[derive(Debug)]
pub struct Cluster {
    node: Option<Child>,
    options: ClusterOptions,
    tcp: SocketAddr,
    admin: SocketAddr,
    mounts: u32,
    directory: TempDir,
    node_guard: Option<Guard>,
    _directory_guard: Guard,
}

impl Cluster {
    /// Makes the device, starts the node and creates the file system.
    ///
    /// # Errors
    /// When the program is missing, or the node does not serve within 30 s.
    pub fn start(options: ClusterOptions) -> anyhow::Result<Self> {
        if !options.program.exists() {
            bail!("{} does not exist; build it or set SHEEN", options.program.display());
        }
        fs::create_dir_all(&options.directory)?;
        let directory =
            tempfile::Builder::new().prefix("sheen-cluster-").tempdir_in(&options.directory)?;
        // Other users have to reach the mounts below it.
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755))?;
        let (tcp, admin) = free_addresses(options.listen)?;
        let mut cluster = Self {
            node: None,
            options,
            tcp,
            admin,
            mounts: 0,
            node_guard: None,
            _directory_guard: Guard::of_directory(directory.path()),
            directory,
        };
        fs::write(cluster.configuration_file(), cluster.configuration())?;
        let mut format = cluster.options.sheen();
        format.args(["format", "--config"]).arg(cluster.configuration_file());
        process::run(&mut format, START_DEADLINE).context("formatting the device")?;
        cluster.restart()?;
        let mut create = Command::new(&cluster.options.program);
        create.args(["fs", "create", FILE_SYSTEM.trim_start_matches('/'), "--node"]);
        create.arg(cluster.node_address());
        process::run(&mut create, START_DEADLINE).context("creating the file system")?;
        Ok(cluster)
    }

    /// The address clients on this machine use.
    #[must_use]
    pub fn node_address(&self) -> String {
        format!("unix:{}", self.socket().display())
    }

    /// The TCP address the node listens on.
    #[must_use]
    pub fn tcp_address(&self) -> SocketAddr {
        self.tcp
    }

    /// The node by TCP, with a new identity, `name`, that may do everything a client may.
    ///
    /// # Errors
    /// When the node makes none.
    pub fn identified_source(&self, name: &str) -> anyhow::Result<Source> {
        let file = self.directory.path().join(format!("{name}.identity"));
        let mut new = self.options.sheen();
        new.args(["client", "new", name, "--node", &self.node_address(), "--out"]).arg(&file);
        process::run(&mut new, START_DEADLINE).context("making an identity")?;
        Ok(Source { address: self.tcp.to_string(), namespace: None, identity: Some(file) })
    }

    /// The address of the metrics endpoint.
    #[must_use]
    pub fn admin_address(&self) -> SocketAddr {
        self.admin
    }

    /// The UNIX socket the node listens on.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("node.sock")
    }

    /// The device file.
    #[must_use]
    pub fn device(&self) -> PathBuf {
        self.directory.path().join("device")
    }

    /// The node's output of all its runs.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.directory.path().join("node.log")
    }

    /// The id of the node process, when it runs.
    #[must_use]
    pub fn node_pid(&self) -> Option<u32> {
        self.node.as_ref().map(Child::id)
    }

    /// Starts the node process and waits until it accepts connections.
    ///
    /// # Errors
    /// When it ends, or does not accept within 30 s.
    pub fn restart(&mut self) -> anyhow::Result<Duration> {
        let begin = Instant::now();
        // A socket file left by a killed node must not be taken for the new one.
        let _ = fs::remove_file(self.socket());
        let log = File::options().create(true).append(true).open(self.log())?;
        let mut command = self.options.sheen();
        command.args(["node", "--config"]).arg(self.configuration_file().canonicalize()?);
        // A core dump is written there.
        command.current_dir(self.directory.path());
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let node = interruption::spawn(&mut command).context("starting the node")?;
        self.node_guard = Some(Guard::of_process(pid_of(&node)));
        self.node = Some(node);
        while UnixStream::connect(self.socket()).is_err() {
            self.assert_running()?;
            if begin.elapsed() > START_DEADLINE {
                bail!("the node does not accept: {}", self.last_words());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(begin.elapsed())
    }

    /// Kills the node process with SIGKILL.
    ///
    /// # Errors
    /// When no node runs or it cannot be reaped.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.assert_running()?;
        match self.node.take() {
            Some(mut node) => {
                process::kill_nine(&mut node)?;
                self.node_guard = None;
                Ok(())
            }
            None => bail!("no node runs"),
        }
    }

    /// Makes the node process end by SIGABRT, and waits for it.
    ///
    /// # Errors
    /// When no node runs or it does not end.
    pub fn abort(&mut self) -> anyhow::Result<()> {
        self.assert_running()?;
        let Some(mut node) = self.node.take() else { bail!("no node runs") };
        kill(pid_of(&node), Signal::SIGABRT)?;
        if process::wait_until(&mut node, Instant::now() + STOP_DEADLINE)?.is_none() {
            process::kill_nine(&mut node)?;
            bail!("the node did not end after SIGABRT");
        }
        self.node_guard = None;
        Ok(())
    }

    /// Names another key in the configuration, for the next start.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn configure_key(&mut self, key: Option<&str>) -> anyhow::Result<()> {
        self.options.key = key.map(ToOwned::to_owned);
        Ok(fs::write(self.configuration_file(), self.configuration())?)
    }

    /// Ends the node process with SIGTERM.
    ///
    /// # Errors
    /// When it does not end by itself within 20 s; it is then killed.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        let Some(mut node) = self.node.take() else { return Ok(()) };
        kill(pid_of(&node), Signal::SIGTERM).ok();
        if process::wait_until(&mut node, Instant::now() + STOP_DEADLINE)?.is_none() {
            process::kill_nine(&mut node)?;
            bail!("the node did not end after SIGTERM: {}", self.last_words());
        }
        self.node_guard = None;
        Ok(())
    }

    /// Mounts the file system at a new directory.
    ///
    /// # Errors
    /// When it is not mounted within 20 s.
    pub fn mount(&mut self) -> anyhow::Result<Mount> {
        self.mount_with(&[])
    }

    /// Mounts the file system with further arguments for `sheen mount`.
    ///
    /// # Errors
    /// As [`Cluster::mount`].
    pub fn mount_with(&mut self, arguments: &[&str]) -> anyhow::Result<Mount> {
        let source = Source { address: self.node_address(), namespace: None, identity: None };
        self.mount_at(&source, arguments)
    }

    /// Mounts the file system from another address, or from another network namespace.
    ///
    /// # Errors
    /// As [`Cluster::mount`].
    pub fn mount_from(&mut self, source: &Source) -> anyhow::Result<Mount> {
        self.mount_at(source, &[])
    }

    fn mount_at(&mut self, source: &Source, arguments: &[&str]) -> anyhow::Result<Mount> {
        self.mounts += 1;
        let directory = self.directory.path().join(format!("mount-{}", self.mounts));
        fs::create_dir(&directory)?;
        let log = self.directory.path().join(format!("mount-{}.log", self.mounts));
        Mount::start(&self.options.program, source, directory, &log, arguments)
    }

    /// Requires that the node process runs.
    ///
    /// # Errors
    /// When it ended, with the end of its log.
    pub fn assert_running(&mut self) -> anyhow::Result<()> {
        let Some(node) = self.node.as_mut() else { bail!("no node runs") };
        match node.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("the node ended by itself ({status}): {}", self.last_words()),
        }
    }

    /// The end of the node's log.
    #[must_use]
    pub fn last_words(&self) -> String {
        process::tail(&fs::read_to_string(self.log()).unwrap_or_default(), 800)
    }

    /// Runs `sheen` with the node's configuration as its last argument, and requires success; gives its standard output.
    ///
    /// # Errors
    /// As [`process::run`].
    pub fn sheen_with_configuration(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let mut command = self.options.sheen();
        command.args(arguments).arg("--config").arg(self.configuration_file());
        process::run(&mut command, START_DEADLINE)
    }

    /// Names another key in the configuration; the node reads it at its next start.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn set_key(&mut self, key: &str) -> anyhow::Result<()> {
        self.options.key = Some(key.to_owned());
        fs::write(self.configuration_file(), self.configuration())?;
        Ok(())
    }

    /// The directory of all its files.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The program, to be called with arguments of the caller's.
    #[must_use]
    pub fn command(&self) -> Command {
        self.options.sheen()
    }

    /// The node's configuration.
    #[must_use]
    pub fn configuration_file(&self) -> PathBuf {
        self.directory.path().join("node.toml")
    }

    fn configuration(&self) -> String {
        let device = match &self.options.device {
            Some(name) => format!("path = \"{name}\""),
            None => {
                let (path, bytes) = (self.device(), self.options.device_bytes);
                format!("path = \"{}\"\nsize = {bytes}", path.display())
            }
        };
        let key = self.options.key.as_ref();
        let encryption =
            key.map(|key| format!("\n[encryption]\nkey = \"{key}\"\n")).unwrap_or_default();
        // Beside a file the node would have it by itself; a drive has no place.
        let identity = self.directory.path().join("identity-key");
        let identity = format!("\n[identity]\nkey = \"{}\"\n", identity.display());
        format!(
            "name = \"conformance\"\nsocket = \"{}\"\nlisten = \"{}\"\nmetrics = \"{}\"\n\n\
             [device]\n{device}\nosts = {}\n\n[threads]\nreactors = {}\n{encryption}{identity}\n{}",
            self.socket().display(),
            self.tcp,
            self.admin,
            self.options.osts,
            self.options.reactors,
            self.options.sections,
        )
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(mut node) = self.node.take() {
            let _ = process::kill_nine(&mut node);
        }
    }
}

/// A mounted file system; unmounted when dropped.
#[derive(Debug)]
pub struct Mount {
    directory: PathBuf,
    log: PathBuf,
    daemon: Child,
    is_mounted: bool,
    _guards: [Guard; 2],
}

impl Mount {
    fn start(
        program: &Path,
        source: &Source,
        directory: PathBuf,
        log: &Path,
        arguments: &[&str],
    ) -> anyhow::Result<Self> {
        let output = File::options().create(true).append(true).open(log)?;
        let mut command = match &source.namespace {
            None => Command::new(program),
            // Not `ip netns exec`, which has mounts of its own.
            Some(namespace) => {
                let mut command = Command::new("nsenter");
                command.arg(format!("--net=/run/netns/{namespace}")).arg(program);
                command
            }
        };
        command.arg("mount").arg("--foreground").arg("--log").arg(log);
        command.args(["-o", "allow_other"]).args(arguments);
        if let Some(file) = &source.identity {
            command.arg("-o").arg(format!("identity={}", file.display()));
        }
        command.arg(format!("{}:{FILE_SYSTEM}", source.address)).arg(&directory);
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let daemon = interruption::spawn(&mut command).context("starting the mount")?;
        let guards = [Guard::of_mount(&directory), Guard::of_process(pid_of(&daemon))];
        let log = log.to_path_buf();
        let mut mount = Self { directory, log, daemon, is_mounted: false, _guards: guards };
        let begin = Instant::now();
        while !is_mount_point(&mount.directory)? {
            // A mount program that puts itself into the background ends with success.
            let ended = mount.daemon.try_wait()?;
            if ended.is_some_and(|status| !status.success()) || begin.elapsed() > MOUNT_DEADLINE {
                bail!("not mounted: {}", mount.last_words());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        mount.is_mounted = true;
        fs::metadata(&mount.directory).context("reading the root of the mount")?;
        Ok(mount)
    }

    /// Where it is mounted.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The id of the mount process that was started.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.daemon.id()
    }

    /// The end of the mount's log.
    #[must_use]
    pub fn last_words(&self) -> String {
        process::tail(&fs::read_to_string(&self.log).unwrap_or_default(), 800)
    }

    /// Unmounts, and waits for the mount process to end.
    ///
    /// # Errors
    /// When the mount is busy, or its process does not end within 20 s.
    pub fn unmount(mut self) -> anyhow::Result<()> {
        umount2(&self.directory, MntFlags::empty()).context("unmounting")?;
        self.is_mounted = false;
        if process::wait_until(&mut self.daemon, Instant::now() + STOP_DEADLINE)?.is_none() {
            bail!("the mount's process still runs: {}", self.last_words());
        }
        Ok(())
    }

    /// Waits for the mount process to end, after somebody else took the mount away.
    ///
    /// # Errors
    /// When it does not end within 20 s.
    pub fn ended(mut self) -> anyhow::Result<()> {
        self.is_mounted = false;
        if process::wait_until(&mut self.daemon, Instant::now() + STOP_DEADLINE)?.is_none() {
            bail!("the mount's process still runs: {}", self.last_words());
        }
        Ok(())
    }

    /// Kills the mount process with SIGKILL and leaves the dead mount where it is.
    ///
    /// # Errors
    /// When it does not end; the mount is taken away then.
    pub fn kill_in_place(mut self) -> anyhow::Result<()> {
        process::kill_nine(&mut self.daemon)?;
        self.is_mounted = false;
        Ok(())
    }

    /// Kills the mount process with SIGKILL, as a client machine that is gone.
    ///
    /// # Errors
    /// When it cannot be reaped.
    pub fn kill(mut self) -> anyhow::Result<()> {
        process::kill_nine(&mut self.daemon)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.is_mounted {
            let _ = umount2(&self.directory, MntFlags::MNT_DETACH);
            let _ = process::wait_until(&mut self.daemon, Instant::now() + Duration::from_secs(2));
        }
        let _ = process::kill_nine(&mut self.daemon);
    }
}

/// Whether something is mounted exactly at `directory`.
///
/// # Errors
/// When the mount table cannot be read.
pub fn is_mount_point(directory: &Path) -> anyhow::Result<bool> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let wanted = directory.to_string_lossy();
    Ok(table.lines().any(|entry| entry.split(' ').nth(4) == Some(&*wanted)))
}

/// Two TCP addresses nobody listens on: one of `listen` for clients, one of this machine for the metrics.
pub(crate) fn free_addresses(listen: Option<IpAddr>) -> anyhow::Result<(SocketAddr, SocketAddr)> {
    // Both are held until both are known, so that they differ.
    let one = TcpListener::bind((listen.unwrap_or(IpAddr::from([127, 0, 0, 1])), 0))?;
    let two = TcpListener::bind("127.0.0.1:0")?;
    Ok((one.local_addr()?, two.local_addr()?))
}

/// Drops clean pages, dentries and inodes of all file systems; needs root.
///
/// # Errors
/// When the kernel refuses.
pub fn drop_kernel_caches() -> anyhow::Result<()> {
    nix::unistd::sync();
    let mut control = File::options().write(true).open("/proc/sys/vm/drop_caches")?;
    control.write_all(b"3").context("dropping kernel caches")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_is_a_mount_point_and_a_fresh_directory_is_not() {
        assert!(is_mount_point(Path::new("/proc")).unwrap());
        let fresh = tempfile::tempdir().unwrap();
        assert!(!is_mount_point(fresh.path()).unwrap());
    }

    #[test]
    fn a_missing_program_is_an_error_before_anything_is_made() {
        let fresh = tempfile::tempdir().unwrap();
        let mut options = ClusterOptions::new(fresh.path());
        options.program = "/nonexistent/sheen".into();
        assert!(Cluster::start(options).is_err());
        assert_eq!(fs::read_dir(fresh.path()).unwrap().count(), 0);
    }
}
