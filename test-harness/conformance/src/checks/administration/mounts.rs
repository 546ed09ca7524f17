//! Mounts whose process was killed, that are not ours, and of users.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::failures::obedient;
use super::folder::{Folder, failure};
use crate::cluster::{is_mount_point, sheen_program};
use crate::process;

/// A user without privileges.
const USER: u32 = 65534;
const DEADLINE: Duration = Duration::from_secs(60);

/// Number of the process that serves the mount at `directory`.
fn server_of(directory: &Path) -> anyhow::Result<Pid> {
    let serves = |pid: i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        words.contains(&directory.as_os_str().as_encoded_bytes())
            && words.contains(&&b"--report-ready"[..])
    };
    let processes = fs::read_dir("/proc")?.flatten();
    let pid = processes
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .find(|&pid| serves(pid))
        .with_context(|| format!("no process serves {}", directory.display()))?;
    Ok(Pid::from_raw(pid))
}

/// Kills the process that serves the mount at `directory`, and waits until the mount is dead.
fn kill_mount(directory: &Path) -> anyhow::Result<()> {
    kill(server_of(directory)?, Signal::SIGKILL)?;
    let begun = Instant::now();
    loop {
        match fs::metadata(directory) {
            Err(error) if error.raw_os_error() == Some(Errno::ENOTCONN as i32) => return Ok(()),
            _ => ensure!(begun.elapsed() < DEADLINE, "{} lives on", directory.display()),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub(super) fn dead(folder: &Folder) -> anyhow::Result<String> {
    kill_mount(&folder.mount())?;
    let shown = folder.up(&[])?;
    ensure!(
        shown["mounted"] == true && shown["started"] == false && shown["replaced_dead"] == true,
        "{shown}"
    );
    ensure!(fs::read_to_string(folder.mount().join("file"))? == "one");
    ensure!(folder.up(&[])?["mounted"] == false, "a mount that lives is mounted again");

    let second = folder.path().join("second");
    fs::create_dir_all(&second)?;
    let source = format!("unix:{}:/sheen", folder.socket().display());
    let log = folder.path().join("second.log").display().to_string();
    let words = ["mount", "--log", &log, &source, "second"];
    ensure!(folder.answers(&words)?["replaced_dead"] == false);
    kill_mount(&second)?;
    ensure!(folder.answers(&words)?["replaced_dead"] == true);
    ensure!(fs::read_to_string(second.join("file"))? == "one");
    let twice = folder.fails(&words)?;
    ensure!(twice.code == 1 && twice.kind == "in_use", "{twice:?}");
    folder.answers(&["umount", "second"])?;
    ensure!(!is_mount_point(&second)?, "it is mounted still");
    Ok(String::new())
}

/// Changes a file through a mapping, has the mount's process end, and only then lets go.
const MAPPING: &str = "
import mmap, os, sys
file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
os.truncate(file, 4096)
mapping = mmap.mmap(file, 4096)
mapping[:4] = b'kept'
os.kill(int(sys.argv[2]), int(sys.argv[3]))
while os.path.ismount(sys.argv[4]):
    pass
mapping[4:8] = b'also'
mapping.close()
os.close(file)
";

/// A mount whose process is told to end is gone at once, and is served until nobody uses it.
pub(super) fn told_to_end(folder: &Folder) -> anyhow::Result<String> {
    let directory = folder.path().join("ending");
    fs::create_dir_all(&directory)?;
    let source = format!("unix:{}:/sheen", folder.socket().display());
    let log = folder.path().join("ending.log").display().to_string();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let mut mount = obedient(&sheen_program().canonicalize()?);
        mount.args(["mount", "--log", &log, &source, "ending"]).current_dir(folder.path());
        process::run(&mut mount, DEADLINE)?;
        let server = server_of(&directory)?;
        let name = signal.as_str();
        let mut command = Command::new("python3");
        command.args(["-c", MAPPING]).arg(directory.join(name));
        command.args([server.to_string(), (signal as i32).to_string()]).arg(&directory);
        process::run(&mut command, DEADLINE).with_context(|| format!("beside {name}"))?;
        ends(server, name)?;
        let content = fs::read(folder.mount().join(name))?;
        ensure!(content.starts_with(b"keptalso"), "{name}: {:?}", &content[..8]);
        fs::remove_file(folder.mount().join(name))?;
    }
    Ok(String::new())
}

/// The node is not stopped under programs that use a mount which is in no table any more.
pub(super) fn used_unseen(folder: &Folder) -> anyhow::Result<String> {
    let directory = folder.path().join("unseen");
    fs::create_dir_all(&directory)?;
    let source = format!("unix:{}:/sheen", folder.socket().display());
    let log = folder.path().join("unseen.log").display().to_string();
    folder.answers(&["mount", "--log", &log, &source, "unseen"])?;
    let server = server_of(&directory)?;
    let mut file = fs::File::create(directory.join("open"))?;
    kill(server, Signal::SIGTERM)?;
    let begun = Instant::now();
    while is_mount_point(&directory)? {
        ensure!(begun.elapsed() < DEADLINE, "it stays mounted");
        std::thread::sleep(Duration::from_millis(5));
    }
    let failed = folder.fails(&["down"])?;
    ensure!(failed.kind == "in_use" && failed.message.contains("unseen"), "{failed:?}");
    ensure!(is_mount_point(&folder.mount())?, "another mount was taken away first");
    let failed = folder.fails(&["down", "--mount", "mnt"])?;
    ensure!(failed.kind == "in_use" && failed.message.contains("unseen"), "{failed:?}");
    file.write_all(b"goes on").and_then(|()| file.sync_all()).context("after a refused `down`")?;
    drop(file);
    ends(server, "unused")?;
    folder.up(&[])?;
    used_in_another_namespace(folder)?;
    fs::remove_file(folder.mount().join("open"))?;
    Ok(String::new())
}

/// What is taken away in this mount namespace may be used in another one.
fn used_in_another_namespace(folder: &Folder) -> anyhow::Result<()> {
    let mut sleep = Command::new("unshare");
    sleep.args(["-m", "--propagation", "private", "sleep", "60"]);
    let mut user = sleep.current_dir(folder.mount()).spawn()?;
    let begun = Instant::now();
    let words = format!("/proc/{}/comm", user.id());
    while fs::read_to_string(&words)?.trim() != "sleep" {
        ensure!(begun.elapsed() < DEADLINE, "no other namespace");
        std::thread::sleep(Duration::from_millis(5));
    }
    let failed = folder.fails(&["down"]);
    user.kill()?;
    user.wait()?;
    let failed = failed?;
    ensure!(failed.kind == "in_use" && failed.message.contains("mnt"), "{failed:?}");
    folder.up(&[]).map(drop)
}

/// Waits until the process of a mount that nobody uses has ended.
fn ends(server: Pid, after: &str) -> anyhow::Result<()> {
    let begun = Instant::now();
    // One that ended has no words, also before somebody has asked for its status.
    let words = format!("/proc/{server}/cmdline");
    while fs::read(&words).is_ok_and(|words| !words.is_empty()) {
        ensure!(begun.elapsed() < DEADLINE, "{after}: unused, its process lives on");
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// A mount that another one covers is served on when its process is told to end, and is gone when it is uncovered.
pub(super) fn covered(folder: &Folder) -> anyhow::Result<String> {
    let directory = folder.path().join("covered");
    fs::create_dir_all(&directory)?;
    let source = format!("unix:{}:/sheen", folder.socket().display());
    let log = folder.path().join("covered.log").display().to_string();
    folder.answers(&["mount", "--log", &log, &source, "covered"])?;
    let server = server_of(&directory)?;
    let mut file = fs::File::create(directory.join("late"))?;
    process::run(Command::new("mount").args(["-t", "tmpfs", "none"]).arg(&directory), DEADLINE)?;
    kill(server, Signal::SIGTERM)?;
    std::thread::sleep(Duration::from_millis(500));
    let written = file.write_all(b"late").and_then(|()| file.sync_all());
    drop(file);
    umount2(&directory, MntFlags::MNT_DETACH)?;
    if written.is_err() && is_mount_point(&directory)? {
        umount2(&directory, MntFlags::MNT_DETACH)?;
    }
    written.context("written below the other mount")?;
    ends(server, "uncovered")?;
    ensure!(!is_mount_point(&directory)?, "it is still mounted");
    ensure!(fs::read(folder.mount().join("late"))? == b"late", "what was written late is lost");
    fs::remove_file(folder.mount().join("late"))?;
    Ok(String::new())
}

pub(super) fn foreign(folder: &Folder) -> anyhow::Result<String> {
    let directory = folder.path().join("foreign");
    fs::create_dir_all(&directory)?;
    let source = format!("unix:{}:/sheen", folder.socket().display());
    let log = folder.path().join("foreign.log").display().to_string();
    // Another type makes it another program's as far as anybody can see.
    folder.answers(&["mount", "--log", &log, "-o", "subtype=other", &source, "foreign"])?;
    let results = [&["umount", "foreign"][..], &["umount", "--force", "foreign"]]
        .map(|words| folder.fails(words));
    let stands = is_mount_point(&directory)?;
    umount2(&directory, MntFlags::MNT_DETACH)?;
    for failed in results {
        let failed = failed?;
        ensure!(failed.code == 1 && failed.kind == "refused", "{failed:?}");
        ensure!(failed.message.contains("fuse.other"), "{failed:?}");
    }
    ensure!(stands, "it was taken away");
    let proc = folder.fails(&["umount", "/proc"])?;
    ensure!(proc.kind == "refused", "{proc:?}");
    Ok(String::new())
}

pub(super) fn of_a_user(folder: &Folder, place: &Path) -> anyhow::Result<String> {
    let home = place.join("home");
    fs::create_dir_all(home.join("mnt"))?;
    chown(&home, Some(USER), Some(USER))?;
    chown(home.join("mnt"), Some(USER), Some(USER))?;
    // Where it was built others may have no way in.
    let program = place.join("sheen");
    fs::copy(sheen_program().canonicalize()?, &program)?;
    let listen = folder.answers(&["status"])?["listen"].as_str().context("no listen")?.to_owned();
    let source = format!("{listen}:/sheen");
    folder.answers(&["client", "new", "of-a-user", "--out", "of-a-user.identity"])?;
    let identity = home.join("identity");
    fs::rename(folder.path().join("of-a-user.identity"), &identity)?;
    chown(&identity, Some(USER), Some(USER))?;
    let identity = format!("identity={}", identity.display());
    let call = |words: &[&str], home: &Path| {
        let mut command = Command::new(&program);
        command.args(words).uid(USER).gid(USER).env_clear();
        command.env("PATH", "/usr/bin:/bin").env("HOME", home).current_dir(place);
        command
    };
    let words = ["mount", "-o", &identity, &source, "home/mnt"];
    // Where udev is missing only root may open the device: the mount fails then, its log lies where it should all the same.
    let may_mount = fs::metadata("/dev/fuse")?.mode() & 0o006 == 0o006;
    let as_user = |variables: &[(&str, &Path)]| -> anyhow::Result<()> {
        let mut command = call(&words, variables[0].1);
        command.envs(variables.iter().copied());
        if !may_mount {
            let failed = failure(command.arg("--json"))?;
            ensure!(failed.message.contains("fusermount3"), "{failed:?}");
            return Ok(());
        }
        process::run(&mut command, DEADLINE).context("mounting as a user")?;
        process::run(&mut call(&["umount", "home/mnt"], &home), DEADLINE)?;
        ensure!(!is_mount_point(&home.join("mnt"))?, "it is mounted still");
        Ok(())
    };
    as_user(&[("HOME", &home)])?;
    let log = home.join(".local/state/sheen/mount.log");
    ensure!(log.exists(), "there is no {}", log.display());

    let dir = folder.path().join(".sheen").display().to_string();
    let begun = Instant::now();
    let words_of_up = ["up", "--json", "--dir", &dir, "--mount", "home/mnt"];
    let failed = failure(&mut call(&words_of_up, &home))?;
    ensure!(failed.kind == "permission", "a node of root's: {failed:?}");
    ensure!(begun.elapsed() < Duration::from_secs(4), "said after {:?}", begun.elapsed());

    // The folder of the node is root's.
    let failed = failure(call(&words, folder.path()).arg("--json"))?;
    let text = format!("{}/.local/state/sheen/mount.log", folder.path().display());
    ensure!(failed.code == 1 && failed.kind == "permission", "{failed:?}");
    ensure!(failed.message.contains(&text), "{failed:?}");
    let state = home.join("state");
    as_user(&[("HOME", folder.path()), ("XDG_STATE_HOME", &state)])?;
    ensure!(state.join("sheen/mount.log").exists(), "XDG_STATE_HOME is not looked at");
    Ok(if may_mount {
        String::new()
    } else {
        "without the mount: /dev/fuse is root's here".to_owned()
    })
}
