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
    checks: Vec<CheckTime>,
}

/// How long all of a check took, with what it fetched and cleaned up between its cases.
#[derive(Debug, Clone)]
struct CheckTime {
    name: String,
    passed: usize,
    failed: usize,
    seconds: f64,
}

impl Display for CheckTime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, passed, failed, seconds } = self;
        write!(f, "check {name}: {passed} passed, {failed} failed in {seconds:.1} s")
    }
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

    /// Says that a check has ended that began at `begun`, when there were `cases_before` outcomes.
    pub fn check_ended(&mut self, name: &str, cases_before: usize, begun: Instant) {
        let cases = self.cases.get(cases_before..).unwrap_or_default();
        let failed = cases.iter().filter(|case| !case.passed).count();
        let ended = CheckTime {
            name: name.to_owned(),
            passed: cases.len() - failed,
            failed,
            seconds: begun.elapsed().as_secs_f64(),
        };
        line(&ended);
        self.checks.push(ended);
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

    /// Prints how long each check took, the failures again, and the closing line.
    pub fn close(&self) {
        self.checks.iter().for_each(line);
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

    #[test]
    fn a_check_counts_its_own_cases() {
        let mut report = Report::new();
        report.case("other", "before", || Ok(String::new()));
        let (begun, before) = (Instant::now(), report.cases().len());
        report.case("self", "right", || Ok(String::new()));
        report.case("self", "wrong", || anyhow::bail!("because"));
        report.check_ended("self", before, begun);
        let told = report.checks[0].to_string();
        assert!(told.starts_with("check self: 1 passed, 1 failed in "), "{told}");
    }
}
