//! Folders beside each other, and two calls for one folder.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

use super::folder::Folder;

/// Calls of two `up` at once.
const ROUNDS: u32 = 4;

/// `down` of a folder from another one takes away what is mounted of its node, all of it, and nothing else.
pub(super) fn apart(one: &Folder, two: &Folder) -> anyhow::Result<String> {
    let second = two.path().join("second");
    fs::create_dir_all(&second)?;
    let up = two.answers(&["up"])?;
    let source = up["source"].as_str().context("no source")?.to_owned();
    let listen = up["listen"].as_str().context("no address")?.to_owned();
    let second_text = second.display().to_string();
    two.answers(&["mount", &source, &second_text])?;
    let dir = two.path().join(".sheen").display().to_string();
    let own = one.mount().display().to_string();
    let refused = one.fails(&["down", "--dir", &dir, "--mount", &own])?;
    ensure!(refused.kind == "refused", "a mount of another node: {refused:?}");
    // What is no mount, as a name with a slip is: the node is not stopped under its mounts.
    for name in ["nosuch", "."] {
        let slip = two.path().join(name).display().to_string();
        let refused = one.fails(&["down", "--dir", &dir, "--mount", &slip])?;
        ensure!(refused.kind == "not_found", "no mount: {refused:?}");
    }
    ensure!(fs::read_to_string(two.mount().join("file"))? == "two", "the node was stopped");
    let missing = one.fails(&["down", "--dir", "nosuch"])?;
    ensure!(missing.kind == "not_found", "a folder that is not there: {missing:?}");
    let done = one.answers(&["down", "--dir", &dir])?;
    ensure!(done["mounts"].as_array().map(Vec::len) == Some(2), "not both mounts: {done}");
    ensure!(done["stopped"] == true, "{done}");
    ensure!(fs::read_to_string(one.mount().join("file"))? == "one", "the other's mount is gone");
    ensure!(fs::read_dir(&second)?.next().is_none() && !two.mount().join("file").exists());
    // Another program took its ports meanwhile, as a node that was set up while it was down would.
    let metrics = up["metrics"].as_str().context("no metrics")?.to_owned();
    let page = metrics.strip_prefix("http://").and_then(|text| text.strip_suffix("/metrics"));
    let _taken = (TcpListener::bind(&listen)?, TcpListener::bind(page.context("no address")?)?);
    let up = two.answers(&["up"])?;
    ensure!(up["listen"] != listen.as_str() && up["metrics"] != metrics.as_str(), "{up}");
    ensure!(fs::read_to_string(two.mount().join("file"))? == "two");
    Ok(String::new())
}

/// `up` in several new folders at the same moment: all want the usual ports, and each gets some.
pub(super) fn side_by_side_at_once(place: &Path) -> anyhow::Result<String> {
    let folders: Vec<Folder> = ["a", "b", "c", "d"]
        .iter()
        .map(|name| Folder::new(&place.join(name)))
        .collect::<anyhow::Result<_>>()?;
    let ups = thread::scope(|scope| {
        let begun: Vec<_> = folders.iter().map(|it| scope.spawn(|| it.up(&[]))).collect();
        begun.into_iter().map(|it| it.join().expect("no panic")).collect::<Vec<_>>()
    });
    let ended: Vec<_> = folders.iter().map(Folder::down).collect();
    let mut ports = BTreeSet::new();
    for up in ups {
        let up = up?;
        ports.extend([up["listen"].to_string(), up["metrics"].to_string()]);
    }
    ensure!(ports.len() == 8, "not on ports of their own: {ports:?}");
    ended.into_iter().try_for_each(|end| end.map(drop))?;
    Ok(String::new())
}

/// `down` finds mounts of its node whose source in the mount table does not lead to it: one with a name of its own, one whose path
/// begins in another folder, and one by an address that could be another host's.
pub(super) fn disguised(one: &Folder, two: &Folder) -> anyhow::Result<String> {
    // All of 127.0.0.0/8 is this host, as its own addresses are.
    let port = TcpListener::bind("0.0.0.0:0")?.local_addr()?.port();
    let folder = Folder::new(&two.path().join("disguised"))?;
    folder.up(&["--listen", &format!("0.0.0.0:{port}")])?;
    let dir = folder.path().join(".sheen").display().to_string();
    let socket = format!("unix:{}:/sheen", folder.socket().display());
    let tcp = format!("127.0.0.2:{port}:/sheen");
    folder.answers(&["client", "new", "other", "--out", "other.identity"])?;
    let identity = format!("identity={}", folder.path().join("other.identity").display());
    let mounts = [
        ("named", &socket[..], &["-o", "fsname=my"][..]),
        ("relative", "unix:.sheen/node.sock:/sheen", &[]),
        ("folder", ".sheen:/sheen", &[]),
        ("address", &tcp, &["-o", &identity]),
    ];
    for (name, source, more) in mounts {
        fs::create_dir_all(folder.path().join(name))?;
        folder.answers(&[&["mount", "--log", "disguised.log"], more, &[source, name]].concat())?;
    }
    let named = folder.path().join("named").display().to_string();
    let own = one.path().join(".sheen").display().to_string();
    let refused = one.fails(&["down", "--dir", &own, "--mount", &named])?;
    ensure!(refused.kind == "refused", "a mount of another node: {refused:?}");
    // From elsewhere, so that what is relative leads nowhere.
    let done = one.answers(&["down", "--dir", &dir, "--mount", &named])?;
    ensure!(done["mounts"] == serde_json::json!([named]), "not the one asked for: {done}");
    folder.up(&[])?;
    folder.answers(&["mount", "--log", "disguised.log", "-o", "fsname=my", &socket, "named"])?;
    let done = one.answers(&["down", "--dir", &dir])?;
    let taken = done["mounts"].as_array().map(Vec::len);
    ensure!(taken == Some(1 + mounts.len()), "not all of {}: {done}", 1 + mounts.len());
    ensure!(fs::read_to_string(one.mount().join("file"))? == "one", "the other's mount is gone");
    Ok(String::new())
}

/// The folder of `up` is one without a slash, too.
pub(super) fn without_slash(one: &Folder) -> anyhow::Result<String> {
    let pid = one.answers(&["status"])?["pid"].clone();
    let shown = one.answers(&["status", "--node", ".sheen"])?;
    ensure!(shown["pid"] == pid, "another node: {shown}");
    Ok(String::new())
}

/// Two `up` of one folder at once: one node, which `down` stops, also without the number `up` keeps.
pub(super) fn at_once(folder: &Folder) -> anyhow::Result<String> {
    for round in 0..ROUNDS {
        folder.down()?;
        let mut calls = Vec::new();
        for _ in 0..2 {
            let mut command = folder.command(&["up"])?;
            command.stdout(Stdio::null()).stderr(Stdio::piped());
            calls.push(command.spawn()?);
            thread::sleep(Duration::from_millis(5 * u64::from(round)));
        }
        for call in calls {
            let ended = call.wait_with_output()?;
            let said = String::from_utf8_lossy(&ended.stderr).into_owned();
            ensure!(ended.status.success(), "round {round}: {said}");
        }
        let pid = folder.answers(&["status"])?["pid"].to_string();
        let noted = fs::read_to_string(folder.path().join(".sheen/node.pid"))?;
        ensure!(noted.trim() == pid, "round {round}: {noted:?} is noted, {pid} serves");
    }
    fs::remove_file(folder.path().join(".sheen/node.pid"))?;
    let done = folder.answers(&["down"])?;
    ensure!(done["stopped"] == true, "who listens at the socket is not found: {done}");
    if folder.answers(&["status"]).is_ok() {
        bail!("it serves on");
    }
    folder.up(&[])?;
    Ok(String::new())
}
