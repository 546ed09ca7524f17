//! `sheen fsck`.

use std::process::ExitCode;

use anyhow::Result;
use sheen_keys::KeySource;
use sheen_node::{
    Config,
    check::{Progress, Report, check_device, repair},
};
use sheen_types::Bytes;

use crate::{
    answer,
    arguments::Fsck,
    failure::{Failure, FailureKind},
};

/// Exit codes of fsck(8).
const REPAIRED: u8 = 1;
const LEFT: u8 = 4;
pub(crate) const FAILED: u8 = 8;
/// Findings printed for people; `--json` has them all.
const SHOWN_MAX: usize = 200;
/// Progress is told each time so much more was verified.
const STEP_BYTES: u64 = 1 << 30;

/// Checks a device, and repairs it if asked.
///
/// # Errors
/// When it could not be checked, or not to the end; the exit code is [`FAILED`] then.
pub(crate) fn run(json: bool, fsck: &Fsck) -> Result<ExitCode> {
    let key = key(fsck)?;
    let mut show = Show { next: STEP_BYTES };
    let mut check = || {
        show.next = STEP_BYTES;
        check_device(&fsck.device, key.as_ref(), &mut |progress| show.on_progress(&progress))
    };
    let first = check()?;
    if !fsck.repair || first.repairable == 0 {
        answer::either(json, &first, || text(&first));
        return Ok(code(&first, 0));
    }
    repair(&fsck.device, key.as_ref())?;
    let second = check()?;
    let repaired = first.findings_total.saturating_sub(second.findings_total);
    let both = serde_json::json!({ "found": first, "repaired": repaired, "left": second });
    answer::either(json, &both, || {
        format!("{}\nrepaired {repaired}; now:\n{}", text(&first), text(&second))
    });
    Ok(code(&second, repaired))
}

/// The key given, or that of the configuration.
fn key(fsck: &Fsck) -> Result<Option<KeySource>> {
    if let Some(text) = &fsck.key {
        let wrong = |error| Failure::new(FailureKind::Usage, format!("--key {text:?}: {error}"));
        return Ok(Some(text.parse::<KeySource>().map_err(wrong)?));
    }
    let Some(file) = &fsck.config else { return Ok(None) };
    Ok(Config::load(file)?.encryption.key().cloned())
}

fn code(report: &Report, repaired: u64) -> ExitCode {
    match (report.is_clean(), repaired) {
        (true, 0) => ExitCode::SUCCESS,
        (true, _) => ExitCode::from(REPAIRED),
        (false, _) => ExitCode::from(LEFT),
    }
}

struct Show {
    next: u64,
}

impl Show {
    fn on_progress(&mut self, progress: &Progress) {
        let Progress { zone, verified, total } = *progress;
        if verified.0 < self.next {
            return;
        }
        self.next = verified.0 + STEP_BYTES;
        answer::progress(&format!("{zone}: {verified} of {total} verified"));
    }
}

fn text(report: &Report) -> String {
    let mut lines = vec![format!("{} (device {})", report.device.display(), report.uuid)];
    for zone in &report.zones {
        let state = if zone.opened { "" } else { ", cannot be opened" };
        let what = if zone.zone == "mdt" { "inodes" } else { "objects" };
        lines.push(format!(
            "{}: {} {what}, {} verified{state}",
            zone.zone,
            zone.objects,
            Bytes(zone.verified_bytes)
        ));
    }
    lines.extend(report.notes.iter().map(|note| format!("note: {note}")));
    for finding in report.findings.iter().take(SHOWN_MAX) {
        let mark = if finding.repairable { "bad, repairable" } else { "BAD" };
        lines.push(format!("{mark}: {finding}"));
    }
    if report.findings_total > SHOWN_MAX as u64 {
        lines.push(format!("and {} more", report.findings_total - SHOWN_MAX as u64));
    }
    lines.push(if report.is_clean() {
        "clean".to_owned()
    } else {
        format!(
            "{} findings, {} of them repairable; {} objects affected",
            report.findings_total,
            report.repairable,
            report.objects().len()
        )
    });
    lines.join("\n")
}
