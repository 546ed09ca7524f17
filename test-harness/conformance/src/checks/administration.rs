//! The command line as an administrator meets it: nodes side by side, one way to name them, errors for programs, exit codes,
//! dead and foreign mounts, mounts of users, and what asks before something is lost.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use super::Context;

mod clients;
mod failures;
mod folder;
mod folders;
mod host;
mod identified;
mod mounts;
mod own_node;

use folder::Folder;

const CHECK: &str = "administration";
/// How long a node that starts waits for clients that did not take leave, or nearly.
const GRACE: Duration = Duration::from_secs(15);

/// Runs the check: two nodes of `sheen up` of its own, beside the file system under test.
pub fn run(context: &mut Context<'_>) {
    let place = context.scratch.join(CHECK);
    let report = &mut *context.report;
    // First: the usual ports, which all of them want, are free.
    report.case(CHECK, "four `up` in four folders at the same moment are four nodes", || {
        folders::side_by_side_at_once(&place.join("at-once"))
    });
    let mut folders = None;
    report.case(CHECK, "two nodes of `up` work side by side on ports of their own", || {
        folders = Some(side_by_side(&place)?);
        Ok(String::new())
    });
    report.case(
        CHECK,
        "a full disk below the device refuses data alone, and deletes make room",
        || host::full(&place.join("host")),
    );
    let Some([one, two]) = folders else { return };
    report
        .case(CHECK, "--node names a node in every form, for every command", || named(&one, &two));
    report.case(CHECK, "errors are JSON of one shape, and exit codes as documented", || {
        failures::commands(&one)
    });
    clients::run(report, &one);
    report.case(CHECK, "a node that asks for identities is mounted with one, over TCP", || {
        identified::works(&place.join("identified"))
    });
    report.case(CHECK, "mount.sheen ends with the codes of mount(8)", || failures::helper(&one));
    report.case(CHECK, "a dead mount is replaced by `up` and by `mount`", || mounts::dead(&one));
    report.case(CHECK, "a mount whose process is told to end is served to its last user", || {
        mounts::told_to_end(&one)?;
        mounts::covered(&one)?;
        mounts::used_unseen(&one)
    });
    report.case(CHECK, "`umount` leaves mounts that are not ours alone", || mounts::foreign(&one));
    report.case(CHECK, "a user mounts, and the log is in a folder of the user", || {
        mounts::of_a_user(&one, &place)
    });
    report.case(CHECK, "a file system belongs to the user whose node it is", || {
        own_node::works(&place)
    });
    report.case(CHECK, "`down` takes away the mounts of its node and no other", || {
        folders::apart(&one, &two)
    });
    report.case(CHECK, "`down` finds mounts that the mount table calls otherwise", || {
        folders::disguised(&one, &two)
    });
    report.case(
        CHECK,
        "a mounted file system is not deleted unasked, and its clients are named",
        || deleted(&two),
    );
    report.case(CHECK, "what `down` stopped is up again at once, five times", || again(&one));
    report.case(
        CHECK,
        "a copied folder neither serves the device of the first nor stops it",
        || copied(&one, &place),
    );
    report.case(CHECK, "a folder without a slash is one, and no host", || {
        folders::without_slash(&one)
    });
    report.case(CHECK, "two `up` of a folder at once are one node, which ends", || {
        folders::at_once(&two)
    });
    report.case(CHECK, "they end", || {
        one.down()?;
        two.down()
    });
}

fn side_by_side(place: &Path) -> anyhow::Result<[Folder; 2]> {
    let folders = ["one", "two"].map(|name| Folder::new(&place.join(name)));
    let [one, two] = folders;
    let (one, two) = (one?, two?);
    let addresses = |shown: &Value| -> anyhow::Result<[String; 2]> {
        let text = |key: &str| shown[key].as_str().map(ToOwned::to_owned);
        Ok([text("listen").context("no listen")?, text("metrics").context("no metrics")?])
    };
    let (first, second) = (addresses(&one.up(&[])?)?, addresses(&two.up(&[])?)?);
    ensure!(
        first.iter().all(|address| !second.contains(address)),
        "{first:?} and {second:?} are not apart"
    );
    fs::write(one.mount().join("file"), "one")?;
    fs::write(two.mount().join("file"), "two")?;
    ensure!(fs::read_to_string(one.mount().join("file"))? == "one");
    let refused = one.fails(&["up", "--listen", "127.0.0.1:1"])?;
    ensure!(refused.code == 2 && refused.kind == "usage", "{refused:?}");
    Ok([one, two])
}

fn named(one: &Folder, two: &Folder) -> anyhow::Result<String> {
    let pid = |shown: &Value| shown["pid"].as_u64();
    let of_one = pid(&one.answers(&["status"])?).context("a status without pid")?;
    let of_two = pid(&two.answers(&["status"])?).context("a status without pid")?;
    ensure!(of_one != of_two, "both folders show process {of_one}");
    let listen = one.answers(&["status"])?["listen"].as_str().context("no listen")?.to_owned();
    for words in [&["status"][..], &["fs", "list"]] {
        let refused = two.fails(&[words, &["--node", &listen]].concat())?;
        ensure!(
            refused.code == 1,
            "by TCP, where it answers clients with an identity: {refused:?}"
        );
    }
    let socket = one.socket().display().to_string();
    let folder = one.path().join(".sheen").display().to_string();
    for address in [socket.clone(), format!("unix:{socket}"), folder] {
        // From the other's folder, so that the default would be wrong.
        let shown = two.answers(&["status", "--node", &address])?;
        ensure!(pid(&shown) == Some(of_one), "--node {address} shows {:?}", pid(&shown));
        let shown = two.answers_with(&["status"], &[("SHEEN_NODE", &address)])?;
        ensure!(pid(&shown) == Some(of_one), "SHEEN_NODE={address} shows {:?}", pid(&shown));
        let shown = two.answers(&["fs", "list", "--node", &address])?;
        ensure!(shown[0]["name"] == "sheen", "fs list --node {address}: {shown}");
    }
    two.answers(&["scrub", "status", "--node", &socket])?;
    Ok(String::new())
}

/// A client that did not take leave would be waited for.
fn again(folder: &Folder) -> anyhow::Result<String> {
    let mut longest = Duration::ZERO;
    for round in 0..5 {
        fs::write(folder.mount().join(format!("round-{round}")), "content")?;
        folder.down()?;
        let begun = Instant::now();
        folder.up(&[])?;
        longest = longest.max(begun.elapsed());
        ensure!(longest < GRACE, "round {round}: up after {} ms", longest.as_millis());
    }
    Ok(format!("at most {} ms", longest.as_millis()))
}

fn copied(folder: &Folder, place: &Path) -> anyhow::Result<String> {
    let copy = Folder::new(&place.join("copy"))?;
    let config = copy.path().join(".sheen/node.toml");
    fs::create_dir_all(copy.path().join(".sheen"))?;
    fs::copy(folder.path().join(".sheen/node.toml"), &config)?;
    for words in [&["up", "--no-encryption"][..], &["down"]] {
        let failure = copy.fails(words)?;
        ensure!(failure.kind == "refused", "{words:?}: {failure:?}");
    }
    ensure!(folder.mount().join("file").exists(), "the first one's mount is gone");
    fs::remove_file(&config)?;
    Ok(String::new())
}

fn deleted(folder: &Folder) -> anyhow::Result<String> {
    let mount = folder.mount().display().to_string();
    for (words, kind) in [
        (&["fs", "delete", "sheen"][..], "in_use"),
        (&["fs", "delete", "sheen", "--force"], "refused"),
    ] {
        let failure = folder.fails(words)?;
        ensure!(failure.code == 1 && failure.kind == kind, "{words:?}: {failure:?}");
        ensure!(failure.message.contains(&mount), "it does not name {mount}: {failure:?}");
        ensure!(fs::read_to_string(folder.mount().join("file"))? == "two", "it is gone");
    }
    let other = folder.path().join("other");
    fs::create_dir_all(&other)?;
    folder.answers(&["fs", "create", "other"])?;
    let source = format!("unix:{}:/other", folder.socket().display());
    folder.answers(&["mount", "--log", "other.log", &source, "other"])?;
    fs::write(other.join("file"), "content")?;
    folder.answers(&["umount", "other"])?;
    for words in [&["fs", "delete", "other"][..], &["fs", "delete", "other", "--force"]] {
        let failure = folder.fails(words)?;
        ensure!(failure.kind == "refused", "nobody has it mounted, {words:?}: {failure:?}");
    }
    folder.answers(&["fs", "delete", "other", "--force", "--yes"])?;
    folder.answers(&["fs", "delete", "sheen", "--force", "--yes"])?;
    // Nobody waits for what will not come back.
    let begun = Instant::now();
    let gone = fs::read_to_string(folder.mount().join("file"));
    let errno = gone.as_ref().err().and_then(std::io::Error::raw_os_error);
    ensure!(errno == Some(nix::errno::Errno::EIO as i32), "of a deleted file system: {gone:?}");
    Ok(format!("its programs were told after {} ms", begun.elapsed().as_millis()))
}
