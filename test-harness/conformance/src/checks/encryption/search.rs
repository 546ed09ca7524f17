//! Looking for byte strings in large files and in a process's memory.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;

use anyhow::Context as _;

/// Bytes looked at at a time.
const CHUNK_BYTES: usize = 1 << 20;
/// Shortest needle: anything shorter is found by chance.
const NEEDLE_BYTES_MIN: usize = 8;

/// Something to look for.
#[derive(Debug, Clone)]
pub(super) struct Needle {
    /// What it is, for the report.
    pub(super) what: String,
    /// The bytes.
    pub(super) bytes: Vec<u8>,
}

impl Needle {
    /// A needle of at least eight bytes.
    pub(super) fn new(what: impl Into<String>, bytes: &[u8]) -> Self {
        assert!(bytes.len() >= NEEDLE_BYTES_MIN, "{} bytes are found by chance", bytes.len());
        Self { what: what.into(), bytes: bytes.to_vec() }
    }
}

/// Needles, and which of them were found where.
#[derive(Debug)]
pub(super) struct Search<'a> {
    needles: &'a [Needle],
    /// Offset of the first find of each.
    found: Vec<Option<u64>>,
    /// Needles by their first two bytes.
    starts: Vec<Vec<usize>>,
    /// The end of what was looked at, which a needle may begin in.
    tail: Vec<u8>,
    looked: u64,
}

impl<'a> Search<'a> {
    pub(super) fn new(needles: &'a [Needle]) -> Self {
        let mut starts = vec![Vec::new(); 1 << 16];
        for (index, needle) in needles.iter().enumerate() {
            starts[start(&needle.bytes)].push(index);
        }
        Self { needles, found: vec![None; needles.len()], starts, tail: Vec::new(), looked: 0 }
    }

    /// Looks at what follows.
    fn look(&mut self, bytes: &[u8]) {
        let longest = self.needles.iter().map(|needle| needle.bytes.len()).max().unwrap_or(0);
        let mut window = std::mem::take(&mut self.tail);
        let base = self.looked - window.len() as u64;
        window.extend_from_slice(bytes);
        self.looked += bytes.len() as u64;
        for (at, pair) in window.windows(2).enumerate() {
            for &index in &self.starts[start(pair)] {
                if self.found[index].is_none()
                    && window[at..].starts_with(&self.needles[index].bytes)
                {
                    self.found[index] = Some(base + at as u64);
                }
            }
        }
        let keep = window.len().min(longest.saturating_sub(1));
        self.tail = window.split_off(window.len() - keep);
    }

    /// What follows does not belong to what was looked at.
    fn cut(&mut self) {
        self.tail.clear();
    }

    /// Looks at a file to its end.
    pub(super) fn file(&mut self, file: &mut File) -> anyhow::Result<()> {
        self.cut();
        let mut chunk = vec![0; CHUNK_BYTES];
        let zeros = vec![0; CHUNK_BYTES];
        loop {
            match file.read(&mut chunk)? {
                0 => return Ok(()),
                // Holes: most of a sparse device.
                bytes if chunk[..bytes] == zeros[..bytes] => {
                    self.looked += bytes as u64;
                    self.cut();
                }
                bytes => self.look(&chunk[..bytes]),
            }
        }
    }

    /// Looks at those mappings of a process that `wanted` picks by their flags.
    pub(super) fn memory(
        &mut self,
        process: u32,
        wanted: impl Fn(&Mapping) -> bool,
    ) -> anyhow::Result<()> {
        let memory = File::open(format!("/proc/{process}/mem")).context("the process's memory")?;
        let mut chunk = vec![0; CHUNK_BYTES];
        for mapping in mappings(process)?.into_iter().filter(wanted) {
            self.cut();
            let mut at = mapping.start;
            while at < mapping.end {
                let bytes = usize::try_from(mapping.end - at)?.min(CHUNK_BYTES);
                // Guard pages and device memory cannot be read, and are not dumped.
                if memory.read_exact_at(&mut chunk[..bytes], at).is_err() {
                    break;
                }
                self.look(&chunk[..bytes]);
                at += bytes as u64;
            }
        }
        Ok(())
    }

    /// What was found, with its first offset.
    pub(super) fn found(&self) -> Vec<String> {
        let named = self.needles.iter().zip(&self.found);
        named.filter_map(|(needle, at)| Some(format!("{} at {:#x}", needle.what, (*at)?))).collect()
    }

    /// What was not found.
    pub(super) fn missing(&self) -> Vec<String> {
        let named = self.needles.iter().zip(&self.found);
        named.filter(|(_, at)| at.is_none()).map(|(needle, _)| needle.what.clone()).collect()
    }
}

fn start(bytes: &[u8]) -> usize {
    usize::from(bytes[0]) << 8 | usize::from(bytes[1])
}

/// A mapping of a process.
#[derive(Debug, Clone)]
pub(super) struct Mapping {
    start: u64,
    end: u64,
    /// Whether a core dump leaves it out.
    pub(super) is_not_dumped: bool,
    /// Whether it stays in memory.
    pub(super) is_locked: bool,
}

fn mappings(process: u32) -> anyhow::Result<Vec<Mapping>> {
    let text = std::fs::read_to_string(format!("/proc/{process}/smaps"))?;
    let mut mappings: Vec<Mapping> = Vec::new();
    for line in text.lines() {
        if let (Some(flags), Some(mapping)) = (line.strip_prefix("VmFlags:"), mappings.last_mut()) {
            let has = |flag| flags.split(' ').any(|word| word == flag);
            (mapping.is_not_dumped, mapping.is_locked) = (has("dd"), has("lo"));
        }
        let range = line.split(' ').next().and_then(|range| range.split_once('-'));
        let range = range.and_then(|(start, end)| {
            Some((u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?))
        });
        if let Some((start, end)) = range {
            mappings.push(Mapping { start, end, is_not_dumped: false, is_locked: false });
        }
    }
    Ok(mappings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Seek, Write};

    #[test]
    fn needles_are_found_wherever_they_lie_and_only_if_they_are_there() {
        let needles = ["needle-one", "needle-two", "needle-absent"];
        let needles: Vec<Needle> =
            needles.iter().map(|text| Needle::new(*text, text.as_bytes())).collect();
        let mut file = tempfile::tempfile().unwrap();
        // Over the edge of a chunk, and behind a hole.
        file.seek(std::io::SeekFrom::Start(CHUNK_BYTES as u64 - 3)).unwrap();
        file.write_all(b"needle-one").unwrap();
        file.seek(std::io::SeekFrom::Start(5 * CHUNK_BYTES as u64 + 7)).unwrap();
        file.write_all(b"needle-two").unwrap();
        file.rewind().unwrap();
        let mut search = Search::new(&needles);
        search.file(&mut file).unwrap();
        assert_eq!(search.found(), ["needle-one at 0xffffd", "needle-two at 0x500007"]);
        assert_eq!(search.missing(), ["needle-absent"]);
    }

    #[test]
    fn our_own_memory_holds_what_is_in_it() {
        let secret: Vec<u8> = (0..32_u8).map(|byte| byte.wrapping_mul(37) ^ 0x5c).collect();
        let needles = [Needle::new("ours", &secret)];
        let mut search = Search::new(&needles);
        let at = secret.as_ptr() as u64;
        let is_its_own = |mapping: &Mapping| (mapping.start..mapping.end).contains(&at);
        search.memory(std::process::id(), is_its_own).unwrap();
        assert_eq!(search.missing().len(), 0);
    }
}
