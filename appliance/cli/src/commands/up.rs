//! `sheen up`: from nothing to a mounted file system on one machine.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use sheen_fuse::kernel::mountpoint::MountPoint;
use sheen_keys::{KeyFile, KeyKind, KeySource};
use sheen_node::{
    Config,
    config::EncryptionConfig,
    device::{HostRoom, Way, free_at},
    is_filesystem_name,
};
use sheen_types::Bytes;

use super::{
    moved::Moved,
    place::{Place, absolute},
    ports,
    server::source_of,
    setup,
    slow::Slow,
    status, umount,
};
use crate::{
    admin::{Admin, is_refused, not_a_name, not_ours},
    answer,
    arguments::Up,
    failure::{Failure, FailureKind},
    owner::Owner,
    process,
};

/// How often a node is started whose ports are taken from it each time.
const STARTS_MAX: u32 = 4;
/// How often a node that starts is asked how far it is.
const START_LOOK: Duration = Duration::from_millis(500);
/// How long a node that runs may take to answer for the first time.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);
/// Size of a new device whose host has room for more.
const DEVICE_BYTES: Bytes = Bytes(64 << 30);
/// What the size of a device is a multiple of, where its host says how large it can be.
const DEVICE_STEP: u64 = 64 << 20;

/// What `up` answers.
#[derive(Debug, Serialize)]
struct Shown {
    mount: PathBuf,
    source: String,
    node: i32,
    metrics: String,
    listen: String,
    log: PathBuf,
    /// The key the device is encrypted under; none: it is not.
    key: Option<String>,
    started: bool,
    mounted: bool,
    /// A mount whose process was gone was there, and is replaced.
    replaced_dead: bool,
    /// Clients are to be told another address than before; none: they find the node where it was.
    moved: Option<Moved>,
    /// Size of the device beside what its host has; none: it is no file.
    room: Option<HostRoom>,
    /// What there is to know of a host that has less.
    warning: Option<String>,
}

/// Brings everything up that is not.
///
/// # Errors
/// When a step fails; what was done before stays, and running it again goes on.
pub(crate) fn run(json: bool, up: &Up) -> Result<()> {
    if !is_filesystem_name(up.name.as_bytes()) {
        bail!(not_a_name());
    }
    let place = Place::new(&up.dir)?;
    let mount = absolute(&up.mount)?;
    std::fs::create_dir_all(&place.dir)
        .with_context(|| format!("cannot make {}", place.dir.display()))?;
    let _alone = place.lock()?;
    let config = prepare(&place, up)?;
    let address = format!("unix:{}", config.socket.display());
    let source = format!("{address}:/{}", up.name);
    let replaced_dead = free_place(&mount, &source)?;
    place.await_ending_node()?;
    let running = place.running_node();
    let listened = config.listen;
    let (config, node) = match running {
        Some(_) if is_refused(&config.socket) => bail!(not_ours(&address)),
        Some(pid) => {
            await_start(pid, &address);
            (config, pid)
        }
        None => start(&place, config, up)?,
    };
    let slow = Slow::watch(
        "waiting for the node: mounts that did not say good-bye have 20 s to come back",
    );
    choose_file_system(&address, &up.name)?;
    std::fs::create_dir_all(&mount)
        .or_else(|error| match MountPoint::at(&mount) {
            // A mount that does not answer is still a directory to us.
            Ok(Some(_)) => Ok(()),
            _ => Err(error),
        })
        .with_context(|| format!("cannot make {}", mount.display()))?;
    let found = MountPoint::at(&mount)?;
    if found.is_none() {
        start_mount(&place, &source, &mount)?;
    }
    drop(slow);
    let helper =
        std::env::current_exe().ok().is_some_and(|program| setup::install_where_missing(&program));
    let room = HostRoom::of(&config.device.path, None);
    let shown = Shown {
        moved: Moved::of(listened, config.listen),
        warning: room.as_ref().and_then(HostRoom::warning),
        room,
        mount,
        source,
        node,
        metrics: format!("http://{}/metrics", config.metrics),
        listen: config.listen.to_string(),
        log: place.dir.join("node.log"),
        key: config.encryption.key().map(ToString::to_string),
        started: running.is_none(),
        mounted: found.is_none(),
        replaced_dead,
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
         \n  clients at   {} (TCP)\
         \n  metrics      {}\
         \n  encrypted    {}\
         \n  a 2nd mount  {mount_type} {} DIR\
         \n  stop         sheen down --dir {}   (or: cargo xtask down)\n\
         \nThe data is in {}; it stays when you stop, `up` brings it back.{}",
        shown.mount.display(),
        was(shown.mounted),
        shown.node,
        was(shown.started),
        shown.log.display(),
        shown.listen,
        shown.metrics,
        shown
            .key
            .as_ref()
            .map_or("no".to_owned(), |key| format!("under {key}; keep a copy elsewhere")),
        shown.source,
        place.dir.display(),
        place.dir.display(),
        shown.moved.as_ref().map_or(String::new(), Moved::text),
    )
}

/// Makes folder, configuration and device where they are not. What a run that was interrupted or refused left half made is made
/// anew by the next.
fn prepare(place: &Place, up: &Up) -> Result<Config> {
    let path = place.config();
    if !path.exists() {
        let text = configuration(place, up)?;
        make_device(&Config::parse(&path, &text)?)?;
        answer::progress(&format!("writing {}", path.display()));
        process::write_whole(&path, &text)?;
    }
    let config = Config::load(&path)?;
    place.check_config(&config)?;
    for (option, key, given, there) in [
        ("--listen", "listen", up.listen, config.listen),
        ("--metrics", "metrics", up.metrics, config.metrics),
    ] {
        if let Some(given) = given.filter(|given| *given != there) {
            let text = format!("{option} {given}: the configuration says {key} = \"{there}\"");
            let hint =
                format!("change it in {} and run `sheen up` without {option}", path.display());
            bail!(Failure::new(FailureKind::Usage, text).hint(hint));
        }
    }
    make_device(&config)?;
    if let Some(warning) =
        HostRoom::of(&config.device.path, None).as_ref().and_then(HostRoom::warning)
    {
        answer::progress(&format!("warning: {warning}"));
    }
    Ok(config)
}

/// The text of a new configuration; ports are chosen and the key is made.
fn configuration(place: &Place, up: &Up) -> Result<String> {
    let size = up.size.unwrap_or_else(|| default_size(&place.dir));
    let addresses = ports::choose(up)?;
    let mut text = Config::embedded_text(&place.dir, size, addresses);
    // A device that lost its configuration stays what it is.
    let is_new = !place.dir.join("device").exists();
    let is_encrypted = if is_new { !up.no_encryption } else { place.key().exists() };
    if is_encrypted {
        text.push_str(&EncryptionConfig::under(make_key(place)?).text());
    }
    Ok(text)
}

/// Makes the device a configuration names if it is a file and not there: under another name until it is formatted.
fn make_device(config: &Config) -> Result<()> {
    let path = &config.device.path;
    if !matches!(Way::of(path), Ok(Way::Path(_))) || path.exists() {
        return Ok(());
    }
    let size = config.device.size.map_or(String::new(), |size| format!(" ({size}, sparse)"));
    answer::progress(&format!("making {}{size}", path.display()));
    let mut unfinished = config.clone();
    unfinished.device.path.as_mut_os_string().push(".new");
    match std::fs::remove_file(&unfinished.device.path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error)
                .with_context(|| format!("removing {}", unfinished.device.path.display()));
        }
        _ => {}
    }
    super::format::write_empty(&unfinished, sheen_node::device::Force::No)?;
    std::fs::rename(&unfinished.device.path, path)
        .with_context(|| format!("naming {}", path.display()))
}

/// Size of a device for which none was asked for: what its host can give, and leaves it some.
fn default_size(dir: &Path) -> Bytes {
    let Some(free) = free_at(dir) else { return DEVICE_BYTES };
    if free >= DEVICE_BYTES {
        return DEVICE_BYTES;
    }
    Bytes(free.0 / 4 * 3 / DEVICE_STEP * DEVICE_STEP)
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

/// Starts the node, at other ports where its own are taken. Another program may be quicker at one that was free a moment ago.
fn start(place: &Place, mut config: Config, up: &Up) -> Result<(Config, i32)> {
    let mut replaced = ports::replace_taken(place, up, &config)?;
    for _ in 1..STARTS_MAX {
        config = replaced.unwrap_or(config);
        let refused = match start_node(place) {
            Ok(node) => return Ok((config, node)),
            Err(refused) => refused,
        };
        replaced = ports::replace_taken(place, up, &config)?;
        if replaced.is_none() {
            return Err(refused);
        }
    }
    config = replaced.unwrap_or(config);
    Ok((config, start_node(place)?))
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
    let begun = |pid: u32| process::note(&place.pid_file(), &format!("{pid}\n"));
    let child = process::start(&arguments, &place.dir.join("node.log"), begun)
        .context("the node did not start")?;
    Ok(i32::try_from(child.id())?)
}

/// Waits for a node that is starting already, and says what for. What it cannot find out, the next step will.
fn await_start(pid: i32, address: &str) {
    let begun = Instant::now();
    let mut said = String::new();
    while process::is_alive(pid) {
        match status::starting(address) {
            Some(text) if text.is_empty() => return,
            Some(text) if text != said => {
                answer::progress(&format!("waiting for {text}"));
                said = text;
            }
            // It opens its device, or does not answer at all.
            None if begun.elapsed() > ANSWER_PATIENCE => return,
            Some(_) | None => {}
        }
        std::thread::sleep(START_LOOK);
    }
}

/// Takes a dead mount at `mount` away. Returns whether there was one.
///
/// # Errors
/// In use: something else than `source` is mounted there.
fn free_place(mount: &Path, source: &str) -> Result<bool> {
    if !mount.parent().is_some_and(Path::exists) {
        return Ok(false);
    }
    let replaced = umount::remove_dead(mount)?;
    if let Some(there) = MountPoint::at(mount)?.as_ref().map(source_of)
        && there != source
    {
        let text = format!("{} is taken: {there} is mounted there", mount.display());
        let failure = Failure::new(FailureKind::InUse, text);
        bail!(failure.hint("choose another place with --mount DIR"));
    }
    Ok(replaced)
}

/// Makes the file system of that name if there is none.
fn choose_file_system(address: &str, name: &str) -> Result<()> {
    let mut admin = Admin::connect(address)?;
    let names: Vec<String> = admin
        .list()?
        .iter()
        .filter(|info| !info.deleting)
        .map(|info| String::from_utf8_lossy(&info.name).into_owned())
        .collect();
    if names.iter().any(|there| there == name) {
        return Ok(());
    }
    answer::progress(&format!("creating the file system {name}"));
    admin.create(name, 0o755, Owner::of_process())?;
    Ok(())
}

fn start_mount(place: &Place, source: &str, mount: &Path) -> Result<()> {
    answer::progress(&format!("mounting at {}", mount.display()));
    super::mount::in_background(source, mount, &[], &place.dir.join("mount.log"))
}

#[cfg(test)]
mod test {
    use sheen_node::config::Addresses;

    use super::*;

    fn up(listen: Option<&str>) -> Up {
        Up {
            mount: "./mnt".into(),
            dir: "./.sheen".into(),
            size: Some(Bytes(1 << 30)),
            name: "sheen".to_owned(),
            no_encryption: true,
            listen: listen.map(|address| address.parse().unwrap()),
            metrics: None,
        }
    }

    #[test]
    fn the_configuration_of_another_folder_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place { dir: folder.path().join("copy") };
        std::fs::create_dir_all(folder.path().join("first")).unwrap();
        std::fs::create_dir(&place.dir).unwrap();
        let of = |dir: &Path| {
            let text = Config::embedded_text(dir, Bytes(1 << 30), Addresses::default());
            Config::parse(&place.config(), &text).unwrap()
        };
        let error = place.check_config(&of(&folder.path().join("first"))).unwrap_err();
        assert!(error.to_string().contains("first"), "{error}");
        place.check_config(&of(&place.dir)).unwrap();
        // Another way to it.
        std::os::unix::fs::symlink(&place.dir, folder.path().join("link")).unwrap();
        place.check_config(&of(&folder.path().join("link"))).unwrap();
        // What an administrator chose stays.
        let mut chosen = of(&folder.path().join("first"));
        chosen.device.path = "/dev/nvme9n9".into();
        place.check_config(&chosen).unwrap();
    }

    #[test]
    fn a_first_start_that_was_refused_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place { dir: folder.path().join(".sheen") };
        std::fs::create_dir(&place.dir).unwrap();
        let mut asked = Up { size: Some(Bytes(1 << 20)), ..up(Some("127.0.0.1:0")) };
        let least = prepare(&place, &asked).unwrap_err().to_string();
        asked.size = Some(Bytes(0));
        let of_none = prepare(&place, &asked).unwrap_err().to_string();
        assert!(
            least.contains("at least 193 MiB") && of_none.contains("at least 193 MiB"),
            "{of_none}"
        );
        // Killed while it formatted.
        std::fs::write(place.dir.join("device.new"), b"half").unwrap();
        asked.size = Some(Bytes(1 << 30));
        asked.listen = None;
        prepare(&place, &asked).unwrap();
        assert!(place.dir.join("device").exists() && !place.dir.join("device.new").exists());
    }
}
