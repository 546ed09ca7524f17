//! A node whose data key is wrapped elsewhere: it serves with the key, refuses without it and says why, and changes keys under load.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::kms::id_of;
use super::{CHECK, memory};
use crate::checks::Context;
use crate::cluster::{Cluster, ClusterOptions, Mount, sheen_program};
use crate::moto::{Moto, REGION};
use crate::process;
use crate::relay::Relay;
use crate::swtpm::Swtpm;

/// Something that is found when it is looked for.
const SECRET_ACCESS_KEY: &str = "sEcReTaCcEsSkEyOfThEcHeCk";
const DEVICE_BYTES: u64 = 1 << 30;
const COMMAND_DEADLINE: Duration = Duration::from_secs(30);
/// Bytes of a file that is written, and of one step of the writer.
const FILE_BYTES: usize = (3 << 20) + 17;
const STEP_BYTES: usize = 10_007;
/// Steps the writer takes before and after the change of keys.
const STEPS: u64 = 50;

/// Runs the part.
pub(super) fn run(context: &mut Context<'_>, scratch: &Path, moto: &Moto) {
    let report = &mut *context.report;
    report.case(
        CHECK,
        "node: it serves with its key in a KMS, and refuses while that is away",
        || {
            let mut relay = Relay::open(moto.address())?;
            let arn = moto.create_key()?;
            let mut cluster = start(scratch, &kms_name(&relay, &arn))?;
            with_mount(&mut cluster, write)?;
            cluster.stop()?;
            relay.close();
            let said = refused(&mut cluster, "not reachable")?;
            relay.reopen()?;
            cluster.restart()?;
            with_mount(&mut cluster, check)?;
            cluster.stop()?;
            Ok(said)
        },
    );
    report.case(
        CHECK,
        "node: it refuses when its key is disabled, and serves when it is enabled",
        || {
            let relay = Relay::open(moto.address())?;
            let arn = moto.create_key()?;
            let mut cluster = start(scratch, &kms_name(&relay, &arn))?;
            cluster.stop()?;
            let id = json!({ "KeyId": id_of(&arn)? });
            moto.kms("DisableKey", &id)?;
            let said = refused(&mut cluster, "disabled")?;
            moto.kms("EnableKey", &id)?;
            cluster.restart()?;
            cluster.set_key(&kms_name(&relay, &moto.create_key()?))?;
            cluster.stop()?;
            refused(&mut cluster, &arn)?;
            Ok(said)
        },
    );
    report.case(
        CHECK,
        "node: its data key is in locked memory alone, and nothing secret in its log",
        || {
            let relay = Relay::open(moto.address())?;
            let cluster = start(scratch, &kms_name(&relay, &moto.create_key()?))?;
            let key = memory::data_key(&cluster.device(), moto)?;
            let pid = cluster.node_pid().context("no node runs")?;
            let raw = memory::search(pid, &key)?;
            ensure!(raw.locked > 0, "it was not found at all: {raw:?}");
            let text = memory::search(pid, STANDARD.encode(&key).as_bytes())?;
            ensure!(
                raw.elsewhere == 0 && text.elsewhere == 0,
                "raw {raw:?}, as KMS sends it {text:?}"
            );
            let log = fs::read_to_string(cluster.log())?;
            ensure!(!log.contains(SECRET_ACCESS_KEY), "the log holds the secret access key");
            Ok(format!("raw {raw:?}, as KMS sends it {text:?}"))
        },
    );
    report.case(CHECK, "node: keys go from a file to the KMS under load, then to a TPM", || {
        let relay = Relay::open(moto.address())?;
        rotations(scratch, &kms_name(&relay, &moto.create_key()?))
    });
}

fn kms_name(relay: &Relay, arn: &str) -> String {
    format!("kms:{arn}?endpoint=http://{}&region={REGION}", relay.address())
}

fn start(scratch: &Path, key: &str) -> anyhow::Result<Cluster> {
    let mut options = ClusterOptions::new(scratch);
    options.device_bytes = DEVICE_BYTES;
    options.osts = 1;
    options.reactors = 1;
    options.key = Some(key.to_owned());
    options.environment = [
        ("AWS_ACCESS_KEY_ID", "AKIDANYBODY"),
        ("AWS_SECRET_ACCESS_KEY", SECRET_ACCESS_KEY),
        ("SHEEN_LOG", "trace"),
        ("AWS_EC2_METADATA_DISABLED", "true"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec();
    Cluster::start(options)
}

/// The node must end by itself and say `says`; gives what it said.
fn refused(cluster: &mut Cluster, says: &str) -> anyhow::Result<String> {
    ensure!(cluster.restart().is_err(), "the node serves");
    let said = cluster.last_words();
    ensure!(said.contains(says), "the node does not say `{says}`: {said}");
    Ok(said.rsplit(" | ").next().unwrap_or_default().to_owned())
}

fn with_mount(
    cluster: &mut Cluster,
    work: impl FnOnce(&Path) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mount: Mount = cluster.mount()?;
    work(mount.directory())?;
    mount.unmount()
}

fn content() -> Vec<u8> {
    (0..FILE_BYTES).map(|place| u8::try_from(place % 251).unwrap_or(0)).collect()
}

fn write(directory: &Path) -> anyhow::Result<()> {
    let mut file = File::create(directory.join("file"))?;
    file.write_all(&content())?;
    file.sync_all()?;
    Ok(())
}

fn check(directory: &Path) -> anyhow::Result<()> {
    ensure!(fs::read(directory.join("file"))? == content(), "the file holds something else");
    Ok(())
}

fn rotations(scratch: &Path, kms: &str) -> anyhow::Result<String> {
    let file = scratch.join("rotations.key");
    process::run(Command::new(sheen_program()).args(["key", "new"]).arg(&file), COMMAND_DEADLINE)?;
    let file_name = format!("file:{}", file.display());
    let mut cluster = start(scratch, &file_name)?;
    with_mount(&mut cluster, write)?;

    let mount = cluster.mount()?;
    let steps = under_load(mount.directory(), || {
        cluster.sheen_with_configuration(&["key", "rotate", "--to", kms]).map(drop)
    })?;
    mount.unmount()?;
    cluster.stop()?;
    let said = refused(&mut cluster, "kms:")?;
    ensure!(said.contains(&file_name), "it does not name the file: {said}");
    fs::remove_file(&file)?;
    cluster.set_key(kms)?;
    cluster.restart()?;
    with_mount(&mut cluster, |directory| {
        check(directory)?;
        require_steps(directory, steps)
    })?;
    cluster.stop()?;

    // To a TPM, while no node runs.
    let (_tpm, address) = Swtpm::on_tcp(&scratch.join("tpm-of-node"))?;
    let tpm = format!("tpm:tcp:{address}");
    cluster.sheen_with_configuration(&["key", "rotate", "--to", &tpm])?;
    cluster.set_key(&tpm)?;
    cluster.restart()?;
    with_mount(&mut cluster, check)?;
    cluster.stop()?;
    Ok(format!("{steps} writes around the change; the old key: {said}"))
}

/// Runs `work` while a file is written and synced step by step; gives the number of steps.
fn under_load(directory: &Path, work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<u64> {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| -> anyhow::Result<u64> {
            let mut file = File::create(directory.join("steps"))?;
            let mut steps = 0;
            let mut left = STEPS;
            while left > 0 {
                // Counts down only once the work is over, so that there are steps after it.
                left -= u64::from(is_over.load(Ordering::SeqCst));
                file.write_all(&step(steps))?;
                file.sync_data()?;
                steps += 1;
            }
            Ok(steps)
        });
        let begun = process::wait_for("the writer", COMMAND_DEADLINE, || {
            let length = fs::metadata(directory.join("steps")).map_or(0, |found| found.len());
            length > STEPS * 100 || writer.is_finished()
        });
        let worked = work();
        is_over.store(true, Ordering::SeqCst);
        let steps = writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"))??;
        begun?;
        worked?;
        Ok(steps)
    })
}

fn step(number: u64) -> Vec<u8> {
    number.to_le_bytes().into_iter().cycle().take(STEP_BYTES).collect()
}

fn require_steps(directory: &Path, steps: u64) -> anyhow::Result<()> {
    let bytes = fs::read(directory.join("steps"))?;
    let mut found = 0;
    for part in bytes.chunks(STEP_BYTES) {
        if part != step(found) {
            bail!("step {found} of {steps} holds something else");
        }
        found += 1;
    }
    ensure!(found == steps, "{found} of {steps} steps are there");
    Ok(())
}
