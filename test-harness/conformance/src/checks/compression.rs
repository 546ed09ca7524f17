//! Compression as users meet it: `chattr` and `lsattr`, `du` and `ls`, `sheen compression` and `sheen recompress`, another mount,
//! and a node that was killed.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;

use super::Context;
use crate::cluster::sheen_program;
use crate::random::Random;
use crate::target::Target;
use crate::{metrics, process};

const CHECK: &str = "compression";
const DEADLINE: Duration = Duration::from_secs(120);
const MEBIBYTE: usize = 1 << 20;

/// Files by path, with what they are to hold.
type Files = BTreeMap<PathBuf, Vec<u8>>;

/// Runs the check.
pub fn run(context: &mut Context<'_>) {
    let Some((work, _)) = context.prepared(CHECK) else { return };
    let mut random = Random::new(context.seed);
    let megabytes = context.effort.pick(4, 64);
    let mut files = Files::new();
    let directory = work.join("compressed");
    context.report.case(CHECK, "chattr +c on a directory holds for what is made in it", || {
        std::fs::create_dir(&directory)?;
        command("chattr", &["+c"], &directory)?;
        std::fs::create_dir(directory.join("below"))?;
        std::fs::write(directory.join("below/new"), "new")?;
        for path in [directory.clone(), directory.join("below"), directory.join("below/new")] {
            let said = command("lsattr", &["-d"], &path)?;
            let flags = said.split_whitespace().next().unwrap_or_default();
            ensure!(flags.contains('c'), "lsattr says {said}");
            ensure!(compression_of(&path)? == "lz4", "{} is not lz4", path.display());
        }
        Ok(String::new())
    });
    context.report.case(CHECK, "text and zeros take less space, noise no more than it has", || {
        for (name, content) in kinds(megabytes * MEBIBYTE, &mut random) {
            let path = directory.join(name);
            std::fs::write(&path, &content)?;
            File::open(&path)?.sync_all()?;
            files.insert(path, content);
        }
        check_space(&directory)
    });
    context.report.case(CHECK, "small writes one behind the other are packed too", || {
        let path = directory.join("small");
        let content = text(2 * MEBIBYTE, &mut random);
        let mut file = File::create_new(&path)?;
        for piece in content.chunks(3000) {
            file.write_all(piece)?;
        }
        drop(file);
        // The close is told to the mount behind the program's back.
        let begin = Instant::now();
        let wanted = content.len() as u64 * 7 / 10;
        while physical(&path)? > wanted && begin.elapsed() < DEADLINE {
            std::thread::sleep(Duration::from_millis(20));
        }
        let taken = physical(&path)?;
        ensure!(taken <= wanted, "{taken} bytes for {}", content.len());
        let size = content.len();
        files.insert(path, content);
        Ok(format!("{taken} bytes for {size}"))
    });
    context.report.case(CHECK, "any change of compressed files leaves what it says", || {
        change_at_random(&mut files, &mut random)?;
        compare(&files, &work, &work)
    });
    after_a_kill(context, &files, &work);
    switched(context, &work, &mut files, &mut random);
    recompressed(context, &work, &mut files, &mut random);
    in_the_metrics(context);
    context.remove(CHECK, &work);
}

/// What another mount and a restarted node say of the files.
fn after_a_kill(context: &mut Context<'_>, files: &Files, work: &Path) {
    let target = &mut *context.target;
    context.report.case(CHECK, "another mount reads the same, also after a kill", || {
        for path in files.keys() {
            File::open(path)?.sync_all()?;
        }
        target.kill_node()?;
        target.restart_node()?;
        let view = target.second_view(work)?;
        let compared = compare(files, work, view.path());
        view.close()?;
        compared
    });
}

/// Off, on and zstd in the life of one file.
fn switched(context: &mut Context<'_>, work: &Path, files: &mut Files, random: &mut Random) {
    context.report.case(CHECK, "a choice holds for what is written from then on", || {
        let path = work.join("switched");
        let file = File::create_new(&path)?;
        let mut content = Vec::new();
        let mut spaces = Vec::new();
        for choice in ["lz4", "none", "zstd", "lz4"] {
            sheen(&["compression", "set", choice], &path)?;
            ensure!(compression_of(&path)? == choice, "{choice} was set");
            let part = text(MEBIBYTE, random);
            file.write_all_at(&part, content.len() as u64)?;
            file.sync_all()?;
            content.extend(part);
            spaces.push(physical(&path)?);
        }
        let grown: Vec<u64> =
            spaces.iter().scan(0, |last, now| Some(now - std::mem::replace(last, *now))).collect();
        ensure!(grown[1] == MEBIBYTE as u64, "plain in between took {} bytes", grown[1]);
        ensure!(grown.iter().filter(|bytes| **bytes < 700_000).count() == 3, "took {grown:?}");
        files.insert(path.clone(), content);
        command("chattr", &["+m"], &path)?;
        ensure!(compression_of(&path)? == "none", "chattr +m is none");
        compare(files, work, work)?;
        Ok(format!("bytes taken by each MiB of text: lz4, none, zstd, lz4: {grown:?}"))
    });
}

/// What was written plain, packed afterwards, and back.
fn recompressed(context: &mut Context<'_>, work: &Path, files: &mut Files, random: &mut Random) {
    let target = &mut *context.target;
    context.report.case(CHECK, "sheen recompress packs what is there, and undoes it", || {
        let directory = work.join("later");
        std::fs::create_dir(&directory)?;
        let mut logical = 0;
        for number in 0..5 {
            let path = directory.join(format!("file-{number}"));
            let content = text(MEBIBYTE / 2 * number + 10_000, random);
            std::fs::write(&path, &content)?;
            logical += content.len() as u64;
            files.insert(path, content);
        }
        let before = std::fs::metadata(directory.join("file-1"))?;
        let packed = recompress(&["-R", "--codec", "lz4"], &directory)?;
        ensure!(packed.files == 5 && packed.logical == logical, "{packed:?}");
        ensure!(packed.before >= logical, "plain takes at least its size: {packed:?}");
        ensure!(packed.after < logical * 3 / 4, "{packed:?}");
        compare(files, work, work)?;
        let after = std::fs::metadata(directory.join("file-1"))?;
        ensure!(after.mtime_nsec() == before.mtime_nsec(), "the time of change stays");
        let view = target.second_view(work)?;
        let compared = compare(files, work, view.path());
        view.close()?;
        compared?;
        let plain = recompress(&["-R", "--codec", "none"], &directory)?;
        ensure!(plain.before == packed.after && plain.after >= logical, "{plain:?}");
        sheen(&["compression", "set", "-R", "zstd"], &directory)?;
        let again = recompress(&["-R"], &directory)?;
        ensure!(again.after < packed.after, "as the flags say, zstd: {again:?}, {packed:?}");
        compare(files, work, work)?;
        Ok(format!("{logical} bytes: {} by lz4, {} by zstd", packed.after, again.after))
    });
}

fn in_the_metrics(context: &mut Context<'_>) {
    let target = &*context.target;
    context.report.case(CHECK, "the metrics show logical and physical bytes", || {
        let Target::Cluster { cluster, .. } = target else { return Ok(String::new()) };
        let page = metrics::fetch(cluster.admin_address())?;
        let sum = |name| metrics::sum_of(&page, name).with_context(|| format!("no {name}"));
        let (logical, physical) = (sum("sheen_logical_bytes")?, sum("sheen_physical_bytes")?);
        ensure!(physical > 0.0 && physical < logical, "{physical} of {logical}");
        Ok(format!("ratio {:.2}", logical / physical))
    });
}

/// Content of each kind, by name.
fn kinds(bytes: usize, random: &mut Random) -> Vec<(&'static str, Vec<u8>)> {
    let mut mixed = Vec::new();
    while mixed.len() < bytes {
        mixed.extend(text(1 + random.index(200_000), random));
        let count = 1 + random.index(200_000);
        mixed.extend(random.bytes(count));
    }
    mixed.truncate(bytes);
    vec![
        ("text", text(bytes, random)),
        ("zeros", vec![0; bytes]),
        ("noise", random.bytes(bytes)),
        ("mixed", mixed),
    ]
}

fn text(bytes: usize, random: &mut Random) -> Vec<u8> {
    const WORDS: [&str; 8] =
        ["block ", "journal ", "of ", "is ", "written ", "the ", "read, ", "a\n"];
    let mut text = Vec::with_capacity(bytes + 16);
    while text.len() < bytes {
        text.extend_from_slice(WORDS[random.index(WORDS.len())].as_bytes());
        if random.below(3) == 0 {
            text.extend_from_slice(random.below(100_000).to_string().as_bytes());
        }
    }
    text.truncate(bytes);
    text
}

fn physical(path: &Path) -> anyhow::Result<u64> {
    Ok(std::fs::metadata(path)?.blocks() * 512)
}

fn check_space(directory: &Path) -> anyhow::Result<String> {
    let mut figures = Vec::new();
    for (name, most) in [("text", 0.7), ("zeros", 0.1), ("noise", 1.001), ("mixed", 0.95)] {
        let path = directory.join(name);
        let du = |arguments: &[&str]| -> anyhow::Result<f64> {
            let said = command("du", arguments, &path)?;
            Ok(said.split_whitespace().next().context("du says nothing")?.parse()?)
        };
        let (taken, size) = (du(&["-B1"])?, du(&["-B1", "--apparent-size"])?);
        ensure!(taken <= size * most, "{name}: {taken} bytes for {size}");
        ensure!(name != "noise" || taken >= size, "noise takes its own space");
        figures.push(format!("{name} {:.2}", taken / size));
    }
    Ok(figures.join(", "))
}

/// Writes, holes and cuts at odd places of every file.
fn change_at_random(files: &mut Files, random: &mut Random) -> anyhow::Result<()> {
    for (path, content) in files {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        for _ in 0..40 {
            let start = random.index(content.len());
            let length = 1 + random.index(100_000);
            let bytes = match random.below(3) {
                0 => random.bytes(length),
                1 => text(length, random),
                _ => vec![0; length],
            };
            let end = (start + length).min(content.len());
            content[start..end].copy_from_slice(&bytes[..end - start]);
            file.write_all_at(&bytes[..end - start], start as u64)?;
        }
        content.truncate(content.len() - random.index(70_000).min(content.len() / 2));
        file.set_len(content.len() as u64)?;
        file.sync_all()?;
    }
    Ok(())
}

/// Compares what lies below `view` with the files, whose paths lie below `work`.
fn compare(files: &Files, work: &Path, view: &Path) -> anyhow::Result<String> {
    for (path, content) in files {
        let seen = view.join(path.strip_prefix(work)?);
        let found = std::fs::read(&seen)?;
        let differ = found.iter().zip(content).position(|(found, wanted)| found != wanted);
        if let Some(at) = differ {
            bail!("{}: byte {at} is another", seen.display());
        }
        ensure!(found.len() == content.len(), "{}: {} bytes", seen.display(), found.len());
    }
    Ok(format!("{} files", files.len()))
}

fn command(program: &str, arguments: &[&str], path: &Path) -> anyhow::Result<String> {
    process::run(Command::new(program).args(arguments).arg(path), DEADLINE)
}

fn sheen(arguments: &[&str], path: &Path) -> anyhow::Result<String> {
    process::run(Command::new(sheen_program()).args(arguments).arg(path), DEADLINE)
}

fn compression_of(path: &Path) -> anyhow::Result<String> {
    let said: Value = serde_json::from_str(&sheen(&["--json", "compression", "get"], path)?)?;
    Ok(said[0]["compression"].as_str().context("no choice shown")?.to_owned())
}

/// What `sheen recompress` says it did.
#[derive(Debug)]
struct Recompressed {
    files: u64,
    logical: u64,
    before: u64,
    after: u64,
}

fn recompress(arguments: &[&str], path: &Path) -> anyhow::Result<Recompressed> {
    let said = sheen(&[&["--json", "recompress"], arguments].concat(), path)?;
    let said: Value = serde_json::from_str(&said)?;
    let number = |key: &str| said[key].as_u64().with_context(|| format!("no {key}"));
    Ok(Recompressed {
        files: number("files")?,
        logical: number("logical_bytes")?,
        before: number("physical_bytes_before")?,
        after: number("physical_bytes_after")?,
    })
}
