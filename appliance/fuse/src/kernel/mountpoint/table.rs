//! The mount table, `/proc/self/mountinfo`: what is mounted where, without touching it.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

use nix::mount::MsFlags;

use crate::kernel::mountpoint::options::FLAG_WORDS;

/// The table of this process's mount namespace.
pub(crate) const OWN_TABLE: &str = "/proc/self/mountinfo";

/// A line of the mount table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountPoint {
    /// The kernel's number of the mount.
    pub id: u64,
    /// Number of the mount it is mounted in.
    pub parent: u64,
    /// Device number; the minor number names a FUSE connection in `/sys/fs/fuse/connections`.
    pub device: (u32, u32),
    /// Which directory of the file system is mounted.
    pub root: PathBuf,
    /// Where.
    pub path: PathBuf,
    /// Options of the mount point, separated by commas.
    pub options: String,
    /// Type, such as `fuse.sheen`.
    pub type_name: String,
    /// Source.
    pub source: String,
    /// Options of the file system, separated by commas.
    pub super_options: String,
}

/// Why the table says nothing.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// It cannot be read.
    #[error("reading /proc/self/mountinfo")]
    Read(#[source] io::Error),
    /// The path's directory does not exist.
    #[error("no such path: {0}")]
    Path(PathBuf, #[source] io::Error),
}

impl MountPoint {
    /// All mounts, in the order they were made; what is mounted over another comes later.
    ///
    /// # Errors
    /// [`TableError::Read`].
    pub fn all() -> Result<Vec<Self>, TableError> {
        let text = fs::read(OWN_TABLE).map_err(TableError::Read)?;
        Ok(Self::parse_all(&text))
    }

    /// As [`MountPoint::all`], from the text of a table.
    pub(crate) fn parse_all(text: &[u8]) -> Vec<Self> {
        text.split(|&byte| byte == b'\n').filter_map(Self::parse).collect()
    }

    /// The topmost mount at exactly this path. Does not touch the mount itself, so a dead one is found too.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn at(path: &Path) -> Result<Option<Self>, TableError> {
        let path = resolve(path)?;
        Ok(Self::all()?.into_iter().rev().find(|mount| mount.path == path))
    }

    /// All mounts of a type, such as `fuse.sheen`.
    ///
    /// # Errors
    /// [`TableError::Read`].
    pub fn of_type(type_name: &str) -> Result<Vec<Self>, TableError> {
        let mut all = Self::all()?;
        all.retain(|mount| mount.type_name == type_name);
        Ok(all)
    }

    /// Requests the kernel has for a FUSE mount that are not answered; None if the system does not tell.
    #[must_use]
    pub fn waiting_requests(&self) -> Option<u64> {
        let path = format!("/sys/fs/fuse/connections/{}/waiting", self.device.1);
        fs::read_to_string(path).ok()?.trim().parse().ok()
    }

    /// Lets the kernel read ahead up to `bytes` in files of this mount. To be called when the mount answers: the
    /// handshake limits it to the system's 128 KiB, which makes for small READs.
    ///
    /// # Errors
    /// When `/sys/class/bdi` is not there, or not ours to write.
    pub fn set_readahead(&self, bytes: u32) -> io::Result<()> {
        let (major, minor) = self.device;
        let path = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
        fs::write(path, (bytes / 1024).to_string())
    }

    /// Whether it is a FUSE mount of any kind.
    #[must_use]
    pub fn is_fuse(&self) -> bool {
        matches!(self.type_name.as_str(), "fuse" | "fuseblk") || self.type_name.starts_with("fuse.")
    }

    /// Whether it is a mount of Sheen's.
    #[must_use]
    pub fn is_sheen(&self) -> bool {
        self.type_name == "fuse.sheen"
    }

    /// The user who mounted it, of a FUSE mount.
    #[must_use]
    pub fn owner(&self) -> Option<u32> {
        let mut words = self.super_options.split(',');
        words.find_map(|word| word.strip_prefix("user_id="))?.parse().ok()
    }

    /// Its flags.
    #[must_use]
    pub fn flags(&self) -> MsFlags {
        let words = self.options.split(',').chain(self.super_options.split(','));
        let mut flags = MsFlags::empty();
        for word in words {
            for (flag, _) in FLAG_WORDS.iter().filter(|(_, known)| *known == word) {
                flags.insert(*flag);
            }
        }
        flags
    }

    /// `36 35 98:0 /root /mnt rw,noatime shared:1 - type source rw,…`; the fields before the dash vary in number.
    fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = line.split(|&byte| byte == b' ');
        let id = text(fields.next()?).parse().ok()?;
        let parent = text(fields.next()?).parse().ok()?;
        let device = text(fields.next()?);
        let (major, minor) = device.split_once(':')?;
        let root = PathBuf::from(OsString::from_vec(unescape(fields.next()?)));
        let path = PathBuf::from(OsString::from_vec(unescape(fields.next()?)));
        let options = text(fields.next()?);
        fields.find(|field| *field == b"-")?;
        let type_name = text(fields.next()?);
        let source = String::from_utf8_lossy(&unescape(fields.next()?)).into_owned();
        let super_options = text(fields.next()?);
        let device = (major.parse().ok()?, minor.parse().ok()?);
        Some(Self { id, parent, device, root, path, options, type_name, source, super_options })
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Undoes the table's `\040` for space and its kin.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        if first == b'\\'
            && let Some(digits) = tail.first_chunk::<3>()
            && let Some(byte) = octal(digits)
        {
            out.push(byte);
            rest = &tail[3..];
        } else {
            out.push(first);
            rest = tail;
        }
    }
    out
}

fn octal(digits: &[u8; 3]) -> Option<u8> {
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()
}

/// The path as the table spells it. Only its directory is looked at: asking a dead mount for itself would fail or hang.
pub(crate) fn resolve(path: &Path) -> Result<PathBuf, TableError> {
    /// As many links in a row as Linux follows.
    const LINKS_MAX: usize = 40;
    let wrong = |error| TableError::Path(path.to_owned(), error);
    let mut absolute = std::path::absolute(path).map_err(wrong)?;
    for _ in 0..LINKS_MAX {
        let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name()) else {
            // The root, or a path that ends in `..`.
            return fs::canonicalize(&absolute).map_err(wrong);
        };
        let parent = fs::canonicalize(parent).map_err(wrong)?;
        let resolved = parent.join(name);
        // A link is no mount point; what it leads to may be one. Reading a link does not enter a mount.
        match fs::read_link(&resolved) {
            Ok(target) => absolute = parent.join(target),
            Err(_) => return Ok(resolved),
        }
    }
    Err(wrong(io::ErrorKind::InvalidInput.into()))
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_line_with_optional_fields_and_escapes_is_read() {
        let line = b"36 35 0:53 / /mnt/a\\040b\\134c rw,noatime,nosuid shared:1 master:2 - fuse.sheen node1:/x ro,user_id=0";
        let mount = MountPoint::parse(line).unwrap();
        assert_eq!(mount.path, Path::new("/mnt/a b\\c"));
        assert_eq!((mount.device, mount.type_name.as_str()), ((0, 53), "fuse.sheen"));
        assert_eq!((mount.id, mount.parent, mount.root.as_path()), (36, 35, Path::new("/")));
        assert_eq!(mount.source, "node1:/x");
        assert_eq!(mount.flags(), MsFlags::MS_NOATIME | MsFlags::MS_NOSUID | MsFlags::MS_RDONLY);
        assert!(mount.is_fuse() && mount.is_sheen() && mount.owner() == Some(0));
        let line = b"36 35 0:53 / /mnt/b rw - fuse.sshfs host:/ rw,user_id=0";
        let mount = MountPoint::parse(line).unwrap();
        assert!(mount.is_fuse() && !mount.is_sheen());
    }

    #[test]
    fn lines_that_are_no_mounts_are_passed_over() {
        for wrong in [&b""[..], b"36", b"36 35 0:53 / /mnt rw", b"x 35 0:53 / /m rw - t s o"] {
            assert_eq!(MountPoint::parse(wrong), None);
        }
    }

    #[test]
    fn the_root_is_found_in_the_table_of_this_process() {
        let proc = MountPoint::at(Path::new("/proc/../proc")).unwrap().unwrap();
        assert_eq!(proc.type_name, "proc");
        assert_eq!(MountPoint::at(Path::new("/proc/self/..")).unwrap().unwrap().type_name, "proc");
        assert!(MountPoint::at(Path::new("/nowhere/at/all")).is_err());
    }
}
