//! What programs get from a local file system and must get from two mounts: checks of permission, set-ID bits that go, times,
//! content of mappings, names that go.

mod moments;
mod names;
mod times;
mod user;

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Barrier;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use nix::errno::Errno;
use nix::sys::stat::{Mode, umask};

use self::names::Places;
use self::user::{User, WRITTEN};
use super::Context;
use crate::interruption::{self, Guard};
use crate::process;
use crate::random::Random;

pub use self::user::run as run_actor;

/// Word that makes this program another user.
pub const ACTOR: &str = "local-user";
const CHECK: &str = "local";
const SECRET: &[u8] = b"a secret of root";
const SCRIPT: &str = include_str!("../../../scripts/mapping.py");
/// Says what a file system does with times, set-ID bits and names of attributes; and what it says of ext4.
const SURVEY: &str = include_str!("../../../scripts/local.py");
const SURVEY_OF_EXT4: &str = include_str!("../../../scripts/local.expected");
/// Says what the groups give that a user is in besides its own; and what it says of ext4.
const GROUPS: &str = include_str!("../../../scripts/groups.py");
const GROUPS_OF_EXT4: &str = include_str!("../../../scripts/groups.expected");
const DEADLINE: Duration = Duration::from_secs(60);

/// Runs the check.
pub fn run(context: &mut Context<'_>) {
    let Some((work, scratch)) = context.prepared(CHECK) else { return };
    let effort = context.effort;
    let mut random = Random::new(context.seed);
    let second = context.target.second_view(&work);
    let report = &mut *context.report;
    report.case(CHECK, "a second mount sees the directory", || {
        second.as_ref().map(|_| String::new()).map_err(|error| anyhow::anyhow!("{error:#}"))
    });
    if let Ok(view) = second {
        let there = view.path();
        report.case(CHECK, "two mounts make the same name, and neither fails", || {
            both_make(&work, there, effort.pick(1000, 10_000))
        });
        report.case(CHECK, "a name that comes and goes is always opened", || {
            comes_and_goes(&work, there, effort.pick(500, 5000))
        });
        report.case(CHECK, "a file made at another mount is opened with permission only", || {
            needs_permission(&work, there, effort.pick(500, 5000), &mut random)
        });
        report.case(CHECK, "set-ID bits go when another user changes content", || {
            loses_set_ids(&work, there)?;
            runs_without_set_ids(&work)
        });
        report.case(CHECK, "times, set-ID bits and names of attributes are as on ext4", || {
            is_as_ext4(&scratch.join("local.py"), &work.join("survey"), SURVEY, SURVEY_OF_EXT4)
        });
        report.case(CHECK, "a user gets from its other groups what ext4 gives", || {
            is_as_ext4(&scratch.join("groups.py"), &work.join("groups"), GROUPS, GROUPS_OF_EXT4)
        });
        let script = scratch.join("mapping.py");
        report.case(CHECK, "what a mapping changed is found and copied", || {
            fs::write(&script, SCRIPT)?;
            copies_mapping(&script, &work, there)
        });
        report.case(CHECK, "mappings and appends follow another mount once asked", || {
            let mut command = Command::new("python3");
            command.arg(&script).arg("grown").arg(work.join("grown")).arg(there.join("grown"));
            process::run(&mut command, DEADLINE)
        });
        for (act, name) in [
            ("grown_in_page", "a mapping stores behind an end that another mount moved"),
            ("opened_after_reading", "so does one made after a reader took the page in"),
        ] {
            report.case(CHECK, name, || {
                let mut command = Command::new("python3");
                command.arg(&script).arg(act).args([work.join(act), there.join(act)]);
                process::run(&mut command, DEADLINE)
            });
        }
        moments::run(report, &scratch, &work, there, effort);
        let places = Places { here: &work, there, scratch: &scratch };
        report
            .case(CHECK, "what is used goes on as it was when its name is gone", || places.gone());
        report.case(CHECK, "a name that is replaced is there for whatever is done by it", || {
            places.replaced(Duration::from_secs(effort.pick(5, 30)))
        });
        report.case(CHECK, "a name that several users make and remove is always opened", || {
            places.shared(Duration::from_secs(effort.pick(4, 30)))
        });
        report.case(CHECK, "what a killed program does is done when it has ended", || {
            places.killed(effort.pick(40, 200))
        });
        report.case(CHECK, "what is mounted on a directory stays when names change", || {
            places.stacked()
        });
        times::set(report, &scratch, &work, there);
        report.case(CHECK, "the second mount goes", || view.close().map(|()| String::new()));
        times::told(report, &scratch, &work);
    }
    context.remove(CHECK, &work);
}

fn open_or_make(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(false).open(path)
}

/// Opens without `O_EXCL` at the same time, as the same user.
fn both_make(here: &Path, there: &Path, rounds: u32) -> anyhow::Result<String> {
    let barrier = Barrier::new(2);
    let make = |place: &Path| -> anyhow::Result<()> {
        for round in 0..rounds {
            let path = place.join(format!("both-{round}"));
            barrier.wait();
            // The other side must not be left waiting.
            let made = open_or_make(&path).with_context(|| format!("round {round}"));
            barrier.wait();
            made?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(|| make(there));
        let ours = make(here);
        let theirs = other.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?;
        ours.and(theirs)
    })?;
    Ok(format!("{rounds} rounds"))
}

/// One mount makes and removes a name in a loop, the other opens or makes it.
fn comes_and_goes(here: &Path, there: &Path, rounds: u32) -> anyhow::Result<String> {
    let ended = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let flicker = scope.spawn(|| {
            while !ended.load(std::sync::atomic::Ordering::Acquire) {
                open_or_make(&here.join("flicker"))?;
                match fs::remove_file(here.join("flicker")) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
            Ok(())
        });
        let path = there.join("flicker");
        let opened = (0..rounds).try_for_each(|_| open_or_make(&path).map(drop));
        ended.store(true, std::sync::atomic::Ordering::Release);
        let flickered = flicker.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?;
        opened.context("opening")?;
        flickered.context("making and removing")
    })?;
    Ok(format!("{rounds} opens"))
}

/// Root makes a file here, private or not, while another user opens or makes the name there.
fn needs_permission(
    here: &Path,
    there: &Path,
    rounds: u32,
    random: &mut Random,
) -> anyhow::Result<String> {
    for place in [here.join("open"), there.join("open")] {
        if !place.exists() {
            fs::create_dir(&place)?;
            fs::set_permissions(&place, Permissions::from_mode(0o777))?;
        }
    }
    let mut user = User::start(&there.join("open"))?;
    let before = umask(Mode::empty());
    let denied = race_for_names(&here.join("open"), &mut user, rounds, random);
    umask(before);
    user.end()?;
    Ok(format!("{rounds} rounds, {} denied", denied?))
}

/// Returns how often the other user was denied a file.
fn race_for_names(
    open: &Path,
    user: &mut User,
    rounds: u32,
    random: &mut Random,
) -> anyhow::Result<u32> {
    let mut denied = 0;
    for round in 0..rounds {
        let name = format!("f{round}");
        let private = round % 2 == 0;
        let word = if round % 4 < 2 { "create" } else { "create-empty" };
        user.tell(&format!("{word} {name}"))?;
        let start = Instant::now();
        let pause = Duration::from_micros(random.below(800));
        while start.elapsed() < pause {}
        let mode = if private { 0o600 } else { 0o666 };
        let path = open.join(&name);
        let made =
            OpenOptions::new().read(true).write(true).create_new(true).mode(mode).open(&path);
        let file = match made {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let outcome = user.outcome()?;
                ensure!(outcome == 0, "round {round}: error {outcome} for one's own file");
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        file.write_all_at(SECRET, 0)?;
        let outcome = user.outcome()?;
        if !private {
            ensure!(outcome == 0, "round {round}: error {outcome} though all may open it");
            continue;
        }
        let mut content = vec![0; SECRET.len()];
        file.read_exact_at(&mut content, 0)?;
        ensure!(content == SECRET, "round {round}: a private file holds {content:?}");
        ensure!(outcome == Errno::EACCES as i32, "round {round}: outcome {outcome} for EACCES");
        denied += 1;
    }
    Ok(denied)
}

fn mode_of(path: &Path) -> io::Result<u32> {
    Ok(fs::metadata(path)?.mode() & 0o7777)
}

fn loses_set_ids(here: &Path, there: &Path) -> anyhow::Result<String> {
    let (source, file) = (here.join("source"), here.join("program"));
    fs::write(&source, SECRET)?;
    fs::set_permissions(&source, Permissions::from_mode(0o644))?;
    let mut user = User::start(here)?;
    let both = 0o6777;
    let cases = [
        ("write program", both, 0o777),
        ("truncate program", both, 0o777),
        ("allocate program 0", both, 0o777),
        ("allocate program 3", both, 0o777),
        ("allocate program 16", both, 0o777),
        ("copy source program", both, 0o777),
        // Without group-execute it goes too: the user is not in the group.
        ("write program", 0o2767, 0o767),
        ("truncate program", 0o2767, 0o767),
        ("write program", 0o767, 0o767),
    ];
    for (what, mode, after) in cases {
        fs::write(&file, [1; 10_000])?;
        fs::set_permissions(&file, Permissions::from_mode(mode))?;
        let outcome = user.does(what)?;
        ensure!(outcome == 0, "{what}: error {outcome}");
        for path in [&file, &there.join("program")] {
            let found = mode_of(path)?;
            ensure!(found == after, "{what} of {mode:o}: {found:o} in place of {after:o}");
        }
        fs::remove_file(&file)?;
    }
    user.end()?;
    // Root may leave them.
    fs::write(&file, WRITTEN)?;
    fs::set_permissions(&file, Permissions::from_mode(both))?;
    let open = OpenOptions::new().write(true).open(&file)?;
    nix::fcntl::fallocate(&open, nix::fcntl::FallocateFlags::empty(), 0, 4096)?;
    let found = mode_of(&file)?;
    ensure!(found == both, "after an allocation by root: {found:o}");
    Ok(String::new())
}

/// A set-user-ID program that its user changed last is not run as root by the kernel of the same mount, which no answer to a
/// change of content tells of the mode.
fn runs_without_set_ids(here: &Path) -> anyhow::Result<String> {
    let (source, file) = (here.join("source"), here.join("program"));
    let program = fs::read("/usr/bin/id")?;
    fs::write(&source, &program)?;
    fs::set_permissions(&source, Permissions::from_mode(0o644))?;
    let mut user = User::start(here)?;
    let changes = ["write-same program", "allocate program 1", "copy source program"];
    for change in changes.into_iter().cycle().take(12) {
        fs::write(&file, &program)?;
        fs::set_permissions(&file, Permissions::from_mode(0o6777))?;
        let outcome = user.does("run program")?;
        ensure!(outcome == Errno::EPERM as i32, "set-ID bits count nothing here: {outcome}");
        let outcome = user.does(change)?;
        ensure!(outcome == 0, "{change}: error {outcome}");
        for look in ["", " and a look"] {
            let outcome = user.does("run program")?;
            ensure!(outcome == 0, "{change}{look}: {outcome}, it ran as root");
            ensure!(mode_of(&file)? == 0o777, "{change}: the mode is {:o}", mode_of(&file)?);
        }
        fs::remove_file(&file)?;
    }
    user.end()?;
    fs::remove_file(&source)?;
    Ok(String::new())
}

fn is_as_ext4(script: &Path, place: &Path, source: &str, expected: &str) -> anyhow::Result<String> {
    fs::write(script, source)?;
    fs::create_dir(place)?;
    fs::set_permissions(place, Permissions::from_mode(0o777))?;
    let mut command = Command::new("python3");
    command.arg(script).arg(place);
    let said = process::run(&mut command, DEADLINE)?;
    let mut lines = 0;
    for (found, line) in said.lines().zip(expected.lines()) {
        ensure!(found == line, "{found:?}, on ext4 {line:?}");
        lines += 1;
    }
    ensure!(lines == expected.lines().count(), "it ended behind {lines} lines");
    fs::remove_dir_all(place)?;
    Ok(format!("{lines} lines"))
}

/// Copies a file while a program has changed it through a mapping and lives on; `cp` asks for holes first.
fn copies_mapping(script: &Path, here: &Path, there: &Path) -> anyhow::Result<String> {
    let mut command = Command::new("python3");
    command.arg(script).arg("dirty").arg(here.join("mapped"));
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut program = interruption::spawn(&mut command)?;
    let _guard = Guard::of_process(process::pid_of(&program));
    let mut said = [0; 5];
    let output = program.stdout.as_mut().context("no output")?;
    output.read_exact(&mut said).context("the program with the mapping ended")?;
    for place in [here, there] {
        let copy = place.join("copy");
        let mut command = Command::new("cp");
        command.arg("--sparse=auto").arg(place.join("mapped")).arg(&copy);
        process::run(&mut command, DEADLINE)?;
        let content = fs::read(&copy)?;
        ensure!(content.len() == 1 << 20, "{} bytes", content.len());
        ensure!(content.starts_with(b"HELLO"), "the copy begins with {:?}", &content[..5]);
        let found = &content[600_000..600_004];
        ensure!(found == b"data", "{found:?} in the copy");
        fs::remove_file(&copy)?;
    }
    drop(program.stdin.take());
    ensure!(program.wait()?.success(), "the program with the mapping failed");
    Ok(String::new())
}
