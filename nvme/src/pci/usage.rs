//! What uses a controller's namespaces, and whether that forbids taking it away.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use super::{
    Function,
    machine::{Machine, PciError, names_in, text_of},
    signature::{Content, inspect},
};

/// A process that has a file open.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Process {
    /// Its id.
    pub id: u32,
    /// The program's name.
    pub program: String,
}

impl fmt::Display for Process {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "process {} ({})", self.id, self.program)
    }
}

/// Whether a controller may be taken away though it is used so.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Severity {
    /// It may: the data is ours.
    Ours,
    /// It may when asked for with force: there is data, but nobody uses it now.
    Data,
    /// It may not: somebody uses it now and would lose data.
    Live,
}

/// One use of a namespace or of a partition on it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Use {
    /// A mounted file system.
    Mounted {
        /// The block device.
        device: String,
        /// The mount point.
        at: PathBuf,
    },
    /// Active swap space.
    Swap {
        /// The block device.
        device: String,
    },
    /// Part of a device mapper volume (LVM, dm-crypt) or a RAID array.
    Held {
        /// The block device.
        device: String,
        /// What it is part of.
        by: String,
    },
    /// Opened by a program.
    Opened {
        /// The block device.
        device: String,
        /// The program.
        process: Process,
    },
    /// Claimed by something in the kernel that none of the above explains.
    Claimed {
        /// The block device.
        device: String,
    },
    /// Cut into partitions.
    Partitioned {
        /// The block device.
        device: String,
        /// Its partitions.
        partitions: Vec<String>,
    },
    /// Holds a file system or other data with a known mark.
    Signature {
        /// The block device.
        device: String,
        /// What.
        content: &'static str,
    },
    /// Holds a Sheen node's data.
    Sheen {
        /// The block device.
        device: String,
    },
}

impl Use {
    /// Whether it forbids taking the controller away.
    #[must_use]
    pub const fn severity(&self) -> Severity {
        match self {
            Self::Mounted { .. }
            | Self::Swap { .. }
            | Self::Held { .. }
            | Self::Opened { .. }
            | Self::Claimed { .. } => Severity::Live,
            Self::Partitioned { .. } | Self::Signature { .. } => Severity::Data,
            Self::Sheen { .. } => Severity::Ours,
        }
    }
}

impl fmt::Display for Use {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mounted { device, at } => {
                write!(formatter, "{device} is mounted at {}", at.display())
            }
            Self::Swap { device } => write!(formatter, "{device} is active swap space"),
            Self::Held { device, by } => write!(formatter, "{device} is part of {by}"),
            Self::Opened { device, process } => {
                write!(formatter, "{device} is opened by {process}")
            }
            Self::Claimed { device } => write!(formatter, "{device} is claimed by the kernel"),
            Self::Partitioned { device, partitions } => {
                write!(formatter, "{device} has partitions ({})", partitions.join(", "))
            }
            Self::Signature { device, content } => write!(formatter, "{device} holds {content}"),
            Self::Sheen { device } => write!(formatter, "{device} holds data of a Sheen node"),
        }
    }
}

/// Namespaces claimed as a mount claims them: while this lives nobody can begin to use them.
#[derive(Debug)]
pub(super) struct Claim {
    _devices: Vec<File>,
}

impl Machine {
    /// Everything that uses a controller's namespaces, as far as the kernel's driver has it.
    ///
    /// # Errors
    /// When a namespace cannot be read.
    pub fn uses(&self, function: &Function) -> Result<Vec<Use>, PciError> {
        self.claim(function).map(|(_, uses)| uses)
    }

    /// The processes that have a controller through vfio.
    #[must_use]
    pub fn vfio_users(&self, function: &Function) -> Vec<Process> {
        let group = function.iommu_group.map(|group| format!("/dev/vfio/{group}"));
        let devices = names_in(&self.function_path(function.address, "vfio-dev"));
        let devices = devices.into_iter().map(|name| format!("/dev/vfio/devices/{name}"));
        let files: Vec<String> = group.into_iter().chain(devices).collect();
        self.openers()
            .into_iter()
            .filter(|(file, _)| files.contains(file))
            .map(|(_, by)| by)
            .collect()
    }

    /// Claims the namespaces that nobody uses, and tells what uses them.
    pub(super) fn claim(&self, function: &Function) -> Result<(Claim, Vec<Use>), PciError> {
        let mut uses = Vec::new();
        let mut devices = Vec::new();
        let openers = self.openers();
        for disk in function.block_devices() {
            let directory = self.path("sys/block").join(disk);
            let is_partition = |name: &String| directory.join(name).join("partition").exists();
            let partitions: Vec<String> =
                names_in(&directory).into_iter().filter(is_partition).collect();
            let before = uses.len();
            self.live_uses(disk, &directory, &openers, &mut uses);
            for partition in &partitions {
                self.live_uses(partition, &directory.join(partition), &openers, &mut uses);
            }
            match self.look_into(disk)? {
                Looked::Claimed if uses.len() == before => {
                    uses.push(Use::Claimed { device: disk.into() });
                }
                Looked::Claimed => {}
                Looked::Free(file, content) => {
                    devices.push(file);
                    uses.extend(data_use(disk, &partitions, content));
                }
            }
        }
        Ok((Claim { _devices: devices }, uses))
    }

    fn live_uses(
        &self,
        name: &str,
        sys: &Path,
        openers: &[(String, Process)],
        uses: &mut Vec<Use>,
    ) {
        let device = name.to_owned();
        for at in self.mount_points(name, text_of(&sys.join("dev"))) {
            uses.push(Use::Mounted { device: device.clone(), at });
        }
        let node = format!("/dev/{name}");
        let swaps = text_of(&self.path("proc/swaps")).unwrap_or_default();
        if swaps.lines().any(|line| line.split_whitespace().next() == Some(&node)) {
            uses.push(Use::Swap { device: device.clone() });
        }
        for holder in names_in(&sys.join("holders")) {
            let title = text_of(&self.path("sys/block").join(&holder).join("dm/name"));
            let by = title.map_or_else(|| holder.clone(), |title| format!("{holder} ({title})"));
            uses.push(Use::Held { device: device.clone(), by });
        }
        for (_, process) in openers.iter().filter(|(file, _)| *file == node) {
            uses.push(Use::Opened { device: device.clone(), process: process.clone() });
        }
    }

    /// Mount points of a block device: by its number, and by its name for file systems with numbers of their own.
    fn mount_points(&self, name: &str, number: Option<String>) -> Vec<PathBuf> {
        let table = text_of(&self.path("proc/self/mountinfo")).unwrap_or_default();
        let node = format!("/dev/{name}");
        let is_it = |line: &&str| {
            let source = line.split_once(" - ").and_then(|(_, rest)| rest.split(' ').nth(1));
            line.split(' ').nth(2) == number.as_deref() || source == Some(&node)
        };
        let found = table.lines().filter(is_it).filter_map(|line| line.split(' ').nth(4));
        let mut points: Vec<PathBuf> = found.map(unescaped).collect();
        points.dedup();
        points
    }

    fn look_into(&self, disk: &str) -> Result<Looked, PciError> {
        let node = self.path("dev").join(disk);
        // As a mount would: refused when somebody has it, and nobody else gets it while we do.
        let opened = OpenOptions::new().read(true).custom_flags(libc::O_EXCL).open(&node);
        let failed = |doing| {
            let file = node.clone();
            move |source| PciError::Io { file, doing, source }
        };
        match opened {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Ok(Looked::Claimed),
            Err(error) => Err(failed("opening to see what it holds")(error)),
            Ok(file) => {
                let content = inspect(&file).map_err(failed("reading what it holds"))?;
                Ok(Looked::Free(file, content))
            }
        }
    }

    /// Every file below /dev that another process has open.
    fn openers(&self) -> Vec<(String, Process)> {
        let mut found = Vec::new();
        let this = std::process::id();
        for name in names_in(&self.path("proc")) {
            let Ok(id) = name.parse::<u32>() else { continue };
            if id == this {
                continue;
            }
            let directory = self.path("proc").join(&name);
            let program = || text_of(&directory.join("comm")).unwrap_or_default();
            // A process may end while it is looked at; then it has nothing open.
            let files = fs::read_dir(directory.join("fd")).into_iter().flatten().flatten();
            for file in files.filter_map(|entry| fs::read_link(entry.path()).ok()) {
                let file = file.to_string_lossy().into_owned();
                if file.starts_with("/dev/") {
                    found.push((file, Process { id, program: program() }));
                }
            }
        }
        found.dedup();
        found
    }
}

enum Looked {
    Claimed,
    Free(File, Option<Content>),
}

fn data_use(disk: &str, partitions: &[String], content: Option<Content>) -> Option<Use> {
    let device = disk.to_owned();
    if !partitions.is_empty() {
        return Some(Use::Partitioned { device, partitions: partitions.to_vec() });
    }
    match content? {
        Content::Sheen => Some(Use::Sheen { device }),
        Content::Other(content) => Some(Use::Signature { device, content }),
    }
}

/// Mount tables write blanks and backslashes as three octal digits.
fn unescaped(text: &str) -> PathBuf {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        out.push_str(before);
        let code = after.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) => {
                out.push(char::from(code));
                rest = &after[3..];
            }
            None => {
                out.push('\\');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out.into()
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn names_with_blanks_are_read_back() {
        assert_eq!(unescaped(r"/mnt/a\040b\134"), Path::new(r"/mnt/a b\"));
        assert_eq!(unescaped(r"\04"), Path::new(r"\04"));
    }
}
