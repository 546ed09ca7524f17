//! The holder: a process with a file open three times (once O_DIRECT) and mapped, which does single operations when told and says what they gave.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt as _};

use anyhow::{Context as _, bail};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::{Whence, lseek};
use sheen_dma::FileMapping;

use crate::actor::{answer, orders, tell};

/// Bytes of the file.
pub(super) const FILE_BYTES: usize = 16 << 10;

struct Holder {
    file: Option<File>,
    second: File,
    direct: File,
    mapping: FileMapping,
    lock: Option<Flock<File>>,
    path: String,
}

/// Runs the holder until its input ends: `pause-holder FILE`.
pub(super) fn run(path: &str) -> anyhow::Result<()> {
    let open = || OpenOptions::new().read(true).write(true).open(path);
    let (file, second) = (open()?, open()?);
    let flags = nix::libc::O_DIRECT;
    let direct = OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)?;
    let mapping = FileMapping::shared(&file, FILE_BYTES / 8)?;
    let path = path.to_owned();
    let mut holder = Holder { file: Some(file), second, direct, mapping, lock: None, path };
    answer("ready")?;
    for order in orders() {
        tell(holder.obey(&order))?;
    }
    Ok(())
}

impl Holder {
    /// Orders: `read PLACE`, `write PLACE BYTE`, `truncate BYTES`, `store WORD VALUE`, `sync`, `sync-second`, `msync`, `seek-data`, `close`,
    /// `lock`, `write-locked BYTE`, `direct-read`, `direct-write`.
    /// The answer is `did` with `ok` or the error's number.
    fn obey(&mut self, order: &str) -> anyhow::Result<()> {
        let words: Vec<&str> = order.split(' ').collect();
        let outcome = match words[..] {
            ["write", place, byte] => {
                let file = self.file.as_ref().context("closed")?;
                file.write_all_at(&[byte.parse()?; 8], place.parse()?)
            }
            ["read", place] => {
                let file = self.file.as_ref().context("closed")?;
                file.read_exact_at(&mut [0; 8], place.parse()?)
            }
            ["truncate", bytes] => self.file.as_ref().context("closed")?.set_len(bytes.parse()?),
            ["store", word, value] => {
                self.mapping.store(word.parse()?, value.parse()?);
                Ok(())
            }
            ["sync"] => self.file.as_ref().context("closed")?.sync_all(),
            ["sync-second"] => self.second.sync_all(),
            ["msync"] => self.mapping.sync().map_err(io::Error::from),
            ["seek-data"] => {
                let file = self.file.as_ref().context("closed")?;
                lseek(file, 0, Whence::SeekData).map(drop).map_err(io::Error::from)
            }
            ["close"] => nix::unistd::close(self.file.take().context("closed")?)
                .map_err(|error: Errno| error.into()),
            ["lock"] => {
                let file = OpenOptions::new().read(true).write(true).open(&self.path)?;
                let locked = Flock::lock(file, FlockArg::LockExclusive);
                locked.map(|lock| self.lock = Some(lock)).map_err(|(_, error)| error.into())
            }
            ["write-locked", byte] => {
                self.lock.as_ref().context("no lock")?.write_all_at(&[byte.parse()?; 8], 0)
            }
            ["direct-read"] => self.direct.read_exact_at(aligned(&mut [0; 2 * BLOCK]), 0),
            ["direct-write"] => self.direct.write_all_at(aligned(&mut [7; 2 * BLOCK]), 0),
            _ => bail!("there is no order {order}"),
        };
        let said = match outcome {
            Ok(()) => "ok".to_owned(),
            Err(error) => error.raw_os_error().map_or_else(|| error.to_string(), |n| n.to_string()),
        };
        Ok(answer(&format!("did {said}"))?)
    }
}

/// Bytes of which O_DIRECT takes multiples.
const BLOCK: usize = 4096;

/// The block in it that begins at a multiple of its size.
fn aligned(bytes: &mut [u8; 2 * BLOCK]) -> &mut [u8] {
    let from = bytes.as_ptr().align_offset(BLOCK);
    &mut bytes[from..from + BLOCK]
}
