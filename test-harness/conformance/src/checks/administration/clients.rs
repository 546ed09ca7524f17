//! Clients of other machines: made, changed, renewed and revoked by the node's own user, whatever else goes on.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::{CHECK, folder::Folder};
use crate::report::Report;

/// The cases of clients and certificate authorities.
pub(super) fn run(report: &mut Report, folder: &Folder) {
    report.case(CHECK, "clients are made, changed, renewed and revoked, over a restart", || {
        live(folder)
    });
    report.case(CHECK, "certificate authorities are exchanged while the node serves", || {
        authorities(folder)
    });
    report.case(CHECK, "a node killed while a client is made leaves nothing half", || {
        stopped_in_between(folder)
    });
}

/// Makes, changes and ends clients, over a restart of the node.
fn live(folder: &Folder) -> anyhow::Result<String> {
    let made = folder.answers(&["client", "new", "web1", "--out", "web1.identity"])?;
    ensure!(made["client"]["rights"]["every_filesystem"] == true, "{made}");
    let file = folder.path().join("web1.identity");
    let metadata = fs::metadata(&file)?;
    ensure!(metadata.mode() & 0o7777 == 0o600, "others may read it: {:o}", metadata.mode());
    let text = fs::read_to_string(&file)?;
    ensure!(text.starts_with("sheen-identity 1\n") && text.contains("name web1\n"), "{text}");
    for (words, kind) in [
        (&["client", "new", "web2", "--out", "web1.identity"][..], "exists"),
        (&["client", "new", "web1", "--out", "other"], "refused"),
        (&["client", "new", "web2", "--out", "other", "--fs", "none"], "refused"),
        (&["client", "new", "no name", "--out", "other"], "usage"),
        (&["client", "new", "web2", "--out", "other", "--squash", "0:0"], "refused"),
        (&["client", "new", "web2", "--out", "other", "--networks", "10.0.0.1/8"], "refused"),
        (&["client", "new", "web2", "--out", "nowhere/other"], "not_found"),
        (&["client", "set", "web1"], "usage"),
        (&["client", "show", "none"], "refused"),
    ] {
        let failed = folder.fails(words)?;
        ensure!(failed.kind == kind, "{words:?}: {failed:?}");
    }
    ensure!(fs::read_to_string(&file)? == text, "the file was touched");
    ensure!(!folder.path().join("other").exists(), "a refusal left a file");
    let hidden = fs::read_dir(folder.path())?.flatten();
    let left = hidden.filter(|it| it.file_name().to_string_lossy().ends_with(".new")).count();
    ensure!(left == 0, "{left} files are half written");
    let limited =
        ["client", "new", "web2", "--out", "web2.identity", "--fs", "sheen", "--read-only"];
    let limits = ["--squash", "1000:100", "--networks", "10.0.0.0/8", "--expires", "10d"];
    folder.answers(&[&limited[..], &limits].concat())?;
    let authority = authority(folder)?;
    folder.answers(&["down"])?;
    folder.up(&[])?;
    ensure!(authority == self::authority(folder)?, "another authority after a restart");
    let shown = folder.answers(&["client", "show", "web2"])?;
    let rights = &shown["rights"];
    ensure!(
        rights["filesystems"] == serde_json::json!(["sheen"])
            && rights["read_only"] == true
            && rights["speaks"]["user"]["uid"] == 1000
            && rights["networks"] == serde_json::json!(["10.0.0.0/8"]),
        "{shown}"
    );
    let status = folder.answers(&["status"])?;
    let ending = status["identity"]["clients_ending"].as_u64();
    ensure!(ending == Some(1), "a client ends in 10 days: {}", status["identity"]);
    ensure!(!status.to_string().contains("web2"), "status, which all may read, names clients");
    folder.answers(&["client", "set", "web2", "--read-write"])?;
    let renewed = folder.answers(&["client", "renew", "web2", "--out", "web2.new-identity"])?;
    ensure!(count(&renewed["client"]["certificates"]) == Some(2), "{renewed}");
    let revoked = folder.answers(&["client", "revoke", "web1"])?;
    ensure!(revoked["clients"][0]["revoked"].is_u64(), "{revoked}");
    folder.answers(&["client", "new", "web1", "--out", "web1.again"])?;
    folder.answers(&["client", "revoke", "web1", "--forget"])?;
    let listed = folder.answers(&["client", "list"])?;
    ensure!(count(&listed) == Some(1) && listed[0]["name"] == "web2", "{listed}");
    Ok(String::new())
}

/// Exchanges the certificate authority while the node serves.
fn authorities(folder: &Folder) -> anyhow::Result<String> {
    let early = folder.fails(&["ca", "retire", "--yes"])?;
    ensure!(early.message.contains("sheen ca rotate"), "{early:?}");
    let before = authority(folder)?;
    let rotated = folder.answers(&["ca", "rotate"])?;
    let states = |shown: &Value| -> Option<Vec<String>> {
        let all = shown["authorities"].as_array()?.iter();
        all.map(|it| it["state"].as_str().map(ToOwned::to_owned)).collect()
    };
    ensure!(states(&rotated) == Some(vec!["current".into(), "next".into()]), "{rotated}");
    let unasked = folder.fails(&["ca", "retire"])?;
    ensure!(unasked.message.contains("web2"), "clients made before are named: {unasked:?}");
    fs::write(folder.mount().join("while-rotating"), "content")?;
    let retired = folder.answers(&["ca", "retire", "--yes"])?;
    ensure!(states(&retired) == Some(vec!["retired".into(), "current".into()]), "{retired}");
    ensure!(authority(folder)? != before, "the old one signs");
    ensure!(fs::read_to_string(folder.mount().join("while-rotating"))? == "content");
    Ok(String::new())
}

/// A node that stops in the middle leaves a client with its whole file, or neither.
fn stopped_in_between(folder: &Folder) -> anyhow::Result<String> {
    let mut whole = 0;
    for round in 0..8_u64 {
        let name = format!("round{round}");
        let out = format!("{name}.identity");
        let mut command = folder.command(&["client", "new", &name, "--out", &out, "--json"])?;
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        let pid = folder.answers(&["status"])?["pid"].as_u64().context("no pid")?;
        let mut child = command.spawn()?;
        std::thread::sleep(Duration::from_millis(25 * round));
        kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGKILL)?;
        let done = child.wait()?.success();
        folder.up(&[])?;
        let listed = folder.answers(&["client", "list"])?;
        let listed = listed.as_array().context("no list")?;
        let counts = listed.iter().any(|it| it["name"] == name.as_str());
        let file = folder.path().join(&out);
        ensure!(!counts || file.exists(), "round {round}: a client without its file");
        ensure!(!done || counts, "round {round}: what was told is not there");
        if let Ok(text) = fs::read_to_string(&file) {
            ensure!(text.ends_with("-----END PRIVATE KEY-----\n"), "round {round}: half a file");
        }
        whole += u32::from(counts);
    }
    Ok(format!("{whole} of 8 were made"))
}

fn authority(folder: &Folder) -> anyhow::Result<String> {
    let shown = folder.answers(&["ca", "show"])?;
    let all = shown["authorities"].as_array().context("no authorities")?;
    let current = all.iter().find(|it| it["state"] == "current").context("none is current")?;
    Ok(current["fingerprint"].as_str().context("no fingerprint")?.to_owned())
}

fn count(value: &Value) -> Option<usize> {
    value.as_array().map(Vec::len)
}
