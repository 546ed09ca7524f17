//! Planted bugs: proof that the explorer can fail.
//!
//! The sources of the store, of what it stands on, and of this crate are copied below `target/planted`, into a workspace of
//! their own. For each bug one file there is altered, the copy is built, and its explorer must find the bug within
//! a bound of states; the copy without a bug must pass. The sources that ship know nothing of it. Third-party crates are
//! those already built: the copies share the target folder, under other names.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context, Result, bail};
use sheen_mutants::{Mutant, store::MUTANTS};

use crate::report::line;

/// Members of the copy.
const MEMBERS: &[(&str, &str)] = &[
    ("types", "appliance/types"),
    ("journal", "appliance/journal"),
    ("store", "appliance/store"),
    ("mutants", "test-harness/mutants"),
    ("crash", "test-harness/crash"),
];
/// The copy's program: not that of the real one, which is running.
const PROGRAM: &str = "sheen-crash-planted";

/// Builds and runs every mutant, or the one named.
///
/// # Errors
/// When one is not found, or the copy without one fails.
pub(crate) fn planted(states: u64, only: Option<&str>) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize()?;
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let copy = target.join("planted");
    lay_out(&root, &copy)?;
    let begun = Instant::now();
    if only.is_none() {
        build(&copy, &target)?;
        let (passed, told) = run(&target, states)?;
        if !passed {
            bail!("the store without a planted bug fails:\n{told}");
        }
        line(&format!("no bug planted: {states} states keep the promise"));
    }
    let chosen = |mutant: &&Mutant| only.is_none_or(|name| name == mutant.name);
    let mut found = 0;
    for mutant in MUTANTS.iter().filter(chosen) {
        let file = copy.join(mutant.file);
        let original = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        fs::write(&file, mutant.planted(&original)?)?;
        let result = build(&copy, &target).and_then(|()| run(&target, states));
        fs::write(&file, original)?;
        let (passed, told) = result.with_context(|| format!("with {} planted", mutant.name))?;
        if passed {
            bail!("{}: not found in {states} states: {}", mutant.name, mutant.story);
        }
        line(&format!("{}: found. {}\n    {told}", mutant.name, mutant.story));
        found += 1;
    }
    if found == 0 {
        bail!("no such bug is planted; there are: {}", names().join(", "));
    }
    line(&format!("{found} planted bugs found in {:.0} s", begun.elapsed().as_secs_f64()));
    Ok(())
}

/// Names of all mutants.
pub(crate) fn names() -> Vec<&'static str> {
    MUTANTS.iter().map(|mutant| mutant.name).collect()
}

/// Copies the members, and makes them a workspace. Its packages have other names: a package of the same name at the same
/// place in its workspace would be the same to cargo, and a planted store stand in the target folder in place of the real
/// one.
fn lay_out(root: &Path, copy: &Path) -> Result<()> {
    let manifest = fs::read_to_string(root.join("Cargo.toml"))?;
    let (head, rest) = manifest.split_once("members = [").context("a workspace has members")?;
    let (_, rest) = rest.split_once(']').context("the members end")?;
    let folders: Vec<String> = MEMBERS.iter().map(|(_, folder)| format!("\"{folder}\"")).collect();
    let mut manifest = format!("{head}members = [{}]{rest}", folders.join(", "));
    for &(name, folder) in MEMBERS {
        let plain = format!("sheen-{name} = {{ path");
        let renamed = format!("sheen-{name} = {{ package = \"planted-{name}\", path");
        manifest = manifest.replace(&plain, &renamed);
        copy_folder(&root.join(folder), &copy.join(folder))?;
        let own = fs::read_to_string(root.join(folder).join("Cargo.toml"))?;
        write(&copy.join(folder).join("Cargo.toml"), &rename(name, &own))?;
        // Built many times, run for seconds.
        manifest +=
            &format!("\n[profile.release.package.planted-{name}]\nopt-level = 1\ndebug = false\n");
    }
    write(&copy.join("Cargo.toml"), &manifest)?;
    write(&copy.join("Cargo.lock"), &fs::read_to_string(root.join("Cargo.lock"))?)
}

/// A member's manifest with the copy's names; in the sources its names stay.
fn rename(name: &str, manifest: &str) -> String {
    let package = format!("name = \"sheen-{name}\"");
    let mut renamed = manifest.replacen(&package, &format!("name = \"planted-{name}\""), 1);
    if !renamed.contains("[lib]") {
        renamed += &format!("\n[lib]\nname = \"sheen_{name}\"\n");
    }
    renamed.replacen(
        "[[bin]]\nname = \"sheen-crash\"",
        &format!("[[bin]]\nname = \"{PROGRAM}\""),
        1,
    )
}

/// Copies what differs, so that what does not is not built again.
fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| to.display().to_string())?;
    let mut names = Vec::new();
    for entry in fs::read_dir(from).with_context(|| from.display().to_string())? {
        let path = entry?.path();
        let Some(name) = path.file_name() else { continue };
        names.push(name.to_owned());
        if path.is_dir() {
            copy_folder(&path, &to.join(name))?;
        } else if name != "Cargo.toml" {
            write(&to.join(name), &fs::read_to_string(&path)?)?;
        }
    }
    for entry in fs::read_dir(to)? {
        let path = entry?.path();
        if path.is_file() && !names.iter().any(|name| path.ends_with(name)) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<()> {
    if fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    fs::write(path, text).with_context(|| path.display().to_string())
}

fn build(copy: &Path, target: &Path) -> Result<()> {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--release", "--offline", "--quiet", "--bin", PROGRAM])
        .env("CARGO_TARGET_DIR", target)
        .env("CARGO_INCREMENTAL", "1")
        .current_dir(copy)
        .output()
        .context("starting cargo")?;
    if !output.status.success() {
        bail!("the copy does not build:\n{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

/// Whether the copy's explorer passes, and the line that says why not.
fn run(target: &Path, states: u64) -> Result<(bool, String)> {
    let program = target.join("release").join(PROGRAM);
    let output = Command::new(&program)
        .args(["explore", "--log", "0", "--states", &states.to_string()])
        .output()
        .with_context(|| format!("starting {}", program.display()))?;
    let told = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    let why: Vec<&str> = told
        .lines()
        .filter(|line| line.contains("failed: ") || line.contains("distinct states ("))
        .map(|line| line.get(..240).unwrap_or(line))
        .collect();
    if !output.status.success() && why.is_empty() {
        bail!("the explorer ended without a finding:\n{told}");
    }
    Ok((output.status.success(), why.join("\n    ")))
}
