//! `rm -rf` of many files with content: what has to be destroyed does not pile up, and the space comes back.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

use super::Scene;
use super::levels::{Node, Watch, whole};
use crate::{metrics, process};

const SIDE_BY_SIDE: u32 = 4;
/// Files of a directory.
const FILES_EACH: u32 = 1000;
/// All is destroyed so soon after `rm` ended.
const DESTROYED: Duration = Duration::from_secs(60);
const REMOVED: Duration = Duration::from_secs(3600);

pub(super) fn remove_all(scene: &mut Scene, files: u32) -> anyhow::Result<String> {
    let top = scene.mount.directory().join("tree");
    let node = scene.node()?;
    let before = stored_bytes(node)?;
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..SIDE_BY_SIDE)
            .map(|part| {
                let directory = top.join(format!("part-{part}"));
                scope.spawn(move || fill(&directory, files / SIDE_BY_SIDE))
            })
            .collect();
        threads.into_iter().try_for_each(|thread| {
            thread.join().map_err(|_| anyhow::anyhow!("a writer panicked"))?
        })
    })?;
    let made = begun.elapsed();
    let stored = stored_bytes(node)?;
    ensure!(stored > before, "{files} files are stored in {stored} bytes, {before} were before");
    let watch = Watch::start(node);
    let begun = Instant::now();
    process::run(Command::new("rm").arg("-rf").arg(&top), REMOVED)?;
    let removed = begun.elapsed();
    let destroyed = scene.wait_for("pending_destroys", 0, DESTROYED)?;
    let most = watch.end()?;
    // Not what df shows: of a sparse device that is what its host has left, too.
    let wanted = before + (stored - before) / 100;
    process::wait_for("the space", DESTROYED, || {
        stored_bytes(node).is_ok_and(|stored| stored <= wanted)
    })?;
    Ok(format!(
        "{files} files made in {:.1} s, removed in {:.1} s, destroyed {} ms later, at most {most}",
        made.as_secs_f64(),
        removed.as_secs_f64(),
        destroyed.as_millis()
    ))
}

fn fill(directory: &Path, files: u32) -> anyhow::Result<()> {
    for number in 0..files {
        let below = directory.join((number / FILES_EACH).to_string());
        if number % FILES_EACH == 0 {
            fs::create_dir_all(&below)?;
        }
        let file = File::create(below.join(format!("file-{number}")));
        file.and_then(|mut file| file.write_all(b"content"))
            .with_context(|| format!("file {number}"))?;
    }
    ensure!(directory.exists());
    Ok(())
}

/// Bytes that objects take on the node's devices.
fn stored_bytes(node: Node) -> anyhow::Result<u64> {
    let page = metrics::fetch(node.admin)?;
    whole(metrics::sum_of(&page, "sheen_physical_bytes").context("the node tells no bytes")?)
}
