//! A client wrote and did not sync; it is evicted, and another writes. What it still had must not land, and what of its
//! own is gone must be told at the next sync of each descriptor, once.

use std::fs::{self, OpenOptions, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};

use super::ACTORS;
use super::holder::FILE_BYTES;
use super::scene::Scene;
use super::trouble::{LEASE, Trouble};
use crate::actor::Actor;
use crate::process;

/// Another client has its way so soon after the trouble began.
const EVICTED: Duration = Duration::from_secs(5);
/// The client answers again so soon after the trouble.
const RETURN_DEADLINE: Duration = Duration::from_secs(10);
const EIO: &str = "5";

pub(super) fn run(scene: &mut Scene, trouble: Trouble) -> anyhow::Result<String> {
    let name = scene.directory()?;
    let here = scene.troubled.directory().join(&name);
    let there = scene.other.directory().join(&name);
    for file in ["data", "locked"] {
        fs::write(there.join(file), vec![0; FILE_BYTES])?;
        fs::set_permissions(there.join(file), Permissions::from_mode(0o666))?;
    }
    let holder = |file: &str| {
        let path = here.join(file);
        let mut actor = Actor::start(&scene.program, &[ACTORS[1], &path.to_string_lossy()], 65534)?;
        actor.answer("ready")?;
        anyhow::Ok(actor)
    };
    let (mut data, mut locked) = (holder("data")?, holder("locked")?);
    // Page 0 is stored to by the mapping, page 2 is written: word 64 is byte 512.
    require_ok(&mut data, "store 64 4919131752989213764")?;
    require_ok(&mut data, "write 8192 17")?;
    require_ok(&mut locked, "lock")?;
    let between = scene.between(&scene.troubled)?;
    between.begin(trouble)?;
    let begun = Instant::now();
    let others = others_have_their_way(&there);
    let took = begun.elapsed();
    // Long enough that the client knows or must find out.
    std::thread::sleep(LEASE.saturating_sub(took));
    between.end(trouble)?;
    others?;
    ensure!(took < EVICTED, "another client waited {} ms", took.as_millis());
    let told = judge_data(&mut data, scene, &name)?;
    judge_lock(&mut locked)?;
    require_goes_on(&here)?;
    Ok(format!("others went on after {} ms; {told}", took.as_millis()))
}

fn require_ok(actor: &mut Actor, order: &str) -> anyhow::Result<()> {
    let said = actor.do_now(order, "did")?;
    ensure!(said == "ok", "{order}: error {said}");
    Ok(())
}

/// What another client does meanwhile: it writes the same page and takes the lock.
fn others_have_their_way(there: &Path) -> anyhow::Result<()> {
    let file = OpenOptions::new().write(true).open(there.join("data"))?;
    file.write_all_at(&[99; 8], 0).context("writing")?;
    file.sync_all().context("syncing")?;
    let mut lock = std::process::Command::new("flock");
    lock.arg(there.join("locked")).arg("true");
    process::run(&mut lock, 2 * EVICTED).context("locking").map(drop)
}

/// Requires that the other's bytes stayed, and that what is gone of the client's own was told.
fn judge_data(data: &mut Actor, scene: &mut Scene, name: &str) -> anyhow::Result<String> {
    let mut told = Vec::new();
    for order in ["msync", "sync", "sync", "sync-second", "sync-second", "close"] {
        data.order(order)?;
        let said = data.answer_within(RETURN_DEADLINE)?;
        let said = said.with_context(|| format!("{order} does not return"))?;
        told.push((order, said.trim_start_matches("did ").to_owned()));
    }
    let is_told = |at: usize| told[at].1 == EIO;
    if told.iter().any(|(_, said)| said != "ok" && said != EIO) {
        bail!("it was told {told:?}");
    }
    let fresh = scene.cluster.mount()?;
    let mut found = Vec::new();
    for mount in [scene.troubled.directory(), scene.other.directory(), fresh.directory()] {
        let path = mount.join(name).join("data");
        found.push(fs::read(&path).with_context(|| path.display().to_string())?);
    }
    fresh.unmount()?;
    ensure!(found[0] == found[2] && found[1] == found[2], "the mounts show different bytes");
    ensure!(found[2][..8] == [99; 8], "what another wrote is gone: {:?}", &found[2][..8]);
    let stored = found[2][512..520] == 4_919_131_752_989_213_764_u64.to_le_bytes();
    let written = found[2][8192..8200] == [17; 8];
    let first_told = is_told(0) || is_told(1);
    ensure!(stored && written || first_told, "a sync returned 0 for what is gone: {told:?}");
    let is_told_twice = is_told(2) || is_told(0) && is_told(1);
    ensure!(!is_told_twice, "one descriptor was told twice: {told:?}");
    ensure!(is_told(3) == first_told, "one descriptor was told, and another not: {told:?}");
    ensure!(!is_told(4), "the second descriptor was told twice: {told:?}");
    let kept = |kept: bool| if kept { "kept" } else { "gone" };
    let word = if first_told { "told" } else { "not told" };
    Ok(format!("store {}, write {}, {word}", kept(stored), kept(written)))
}

/// A lock that was given to another is of no use any more.
fn judge_lock(locked: &mut Actor) -> anyhow::Result<()> {
    locked.order("write-locked 55")?;
    let said = locked.answer_within(RETURN_DEADLINE)?.context("a write does not return")?;
    ensure!(said != "did ok", "a write under a lock that another was given succeeded");
    Ok(())
}

/// The client serves new work.
fn require_goes_on(here: &Path) -> anyhow::Result<()> {
    let mut work = std::process::Command::new("sh");
    work.args(["-c", "echo after > \"$1\" && sync \"$1\" && cat \"$1\"", "sh"])
        .arg(here.join("after"));
    let read = process::run(&mut work, RETURN_DEADLINE).context("work afterwards")?;
    ensure!(read == "after\n", "what was written afterwards is not there");
    Ok(())
}
