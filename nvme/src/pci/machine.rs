//! The machine: where its files are, and what changes it.

use std::{
    fmt::Debug,
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use thiserror::Error;

use super::PciAddress;

/// What changes a machine. Tests have their own.
pub trait Kernel: Debug {
    /// Writes to a file of sysfs.
    ///
    /// # Errors
    /// What the kernel says.
    fn write(&self, file: &Path, text: &str) -> io::Result<()>;

    /// Loads a module; one that is loaded, or part of the kernel, is fine.
    ///
    /// # Errors
    /// When there is none of the name, or it cannot be loaded.
    fn load_module(&self, name: &str) -> io::Result<()>;
}

/// The kernel this runs on.
#[derive(Debug)]
struct Running;

impl Kernel for Running {
    fn write(&self, file: &Path, text: &str) -> io::Result<()> {
        fs::write(file, text)
    }

    fn load_module(&self, name: &str) -> io::Result<()> {
        let mut command = Command::new("modprobe");
        command.arg(name).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let output = command.output()?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(io::Error::other(format!("modprobe {name}: {}", said.trim())))
    }
}

/// Why a function cannot be looked at.
#[derive(Debug, Error)]
pub enum PciError {
    /// There is none at the address.
    #[error("there is no PCI function {0}; `sheen nvme list` shows the NVMe controllers")]
    NoFunction(PciAddress),
    /// It is something else.
    #[error("{address} is not an NVMe controller (its class is {class})")]
    NotNvme {
        /// Which.
        address: PciAddress,
        /// Class code as sysfs writes it.
        class: String,
    },
    /// A file could not be read or written.
    #[error("{}: {doing}: {source}", .file.display())]
    Io {
        /// Which.
        file: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// What the system says.
        source: io::Error,
    },
}

/// A machine: the root of its file tree, and its kernel.
#[derive(Debug)]
pub struct Machine {
    root: PathBuf,
    kernel: Box<dyn Kernel>,
}

impl Default for Machine {
    fn default() -> Self {
        Self::this()
    }
}

impl Machine {
    /// The machine this runs on.
    #[must_use]
    pub fn this() -> Self {
        Self { root: "/".into(), kernel: Box::new(Running) }
    }

    /// A machine whose `sys`, `proc` and `dev` lie below `root`.
    #[must_use]
    pub fn at(root: &Path, kernel: Box<dyn Kernel>) -> Self {
        Self { root: root.to_owned(), kernel }
    }

    /// A file of it.
    pub(super) fn path(&self, below: &str) -> PathBuf {
        self.root.join(below)
    }

    /// A file of a PCI function.
    pub(super) fn function_path(&self, address: PciAddress, file: &str) -> PathBuf {
        self.root.join(format!("sys/bus/pci/devices/{address}")).join(file)
    }

    pub(super) fn kernel(&self) -> &dyn Kernel {
        &*self.kernel
    }

    /// Writes to a file of sysfs.
    pub(super) fn write(&self, file: &Path, text: &str) -> Result<(), PciError> {
        let doing = "writing";
        self.kernel.write(file, text).map_err(|source| PciError::Io {
            file: file.into(),
            doing,
            source,
        })
    }
}

/// The text of a file without its end of line; nothing when the file is not there.
pub(super) fn text_of(file: &Path) -> Option<String> {
    fs::read_to_string(file).ok().map(|text| text.trim().to_owned())
}

/// The last part of a link's target; nothing when there is no link.
pub(super) fn link_name(link: &Path) -> Option<String> {
    let target = fs::read_link(link).ok()?;
    Some(target.file_name()?.to_string_lossy().into_owned())
}

/// The names in a directory, sorted; none when it is not there.
pub(super) fn names_in(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
