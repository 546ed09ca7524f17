//! Sessions that come and go, with a word or without; leases and opens beyond their bound.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::ensure;
use sheen_client::Inode;

use super::clients::{Bare, connect};
use super::levels::Watch;
use super::{ACTOR, LEASES_MAX, Levels, SERVICE, Scene};
use crate::actor::Actor;
use crate::checks::pause::Bystander;

/// Clients side by side.
const SIDE_BY_SIDE: u32 = 4;
/// Sessions of one process that is killed.
const KILLED_AT_ONCE: u32 = 40;
/// Sessions of the lane itself: mounts.
const OWN: u64 = 1;
/// Those that were killed are evicted by then.
const EVICTED: Duration = Duration::from_secs(15);

/// Half of the sessions say good-bye, half are killed.
pub(super) fn come_and_go(scene: &mut Scene, count: u32) -> anyhow::Result<String> {
    let aside = scene.mount.directory().join("aside");
    fs::create_dir(&aside)?;
    let before = Levels::read(scene.node()?)?;
    let watch = Watch::start(scene.node()?);
    let bystander = Bystander::start(&aside);
    let begun = Instant::now();
    let outcome = polite(scene, count / 2).and_then(|()| killed(scene, count / 2));
    let took = begun.elapsed();
    let healthy = bystander.end(SERVICE);
    outcome?;
    scene.wait_for("sessions", OWN, EVICTED)?;
    scene.wait_for("connections", before.of("connections")?, EVICTED)?;
    let most = watch.end()?;
    let (_, longest) = healthy?;
    let after = Levels::read(scene.node()?)?;
    let grown = after.resident_bytes().saturating_sub(before.resident_bytes());
    ensure!(grown <= 256 << 20, "the node grew by {} MiB", grown >> 20);
    fs::remove_dir(&aside)?;
    Ok(format!(
        "{count} sessions in {:.1} s, at most {most}, grown by {} KiB; a healthy mount waited {} ms at most",
        took.as_secs_f64(),
        grown >> 10,
        longest.as_millis()
    ))
}

fn polite(scene: &Scene, count: u32) -> anyhow::Result<()> {
    let (address, left) = (scene.address(), AtomicU32::new(count));
    let take = || {
        left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..SIDE_BY_SIDE)
            .map(|_| {
                scope.spawn(|| {
                    while take() {
                        let bare = connect(&address, Scene::filesystem())?;
                        ensure!(bare.is_some(), "no room, though the others said good-bye");
                        bare.into_iter().for_each(Bare::disconnect);
                    }
                    Ok(())
                })
            })
            .collect();
        threads.into_iter().try_for_each(|thread| {
            thread.join().map_err(|_| anyhow::anyhow!("a client panicked"))?
        })
    })
}

fn killed(scene: &Scene, count: u32) -> anyhow::Result<()> {
    let program = std::env::current_exe()?;
    let uid = nix::unistd::getuid().as_raw();
    let mut left = count;
    while left > 0 {
        let some = left.min(KILLED_AT_ONCE);
        let words = [ACTOR, &scene.address(), Scene::filesystem(), &some.to_string()];
        let mut actor = Actor::start(&program, &words, uid)?;
        actor.answer("open")?;
        actor.kill()?;
        left -= some;
    }
    Ok(())
}

/// Clients ask for leases on more files than there is room for, and keep as many open as they may.
pub(super) fn ask_leases(scene: &mut Scene, files: u32, count: u32) -> anyhow::Result<String> {
    let aside = scene.mount.directory().join("aside");
    fs::create_dir(&aside)?;
    fs::create_dir(scene.mount.directory().join("many"))?;
    let maker = connect(&scene.address(), Scene::filesystem())?;
    let Some(maker) = maker else { anyhow::bail!("no room for a session") };
    let many = maker.directory("many")?;
    for number in 0..files {
        ensure!(maker.create(&many, &format!("file-{number}"))?, "no room for {files} files");
    }
    maker.disconnect();
    let watch = Watch::start(scene.node()?);
    let bystander = Bystander::start(&aside);
    let begun = Instant::now();
    let asked = ask_all(scene, files, count);
    let took = begun.elapsed();
    let opened = asked.as_ref().ok().map(open_all).transpose();
    let healthy = bystander.end(SERVICE);
    let clients = asked?;
    let opened = opened?.unwrap_or(0);
    let (_, longest) = healthy?;
    let most = watch.end()?;
    clients.into_iter().for_each(|(bare, _)| bare.disconnect());
    scene.wait_for("opens", 0, EVICTED)?;
    fs::remove_dir(&aside)?;
    Ok(format!(
        "{} leases asked in {:.1} s, {opened} files opened, at most {most}; a healthy mount waited {} ms at most",
        u64::from(files) * u64::from(count),
        took.as_secs_f64(),
        longest.as_millis()
    ))
}

/// Each client, and the files it asked for.
type Asked = Vec<(Bare, Vec<Arc<Inode>>)>;

fn ask_all(scene: &Scene, files: u32, count: u32) -> anyhow::Result<Asked> {
    let mut clients = Vec::new();
    for _ in 0..count {
        let bare = connect(&scene.address(), Scene::filesystem())?;
        let Some(bare) = bare else { anyhow::bail!("no room for a session") };
        let many = bare.directory("many")?;
        let found = (0..files).map(|number| bare.find(&many, &format!("file-{number}")));
        let found = found.collect::<anyhow::Result<Vec<_>>>()?;
        clients.push((bare, found));
    }
    Ok(clients)
}

/// Each client opens files until it is told that it has as many as it may; the last finds some left.
fn open_all(clients: &Asked) -> anyhow::Result<u64> {
    let mut opened = Vec::new();
    let mut refused = 0;
    for (bare, found) in clients {
        let mut own = 0_u64;
        for inode in found {
            if !bare.open(inode)? {
                refused += 1;
                break;
            }
            own += 1;
        }
        opened.push(own);
    }
    let all = opened.iter().sum();
    ensure!(refused > 0, "{all} opens were granted, where {LEASES_MAX} are allowed");
    ensure!(opened.iter().all(|own| *own > 0), "a client got no file opened: {opened:?}");
    Ok(all)
}
