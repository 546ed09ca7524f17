//! Makes the guest: a kernel and an archive with its first root, cached under the name of the recipe.
//!
//! mmdebstrap unpacks the packages into a scratch tree (no script of theirs runs), and only what the recipe names is
//! taken from it: less to load is less to emulate.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use sheen_conformance::process;

use crate::cpio::Archive;
use crate::recipe;

const UNPACK_DEADLINE: Duration = Duration::from_secs(180);
const TOOL_DEADLINE: Duration = Duration::from_secs(60);
const LOADER: &str = "/lib64/ld-linux-x86-64.so.2";

/// A guest ready to boot.
#[derive(Debug, Clone)]
pub struct Image {
    /// The kernel.
    pub kernel: PathBuf,
    /// The archive the kernel unpacks.
    pub root: PathBuf,
    /// The kernel's version.
    pub version: String,
}

impl Image {
    /// The image for the recipe; makes it when `cache` has none.
    ///
    /// # Errors
    /// When a tool is missing or fails, or the mirror cannot be reached.
    pub fn prepared(cache: &Path) -> Result<Self> {
        let home = cache.join(recipe::key());
        if !home.join("version").exists() {
            build(cache, &home).context("making the guest's image")?;
        }
        let version = fs::read_to_string(home.join("version"))?;
        Ok(Self { kernel: home.join("vmlinuz"), root: home.join("root.cpio"), version })
    }
}

fn build(cache: &Path, home: &Path) -> Result<()> {
    fs::create_dir_all(cache)?;
    let scratch = tempfile::Builder::new().prefix("unpack-").tempdir_in(cache)?;
    let tree = scratch.path().join("tree");
    unpack(&tree)?;
    let version = only_entry(&tree.join("usr/lib/modules"))?;
    let made = scratch.path().join("made");
    fs::create_dir_all(&made)?;
    fs::copy(tree.join(format!("boot/vmlinuz-{version}")), made.join("vmlinuz"))?;
    write_root(&tree, &version, &made.join("root.cpio"))?;
    fs::write(made.join("version"), &version)?;
    // Images of other recipes are of no use any more; what cannot be removed is only space.
    for entry in fs::read_dir(cache)?.flatten() {
        if entry.path().join("version").exists() {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    fs::rename(&made, home).context("putting the image in its place")
}

fn unpack(tree: &Path) -> Result<()> {
    ensure!(nix::unistd::Uid::effective().is_root(), "making the guest needs root");
    ensure!(Path::new(recipe::KEYRING).exists(), "{} is missing", recipe::KEYRING);
    let source = format!(
        "deb [signed-by={}] {} {} main",
        recipe::KEYRING,
        mirror(Path::new("/etc/apt")),
        recipe::SUITE
    );
    let mut command = Command::new("mmdebstrap");
    command.args(["--variant=extract", "--mode=root", "--format=directory"]);
    command.args(["--architectures=amd64", "--aptopt=APT::Install-Recommends \"false\""]);
    for rubbish in ["/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/man/*"] {
        command.arg(format!("--dpkgopt=path-exclude={rubbish}"));
    }
    command.arg(format!("--include={}", recipe::PACKAGES.join(",")));
    command.arg(recipe::SUITE).arg(tree).arg(source);
    process::run(&mut command, UNPACK_DEADLINE)?;
    Ok(())
}

/// The mirror this system installs from, which is the one it can reach.
fn mirror(apt: &Path) -> String {
    let mut files = vec![apt.join("sources.list")];
    let parts = fs::read_dir(apt.join("sources.list.d")).into_iter().flatten().flatten();
    files.extend(parts.map(|part| part.path()));
    let text: String = files.iter().filter_map(|file| fs::read_to_string(file).ok()).collect();
    let is_main =
        |word: &&str| word.starts_with("http") && word.trim_end_matches('/').ends_with("/debian");
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    let found = lines.flat_map(str::split_whitespace).find(is_main);
    found.unwrap_or(recipe::MIRROR).to_owned()
}

fn only_entry(directory: &Path) -> Result<String> {
    let mut names = fs::read_dir(directory)?.map(|entry| entry.map(|entry| entry.file_name()));
    match (names.next().transpose()?, names.next()) {
        (Some(name), None) => Ok(name.to_string_lossy().into_owned()),
        _ => bail!("{}: not exactly one entry", directory.display()),
    }
}

/// A command run with the unpacked tree as its root.
fn inside(tree: &Path, arguments: &[&str]) -> Result<String> {
    process::run(Command::new("chroot").arg(tree).args(arguments), TOOL_DEADLINE)
}

fn write_root(tree: &Path, version: &str, output: &Path) -> Result<()> {
    let mut archive = Archive::new(BufWriter::new(File::create(output)?));
    for directory in
        ["proc", "sys", "dev", "tmp", "run", "root", "mnt", "etc", "usr/bin", "usr/sbin"]
    {
        archive.directory(directory)?;
    }
    for (name, target) in
        [("bin", "usr/bin"), ("sbin", "usr/sbin"), ("lib", "usr/lib"), ("lib64", "usr/lib64")]
    {
        archive.link(name, target)?;
    }
    archive.character("/dev/console", (5, 1))?;
    archive.character("/dev/null", (1, 3))?;
    archive.file("/init", 0o755, recipe::INIT.as_bytes())?;
    for (name, content) in recipe::FILES {
        archive.file(name, 0o644, content.as_bytes())?;
    }
    let mut wanted: BTreeSet<String> = BTreeSet::new();
    for program in recipe::PROGRAMS.iter().chain(recipe::LIBRARIES) {
        wanted.insert((*program).to_owned());
        wanted.extend(libraries(tree, program)?);
    }
    for path in &wanted {
        archive.file(path, 0o755, &fs::read(tree.join(path.trim_start_matches('/')))?)?;
    }
    for (name, target) in recipe::LINKS {
        archive.link(name, target)?;
    }
    for applet in recipe::APPLETS {
        archive.link(&format!("/usr/bin/{applet}"), "busybox")?;
    }
    write_modules(tree, version, &mut archive)?;
    archive.finish()?;
    Ok(())
}

/// The shared libraries of a program, and the loader.
fn libraries(tree: &Path, program: &str) -> Result<Vec<String>> {
    let Ok(listed) = inside(tree, &[LOADER, "--list", program]) else {
        // A static program is not listed.
        return Ok(Vec::new());
    };
    ensure!(!listed.contains("not found"), "{program} lacks libraries: {listed}");
    let paths = listed.split_whitespace().filter_map(|word| {
        // The old names are links to those below /usr.
        let old = word.starts_with("/lib").then(|| format!("/usr{word}"));
        old.or_else(|| word.starts_with("/usr/lib").then(|| word.to_owned()))
    });
    Ok(paths.collect())
}

/// The modules and what they depend on, uncompressed (decompression is slow when emulated), with a list for modprobe.
fn write_modules(tree: &Path, version: &str, archive: &mut Archive<BufWriter<File>>) -> Result<()> {
    let library = format!("/usr/lib/modules/{version}");
    inside(tree, &["/usr/sbin/depmod", version])?;
    let mut files = BTreeSet::new();
    for module in recipe::MODULES {
        let shown = inside(tree, &["/usr/sbin/modprobe", "-S", version, "--show-depends", module])?;
        let paths = shown.lines().filter_map(|line| line.split_whitespace().nth(1));
        files.extend(paths.map(|path| path.trim_start_matches("/usr").to_owned()));
    }
    for file in &files {
        let packed = tree.join(file.trim_start_matches('/'));
        process::run(Command::new("xz").arg("--decompress").arg(&packed), TOOL_DEADLINE)?;
        let plain = format!("/usr{}", file.trim_end_matches(".xz"));
        archive.file(&plain, 0o644, &fs::read(tree.join(plain.trim_start_matches('/')))?)?;
    }
    // Everything that was not taken goes, so that the list names only what is there.
    for top in fs::read_dir(tree.join(format!("usr/lib/modules/{version}/kernel")))?.flatten() {
        remove_packed(&top.path())?;
    }
    inside(tree, &["/usr/sbin/depmod", version])?;
    for entry in fs::read_dir(tree.join(library.trim_start_matches('/')))?.flatten() {
        if entry.file_type()?.is_file() {
            let name = entry.file_name().to_string_lossy().into_owned();
            archive.file(&format!("{library}/{name}"), 0o644, &fs::read(entry.path())?)?;
        }
    }
    Ok(())
}

fn remove_packed(path: &Path) -> Result<()> {
    if path.is_dir() {
        for entry in fs::read_dir(path)?.flatten() {
            remove_packed(&entry.path())?;
        }
    } else if path.extension().is_some_and(|extension| extension == "xz") {
        fs::remove_file(path)?;
    }
    Ok(())
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn the_mirror_is_the_one_apt_uses() {
        let apt = tempfile::tempdir().unwrap();
        assert_eq!(mirror(apt.path()), recipe::MIRROR);
        fs::create_dir(apt.path().join("sources.list.d")).unwrap();
        let text = "Types: deb\n# URIs: http://old/debian\nURIs: http://mirror.example/debian/\n";
        fs::write(apt.path().join("sources.list.d/debian.sources"), text).unwrap();
        assert_eq!(mirror(apt.path()), "http://mirror.example/debian/");
    }
}
