//! The crash stage: the store on every state a crash could leave, planted bugs, property tests, and a corruption sweep.

use anyhow::Result;

use crate::command::{Step, target};

/// Runs all four, each as long as its variable says.
///
/// # Errors
/// When one fails.
pub(crate) fn crash() -> Result<()> {
    Step::cargo(&["build", "--release", "--package", "sheen-crash"]).run()?;
    let program = target().join("release/sheen-crash").display().to_string();
    let states = number("SHEEN_CRASH_STATES", "100000");
    Step::new(&program, &["explore", "--states", &states]).run()?;
    let within = number("SHEEN_CRASH_PLANTED_STATES", "60000");
    Step::new(&program, &["planted", "--states", &within]).run()?;
    let cases = number("SHEEN_CRASH_CASES", "10000");
    Step::new(&program, &["properties", "--cases", &cases]).run()?;
    let damages = number("SHEEN_CRASH_DAMAGES", "6000");
    Step::new(&program, &["sweep", "--damages", &damages]).run()
}

fn number(variable: &str, default: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| default.to_owned())
}
