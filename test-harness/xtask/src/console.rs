//! What the task runner says: steps on standard error, answers on standard output.

use std::io::{Write, stderr, stdout};

/// An answer: standard output, as it is.
pub(crate) fn plain(text: &str) {
    // Nobody reads any more: nothing to do about it.
    let _ = stdout().write_all(text.as_bytes());
}

/// A step that begins.
pub(crate) fn step(text: &str) {
    let _ = writeln!(stderr(), "==> {text}");
}

/// What went wrong.
pub(crate) fn error(text: &str) {
    let _ = writeln!(stderr(), "error: {text}");
}
