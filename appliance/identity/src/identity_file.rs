//! The identity file on disk: readable by its owner alone, written whole or not at all.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use nix::{fcntl::OFlag, unistd::geteuid};
use sheen_keys::{LockError, Secret};
use thiserror::Error;

use crate::{IdentityFault, IdentityFile, identity_text::IDENTITY_BYTES_MAX};

/// Mode bits of group and others.
const OTHERS: u32 = 0o077;
/// Names that are tried for the file that becomes the identity.
const TRIES_MAX: u32 = 16;

/// Why an identity file was not read or written, split by what people must do.
#[derive(Debug, Error)]
pub enum IdentityFileError {
    /// The system does not give or take it: correct the path, or its folder's rights.
    #[error("{}: {error}", path.display())]
    System {
        /// Which.
        path: PathBuf,
        /// What was met.
        error: io::Error,
    },
    /// It is a folder, a device or a pipe.
    #[error("{}: expected a file, found something else", path.display())]
    NotAFile {
        /// Which.
        path: PathBuf,
    },
    /// Others may read or change it: who has it is this client.
    #[error(
        "{shown}: others than its owner have rights to it (mode {mode:o}); take them away: chmod 600 {shown}",
        shown = path.display()
    )]
    Mode {
        /// Which.
        path: PathBuf,
        /// Its mode bits.
        mode: u32,
    },
    /// It is neither ours nor root's: its owner could change it under us.
    #[error(
        "{shown}: belongs to uid {owner}; an identity belongs to who uses it, or to root: chown {user} {shown}",
        shown = path.display()
    )]
    Owner {
        /// Which.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who we are.
        user: u32,
    },
    /// Its content is not what it must be: get a new one.
    #[error("{}: {fault}", path.display())]
    Content {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        fault: IdentityFault,
    },
    /// There is no locked memory to read it into.
    #[error(transparent)]
    Memory(#[from] LockError),
}

impl IdentityFile {
    /// Reads the identity in `path`.
    ///
    /// # Errors
    /// [`IdentityFileError`].
    pub fn read(path: &Path) -> Result<Self, IdentityFileError> {
        let system = |error| IdentityFileError::System { path: path.into(), error };
        // Without waiting: opening a pipe would, for a writer.
        let nonblocking = OFlag::O_NONBLOCK.bits();
        let mut options = OpenOptions::new();
        let mut file = options.read(true).custom_flags(nonblocking).open(path).map_err(system)?;
        let metadata = file.metadata().map_err(system)?;
        if !metadata.is_file() {
            return Err(IdentityFileError::NotAFile { path: path.into() });
        }
        check_rights(path, metadata.mode(), metadata.uid(), geteuid().as_raw())?;
        let content = |fault| IdentityFileError::Content { path: path.into(), fault };
        // One byte more, so that a file that is too long is seen to be.
        let mut text = Secret::zeroed(IDENTITY_BYTES_MAX + 1)?;
        let mut length = 0;
        while length < text.len() {
            match file.read(&mut text.expose_mut()[length..]) {
                Ok(0) => break,
                Ok(bytes) => length += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(system(error)),
            }
        }
        Self::parse(&text.expose()[..length]).map_err(content)
    }

    /// Writes a file that was not there, durably; its owner alone can read it.
    ///
    /// # Errors
    /// [`IdentityFileError::System`], with [`io::ErrorKind::AlreadyExists`] if it is there: an identity is not overwritten unasked.
    /// [`IdentityFileError::Content`] if the parts do not belong together or are too long.
    pub fn create(&self, path: &Path) -> Result<(), IdentityFileError> {
        self.write(path, |new| fs::hard_link(new, path))
    }

    /// Writes the file, durably, in place of the one that is there: a reader sees the old one or the new one.
    ///
    /// # Errors
    /// [`IdentityFileError::System`], [`IdentityFileError::Content`].
    pub fn replace(&self, path: &Path) -> Result<(), IdentityFileError> {
        self.write(path, |new| fs::rename(new, path))
    }

    fn write(
        &self,
        path: &Path,
        publish: impl FnOnce(&Path) -> io::Result<()>,
    ) -> Result<(), IdentityFileError> {
        let text = self.to_text();
        let text = text.map_err(|fault| IdentityFileError::Content { path: path.into(), fault })?;
        let system = |error| IdentityFileError::System { path: path.into(), error };
        let (new, mut file) = new_beside(path).map_err(system)?;
        let folder = new.parent().unwrap_or(Path::new("/"));
        let written = file
            .write_all(text.as_bytes())
            .and_then(|()| file.sync_all())
            .and_then(|()| publish(&new));
        // A rename took the name away already.
        let _ = fs::remove_file(&new);
        written.and_then(|()| File::open(folder)?.sync_all()).map_err(system)
    }
}

/// Makes an empty file with a name of its own in the folder of `path`.
fn new_beside(path: &Path) -> io::Result<(PathBuf, File)> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
    let name = path.file_name().ok_or_else(invalid)?.to_string_lossy().into_owned();
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    for number in 0..TRIES_MAX {
        let new = folder.join(format!(".{name}.{}-{number}.new", std::process::id()));
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => return made.map(|file| (new, file)),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

fn check_rights(path: &Path, mode: u32, owner: u32, user: u32) -> Result<(), IdentityFileError> {
    if owner != user && owner != 0 {
        return Err(IdentityFileError::Owner { path: path.into(), owner, user });
    }
    if mode & OTHERS != 0 {
        return Err(IdentityFileError::Mode { path: path.into(), mode: mode & 0o7777 });
    }
    Ok(())
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn only_the_owner_and_root_may_have_rights() {
        let check = |mode, owner, user| check_rights(Path::new("/etc/id"), mode, owner, user);
        for (mode, owner, user) in [(0o600, 7, 7), (0o400, 7, 7), (0o600, 0, 7), (0o700, 0, 0)] {
            assert!(check(mode, owner, user).is_ok());
        }
        for mode in [0o640, 0o604, 0o620, 0o602, 0o610, 0o4601] {
            let error = check(0o100_000 | mode, 7, 7).unwrap_err();
            assert!(matches!(error, IdentityFileError::Mode { mode: found, .. } if found == mode));
            let text = error.to_string();
            assert!(text.contains("chmod 600 /etc/id") && text.contains(&format!("{mode:o}")));
        }
        let text = check(0o600, 8, 7).unwrap_err().to_string();
        assert!(text.contains("belongs to uid 8") && text.contains("chown 7 /etc/id"), "{text}");
        assert!(check(0o600, 8, 0).is_err(), "root does not take what a user can change");
    }
}
