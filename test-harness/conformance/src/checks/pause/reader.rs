//! The reader: a process that reads the registers in every way there is, and prints what it saw and when.
//!
//! Each way has a thread of its own, so that one that blocks leaves the others. An error is not a reading; it is told
//! once per spell, since a client that cannot know what is true may say so.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use sheen_dma::FileMapping;

use super::registers::{DIGITS, Register, Seen, now};
use crate::actor::{answer, orders};

const PACE: Duration = Duration::from_millis(3);

/// How a register is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// `read` by a descriptor that stays open.
    Open,
    /// `open` and `read`.
    Opened,
    /// `stat`.
    Stat,
    /// `readdir`.
    List,
    /// A load from a mapping.
    Load,
}

impl Look {
    pub(super) const ALL: [Self; 5] =
        [Self::Open, Self::Opened, Self::Stat, Self::List, Self::Load];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Open => "read",
            Self::Opened => "open+read",
            Self::Stat => "stat",
            Self::List => "readdir",
            Self::Load => "load",
        }
    }

    pub(super) fn register(self) -> Register {
        match self {
            Self::Open | Self::Opened | Self::Load => Register::Content,
            Self::Stat => Register::Size,
            Self::List => Register::Name,
        }
    }
}

/// Runs the reader until its input ends: `pause-reader DIRECTORY`.
pub(super) fn run(directory: &str) -> anyhow::Result<()> {
    for look in Look::ALL {
        let directory = PathBuf::from(directory);
        std::thread::spawn(move || watch(look, &directory));
    }
    // Nobody gives it orders; when its master is gone, it goes.
    while orders().recv().is_ok() {}
    Ok(())
}

fn watch(look: Look, directory: &Path) {
    let mut had_error = false;
    let mut watcher = None;
    loop {
        let outcome = look_once(look, directory, &mut watcher);
        let told = match outcome {
            Ok(seen) => {
                had_error = false;
                let Seen { begun, returned, version } = seen;
                answer(&format!("seen {} {begun} {returned} {version}", look.name()))
            }
            Err(error) => {
                // A descriptor of a client that was evicted may be of no use any more.
                watcher = None;
                let is_new = !std::mem::replace(&mut had_error, true);
                if is_new { answer(&format!("error {} {error:#}", look.name())) } else { Ok(()) }
            }
        };
        if told.is_err() {
            return;
        }
        std::thread::sleep(PACE);
    }
}

/// What stays open between two readings.
enum Watcher {
    File(File),
    Mapping(FileMapping),
}

fn look_once(look: Look, directory: &Path, kept: &mut Option<Watcher>) -> anyhow::Result<Seen> {
    let path = look.register().path(directory);
    if kept.is_none() {
        *kept = match look {
            Look::Open => Some(Watcher::File(File::open(&path)?)),
            Look::Load => {
                let file = File::options().read(true).write(true).open(&path)?;
                Some(Watcher::Mapping(FileMapping::shared(&file, DIGITS / 8)?))
            }
            Look::Opened | Look::Stat | Look::List => None,
        };
    }
    let begun = now()?;
    let version = match (look, &*kept) {
        (Look::Stat, _) => fs::metadata(&path)?.len(),
        (Look::List, _) => listed(&path)?,
        (_, Some(Watcher::Mapping(mapping))) => {
            let words: Vec<u8> =
                (0..DIGITS / 8).flat_map(|word| mapping.load(word).to_le_bytes()).collect();
            number(&words)?
        }
        (_, Some(Watcher::File(file))) => number_in(file)?,
        (_, None) => number_in(&File::open(&path)?)?,
    };
    Ok(Seen { begun, returned: now()?, version })
}

fn number_in(file: &File) -> anyhow::Result<u64> {
    let mut bytes = [0; DIGITS];
    match file.read_at(&mut bytes, 0) {
        Ok(DIGITS) => number(&bytes),
        Ok(less) => bail!("{less} bytes were read"),
        Err(error) => Err(error.into()),
    }
}

fn number(bytes: &[u8]) -> anyhow::Result<u64> {
    Ok(std::str::from_utf8(bytes)?.parse()?)
}

/// The version a directory's only entry names. One that is renamed meanwhile may be listed under both names or none.
fn listed(path: &Path) -> anyhow::Result<u64> {
    let mut newest: Option<u64> = None;
    for entry in fs::read_dir(path)? {
        let version = entry?.file_name().to_string_lossy().parse()?;
        newest = newest.max(Some(version));
    }
    ensure!(newest.is_some(), "the directory looked empty while its entry was renamed");
    newest.context("no entry")
}

/// A line of a reader's: what was seen, or why not.
pub(super) fn parse(line: &str) -> anyhow::Result<(Look, Result<Seen, String>)> {
    let mut words = line.splitn(3, ' ');
    let (Some(kind), Some(name), Some(rest)) = (words.next(), words.next(), words.next()) else {
        bail!("the reader said {line:?}");
    };
    let look = Look::ALL.into_iter().find(|look| look.name() == name).context("no such look")?;
    if kind == "error" {
        return Ok((look, Err(rest.to_owned())));
    }
    let numbers: Vec<u64> =
        rest.split(' ').map(str::parse).collect::<Result<_, _>>().map_err(io::Error::other)?;
    let [begun, returned, version] = numbers[..] else { bail!("the reader said {line:?}") };
    Ok((look, Ok(Seen { begun, returned, version })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_look_sees_the_version_that_is_there() {
        let directory = tempfile::tempdir().unwrap();
        for register in Register::ALL {
            register.create(directory.path()).unwrap();
        }
        for look in Look::ALL {
            let seen = look_once(look, directory.path(), &mut None).unwrap();
            assert_eq!(seen.version, 0, "{look:?}");
            let line = format!("seen {} {} {} 0", look.name(), seen.begun, seen.returned);
            assert_eq!(parse(&line).unwrap(), (look, Ok(seen)));
        }
    }
}
