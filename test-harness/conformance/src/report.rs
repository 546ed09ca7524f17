//! What a run tells: a line per case while it runs, a count at the end, and the same as JSON.

use std::fmt::Display;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use serde::Serialize;

/// Writes one line to the standard output.
pub fn line(text: impl Display) {
    let mut output = std::io::stdout().lock();
    // A closed pipe must not turn a finished run into a failure.
    let _ = writeln!(output, "{text}");
    let _ = output.flush();
}

/// The outcome of one case.
#[derive(Debug, Clone, Serialize)]
pub struct Case {
    /// The check it belongs to, such as `git`.
    pub check: String,
    /// What it claims.
    pub name: String,
    /// Whether the claim held.
    pub passed: bool,
    /// Figures when it held, the reason when it did not.
    pub detail: String,
    /// How long it took, in seconds.
    pub seconds: f64,
}

/// All outcomes of a run.
#[derive(Debug, Default)]
pub struct Report {
    cases: Vec<Case>,
}

#[derive(Serialize)]
struct Summary<'a> {
    passed: usize,
    failed: usize,
    cases: &'a [Case],
}

impl Report {
    /// An empty report.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs one case, records and prints its outcome, and tells whether it passed.
    pub fn case(
        &mut self,
        check: &str,
        name: &str,
        run: impl FnOnce() -> anyhow::Result<String>,
    ) -> bool {
        line(format_args!("{check}: {name} ..."));
        let begin = Instant::now();
        let outcome = run();
        let seconds = begin.elapsed().as_secs_f64();
        let passed = outcome.is_ok();
        let detail = outcome.unwrap_or_else(|error| format!("{error:#}"));
        let word = if passed { "ok    " } else { "FAILED" };
        line(format_args!("{word} {check}: {name} ({seconds:.1} s) {detail}"));
        self.cases.push(Case {
            check: check.to_owned(),
            name: name.to_owned(),
            passed,
            detail,
            seconds,
        });
        passed
    }

    /// The outcomes so far.
    #[must_use]
    pub fn cases(&self) -> &[Case] {
        &self.cases
    }

    /// How many cases failed.
    #[must_use]
    pub fn failed(&self) -> usize {
        self.cases.iter().filter(|case| !case.passed).count()
    }

    /// Prints the failures again and the closing line.
    pub fn close(&self) {
        for case in self.cases.iter().filter(|case| !case.passed) {
            line(format_args!("FAILED {}: {}: {}", case.check, case.name, case.detail));
        }
        line(format_args!("{} passed, {} failed", self.cases.len() - self.failed(), self.failed()));
    }

    /// Writes the summary as JSON.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_json(&self, path: &Path) -> anyhow::Result<()> {
        let failed = self.failed();
        let summary = Summary { passed: self.cases.len() - failed, failed, cases: &self.cases };
        std::fs::write(path, serde_json::to_vec_pretty(&summary)?)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_case_is_counted_and_keeps_its_reason() {
        let mut report = Report::new();
        assert!(report.case("self", "right", || Ok("fine".to_owned())));
        assert!(!report.case("self", "wrong", || anyhow::bail!("because")));
        assert_eq!(report.failed(), 1);
        assert_eq!(report.cases()[1].detail, "because");
    }
}
