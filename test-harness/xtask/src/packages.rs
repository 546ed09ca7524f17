//! System packages a task needs: installed through apt when we are root, named when we are not.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Result, bail};

use crate::{command::Step, console};

/// A Debian package and a file that shows it is there.
pub(crate) type Package = (&'static str, &'static str);

/// What building and mounting needs.
pub(crate) const RUN: &[Package] = &[
    ("gcc", "/usr/bin/cc"),
    ("libc6-dev", "/usr/include/stdio.h"),
    ("fuse3", "/usr/bin/fusermount3"),
];

/// What the benches need beside that.
pub(crate) const BENCH: &[Package] =
    &[("fio", "/usr/bin/fio"), ("valgrind", "/usr/bin/valgrind"), ("strace", "/usr/bin/strace")];

/// What the fuzzer is linked with.
pub(crate) const FUZZ: &[Package] = &[("g++", "/usr/bin/c++")];

/// What the guest is made and run with.
pub(crate) const GUEST: &[Package] = &[
    ("qemu-system-x86", "/usr/bin/qemu-system-x86_64"),
    ("mmdebstrap", "/usr/bin/mmdebstrap"),
    ("debian-archive-keyring", "/usr/share/keyrings/debian-archive-trixie-stable.gpg"),
    ("binutils", "/usr/bin/strip"),
    ("xz-utils", "/usr/bin/xz"),
    ("swtpm", "/usr/bin/swtpm"),
];

/// Makes sure every package is there.
///
/// # Errors
/// When some are missing and cannot be installed; the message is the command that installs them.
pub(crate) fn ensure(packages: &[Package]) -> Result<()> {
    let missing: Vec<&str> = packages
        .iter()
        .filter(|(_, file)| !Path::new(file).exists())
        .map(|(package, _)| *package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let install = format!("apt-get install -y --no-install-recommends {}", missing.join(" "));
    if !Path::new("/usr/bin/apt-get").exists() {
        bail!("missing: {}. Install them with this system's package manager", missing.join(", "));
    }
    if !is_root() {
        bail!("missing packages; run this, then try again:\n  sudo {install}");
    }
    console::step(&format!("installing {}", missing.join(", ")));
    Step::new("apt-get", &["update", "-qq"]).run()?;
    let arguments: Vec<&str> = install.split(' ').skip(1).collect();
    // A package's service must not come up on the machine of somebody who only wants the program.
    Step::new("apt-get", &arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("RUNLEVEL", "1")
        .run()
}

/// Whether we run as root.
pub(crate) fn is_root() -> bool {
    Command::new("id")
        .arg("-u")
        .stderr(Stdio::null())
        .output()
        .is_ok_and(|output| output.stdout.starts_with(b"0"))
}
