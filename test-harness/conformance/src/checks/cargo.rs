//! Cargo: a program with dependencies is downloaded, built and run with everything on the file system.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::ensure;

use super::Context;
use crate::process;

const CHECK: &str = "cargo";
const DEADLINE: Duration = Duration::from_secs(600);

const MANIFEST: &str = r#"[package]
name = "sample"
version = "0.1.0"
edition = "2021"

[dependencies]
serde_json = "1"
regex = "1"
memchr = "2"
smallvec = "1"
bitflags = "2"

[profile.dev]
debug = false

[workspace]
"#;

const PROGRAM: &str = r##"fn main() {
    let value: serde_json::Value = serde_json::from_str(r#"{"words": ["one", "two"]}"#).unwrap();
    let pattern = regex::Regex::new("t(w)o").unwrap();
    let list: smallvec::SmallVec<[u32; 4]> = (0..10).collect();
    let text = value["words"][1].as_str().unwrap();
    let place = memchr::memchr(b'o', text.as_bytes()).unwrap();
    println!("{} {} {}", pattern.replace(text, "$1"), list.iter().sum::<u32>(), place);
}
"##;

/// Runs the check.
pub fn run(context: &mut Context<'_>) {
    let Some((work, _)) = context.prepared(CHECK) else { return };
    let project = work.join("project");
    let report = &mut *context.report;
    let built = report.case(CHECK, "clean build, registry and target on the file system", || {
        std::fs::create_dir_all(project.join("src"))?;
        std::fs::write(project.join("Cargo.toml"), MANIFEST)?;
        std::fs::write(project.join("src/main.rs"), PROGRAM)?;
        let finished = build(&project)?;
        let crates = finished.stderr.matches("Compiling").count();
        ensure!(crates >= 6, "only {crates} crates were compiled");
        Ok(format!("{crates} crates"))
    });
    if built {
        report.case(CHECK, "the program runs", || {
            let program = project.join("target/debug/sample");
            let said = process::run(&mut Command::new(program), DEADLINE)?;
            ensure!(said == "w 45 2\n", "it said {said:?}");
            Ok(String::new())
        });
        report.case(CHECK, "a second build finds everything fresh", || {
            let finished = build(&project)?;
            ensure!(!finished.stderr.contains("Compiling"), "it compiled again");
            Ok(String::new())
        });
        report.case(CHECK, "a changed source is compiled again, and only that", || {
            std::fs::write(project.join("src/main.rs"), format!("{PROGRAM}\n// changed\n"))?;
            let finished = build(&project)?;
            let crates = finished.stderr.matches("Compiling").count();
            ensure!(crates == 1, "{crates} crates were compiled");
            Ok(String::new())
        });
    }
    context.remove(CHECK, &work);
}

fn build(project: &Path) -> anyhow::Result<process::Finished> {
    let mut command = Command::new("cargo");
    command.arg("build").current_dir(project);
    // The variables of a cargo that runs us would lead the build elsewhere.
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if name.starts_with("CARGO") && name != "CARGO_HTTP_CAINFO" {
            command.env_remove(name);
        }
    }
    command.env("CARGO_HOME", project.join("cargo-home"));
    command.env("CARGO_TARGET_DIR", project.join("target"));
    let finished = process::finish(&mut command, DEADLINE)?;
    ensure!(finished.status.success(), "{}", process::tail(&finished.stderr, 800));
    Ok(finished)
}
