//! `sheen scrub`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use clap::{Args, Subcommand};
use serde_json::Value;
use sheen_types::Bytes;

use super::orders;
use crate::{answer, arguments::NodeAddress};

/// What can be asked of the scrub.
#[derive(Debug, Subcommand)]
pub(crate) enum Scrub {
    /// Show where it stands: position, what it found, when the last pass ended
    Status(Which),
    /// Begin a pass now; one that is under way or paused goes on
    Start(Which),
    /// Read nothing until `sheen scrub resume`, `start` or a restart of the node
    Pause(Which),
    /// Go on after a pause
    Resume(Which),
}

/// Whose scrub.
#[derive(Debug, Args)]
pub(crate) struct Which {
    #[command(flatten)]
    node: NodeAddress,
    /// This target alone, by its index
    #[arg(long, value_name = "N")]
    ost: Option<u32>,
}

/// Orders what was asked, and shows where it stands then.
///
/// # Errors
/// When the node does not answer or refuses; the text says what to do.
pub(crate) fn run(json: bool, scrub: &Scrub) -> Result<()> {
    let (order, which) = match scrub {
        Scrub::Status(which) => ("status", which),
        Scrub::Start(which) => ("start", which),
        Scrub::Pause(which) => ("pause", which),
        Scrub::Resume(which) => ("resume", which),
    };
    let order = serde_json::json!({ "order": order, "ost": which.ost });
    let value = orders::ask(&orders::socket(&which.node)?, "/scrub", &order)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    answer::either(json, &value, || text(&value, now.as_secs()));
    Ok(())
}

fn text(value: &Value, now: u64) -> String {
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let osts = value["osts"].as_array().map(Vec::as_slice).unwrap_or_default();
    let rows = osts.iter().map(|ost| {
        let faults = &ost["faults"];
        vec![
            format!("OST{:04}", number(&ost["ost"])),
            ost["state"].as_str().unwrap_or("?").to_owned(),
            number(&ost["passes"]).to_string(),
            format!("{}%", number(&ost["percent"])),
            Bytes(number(&ost["pass_bytes"])).to_string(),
            number(&faults["damaged"]).to_string(),
            number(&faults["unreadable"]).to_string(),
            number(&faults["log_batches"]).to_string(),
            ost["ended"].as_u64().map_or("-".to_owned(), |at| {
                let ago = Duration::from_secs(now.saturating_sub(at));
                format!("{} ago", rough(ago))
            }),
            ost["took_milliseconds"]
                .as_u64()
                .map_or("-".to_owned(), |took| rough(Duration::from_millis(took))),
        ]
    });
    let head = [
        "TARGET",
        "STATE",
        "PASSES",
        "PROGRESS",
        "READ",
        "DAMAGED",
        "UNREADABLE",
        "LOG FAULTS",
        "LAST ENDED",
        "TOOK",
    ];
    answer::table(&head, &rows.collect::<Vec<_>>())
}

/// A duration in its two largest units.
fn rough(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("{} ms", duration.as_millis()),
        1..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3600 % 24),
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn where_a_scrub_stands_is_shown_in_a_line() {
        let value = serde_json::json!({ "osts": [
            {
                "ost": 1, "state": "objects", "passes": 3, "percent": 42, "pass_bytes": 4096, "bytes": 9000,
                "faults": { "damaged": 2, "unreadable": 1, "log_batches": 0 },
                "ended": 1000, "took_milliseconds": 3_723_000,
            },
            { "ost": 2, "state": "resting", "ended": null, "took_milliseconds": null },
        ] });
        let shown = text(&value, 1090);
        let lines: Vec<Vec<&str>> =
            shown.lines().map(|line| line.split("  ").map(str::trim).collect()).collect();
        let words = |line: usize| -> Vec<&str> {
            lines[line].iter().copied().filter(|word| !word.is_empty()).collect()
        };
        let first = ["OST0001", "objects", "3", "42%", "4 KiB", "2", "1", "0"];
        assert_eq!(words(1)[..8], first);
        assert_eq!(words(1)[8..], ["1 min 30 s ago", "1 h 2 min"]);
        assert_eq!(words(2)[8..], ["-", "-"]);
    }
}
