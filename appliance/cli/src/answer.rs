//! What the program says: answers on standard output, progress and errors on standard error. Under `--json` both are JSON, and
//! progress is not told.

use std::{
    io::{IsTerminal, Write, stderr, stdout},
    sync::atomic::{AtomicBool, Ordering},
};

use serde::Serialize;

use crate::failure::{Failure, FailureKind};

/// Whether programs read what is said. Set once, before anything is said.
static JSON: AtomicBool = AtomicBool::new(false);

/// Chooses JSON for all that is said from here on.
pub(crate) fn choose_json(json: bool) {
    JSON.store(json, Ordering::Relaxed);
}

/// Prints an answer.
pub(crate) fn text(text: &str) {
    // A closed pipe is the reader's choice, not an error of ours.
    let _ = writeln!(stdout(), "{text}");
}

/// Prints `value` as JSON, or `text` for people.
pub(crate) fn either<T: Serialize>(json: bool, value: &T, text: impl FnOnce() -> String) {
    if json {
        let shown = serde_json::to_string_pretty(value)
            .unwrap_or_else(|error| Failure::new(FailureKind::Failed, error.to_string()).json());
        let _ = writeln!(stdout(), "{shown}");
    } else {
        let _ = writeln!(stdout(), "{}", text());
    }
}

/// Says what goes on, to people.
pub(crate) fn progress(text: &str) {
    if JSON.load(Ordering::Relaxed) {
        return;
    }
    let mark = if stderr().is_terminal() { "\u{2192} " } else { "" };
    let _ = writeln!(stderr(), "{mark}{text}");
}

/// Says what went wrong.
pub(crate) fn error(failure: &Failure) {
    let _ = match JSON.load(Ordering::Relaxed) {
        true => writeln!(stderr(), "{}", failure.json()),
        false => writeln!(stderr(), "sheen: {}", failure.text()),
    };
}

/// Lays rows out in columns.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = head.iter().map(|cell| cell.len()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: Vec<&str>| {
        let mut text = String::new();
        for (cell, width) in cells.iter().zip(&widths) {
            text.push_str(&format!("{cell:<width$}  "));
        }
        text.trim_end().to_owned()
    };
    let mut lines = vec![line(head.to_vec())];
    lines.extend(rows.iter().map(|row| line(row.iter().map(String::as_str).collect())));
    lines.join("\n")
}
