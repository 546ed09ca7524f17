//! The metrics of the node and of a mount, read by Prometheus' own linter.

use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail, ensure};

use super::Context;
use crate::target::Target;
use crate::{metrics, programs};

const CHECK: &str = "metrics";
/// Families every node serves; their absence would make a clean page worthless.
const EXPECTED: &[&str] = &[
    "sheen_operations_total",
    "sheen_operation_duration_seconds",
    "sheen_reactor_busy_seconds_total",
    "sheen_capacity_bytes",
    "sheen_queue_depth",
];

/// Where a mount tells its counters, and how many bytes that is at most.
const MOUNT_ATTRIBUTE: &str = "sheen.statistics";
const MOUNT_BYTES_MAX: usize = 64 << 10;
const EXPECTED_OF_MOUNT: &[&str] =
    &["sheen_client_changes_resent_total", "sheen_client_changes_lost_total"];

/// Runs the check. It needs a node; a directory has no metrics.
pub fn run(context: &mut Context<'_>) {
    let Some((work, _)) = context.prepared(CHECK) else { return };
    let target = &mut *context.target;
    context.report.case(CHECK, "promtool finds nothing to say", || {
        let Target::Cluster { cluster, .. } = target else {
            bail!("metrics need a node; run it without --dir");
        };
        programs::require(&[programs::PROMTOOL])?;
        std::fs::write(work.join("file"), [1; 10_000])?;
        let answer = metrics::fetch(cluster.admin_address())?;
        let (_, page) = answer.split_once("\r\n\r\n").context("no page")?;
        for family in EXPECTED {
            ensure!(page.contains(&format!("# TYPE {family} ")), "there is no {family}");
        }
        lint(page)?;
        Ok(format!("{} series", series(page)))
    });
    context.report.case(CHECK, "a mount tells its own counters", || {
        let mut value = vec![0; MOUNT_BYTES_MAX];
        let length = rustix::fs::getxattr(&work, MOUNT_ATTRIBUTE, &mut value[..])?;
        let page = std::str::from_utf8(&value[..length])?;
        for family in EXPECTED_OF_MOUNT {
            ensure!(page.contains(&format!("# TYPE {family} counter")), "there is no {family}");
        }
        lint(page)?;
        Ok(format!("{} series", series(page)))
    });
    context.remove(CHECK, &work);
}

fn series(page: &str) -> usize {
    page.lines().filter(|line| !line.starts_with('#')).count()
}

fn lint(page: &str) -> anyhow::Result<()> {
    let mut linter = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    linter.stdin.take().context("promtool's input")?.write_all(page.as_bytes())?;
    let output = linter.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success() && said.trim().is_empty(), "promtool: {said}");
    Ok(())
}
