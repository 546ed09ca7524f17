//! The whole Sheen node on a controller it drives itself: a mount, the POSIX suite, and data that survives a restart.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use sheen_conformance::checks::pjdfstest;
use sheen_conformance::process::{self, pid_of};

use crate::Context;
use crate::controllers::{bind, block_device, unbind};
use crate::program::{SHEEN, sheen_succeeds};

const CHECK: &str = "node";
const HOME: &str = "/run/sheen-node";
const MOUNT: &str = "/mnt";
const START_DEADLINE: Duration = Duration::from_secs(30);
const STOP_DEADLINE: Duration = Duration::from_secs(20);
/// Files written and read back, and the bytes of each.
const FILES: u32 = 24;
const FILE_BYTES: usize = (4 << 20) + 4097;

/// Runs the item.
pub(crate) fn run(context: &mut Context) {
    let address = context.controllers.main().to_owned();
    let report = &mut context.report;
    let mut node = None;
    let started = report.case(CHECK, "a node serves from the controller, mounted", || {
        bind(&address)?;
        node = Some(Node::start_new(&format!("nvme:{address}"), None)?);
        Ok(format!("nvme:{address}"))
    });
    let Some(mut node) = node.filter(|_| started) else { return };
    report.case(CHECK, "pjdfstest: no failure", || {
        let scratch = Path::new(HOME);
        let outcome =
            pjdfstest::run_suite(Path::new("/usr/bin/pjdfstest"), &node.place("p")?, scratch)?;
        outcome.require_no_failure()
    });
    report.case(CHECK, "what was written is read back, also after a restart", || {
        let place = node.place("data")?;
        write_files(&place)?;
        check_files(&place)?;
        node.restart()?;
        check_files(&place)
    });
    report.case(CHECK, "it stops cleanly and gives the controller back", || {
        node.stop()?;
        unbind(&address)?;
        let device = block_device(&address, 1)?;
        Ok(format!("{} holds its data", device.display()))
    });
}

/// A node with a file system and a mount.
#[derive(Debug)]
pub(crate) struct Node {
    server: Option<Child>,
}

impl Node {
    /// Formats the device, encrypted if there is a key, and starts.
    pub(crate) fn start_new(device: &str, key: Option<&str>) -> Result<Self> {
        fs::create_dir_all(HOME)?;
        fs::write(configuration(), text(device, key))?;
        let config = configuration().display().to_string();
        sheen_succeeds(&["format", "--force", "--config", &config])?;
        let mut node = Self { server: None };
        node.start()?;
        sheen_succeeds(&["fs", "create", "guest", "--node", &address()])?;
        node.mount()?;
        Ok(node)
    }

    /// Starts the program; fails with its last words if it does not serve.
    pub(crate) fn start(&mut self) -> Result<()> {
        // Left by the one before.
        let _ = fs::remove_file(socket());
        let log = File::options().create(true).append(true).open(log())?;
        let mut command = Command::new(SHEEN);
        command.args(["node", "--config"]).arg(configuration());
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut server = command.spawn()?;
        let mut ended = None;
        let waited = process::wait_for("the node", START_DEADLINE, || {
            ended = server.try_wait().ok().flatten();
            ended.is_some() || UnixStream::connect(socket()).is_ok()
        });
        self.server = Some(server);
        if waited.is_err() || ended.is_some() {
            bail!("the node does not serve: {}", last_words());
        }
        Ok(())
    }

    fn mount(&self) -> Result<()> {
        let source = format!("{}:/guest", address());
        let log = format!("{HOME}/mount.log");
        sheen_succeeds(&["mount", &source, MOUNT, "-o", "allow_other", "--log", &log]).map(drop)
    }

    /// A directory of the mount.
    pub(crate) fn place(&self, name: &str) -> Result<PathBuf> {
        let place = Path::new(MOUNT).join(name);
        fs::create_dir_all(&place)?;
        Ok(place)
    }

    /// Unmounts, stops, starts and mounts again.
    pub(crate) fn restart(&mut self) -> Result<()> {
        self.stop()?;
        self.start()?;
        self.mount()
    }

    /// Unmounts and stops.
    pub(crate) fn stop(&mut self) -> Result<()> {
        sheen_succeeds(&["umount", MOUNT])?;
        let mut server = self.server.take().context("no node runs")?;
        kill(pid_of(&server), Signal::SIGTERM)?;
        match process::wait_until(&mut server, std::time::Instant::now() + STOP_DEADLINE)? {
            Some(status) => ensure!(status.success(), "{status}: {}", last_words()),
            None => {
                process::kill_nine(&mut server)?;
                bail!("the node does not stop: {}", last_words());
            }
        }
        Ok(())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(server) = &mut self.server {
            let _ = sheen_succeeds(&["umount", "--force", MOUNT]);
            let _ = process::kill_nine(server);
        }
    }
}

fn configuration() -> PathBuf {
    Path::new(HOME).join("node.toml")
}

fn socket() -> PathBuf {
    Path::new(HOME).join("node.sock")
}

fn log() -> PathBuf {
    Path::new(HOME).join("node.log")
}

fn address() -> String {
    format!("unix:{}", socket().display())
}

fn last_words() -> String {
    process::tail(&fs::read_to_string(log()).unwrap_or_default(), 1200)
}

/// A small node, on one thread: the guest has two slow processors.
fn text(device: &str, key: Option<&str>) -> String {
    let encryption = key.map(|key| format!("[encryption]\nkey = \"{key}\"\n")).unwrap_or_default();
    format!(
        "name = \"guest\"\nsocket = \"{}\"\n[device]\npath = \"{device}\"\nosts = 1\nqueue_depth = 64\n\
         [threads]\nreactors = 1\n\
         [limits]\nmemory = \"1GiB\"\nbuffers = \"32MiB\"\ninodes = 65536\nleases = 16384\nlocks = 16384\n\
         clients = 16\n{encryption}",
        socket().display()
    )
}

/// The content of file `number`: every eight bytes differ.
fn content(number: u32) -> Vec<u8> {
    let words = 0..u32::try_from(FILE_BYTES.div_ceil(8)).unwrap_or(u32::MAX);
    let mut bytes: Vec<u8> = words
        .flat_map(|word| {
            (u64::from(number) << 32 | u64::from(word))
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                .to_le_bytes()
        })
        .collect();
    bytes.truncate(FILE_BYTES);
    bytes
}

pub(crate) fn write_files(place: &Path) -> Result<()> {
    for number in 0..FILES {
        let file = File::create(place.join(format!("{number}")))?;
        file.write_all_at(&content(number), 0)?;
        file.sync_all()?;
    }
    Ok(())
}

pub(crate) fn check_files(place: &Path) -> Result<String> {
    for number in 0..FILES {
        let mut bytes = Vec::new();
        File::open(place.join(format!("{number}")))?.read_to_end(&mut bytes)?;
        ensure!(bytes == content(number), "file {number} holds something else than was written");
    }
    Ok(format!("{FILES} files, {} MiB", (FILES as usize * FILE_BYTES) >> 20))
}
