//! `sheen doctor`.

use std::process::ExitCode;

use anyhow::Result;
use sheen_firmware_config::{Check, CheckState, doctor::examine};

use crate::{answer, arguments::Doctor};

/// Checks this machine. Fails when something would keep Sheen from running.
///
/// # Errors
/// Never; what is wrong is the answer.
pub(crate) fn run(json: bool, doctor: &Doctor) -> Result<ExitCode> {
    let checks = examine(&doctor.path);
    answer::either(json, &checks, || text(&checks));
    let failed = checks.iter().any(|check| check.state == CheckState::Fail);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn text(checks: &[Check]) -> String {
    let mut lines = Vec::new();
    for check in checks {
        let state = match check.state {
            CheckState::Ok => "ok  ",
            CheckState::Warn => "warn",
            CheckState::Fail => "FAIL",
        };
        lines.push(format!("{state}  {:<18} {}", check.name, check.found));
        if let Some(advice) = &check.advice {
            lines.push(format!("{:>24} {advice}", "\u{2192}"));
        }
    }
    lines.join("\n")
}
