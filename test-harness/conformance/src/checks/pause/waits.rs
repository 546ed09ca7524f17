//! Nothing a user can wait on is unkillable, and a mount can always be taken away.
//!
//! Two waits are the kernel's alone and not tested: `msync` of pages that are being written back, which no signal ends
//! before the write is answered, and a request that a stopped mount's process had taken in but not looked at.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use nix::fcntl::{Flock, FlockArg};

use super::ACTORS;
use super::holder::FILE_BYTES;
use super::scene::Scene;
use super::trouble::Trouble;
use crate::actor::Actor;
use crate::cluster::Mount;
use crate::interruption::{self, Guard};
use crate::process;

/// A program that was killed is gone so soon.
const KILLED: Duration = Duration::from_secs(1);
/// `sheen umount` ends so soon.
const UNMOUNTED: Duration = Duration::from_secs(10);
/// A mount's process that was killed is gone so soon, and programs that wait for it are let go.
const GONE: Duration = Duration::from_secs(5);
/// A program that gave its wait for a lock a second is told so soon that it is over: the client waits some seconds to be
/// certain whether it has the lock.
const TIMED_OUT: Duration = Duration::from_secs(9);
/// Its exit code then.
const TIMER: i32 = 75;
/// What programs get to arrive at their wait.
const ARRIVAL: Duration = Duration::from_millis(700);

/// What a program does that waits on a path, as a shell says it.
const PROGRAMS: [(&str, &str); 10] = [
    ("open", "cat open"),
    ("write", "dd if=/dev/zero of=write bs=64k count=4 conv=notrunc status=none"),
    ("create", "touch new-$$"),
    ("mkdir", "mkdir dir-$$"),
    ("rename", "mv rename renamed-$$"),
    ("unlink", "rm unlink"),
    ("stat", "stat stat"),
    ("list", "ls -l list"),
    ("lock", "flock lock true"),
    ("truncate", "truncate -s 100 truncate"),
];

/// What a program does that waits on a descriptor it has open already.
const ORDERS: [(&str, &[&str]); 8] = [
    ("read", &["read 8192"]),
    ("write", &["write 0 7"]),
    ("fsync", &["write 4096 7", "sync"]),
    ("ftruncate", &["truncate 100"]),
    ("close", &["write 0 7", "close"]),
    ("seek", &["seek-data"]),
    ("direct read", &["direct-read"]),
    ("direct write", &["direct-write"]),
];

const USERS: [u32; 2] = [0, 65534];

/// A program that waits; killed when dropped.
struct Waiting {
    name: String,
    process: Child,
    _guard: Guard,
}

impl Waiting {
    fn start(name: &str, text: &str, directory: &Path, uid: u32) -> anyhow::Result<Self> {
        let mut command = Command::new("sh");
        // The directory becomes the working directory in the program: entering it may wait already.
        command.args(["-c", &format!("cd \"$1\" && exec {text}"), "sh"]).arg(directory);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.uid(uid).gid(uid);
        let process = interruption::spawn(&mut command)?;
        let guard = Guard::of_process(process::pid_of(&process));
        Ok(Self { name: format!("{name} (uid {uid})"), process, _guard: guard })
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ = process::kill_nine(&mut self.process);
    }
}

/// Programs of two users wait in every call there is, and are killed.
pub(super) fn kill(scene: &mut Scene, trouble: Trouble) -> anyhow::Result<String> {
    let name = scene.directory()?;
    let there = scene.other.directory().join(&name);
    let on_paths = ["open", "write", "rename", "unlink", "stat", "lock", "truncate"];
    // Another's leases on them are in the way, too.
    for file in on_paths {
        made(&there.join(file), &[1; 100])?;
    }
    fs::create_dir(there.join("list"))?;
    let mount = scene.mount_troubled()?;
    let directory = mount.directory().join(&name);
    fs::metadata(&directory)?;
    let mut holders = Vec::new();
    for (number, (_, orders)) in (0_usize..).zip(ORDERS) {
        for uid in USERS {
            let path = directory.join(format!("held-{number}-{uid}"));
            made(&path, &[1; FILE_BYTES])?;
            let words = [ACTORS[1], &path.to_string_lossy()];
            let mut actor = Actor::start(&scene.program, &words, uid)?;
            actor.answer("ready")?;
            holders.push((number, uid, orders, actor));
        }
    }
    let between = scene.between(&mount)?;
    between.begin(trouble)?;
    let mut programs = Vec::new();
    let killed = started_and_killed(&directory, &mut programs, &mut holders);
    between.end(trouble)?;
    let (waited, longest) = killed?;
    fs::metadata(&directory).context("the mount afterwards")?;
    drop((programs, holders));
    mount.unmount()?;
    Ok(format!("{waited} programs waited, the last was gone after {} ms", longest.as_millis()))
}

fn made(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    fs::write(path, content)?;
    Ok(fs::set_permissions(path, Permissions::from_mode(0o666))?)
}

/// Number of the order, user, orders, actor.
type Holder = (usize, u32, &'static [&'static str], Actor);

fn started_and_killed(
    directory: &Path,
    programs: &mut Vec<Waiting>,
    holders: &mut [Holder],
) -> anyhow::Result<(usize, Duration)> {
    for uid in USERS {
        for (name, text) in PROGRAMS {
            programs.push(Waiting::start(name, text, directory, uid)?);
        }
    }
    for (_, _, orders, actor) in holders.iter_mut() {
        orders.iter().try_for_each(|order| actor.order(order))?;
    }
    std::thread::sleep(ARRIVAL);
    let mut waiting: Vec<(String, &mut Child)> = Vec::new();
    for program in programs.iter_mut() {
        waiting.push((program.name.clone(), &mut program.process));
    }
    for (number, uid, orders, actor) in holders.iter_mut() {
        if is_done(actor, orders.len())? {
            continue;
        }
        waiting.push((format!("{} (uid {uid}, open)", ORDERS[*number].0), actor.process()));
    }
    // What was answered from a cache does not wait.
    waiting.retain_mut(|(_, process)| process.try_wait().is_ok_and(|ended| ended.is_none()));
    let begun = Instant::now();
    for (_, process) in &mut waiting {
        process.kill()?;
    }
    let mut stuck = Vec::new();
    let mut longest = Duration::ZERO;
    let count = waiting.len();
    for (name, process) in waiting {
        match process::wait_until(process, begun + KILLED)? {
            Some(_) => longest = begun.elapsed(),
            None => stuck.push(name),
        }
    }
    ensure!(
        stuck.is_empty(),
        "{} of {count} programs live {} ms after kill -9: {stuck:?}",
        stuck.len(),
        begun.elapsed().as_millis()
    );
    ensure!(count > PROGRAMS.len() + ORDERS.len(), "only {count} programs waited at all");
    Ok((count, longest))
}

/// Whether so many orders were answered.
fn is_done(actor: &mut Actor, orders: usize) -> anyhow::Result<bool> {
    for _ in 0..orders {
        if actor.answer_within(Duration::ZERO)?.is_none() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A program waits for a lock that another holds, with a timer, and the node goes away meanwhile.
pub(super) fn timer(scene: &mut Scene, trouble: Trouble) -> anyhow::Result<String> {
    let name = scene.directory()?;
    let there = scene.other.directory().join(&name).join("lock");
    made(&there, &[1])?;
    let held = Flock::lock(fs::File::open(&there)?, FlockArg::LockExclusive)
        .map_err(|(_, errno)| errno)
        .context("the lock of another mount")?;
    let mount = scene.mount_troubled()?;
    let path = mount.directory().join(&name).join("lock");
    let between = scene.between(&mount)?;
    let begun = Instant::now();
    let mut command = Command::new("flock");
    command.args(["-w", "1", "-E", &TIMER.to_string()]).arg(&path).arg("true");
    let mut program = interruption::spawn(&mut command)?;
    let guard = Guard::of_process(process::pid_of(&program));
    std::thread::sleep(ARRIVAL);
    between.begin(trouble)?;
    let ended = process::wait_until(&mut program, begun + TIMED_OUT);
    let took = begun.elapsed();
    between.end(trouble)?;
    let ended = ended.map(|status| status.map(|status| status.code()));
    process::kill_nine(&mut program)?;
    drop((guard, held));
    ensure!(ended? == Some(Some(TIMER)), "after {} ms it still waits", took.as_millis());
    mount.unmount()?;
    Ok(format!("it was told after {} ms", took.as_millis()))
}

/// `sheen umount` ends, and takes the mount away.
pub(super) fn unmount(scene: &mut Scene, trouble: Trouble) -> anyhow::Result<String> {
    let name = scene.directory()?;
    let mount = scene.mount_troubled()?;
    fs::write(mount.directory().join(&name).join("file"), "cached")?;
    let between = scene.between(&mount)?;
    let mut command = scene.cluster.command();
    command.arg("umount").arg(mount.directory());
    between.begin(trouble)?;
    let begun = Instant::now();
    let ended = process::run(&mut command, UNMOUNTED);
    let took = begun.elapsed();
    let is_gone = !crate::cluster::is_mount_point(mount.directory())?;
    between.end(trouble)?;
    ended.context("sheen umount")?;
    ensure!(is_gone, "the mount is still there");
    mount.ended()?;
    Ok(format!("it took {} ms", took.as_millis()))
}

/// The mount's process is killed while it has the kernel write pages, which wait for the node: it ends all the same, programs
/// are let go, and another mount takes the place.
pub(super) fn kill_mount(scene: &mut Scene) -> anyhow::Result<String> {
    let name = scene.directory()?;
    let mount = scene.mount_troubled()?;
    let point = mount.directory().to_path_buf();
    let path = point.join(&name).join("mapped");
    made(&path, &[1; FILE_BYTES])?;
    let mut holder = Actor::start(&scene.program, &[ACTORS[1], &path.to_string_lossy()], 0)?;
    holder.answer("ready")?;
    let between = scene.between(&mount)?;
    require_dirty(&mut holder)?;
    between.begin(Trouble::NodeStops)?;
    let killed = killed_with_dirty_pages(&mut holder, mount);
    between.end(Trouble::NodeStops)?;
    let took = killed?;
    scene.mount_over(&point)?;
    let read = fs::read(&path).context("the file in the next mount");
    scene.unmount_at(&point)?;
    ensure!(read?.len() == FILE_BYTES, "the file has another length in the next mount");
    Ok(format!("the process was gone after {} ms", took.as_millis()))
}

fn killed_with_dirty_pages(holder: &mut Actor, mount: Mount) -> anyhow::Result<Duration> {
    // The search for data has the pages written.
    holder.order("seek-data")?;
    std::thread::sleep(ARRIVAL);
    let early = holder.answer_within(Duration::ZERO)?;
    ensure!(early.is_none(), "the search for data did not wait: {early:?}");
    let begun = Instant::now();
    mount.kill_in_place().context("the mount's process")?;
    let took = begun.elapsed();
    ensure!(took < GONE, "the mount's process was gone after {} ms only", took.as_millis());
    let said = holder.answer_within(GONE)?;
    ensure!(said.is_some(), "a program still waits for a mount the process of which was killed");
    Ok(took)
}

fn require_dirty(holder: &mut Actor) -> anyhow::Result<()> {
    for word in [0, 1024] {
        let said = holder.do_now(&format!("store {word} 7"), "did")?;
        ensure!(said == "ok", "storing through a mapping: error {said}");
    }
    Ok(())
}
