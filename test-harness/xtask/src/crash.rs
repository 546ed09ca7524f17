//! The crash stage: the store on every state a crash could leave, planted bugs, property tests, and a corruption sweep.

use anyhow::Result;

use crate::{console, fuzz, programs};

const PROGRAM: &str = "sheen-crash";

/// Runs all four, each as long as its variable says.
///
/// # Errors
/// When one fails.
pub(crate) fn crash() -> Result<()> {
    let states = number("SHEEN_CRASH_STATES", "30000");
    programs::run(PROGRAM, &["explore", "--states", &states])?;
    let within = number("SHEEN_CRASH_PLANTED_STATES", "60000");
    programs::step(PROGRAM, &["planted", "--states", &within]).run()?;
    let cases = number("SHEEN_CRASH_CASES", "10000");
    programs::step(PROGRAM, &["properties", "--cases", &cases]).run()?;
    let damages = number("SHEEN_CRASH_DAMAGES", "6000");
    programs::step(PROGRAM, &["sweep", "--damages", &damages]).run()
}

/// Histories nobody has seen yet.
///
/// # Errors
/// When a state is wrong.
pub(crate) fn soak() -> Result<()> {
    let states = number("SHEEN_CRASH_STATES", "300000");
    let first = std::env::var("SHEEN_CRASH_FIRST").unwrap_or_else(|_| fuzz::fresh_seed());
    console::step(&format!("histories from SHEEN_CRASH_FIRST={first}"));
    programs::run(PROGRAM, &["explore", "--states", &states, "--first", &first])
}

fn number(variable: &str, default: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| default.to_owned())
}
