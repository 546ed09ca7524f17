//! Whether a host is fit for Sheen: checks as data, each with what was found and what to do.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileTypeExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use nix::sys::resource::{Resource, getrlimit};
use serde::Serialize;

use crate::topology::Topology;

/// How a check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckState {
    /// As it should be.
    Ok,
    /// Works, but slower or with less than could be.
    Warn,
    /// Does not work.
    Fail,
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at.
    pub name: &'static str,
    /// How it went.
    pub state: CheckState,
    /// What was found.
    pub found: String,
    /// What to do about it; none if nothing need be done.
    pub advice: Option<String>,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, state: CheckState::Ok, found: found.into(), advice: None }
    }

    fn warn(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { name, state: CheckState::Warn, found: found.into(), advice: Some(advice.into()) }
    }

    fn fail(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { name, state: CheckState::Fail, found: found.into(), advice: Some(advice.into()) }
    }
}

/// Looks at this host; `path` is where the device file lies or will lie, or a disk.
#[must_use]
pub fn examine(path: &Path) -> Vec<Check> {
    let host = Host { root: PathBuf::from("/") };
    vec![
        host.kernel(),
        cpus(),
        host.memory(),
        host.io_uring(),
        direct_io(path),
        fuse_device(),
        host.fuse_uring(),
        open_files(),
        locked_memory(),
        host.huge_pages(),
    ]
}

/// Oldest kernel line everything needed is in: `IORING_SETUP_SUBMIT_ALL` (5.18) and `COOP_TASKRUN` (5.19).
const KERNEL_LEAST: (u32, u32) = (5, 19);
/// From here on `FUSE_NOTIFY_INC_EPOCH` takes back cached names without a lock per directory.
const KERNEL_GOOD: (u32, u32) = (6, 16);

/// Files of the host below a root.
struct Host {
    root: PathBuf,
}

impl Host {
    fn text(&self, path: &str) -> Option<String> {
        Some(std::fs::read_to_string(self.root.join(path)).ok()?.trim().to_owned())
    }

    fn kernel(&self) -> Check {
        const NAME: &str = "kernel";
        let Some(release) = self.text("proc/sys/kernel/osrelease") else {
            return Check::warn(NAME, "unknown", "mount /proc");
        };
        let mut numbers =
            release.split(|c: char| !c.is_ascii_digit()).map(|text| text.parse().unwrap_or(0));
        let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        if version < KERNEL_LEAST {
            Check::fail(
                NAME,
                release,
                "Linux 5.19 or later is needed, 6.12 or later is recommended",
            )
        } else if version < KERNEL_GOOD {
            let advice = "names are cached for a second at most between mounts; Linux 6.16 or later caches them for ever";
            Check::warn(NAME, release, advice)
        } else {
            Check::ok(NAME, release)
        }
    }

    fn memory(&self) -> Check {
        const NAME: &str = "memory";
        let info = self.text("proc/meminfo").unwrap_or_default();
        let kib = |key: &str| -> Option<u64> {
            let line = info.lines().find_map(|line| line.strip_prefix(key))?;
            line.split_whitespace().next()?.parse().ok()
        };
        let (Some(total), Some(available)) = (kib("MemTotal:"), kib("MemAvailable:")) else {
            return Check::warn(NAME, "unknown", "mount /proc");
        };
        let found = format!("{} MiB, {} MiB available", total >> 10, available >> 10);
        if available < 1 << 20 {
            return Check::warn(NAME, found, "have 1 GiB available, or set limits.memory lower");
        }
        Check::ok(NAME, found)
    }

    fn io_uring(&self) -> Check {
        const NAME: &str = "io_uring";
        match io_uring::IoUring::new(8) {
            Ok(_) => Check::ok(NAME, "works"),
            Err(error) => {
                let disabled = self.text("proc/sys/kernel/io_uring_disabled");
                let advice = match disabled.as_deref() {
                    Some("1") => {
                        "sysctl kernel.io_uring_disabled=0, or add the user to kernel.io_uring_group"
                    }
                    Some("2") => "sysctl kernel.io_uring_disabled=0",
                    _ => {
                        "allow io_uring in the container's seccomp profile, and raise memlock on kernels before 5.12"
                    }
                };
                Check::fail(NAME, error.to_string(), advice)
            }
        }
    }

    fn fuse_uring(&self) -> Check {
        const NAME: &str = "FUSE over io_uring";
        match self.text("sys/module/fuse/parameters/enable_uring").as_deref() {
            Some("Y" | "1") => Check::ok(NAME, "enabled"),
            Some(_) => Check::warn(
                NAME,
                "available, not enabled",
                "echo Y > /sys/module/fuse/parameters/enable_uring (fuse.enable_uring=Y on the kernel's command line)",
            ),
            None => Check::warn(
                NAME,
                "not available",
                "Linux 6.14 or later has it; mounts work without",
            ),
        }
    }

    fn huge_pages(&self) -> Check {
        const NAME: &str = "huge pages";
        // Nothing asks for them yet; what is found is shown so that measurements can be compared.
        match self.text("sys/kernel/mm/transparent_hugepage/shmem_enabled") {
            None => Check::ok(NAME, "not available for shared memory; not needed"),
            Some(modes) => Check::ok(NAME, format!("for shared memory: {modes}; not needed")),
        }
    }
}

fn cpus() -> Check {
    const NAME: &str = "CPUs";
    match Topology::of_this_machine() {
        Ok(topology) => {
            let found = format!("{} on {} cores", topology.threads(), topology.cores());
            if topology.cores() < 2 {
                return Check::warn(
                    NAME,
                    found,
                    "clients of this host and the node share one core",
                );
            }
            Check::ok(NAME, found)
        }
        Err(error) => {
            Check::warn(NAME, error.to_string(), "mount /sys; threads are not pinned without")
        }
    }
}

/// Opens with `O_DIRECT` a disk or file, or a file made for it in a folder.
fn direct_io(path: &Path) -> Check {
    const NAME: &str = "direct I/O";
    let shown = path.display();
    match try_direct(path) {
        Ok(()) => Check::ok(NAME, format!("works on {shown}")),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Check::warn(
            NAME,
            format!("not supported on {shown}"),
            "put the device on ext4, XFS or a disk; through the page cache it is slower and takes memory twice",
        ),
        Err(error) => {
            Check::fail(NAME, format!("{shown}: {error}"), "make the place writable for this user")
        }
    }
}

fn try_direct(path: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_DIRECT);
    let metadata = std::fs::metadata(path).ok();
    if metadata
        .as_ref()
        .is_some_and(|metadata| metadata.is_file() || metadata.file_type().is_block_device())
    {
        return options.open(path).map(drop);
    }
    let folder = match &metadata {
        Some(_) => path,
        None => {
            path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
        }
    };
    let trial = folder.join(format!(".sheen-doctor-{}", std::process::id()));
    let result = options.write(true).create_new(true).open(&trial).map(drop);
    // Not there if it could not be made; a file system may make it and then refuse the flag.
    let _ = std::fs::remove_file(&trial);
    result
}

fn fuse_device() -> Check {
    const NAME: &str = "/dev/fuse";
    match File::options().read(true).write(true).open("/dev/fuse") {
        Ok(_) => Check::ok(NAME, "opens"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Check::fail(NAME, "is not there", "modprobe fuse; give containers the device /dev/fuse")
        }
        Err(error) => {
            Check::fail(NAME, error.to_string(), "mounts need root, or read and write access to it")
        }
    }
}

fn open_files() -> Check {
    const NAME: &str = "open files";
    /// A thousand clients with a few connections of three descriptors each.
    const WANTED: u64 = 16_384;
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((_, hard)) if hard >= WANTED => Check::ok(NAME, format!("limit {hard}")),
        Ok((_, hard)) => {
            let advice =
                "LimitNOFILE=65536 in the unit, or ulimit -n 65536: each client takes several";
            Check::warn(NAME, format!("limit {hard}"), advice)
        }
        Err(error) => Check::warn(NAME, error.to_string(), "ulimit -n 65536"),
    }
}

fn locked_memory() -> Check {
    const NAME: &str = "locked memory";
    // io_uring stopped counting against it with Linux 5.12; RDMA and VFIO will need more.
    match getrlimit(Resource::RLIMIT_MEMLOCK) {
        Ok((_, hard)) => Check::ok(NAME, format!("{}; not needed", limit_text(hard))),
        Err(error) => Check::warn(NAME, error.to_string(), "ulimit -l unlimited"),
    }
}

fn limit_text(bytes: u64) -> String {
    if bytes == u64::MAX { "unlimited".into() } else { format!("limit {} KiB", bytes >> 10) }
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::topology::test::put;

    fn state(path: &str, text: &str, check: fn(&Host) -> Check) -> CheckState {
        let root = tempfile::tempdir().unwrap();
        put(root.path(), path, text);
        let check = check(&Host { root: root.path().into() });
        assert_eq!(check.advice.is_none(), check.state == CheckState::Ok, "{check:?}");
        check.state
    }

    #[test]
    fn kernels_are_sorted_into_too_old_usable_and_good() {
        let kernel = |release| state("proc/sys/kernel/osrelease", release, Host::kernel);
        assert_eq!(kernel("4.18.0-553.el8.x86_64"), CheckState::Fail);
        assert_eq!(kernel("5.15.0-91-generic"), CheckState::Fail);
        assert_eq!(kernel("6.1.0-18-amd64"), CheckState::Warn);
        assert_eq!(kernel("6.18.44-fc-v595"), CheckState::Ok);
        assert_eq!(kernel("7.0.1"), CheckState::Ok);
    }

    #[test]
    fn every_setting_leads_to_its_advice() {
        let memory = |text| state("proc/meminfo", text, Host::memory);
        assert_eq!(memory("MemTotal: 8000000 kB\nMemAvailable: 5000000 kB"), CheckState::Ok);
        assert_eq!(memory("MemTotal: 8000000 kB\nMemAvailable: 500000 kB"), CheckState::Warn);
        assert_eq!(memory("nonsense"), CheckState::Warn);
        let uring = |text| state("sys/module/fuse/parameters/enable_uring", text, Host::fuse_uring);
        assert_eq!((uring("Y"), uring("N")), (CheckState::Ok, CheckState::Warn));
        let shmem = "sys/kernel/mm/transparent_hugepage/shmem_enabled";
        assert_eq!(
            state(shmem, "always advise [never] deny force", Host::huge_pages),
            CheckState::Ok
        );
    }

    #[test]
    fn direct_io_leaves_nothing_behind_and_names_a_place_that_is_not_there() {
        let folder = tempfile::tempdir().unwrap();
        assert_ne!(direct_io(folder.path()).state, CheckState::Fail);
        assert_ne!(direct_io(&folder.path().join("device")).state, CheckState::Fail);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        let check = direct_io(Path::new("/nowhere/at/all/device"));
        assert_eq!(check.state, CheckState::Fail);
        assert!(check.found.contains("/nowhere/at/all/device"), "{check:?}");
    }

    #[test]
    fn this_host_is_examined_completely_and_in_words() {
        let checks = examine(Path::new("/tmp"));
        assert_eq!(checks.len(), 10);
        assert!(checks.iter().all(|check| !check.found.is_empty()));
    }
}
