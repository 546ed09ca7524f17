//! The rules of the style guide that a program can check.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, bail};

use crate::{command::workspace, console};

/// Lines a source file may have. Beyond, it has two jobs.
const FILE_LINES_MAX: usize = 600;
/// File names that say nothing about their content.
const EMPTY_NAMES: &[&str] = &["utils.rs", "util.rs", "common.rs", "helpers.rs", "misc.rs"];
/// Crates that may hold `unsafe`: memory, devices, fabrics, the FUSE edge, and the cipher's C library.
const UNSAFE_ROOMS: &[&str] =
    &["appliance/dma", "appliance/fuse", "appliance/keys", "nvme", "rdma"];
/// Crates that are pure.
const CORE: &[&str] = &["types", "wire", "journal", "store", "meta", "consensus"];
/// What a pure crate may not name.
const IMPURE: &[&str] = &[
    "Instant::now",
    "SystemTime",
    "std::thread",
    "std::fs",
    "std::net",
    "std::env",
    "std::os",
    "rand::",
    "HashMap<",
    "HashSet<",
];

/// Runs the checks for a person.
///
/// # Errors
/// When a rule is broken.
pub(crate) fn tidy(_arguments: &[String]) -> Result<ExitCode> {
    check()?;
    console::plain("tidy: every rule holds\n");
    Ok(ExitCode::SUCCESS)
}

/// Checks every rule; reports all that is broken.
///
/// # Errors
/// When a rule is broken.
pub(crate) fn check() -> Result<()> {
    let root = workspace();
    let mut files = Vec::new();
    for top in ["appliance", "nvme", "rdma", "firmware-config", "test-harness"] {
        sources(&root.join(top), &mut files)?;
    }
    let mut broken = Vec::new();
    for file in &files {
        let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
        let name = file.strip_prefix(&root).unwrap_or(file);
        check_file(name, &text, &mut broken);
    }
    top_level(&root, &mut broken)?;
    if broken.is_empty() {
        return Ok(());
    }
    bail!("{} broken rules:\n  {}", broken.len(), broken.join("\n  "));
}

fn check_file(name: &Path, text: &str, broken: &mut Vec<String>) {
    let shown = name.display();
    let lines = text.lines().count();
    if lines > FILE_LINES_MAX {
        broken.push(format!("{shown}: {lines} lines, at most {FILE_LINES_MAX}"));
    }
    if EMPTY_NAMES.iter().any(|empty| name.ends_with(empty)) {
        broken.push(format!("{shown}: the file's name says nothing"));
    }
    let is_test = ["tests", "test", "examples"]
        .iter()
        .any(|folder| name.components().any(|part| part.as_os_str() == *folder));
    if !text.starts_with("//!") {
        broken.push(format!("{shown}: no module doc at the top"));
    }
    let is_root = name.ends_with("src/lib.rs") || name.ends_with("src/main.rs");
    let may_be_unsafe = UNSAFE_ROOMS.iter().any(|room| name.starts_with(room));
    if is_root && !may_be_unsafe && !text.contains("#![forbid(unsafe_code)]") {
        broken.push(format!("{shown}: no #![forbid(unsafe_code)]"));
    }
    let core = CORE.iter().any(|part| name.starts_with(Path::new("appliance").join(part)));
    if core && !is_test {
        let product = text.split("#[cfg(test)]").next().unwrap_or(text);
        for line in product.lines().filter(|line| !line.trim_start().starts_with("//")) {
            for word in IMPURE.iter().filter(|word| line.contains(**word)) {
                broken.push(format!("{shown}: a pure crate names {word}"));
            }
        }
    }
    for stub in STUBS {
        if text.contains(stub) {
            broken.push(format!("{shown}: holds {stub}…"));
        }
    }
}

/// What is not finished or not run says so by one of these. In parts, so that this file holds none.
const STUBS: [&str; 3] =
    [concat!("todo", "!("), concat!("unimplemented", "!("), concat!("#[", "ignore")];

/// The top level is fixed.
fn top_level(root: &Path, broken: &mut Vec<String>) -> Result<()> {
    const MAY_STAND: &[&str] = &[
        "Cargo.toml",
        "Cargo.lock",
        "LICENSE",
        "README.md",
        "rust-toolchain.toml",
        "appliance",
        "nvme",
        "rdma",
        "firmware-config",
        "images",
        "test-harness",
        "target",
        "mnt",
    ];
    for entry in fs::read_dir(root)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') && !MAY_STAND.contains(&name.as_str()) {
            broken.push(format!("{name}: does not belong at the top level"));
        }
    }
    Ok(())
}

fn sources(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            if !path.ends_with("target") {
                sources(&path, files)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod test {
    use super::*;

    fn broken(name: &str, text: &str) -> Vec<String> {
        let mut broken = Vec::new();
        check_file(Path::new(name), text, &mut broken);
        broken
    }

    #[test]
    fn a_clean_file_passes() {
        assert!(broken("appliance/store/src/extent.rs", "//! Extents.\n").is_empty());
    }

    #[test]
    fn each_rule_can_fail() {
        let stub = format!("//! D.\nfn f() {{ {}) }}\n", STUBS[0]);
        let long = format!("//! Long.\n{}", "\n".repeat(FILE_LINES_MAX));
        for (name, text) in [
            ("appliance/store/src/extent.rs", "fn undocumented() {}\n"),
            ("appliance/store/src/extent.rs", "//! D.\nuse std::thread;\n"),
            ("appliance/node/src/lib.rs", "//! D.\n"),
            ("appliance/node/src/utils.rs", "//! D.\n"),
            ("appliance/node/src/a.rs", long.as_str()),
            ("appliance/node/src/a.rs", stub.as_str()),
        ] {
            assert_eq!(broken(name, text).len(), 1, "{name}: {text:.40}");
        }
    }
}
