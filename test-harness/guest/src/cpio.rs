//! Archives in the format the kernel unpacks into its first root (`newc`: Documentation/driver-api/early-userspace,
//! "initramfs buffer format").
//!
//! Several archives may simply follow one another, which is how a run adds its programs to an image.

use std::collections::BTreeSet;
use std::io::{self, Write};

const TYPE_DIRECTORY: u32 = 0o040_000;
const TYPE_FILE: u32 = 0o100_000;
const TYPE_LINK: u32 = 0o120_000;
const TYPE_CHARACTER: u32 = 0o020_000;
/// Archives and their parts are padded to this, so that they can be put behind one another.
const PADDING: u64 = 4;

/// An archive being written. Parent directories are made as they are needed.
#[derive(Debug)]
pub struct Archive<W: Write> {
    output: W,
    written: u64,
    inodes: u32,
    known: BTreeSet<String>,
}

/// What stands in an entry's header beside its name and content.
struct Header {
    mode: u32,
    device: (u32, u32),
}

impl<W: Write> Archive<W> {
    /// An empty archive.
    pub fn new(output: W) -> Self {
        Self { output, written: 0, inodes: 0, known: BTreeSet::new() }
    }

    /// Adds a directory and those above it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn directory(&mut self, path: &str) -> io::Result<()> {
        let path = path.trim_matches('/');
        for (end, _) in path.match_indices('/').chain([(path.len(), "")]) {
            let part = &path[..end];
            if !part.is_empty() && self.known.insert(part.to_owned()) {
                self.entry(part, &Header { mode: TYPE_DIRECTORY | 0o755, device: (0, 0) }, &[])?;
            }
        }
        Ok(())
    }

    /// Adds a file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn file(&mut self, path: &str, permissions: u32, content: &[u8]) -> io::Result<()> {
        self.add(path, &Header { mode: TYPE_FILE | permissions, device: (0, 0) }, content)
    }

    /// Adds a symbolic link.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn link(&mut self, path: &str, target: &str) -> io::Result<()> {
        self.add(path, &Header { mode: TYPE_LINK | 0o777, device: (0, 0) }, target.as_bytes())
    }

    /// Adds a character device.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn character(&mut self, path: &str, device: (u32, u32)) -> io::Result<()> {
        self.add(path, &Header { mode: TYPE_CHARACTER | 0o600, device }, &[])
    }

    /// Ends the archive; gives back what it was written to.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn finish(mut self) -> io::Result<W> {
        self.entry("TRAILER!!!", &Header { mode: 0, device: (0, 0) }, &[])?;
        self.output.flush()?;
        Ok(self.output)
    }

    fn add(&mut self, path: &str, header: &Header, content: &[u8]) -> io::Result<()> {
        let path = path.trim_matches('/');
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.directory(parent)?;
        }
        if self.known.insert(path.to_owned()) {
            self.entry(path, header, content)?;
        }
        Ok(())
    }

    fn entry(&mut self, path: &str, header: &Header, content: &[u8]) -> io::Result<()> {
        self.inodes += 1;
        let too_long = |_| io::Error::new(io::ErrorKind::FileTooLarge, path.to_owned());
        let bytes = u32::try_from(content.len()).map_err(too_long)?;
        let name_bytes = u32::try_from(path.len() + 1).map_err(too_long)?;
        let (major, minor) = header.device;
        let fields =
            [self.inodes, header.mode, 0, 0, 1, 0, bytes, 0, 0, major, minor, name_bytes, 0];
        let mut head = String::from("070701");
        for field in fields {
            head.push_str(&format!("{field:08x}"));
        }
        head.push_str(path);
        head.push('\0');
        self.write(head.as_bytes())?;
        self.write(content)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.output.write_all(bytes)?;
        // A slice is shorter than 2^63.
        self.written += u64::try_from(bytes.len()).unwrap_or(0);
        while !self.written.is_multiple_of(PADDING) {
            self.output.write_all(&[0])?;
            self.written += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_file_brings_its_directories_once_and_everything_is_aligned() {
        let mut archive = Archive::new(Vec::new());
        archive.file("/a/b/one", 0o755, b"12345").unwrap();
        archive.file("/a/b/two", 0o644, b"").unwrap();
        let bytes = archive.finish().unwrap();
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8_lossy(&bytes);
        assert_eq!(text.matches("070701").count(), 5, "a, a/b, two files, the trailer");
        let at = text.find("a/b/one\0").unwrap();
        assert_eq!((at - 110) % 4, 0);
        assert!(text[at..].contains("12345"));
    }
}
