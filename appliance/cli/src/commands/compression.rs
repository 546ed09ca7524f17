//! `sheen compression`: how files and directories are compressed, shown and chosen.

use std::{
    fs::{File, Metadata, OpenOptions},
    os::{
        fd::AsFd,
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Result, anyhow};
use nix::fcntl::OFlag;
use serde::Serialize;
use sheen_fuse::kernel::control;
use sheen_types::{Bytes, Compression, Errno};

use super::walk::{Kind, Walk};
use crate::{answer, arguments, failure::Failure};

/// Bytes of a unit of `st_blocks`.
const SECTOR_BYTES: u64 = 512;

/// A file or directory as shown.
#[derive(Debug, Serialize)]
struct Shown {
    path: PathBuf,
    /// `none`, `lz4` or `zstd`.
    compression: &'static str,
    /// Of a file: bytes of content, and bytes it takes.
    logical_bytes: Option<u64>,
    physical_bytes: Option<u64>,
}

/// Shows or sets.
///
/// # Errors
/// When no path could be looked at; what single ones meet is told, and the exit code is 1.
pub(crate) fn run(json: bool, asked: &arguments::Compression) -> Result<ExitCode> {
    let (paths, choice) = match asked {
        arguments::Compression::Get { paths } => (paths, None),
        arguments::Compression::Set { compression, paths } => (paths, Some(*compression)),
    };
    let mut shown = Vec::new();
    let mut failed = false;
    for (path, found) in Walk::new(&paths.paths, paths.recursive)? {
        match found.and_then(|(kind, metadata)| visit(&path, kind, &metadata, choice)) {
            Ok(one) => shown.push(one),
            Err(error) => {
                failed = true;
                answer::error(&Failure::of(&error));
            }
        }
    }
    if json {
        answer::either(true, &shown, String::new);
    } else if choice.is_none() && !shown.is_empty() {
        answer::text(&table(&shown));
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn visit(
    path: &Path,
    kind: Kind,
    metadata: &Metadata,
    choice: Option<Compression>,
) -> Result<Shown> {
    let file = open(path, OpenOptions::new().read(true))?;
    let mut flags =
        control::inode_flags(file.as_fd()).map_err(|errno| explain(path, "reading", errno))?;
    if let Some(choice) = choice {
        flags = choice.in_flags(flags);
        control::set_inode_flags(file.as_fd(), flags)
            .map_err(|errno| explain(path, "setting", errno))?;
    }
    let of_file = |bytes: u64| (kind == Kind::File).then_some(bytes);
    Ok(Shown {
        path: path.to_owned(),
        compression: Compression::of_flags(flags).name(),
        logical_bytes: of_file(metadata.len()),
        physical_bytes: of_file(physical_bytes(metadata)),
    })
}

/// Bytes a file takes.
pub(super) fn physical_bytes(metadata: &Metadata) -> u64 {
    metadata.blocks().saturating_mul(SECTOR_BYTES)
}

/// Opens a file or directory as it is: nothing it could be replaced by meanwhile is followed or waited for.
///
/// # Errors
/// When it cannot be opened; the text says what is missing.
pub(super) fn open(path: &Path, options: &mut OpenOptions) -> Result<File> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let opened = options.custom_flags(flags.bits()).open(path);
    opened.map_err(|error| {
        let hint = match error.raw_os_error() {
            Some(13) => "; permission to read it is needed, for recompress also to write it",
            _ => "",
        };
        anyhow!("cannot open {}: {error}{hint}", path.display())
    })
}

/// What an error of a control call means for the user.
pub(super) fn explain(path: &Path, what: &str, errno: Errno) -> anyhow::Error {
    let shown = path.display();
    match errno {
        Errno::ENOTTY => anyhow!("{shown} is not on a Sheen mount: nothing to choose there"),
        Errno::EOPNOTSUPP => anyhow!(
            "{what} compression of {shown}: this mount or its node does not know it; is it a Sheen mount, and of this version?"
        ),
        Errno::EPERM => anyhow!("{shown} is not yours: its owner or root may choose"),
        other => anyhow!("{what} compression of {shown}: {other}"),
    }
}

fn table(shown: &[Shown]) -> String {
    let size = |bytes: Option<u64>| bytes.map_or_else(|| "-".to_owned(), |b| Bytes(b).to_string());
    let rows: Vec<Vec<String>> = shown
        .iter()
        .map(|one| {
            vec![
                one.compression.to_owned(),
                size(one.logical_bytes),
                size(one.physical_bytes),
                one.path.display().to_string(),
            ]
        })
        .collect();
    answer::table(&["COMPRESSION", "SIZE", "SPACE", "PATH"], &rows)
}
