//! One file of records that a writer changes in one of several ways, and syncs now and then.
//!
//! Two descriptors stay open: what one sync tells of a loss, the other must tell too, each once.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, OFlag, fallocate};
use sheen_dma::FileMapping;

use super::ledger::{Ledger, Part};
use crate::random::Random;

/// How a writer changes its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Writes anywhere, truncations, holes; `fsync`.
    Synced,
    /// Writes of a descriptor with `O_DSYNC`.
    Dsync,
    /// Stores into a mapping; `msync`.
    Mapped,
    /// Writes at the end; `fsync`.
    Append,
    /// Writes of large records, not synced until somebody asks.
    Late,
    /// Every second record of a file that another writer writes too; `fsync`.
    Shared(usize),
    /// New files that are renamed over the old one (see `commit`).
    Commit,
}

impl Way {
    pub(super) fn name(self) -> String {
        match self {
            Self::Synced => "synced".to_owned(),
            Self::Dsync => "dsync".to_owned(),
            Self::Mapped => "mapped".to_owned(),
            Self::Append => "append".to_owned(),
            Self::Late => "late".to_owned(),
            Self::Shared(number) => format!("shared-{number}"),
            Self::Commit => "commit".to_owned(),
        }
    }

    pub(super) fn named(name: &str) -> Option<Self> {
        let all = [Self::Synced, Self::Dsync, Self::Mapped, Self::Append, Self::Late];
        let more = [Self::Shared(0), Self::Shared(1), Self::Commit];
        all.into_iter().chain(more).find(|way| way.name() == name)
    }

    pub(super) fn part(self) -> Part {
        match self {
            Self::Shared(number) => Part::EverySecond(number),
            _ => Part::Whole,
        }
    }

    fn record_bytes(self) -> usize {
        // Not a multiple of a block, so that blocks are changed in part; of a word, for mappings.
        match self {
            Self::Late => 64 << 10,
            _ => 3000,
        }
    }
}

const SLOTS: usize = 64;
/// An appended file is emptied when it has so many records.
const SLOTS_MAX: usize = 256;

/// A file and what it may hold.
#[derive(Debug)]
pub(super) struct SlotFile {
    way: Way,
    path: PathBuf,
    file: Option<File>,
    second: File,
    mapping: Option<FileMapping>,
    ledger: Ledger,
    told: u64,
}

fn is_told(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::EIO as i32)
}

impl SlotFile {
    /// Makes the file, or opens the one the other writer made.
    pub(super) fn create(path: &Path, way: Way, seed: u64) -> anyhow::Result<Self> {
        let mut ledger = Ledger::new(seed, way.record_bytes());
        let second =
            OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path)?;
        let file = Self::opened(path, way)?;
        let mut mapping = None;
        if way == Way::Mapped {
            let bytes = u64::try_from(SLOTS * way.record_bytes())?;
            file.set_len(bytes)?;
            ledger.resized(bytes);
            mapping = Some(FileMapping::shared(&file, SLOTS * way.record_bytes() / 8)?);
        }
        let path = path.to_path_buf();
        Ok(Self { way, path, file: Some(file), second, mapping, ledger, told: 0 })
    }

    fn opened(path: &Path, way: Way) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        match way {
            Way::Dsync => options.custom_flags(OFlag::O_DSYNC.bits()),
            Way::Append => options.append(true),
            _ => &mut options,
        };
        options.open(path)
    }

    fn file(&self) -> anyhow::Result<&File> {
        self.file.as_ref().context("the file is closed")
    }

    /// Losses this file's descriptors told of.
    pub(super) fn told(&self) -> u64 {
        self.told
    }

    /// One step, by chance.
    pub(super) fn step(&mut self, random: &mut Random) -> anyhow::Result<()> {
        match (self.way, random.below(100)) {
            (Way::Synced, 0..6) => self.truncate(random),
            (Way::Synced | Way::Shared(_), 6..12) => self.punch(random),
            (Way::Late | Way::Dsync, 0..20) => self.read_back(),
            (Way::Append, 0..5) if self.ledger.slots() > SLOTS_MAX => self.truncate(random),
            (Way::Synced | Way::Append, 12..16) => self.reopen(),
            (Way::Synced | Way::Mapped | Way::Append | Way::Shared(_), 80..100) => self.sync(),
            _ => self.write(random),
        }
    }

    fn write(&mut self, random: &mut Random) -> anyhow::Result<()> {
        let slot = match self.way {
            Way::Append => self.ledger.slots(),
            Way::Shared(number) => 2 * random.index(SLOTS / 2) + number,
            _ => random.index(SLOTS),
        };
        let (version, bytes) = self.ledger.next(slot);
        let place = self.ledger.place(slot);
        if let Some(mapping) = &self.mapping {
            let first = usize::try_from(place)? / 8;
            for (index, word) in bytes.chunks_exact(8).enumerate() {
                mapping.store(first + index, u64::from_le_bytes(word.try_into()?));
            }
            self.ledger.wrote(slot, version);
            return Ok(());
        }
        let file = self.file()?;
        let outcome = match self.way {
            // Where the end is the kernel says, as it does for programs that append.
            Way::Append => io::Write::write_all(&mut &*file, &bytes),
            _ => file.write_all_at(&bytes, place),
        };
        match outcome {
            Ok(()) => {
                self.ledger.wrote(slot, version);
                if self.way == Way::Dsync {
                    self.ledger.synced();
                }
            }
            Err(error) if is_told(&error) => {
                self.told += 1;
                self.ledger.failed(slot, version);
            }
            Err(error) => bail!("writing: {error}"),
        }
        Ok(())
    }

    fn truncate(&mut self, random: &mut Random) -> anyhow::Result<()> {
        let slots = match self.way {
            Way::Append => 0,
            _ => random.index(self.ledger.slots() + 1),
        };
        self.file()?.set_len(self.ledger.place(slots)).context("truncating")?;
        self.ledger.truncated(slots);
        Ok(())
    }

    fn punch(&mut self, random: &mut Random) -> anyhow::Result<()> {
        let slot = random.index(self.ledger.slots().max(1));
        if slot >= self.ledger.slots() || !self.way.part().has(slot) {
            return Ok(());
        }
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let place = i64::try_from(self.ledger.place(slot))?;
        let length = i64::try_from(self.ledger.record_bytes())?;
        fallocate(self.file()?, flags, place, length).context("punching")?;
        self.ledger.punched(slot);
        Ok(())
    }

    fn read_back(&mut self) -> anyhow::Result<()> {
        self.ledger.require(self.file()?, self.way.part()).context("reading back").map(drop)
    }

    /// Closes the working descriptor, which may tell of a loss, and opens the file again.
    fn reopen(&mut self) -> anyhow::Result<()> {
        let Some(file) = self.file.take() else { bail!("the file is closed") };
        match nix::unistd::close(file) {
            Ok(()) => {}
            Err(Errno::EIO) => self.on_loss_told_by_close()?,
            Err(error) => bail!("closing: {error}"),
        }
        self.file = Some(Self::opened(&self.path, self.way).context("opening again")?);
        Ok(())
    }

    fn on_loss_told_by_close(&mut self) -> anyhow::Result<()> {
        self.told += 1;
        self.ledger.lost();
        self.require_second_told()
    }

    /// Syncs, by the way's own call.
    pub(super) fn sync(&mut self) -> anyhow::Result<()> {
        match self.synced_once() {
            Ok(()) => {
                let other = self.second.sync_all();
                ensure!(
                    other.is_ok(),
                    "a sync was acknowledged, and another descriptor was told {other:?}"
                );
                self.ledger.synced();
                Ok(())
            }
            Err(error) if is_told(&error) => {
                self.told += 1;
                self.ledger.lost();
                let again = self.synced_once();
                ensure!(again.is_ok(), "a loss was told twice to one descriptor: {again:?}");
                self.require_second_told()
            }
            Err(error) => bail!("syncing: {error}"),
        }
    }

    fn synced_once(&self) -> io::Result<()> {
        match (&self.mapping, &self.file) {
            (Some(mapping), _) => Ok(mapping.sync()?),
            (None, Some(file)) if self.way == Way::Append => file.sync_data(),
            (None, Some(file)) => file.sync_all(),
            (None, None) => Ok(()),
        }
    }

    fn require_second_told(&mut self) -> anyhow::Result<()> {
        let told = self.second.sync_all();
        let is_right = told.as_ref().is_err_and(is_told);
        ensure!(is_right, "a loss was told to one descriptor, and another got {told:?}");
        let again = self.second.sync_all();
        ensure!(again.is_ok(), "a loss was told twice to the second descriptor: {again:?}");
        Ok(())
    }

    /// Requires that the open descriptor, and the file of the same name below `directory`, hold what they may hold.
    pub(super) fn require_found(&self, directory: &Path) -> anyhow::Result<usize> {
        let name = self.path.file_name().context("a file without a name")?;
        let path = directory.join(name);
        let part = self.way.part();
        self.ledger
            .require(self.file()?, part)
            .with_context(|| format!("{} by its open descriptor", self.path.display()))?;
        let file = File::open(&path).with_context(|| path.display().to_string())?;
        self.ledger.require(&file, part).with_context(|| path.display().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_finds_its_records_on_a_file_system_that_keeps_them() {
        let directory = tempfile::tempdir().unwrap();
        let mut random = Random::new(3);
        for name in ["synced", "dsync", "mapped", "append", "late", "shared-0", "shared-1"] {
            let way = Way::named(name).unwrap();
            let path = directory.path().join(name.trim_end_matches(['0', '1']));
            let mut file = SlotFile::create(&path, way, 5).unwrap();
            for _ in 0..400 {
                file.step(&mut random).unwrap();
            }
            file.sync().unwrap();
            assert!(file.require_found(directory.path()).unwrap() > 0, "{name}");
            assert_eq!(file.told(), 0);
        }
    }

    #[test]
    fn a_record_that_went_back_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        let mut file = SlotFile::create(&path, Way::Synced, 5).unwrap();
        let (version, bytes) = file.ledger.next(0);
        file.file().unwrap().write_all_at(&bytes, 0).unwrap();
        file.ledger.wrote(0, version);
        file.sync().unwrap();
        file.second.write_all_at(&[0; 100], 2000).unwrap();
        let error = format!("{:#}", file.require_found(directory.path()).unwrap_err());
        assert!(error.contains("from byte 2000 of 3000 on: it holds zeros"), "{error}");
        assert!(error.contains("acknowledged and synced"), "{error}");
    }
}
