//! Encryption at rest: nothing of files is on the device, wrong keys are refused, keys change under load and through kills, an erased device
//! opens no more, and a core dump of the node holds no key.
//!
//! Runs on clusters of its own: it stops, kills and aborts the node and reads the device file.

use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use rustix::fs::{XattrFlags, setxattr};

use super::Context;
use super::kill::{Writer, require_progress};
use crate::cluster::{Cluster, ClusterOptions, Mount};
use crate::process;
use crate::random::Random;
use crate::target::Target;

mod search;
mod secrets;

use search::{Needle, Search};
use secrets::Secrets;

const CHECK: &str = "encryption";
const DEVICE_BYTES: u64 = 1 << 30;
const DEADLINE: Duration = Duration::from_secs(60);
const WRITERS: u64 = 2;

/// Runs the check. It needs nodes; a directory has none.
pub fn run(context: &mut Context<'_>) {
    let scratch = context.scratch.join(CHECK);
    let (seed, effort) = (context.seed, context.effort);
    let is_on_cluster = matches!(context.target, Target::Cluster { .. });
    let report = &mut *context.report;
    report.case(CHECK, "it has nodes to look at", || {
        ensure!(is_on_cluster, "encryption needs a node; run it without --dir");
        Ok(fs::create_dir_all(&scratch).map(|()| String::new())?)
    });
    if !is_on_cluster {
        return;
    }
    report.case(CHECK, "no content and no name is on an encrypted device", || {
        device_holds_no_plaintext(&scratch, seed)
    });
    report.case(CHECK, "what was never written is taken for nothing that is lost", || {
        nothing_is_torn(&scratch)
    });
    report.case(
        CHECK,
        "a key that does not fit is refused, and the message says what fits",
        || wrong_keys_are_refused(&scratch),
    );
    let rounds = context.rounds.unwrap_or(effort.pick(8, 40));
    let name = format!("keys change under load and through {rounds} kills, seed {seed}");
    report.case(CHECK, &name, || keys_change_under_load(&scratch, seed, rounds));
    report.case(CHECK, "a core dump of the node holds no key", || core_holds_no_key(&scratch));
    report.case(CHECK, "an erased device opens no more", || erased_opens_no_more(&scratch));
}

/// A cluster whose device is encrypted, and its key files.
struct Encrypted {
    cluster: Cluster,
    keys: PathBuf,
    _directory: tempfile::TempDir,
}

impl Encrypted {
    fn start(scratch: &Path) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir_in(scratch)?;
        let keys = directory.path().canonicalize()?;
        let mut options = options(scratch);
        let mut make = Command::new(&options.program);
        process::run(make.args(["key", "new"]).arg(keys.join("key")), DEADLINE)?;
        options.key = Some(source(&keys.join("key")));
        Ok(Self { cluster: Cluster::start(options)?, keys, _directory: directory })
    }

    fn key(&self) -> PathBuf {
        self.keys.join("key")
    }

    /// Another key file, made anew.
    fn new_key(&self, name: &str) -> anyhow::Result<PathBuf> {
        let path = self.keys.join(name);
        process::run(self.cluster.command().args(["key", "new"]).arg(&path), DEADLINE)?;
        Ok(path)
    }

    /// `sheen key rotate` to a key file.
    fn rotation(&self, to: &Path) -> Command {
        let mut command = self.cluster.command();
        command.args(["key", "rotate", "--config"]).arg(self.cluster.configuration_file());
        command.arg("--to").arg(source(to));
        command
    }

    /// Starts the node with the key file; what it says if it refuses.
    fn try_start(&mut self, key: Option<&Path>) -> anyhow::Result<Result<(), String>> {
        self.cluster.configure_key(key.map(source).as_deref())?;
        let before = fs::metadata(self.cluster.log())?.len();
        if self.cluster.restart().is_ok() {
            return Ok(Ok(()));
        }
        let log = fs::read(self.cluster.log())?;
        let said = log.get(usize::try_from(before)?..).unwrap_or_default();
        Ok(Err(String::from_utf8_lossy(said).into_owned()))
    }
}

fn options(scratch: &Path) -> ClusterOptions {
    ClusterOptions { device_bytes: DEVICE_BYTES, ..ClusterOptions::new(scratch) }
}

fn source(path: &Path) -> String {
    format!("file:{}", path.display())
}

/// What is written, by the place it is written to.
struct Markers {
    content: String,
    name: String,
    long_name: String,
    directory: String,
    attribute: String,
    attribute_value: String,
    link_target: String,
}

impl Markers {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut marker = |what: &str| format!("{what}-{:016x}-marker", random.next_u64());
        let long = marker("long");
        Self {
            content: marker("content"),
            name: marker("name"),
            long_name: format!("{long}{}", "n".repeat(250 - long.len())),
            directory: marker("directory"),
            attribute: format!("user.{}", marker("attribute")),
            attribute_value: marker("value"),
            link_target: format!("/nowhere/{}", marker("target")),
        }
    }

    fn needles(&self) -> Vec<Needle> {
        [
            ("content", &self.content),
            ("a short name", &self.name),
            ("a long name", &self.long_name),
            ("a directory's name", &self.directory),
            ("an extended attribute's name", &self.attribute),
            ("an extended attribute's value", &self.attribute_value),
            ("a symbolic link's target", &self.link_target),
        ]
        .map(|(what, text)| Needle::new(what, text.as_bytes()))
        .into()
    }

    fn write(&self, mount: &Path) -> anyhow::Result<()> {
        let directory = mount.join(&self.directory);
        fs::create_dir(&directory)?;
        let small = directory.join(&self.name);
        fs::write(&small, &self.content)?;
        // More than a journal record holds, and more than one chunk.
        let large = self.content.repeat((3 << 20) / self.content.len());
        fs::write(directory.join(&self.long_name), large)?;
        std::os::unix::fs::symlink(&self.link_target, directory.join("link"))?;
        let value = self.attribute_value.as_bytes();
        setxattr(&small, self.attribute.as_str(), value, XattrFlags::CREATE)?;
        for path in [&small, &directory.join(&self.long_name), &directory] {
            File::open(path)?.sync_all()?;
        }
        Ok(())
    }
}

/// Writes the markers and stops cleanly.
fn write_markers(cluster: &mut Cluster, markers: &Markers) -> anyhow::Result<()> {
    let mount = cluster.mount()?;
    markers.write(mount.directory())?;
    mount.unmount()?;
    cluster.stop()
}

fn device_holds_no_plaintext(scratch: &Path, seed: u64) -> anyhow::Result<String> {
    let markers = Markers::new(seed);
    let needles = markers.needles();
    let mut plain = Cluster::start(options(scratch))?;
    write_markers(&mut plain, &markers)?;
    let mut search = Search::new(&needles);
    search.file(&mut File::open(plain.device())?)?;
    let missing = search.missing();
    ensure!(missing.is_empty(), "not found on an unencrypted device: {}", missing.join(", "));
    drop(plain);
    let mut encrypted = Encrypted::start(scratch)?;
    write_markers(&mut encrypted.cluster, &markers)?;
    let mut search = Search::new(&needles);
    search.file(&mut File::open(encrypted.cluster.device())?)?;
    let found = search.found();
    ensure!(found.is_empty(), "found on an encrypted device: {}", found.join(", "));
    // And it was there: the node still shows it.
    encrypted.cluster.restart()?;
    let mount = encrypted.cluster.mount()?;
    let small = mount.directory().join(&markers.directory).join(&markers.name);
    ensure!(fs::read(&small)? == markers.content.as_bytes());
    mount.unmount()?;
    Ok(format!("{} markers, all found without encryption, none with it", needles.len()))
}

fn wrong_keys_are_refused(scratch: &Path) -> anyhow::Result<String> {
    let mut encrypted = Encrypted::start(scratch)?;
    let (right, wrong) = (encrypted.key(), encrypted.new_key("wrong")?);
    let open = encrypted.new_key("open")?;
    fs::set_permissions(&open, std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
    encrypted.cluster.stop()?;
    for (key, parts) in [
        (Some(&wrong), vec![source(&wrong), source(&right), "slot 0, a file key".to_owned()]),
        (None, vec!["is encrypted under".to_owned(), source(&right), "[encryption]".to_owned()]),
        (Some(&open), vec!["chmod 600".to_owned(), source(&open)]),
        (Some(&encrypted.keys.join("absent")), vec!["not reachable".to_owned()]),
    ] {
        let said = encrypted.try_start(key.map(PathBuf::as_path))?;
        let Err(said) = said else { bail!("the node starts with {key:?}") };
        for part in parts {
            ensure!(said.contains(&part), "{part} is not said with {key:?}: {said}");
        }
    }
    encrypted.try_start(Some(&right))?.map_err(anyhow::Error::msg)?;
    let mut plain = Cluster::start(options(scratch))?;
    plain.stop()?;
    plain.configure_key(Some(&source(&right)))?;
    ensure!(plain.restart().is_err(), "a node starts on a device that is not encrypted");
    ensure!(plain.last_words().contains("is not encrypted"), "{}", plain.last_words());
    Ok(String::new())
}

fn keys_change_under_load(scratch: &Path, seed: u64, rounds: u32) -> anyhow::Result<String> {
    let mut random = Random::new(seed);
    let mut encrypted = Encrypted::start(scratch)?;
    let mount = encrypted.cluster.mount()?;
    let logs = tempfile::tempdir_in(scratch)?;
    let mut writers = (0..WRITERS)
        .map(|number| Writer::start(mount.directory(), logs.path(), number, seed))
        .collect::<anyhow::Result<Vec<_>>>()?;
    require_progress(&mut writers, 20)?;
    let mut current = encrypted.key();
    for number in 0..5 {
        let next = encrypted.new_key(&format!("served-{number}"))?;
        process::run(&mut encrypted.rotation(&next), DEADLINE)?;
        // Whoever starts next needs it.
        encrypted.cluster.configure_key(Some(&source(&next)))?;
        current = next;
        require_progress(&mut writers, 5).context("the node serves while keys change")?;
    }
    let (mut old_opened, mut new_opened) = (0, 0);
    for number in 0..rounds {
        let next = encrypted.new_key(&format!("killed-{number}"))?;
        let mut rotation = encrypted.rotation(&next);
        let rotating = std::thread::spawn(move || process::finish(&mut rotation, DEADLINE));
        std::thread::sleep(Duration::from_micros(random.below(30_000)));
        encrypted.cluster.kill()?;
        // Whether it was carried out, refused, or done on the device when the node was gone.
        rotating.join().map_err(|_| anyhow::anyhow!("waiting for the rotation"))??;
        let with_old = encrypted.try_start(Some(&current))?;
        if with_old.is_ok() {
            old_opened += 1;
        } else {
            let with_new = encrypted.try_start(Some(&next))?;
            ensure!(
                with_new.is_ok(),
                "round {number}: neither key opens: {with_old:?}, {with_new:?}"
            );
            new_opened += 1;
            current = next;
        }
        require_progress(&mut writers, 5).with_context(|| format!("round {number}"))?;
    }
    let last = encrypted.new_key("last")?;
    process::run(&mut encrypted.rotation(&last), DEADLINE)?;
    for writer in &mut writers {
        writer.pause()?;
    }
    let steps: usize = writers.iter().map(Writer::steps).sum();
    check_tree(&mut encrypted.cluster, &writers)?;
    drop(writers);
    finish(mount, &mut encrypted)?;
    let refused = encrypted.try_start(Some(&current))?;
    ensure!(refused.is_err(), "the old key still opens");
    let accepted = encrypted.try_start(Some(&last))?;
    accepted.map_err(|said| anyhow::anyhow!("the new key does not open: {said}"))?;
    Ok(format!(
        "{steps} acknowledged steps; after a kill the old key opened {old_opened} times, the new one {new_opened}"
    ))
}

fn check_tree(cluster: &mut Cluster, writers: &[Writer]) -> anyhow::Result<()> {
    let second = cluster.mount()?;
    for writer in writers {
        writer.require_found(second.directory())?;
    }
    second.unmount()
}

fn finish(mount: Mount, encrypted: &mut Encrypted) -> anyhow::Result<()> {
    mount.unmount()?;
    encrypted.cluster.stop()
}

fn core_holds_no_key(scratch: &Path) -> anyhow::Result<String> {
    let mut encrypted = Encrypted::start(scratch)?;
    let mount = encrypted.cluster.mount()?;
    Markers::new(7).write(mount.directory())?;
    // Wrapped anew, so that this path has been gone as well.
    let next = encrypted.new_key("next")?;
    process::run(&mut encrypted.rotation(&next), DEADLINE)?;
    mount.unmount()?;
    let cluster = &mut encrypted.cluster;
    let secrets = Secrets::of(&cluster.device(), &next)?;
    let node = cluster.node_pid().context("no node runs")?;
    let locked = locked_bytes(node)?;
    ensure!(locked > 0, "VmLck is 0");
    // What is looked for is right: the node has it where it may be.
    for keys in [&secrets.encryption, &secrets.decryption] {
        let mut search = Search::new(keys);
        search.memory(node, |mapping| mapping.is_not_dumped && mapping.is_locked)?;
        let missing = search.missing();
        ensure!(missing.is_empty(), "the node's cipher has not: {}", missing.join(", "));
    }
    let needles = secrets.all();
    let mut search = Search::new(&needles);
    search.memory(node, |mapping| !(mapping.is_not_dumped && mapping.is_locked))?;
    let found = search.found();
    ensure!(found.is_empty(), "in memory that is dumped or swapped: {}", found.join(", "));
    let core = dump_core(cluster, node)?;
    let Some(mut core) = core else {
        return Ok(format!(
            "{locked} KiB locked; {} secrets; cores go to a program here, memory was read",
            needles.len()
        ));
    };
    let bytes = core.metadata()?.len();
    // It is a core of this process, with its heap.
    let present = [Needle::new("the socket's path", cluster.socket().as_os_str().as_bytes())];
    let mut search = Search::new(&present);
    search.file(&mut core.try_clone()?)?;
    ensure!(search.missing().is_empty(), "the core does not hold the node's memory");
    std::io::Seek::rewind(&mut core)?;
    let mut search = Search::new(&needles);
    search.file(&mut core)?;
    let found = search.found();
    ensure!(found.is_empty(), "in the core: {}", found.join(", "));
    Ok(format!(
        "{locked} KiB locked; {} secrets, none in a core of {} MiB",
        needles.len(),
        bytes >> 20
    ))
}

/// The core of the node, which is made to abort. None: this system hands cores to a program.
fn dump_core(cluster: &mut Cluster, node: u32) -> anyhow::Result<Option<File>> {
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern")?;
    let mut raise = Command::new("prlimit");
    raise.args(["--pid", &node.to_string(), "--core=unlimited:unlimited"]);
    process::run(&mut raise, DEADLINE)?;
    cluster.abort()?;
    if pattern.starts_with(['|', '/']) {
        return Ok(None);
    }
    let core = fs::read_dir(cluster.directory())?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.file_name().is_some_and(|name| name.as_bytes().starts_with(b"core")));
    let core = core.context("the node left no core")?;
    Ok(Some(File::open(core)?))
}

/// Memory of a process that stays in memory, in KiB.
fn locked_bytes(process: u32) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmLck:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    Ok(number.context("no VmLck")?.parse()?)
}

/// A device that is new, one that was stopped well, and one whose node was killed when all was durable.
fn nothing_is_torn(scratch: &Path) -> anyhow::Result<String> {
    let mut encrypted = Encrypted::start(scratch)?;
    let mount = encrypted.cluster.mount()?;
    let file = mount.directory().join("file");
    fs::write(&file, vec![7; 1 << 20])?;
    File::open(&file)?.sync_all()?;
    mount.unmount()?;
    encrypted.cluster.stop()?;
    encrypted.cluster.restart()?;
    // A second later the journals say that all of them is durable.
    std::thread::sleep(Duration::from_secs(3));
    encrypted.cluster.kill()?;
    encrypted.cluster.restart()?;
    let log = fs::read_to_string(encrypted.cluster.log())?;
    let torn: Vec<&str> = log.lines().filter(|line| line.contains("torn")).collect();
    ensure!(torn.is_empty(), "{}", torn.join("; "));
    Ok(String::new())
}

fn erased_opens_no_more(scratch: &Path) -> anyhow::Result<String> {
    let mut encrypted = Encrypted::start(scratch)?;
    let device = encrypted.cluster.device();
    let erase = |cluster: &Cluster, more: &[&str]| {
        let mut command = cluster.command();
        process::run(command.args(["key", "erase"]).arg(&device).args(more), DEADLINE)
    };
    ensure!(erase(&encrypted.cluster, &[]).is_err(), "erased without being sure");
    ensure!(erase(&encrypted.cluster, &["--yes"]).is_err(), "erased under a node that serves");
    encrypted.cluster.stop()?;
    let mut before = [0; 40];
    let wrapped_at = 2 * 4096 + 256 + 448;
    std::os::unix::fs::FileExt::read_exact_at(&File::open(&device)?, &mut before, wrapped_at)?;
    let needles = [Needle::new("the wrapped key", &before)];
    let mut search = Search::new(&needles);
    search.file(&mut File::open(&device)?)?;
    ensure!(search.missing().is_empty(), "the wrapped key is not where the format says");
    erase(&encrypted.cluster, &["--yes"])?;
    let mut search = Search::new(&needles);
    search.file(&mut File::open(&device)?)?;
    ensure!(search.found().is_empty(), "the wrapped key is still there");
    let key = encrypted.key();
    let Err(said) = encrypted.try_start(Some(&key))? else { bail!("the node still starts") };
    ensure!(said.contains("no key block") && said.contains("erased"), "{said}");
    let mut show = encrypted.cluster.command();
    ensure!(process::run(show.args(["key", "show"]).arg(&device), DEADLINE).is_err());
    Ok(String::new())
}
