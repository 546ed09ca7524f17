//! `sheen up`: from nothing to a mounted file system on one machine.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use sheen_fuse::kernel::mountpoint::MountPoint;
use sheen_keys::{KeyFile, KeyKind, KeySource};
use sheen_node::{config::EncryptionConfig, device::Way};
use sheen_types::Bytes;

use super::{setup, status};
use crate::{admin::Admin, answer, arguments::Up, process};

/// How often a node that starts is asked how far it is.
const START_LOOK: Duration = Duration::from_millis(500);
/// How long a killed node may take to give its memory back.
const END_PATIENCE: Duration = Duration::from_secs(30);

/// The files of a node that `sheen up` keeps.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// The folder.
    pub dir: PathBuf,
}

/// What `up` answers.
#[derive(Debug, Serialize)]
struct Shown {
    mount: PathBuf,
    source: String,
    node: i32,
    metrics: String,
    log: PathBuf,
    /// The key the device is encrypted under; none: it is not.
    key: Option<String>,
    started: bool,
    mounted: bool,
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

    /// The key of its device, if that is encrypted.
    fn key(&self) -> PathBuf {
        self.dir.join("key")
    }

    /// Number of the process started last.
    fn last_node(&self) -> Option<i32> {
        std::fs::read_to_string(self.dir.join("node.pid")).ok()?.trim().parse().ok()
    }

    /// Waits for a node that was killed and still has the device, the sockets and the ports.
    fn await_ending_node(&self) -> Result<()> {
        match self.last_node() {
            Some(pid) if process::is_ending(pid) => {
                answer::progress(&format!("waiting for the end of process {pid}"));
                process::await_end(pid, END_PATIENCE)
            }
            Some(_) | None => Ok(()),
        }
    }

    /// The process that serves it, if one does.
    pub(crate) fn running_node(&self) -> Option<i32> {
        let pid = self.last_node()?;
        // The number may belong to another program by now: ours has our configuration on its command line.
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let config = self.config();
        let ours =
            line.split(|byte| *byte == 0).any(|word| word == config.as_os_str().as_encoded_bytes());
        (ours && process::is_alive(pid)).then_some(pid)
    }
}

/// `path` seen from the root; `.` and the like are removed, links are kept.
///
/// # Errors
/// When the current directory is gone.
pub(crate) fn absolute(path: &Path) -> Result<PathBuf> {
    let path = std::path::absolute(path).with_context(|| format!("`{}`", path.display()))?;
    Ok(path.components().collect())
}

/// Brings everything up that is not.
///
/// # Errors
/// When a step fails; what was done before stays, and running it again goes on.
pub(crate) fn run(json: bool, up: &Up) -> Result<()> {
    let place = Place::new(&up.dir)?;
    let mount = absolute(&up.mount)?;
    let config = prepare(&place, up)?;
    place.await_ending_node()?;
    let running = place.running_node();
    let node = match running {
        Some(pid) => {
            await_start(pid, &config);
            pid
        }
        None => start_node(&place)?,
    };
    let address = format!("unix:{}", config.socket.display());
    let name = choose_file_system(&address, &up.name)?;
    let source = format!("{address}:/{name}");
    std::fs::create_dir_all(&mount)
        .or_else(|error| match MountPoint::at(&mount) {
            // A mount that does not answer is still a directory to us.
            Ok(Some(_)) => Ok(()),
            _ => Err(error),
        })
        .with_context(|| format!("cannot make {}", mount.display()))?;
    let found = MountPoint::at(&mount)?.filter(MountPoint::is_fuse);
    match &found {
        Some(there) if there.source == source => {}
        Some(there) => bail!("{} is taken: {} is mounted there", mount.display(), there.source),
        None => start_mount(&place, &source, &mount)?,
    }
    let helper =
        std::env::current_exe().ok().is_some_and(|program| setup::install(&program).is_ok());
    let shown = Shown {
        mount,
        source,
        node,
        metrics: format!("http://{}/metrics", config.metrics),
        log: place.dir.join("node.log"),
        key: config.encryption.key().map(ToString::to_string),
        started: running.is_none(),
        mounted: found.is_none(),
    };
    answer::either(json, &shown, || text(&shown, &place, helper));
    Ok(())
}

fn text(shown: &Shown, place: &Place, helper: bool) -> String {
    let was = |new: bool| if new { "" } else { " (was already)" };
    let mount_type = if helper { "mount -t sheen" } else { "sheen mount" };
    format!(
        "Sheen is up.\n\
         \n  mounted at   {}{}\
         \n  node         process {}{}, log {}\
         \n  metrics      {}\
         \n  encrypted    {}\
         \n  a 2nd mount  {mount_type} {} DIR\
         \n  stop         sheen down --mount {} --dir {}   (or: cargo xtask down)\n\
         \nThe data is in {}; it stays when you stop, `up` brings it back.",
        shown.mount.display(),
        was(shown.mounted),
        shown.node,
        was(shown.started),
        shown.log.display(),
        shown.metrics,
        shown
            .key
            .as_ref()
            .map_or("no".to_owned(), |key| format!("under {key}; keep a copy elsewhere")),
        shown.source,
        shown.mount.display(),
        place.dir.display(),
        place.dir.display(),
    )
}

/// Makes folder, configuration and device where they are not.
fn prepare(place: &Place, up: &Up) -> Result<sheen_node::Config> {
    std::fs::create_dir_all(&place.dir)
        .with_context(|| format!("cannot make {}", place.dir.display()))?;
    let path = place.config();
    if !path.exists() {
        let size: Bytes = up.size.parse().with_context(|| format!("--size {}", up.size))?;
        answer::progress(&format!("writing {}", path.display()));
        let mut text = sheen_node::Config::embedded_text(&place.dir, size);
        // A device that lost its configuration stays what it is.
        let is_new = !place.dir.join("device").exists();
        let is_encrypted = if is_new { !up.no_encryption } else { place.key().exists() };
        if is_encrypted {
            text.push_str(&EncryptionConfig::under(make_key(place)?).text());
        }
        process::write_whole(&path, &text)?;
    }
    let config = sheen_node::Config::load(&path)?;
    let is_path = matches!(Way::of(&config.device.path), Ok(Way::Path(_)));
    if is_path && !config.device.path.exists() {
        answer::progress(&format!("making {} ({}, sparse)", config.device.path.display(), up.size));
        super::format::write_empty(&config, sheen_node::device::Force::No)?;
    }
    Ok(config)
}

/// The key file of the place; made if it is not there. One that is there may open a device.
fn make_key(place: &Place) -> Result<KeySource> {
    let path = place.key();
    if !path.exists() {
        answer::progress(&format!("making the key {}", path.display()));
        KeyFile::create(&path)?;
    }
    let text = path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))?;
    KeySource::new(KeyKind::File, text).with_context(|| {
        format!("{text} is too long for the name of a key; say --no-encryption, or another --dir")
    })
}

fn start_node(place: &Place) -> Result<i32> {
    answer::progress("starting the node");
    let config = place.config();
    let arguments = [
        OsStr::new("node"),
        OsStr::new("--report-ready"),
        OsStr::new("--config"),
        config.as_os_str(),
    ];
    // Known at once: who gives up waiting finds it again, or stops it.
    let begun = |pid: u32| process::write_whole(&place.dir.join("node.pid"), &format!("{pid}\n"));
    let child = process::start(&arguments, &place.dir.join("node.log"), begun)
        .context("the node did not start")?;
    Ok(i32::try_from(child.id())?)
}

/// Waits for a node that is starting already, and says what for. What it cannot find out, the next step will.
fn await_start(pid: i32, config: &sheen_node::Config) {
    let mut said = String::new();
    while process::is_alive(pid) {
        let steps = status::starting(&config.metrics.to_string());
        let Some(text) = steps.filter(|text| !text.is_empty()) else { return };
        if text != said {
            answer::progress(&format!("waiting for {text}"));
            said = text;
        }
        std::thread::sleep(START_LOOK);
    }
}

/// The file system to mount: the one of that name, or the only one there is, or a new one.
fn choose_file_system(address: &str, name: &str) -> Result<String> {
    let mut admin = Admin::connect(address)?;
    let names: Vec<String> = admin
        .list()?
        .iter()
        .filter(|info| !info.deleting)
        .map(|info| String::from_utf8_lossy(&info.name).into_owned())
        .collect();
    if names.iter().any(|there| there == name) {
        return Ok(name.to_owned());
    }
    answer::progress(&format!("creating the file system {name}"));
    admin.create(name, 0o755)?;
    Ok(name.to_owned())
}

fn start_mount(place: &Place, source: &str, mount: &Path) -> Result<()> {
    answer::progress(&format!("mounting at {}", mount.display()));
    super::mount::in_background(source, mount, &[], &place.dir.join("mount.log"))
}
