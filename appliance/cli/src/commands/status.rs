//! `sheen status`.

use anyhow::{Context, Result};
use serde_json::Value;
use sheen_types::Bytes;

use crate::{answer, arguments::Status, http};

/// Shows a node.
///
/// # Errors
/// When it does not answer.
pub(crate) fn run(json: bool, status: &Status) -> Result<()> {
    let body = http::get(&status.address.resolve()?, "/status")?;
    let value: Value = serde_json::from_str(&body).context("the node's status")?;
    answer::either(json, &value, || text(&value));
    Ok(())
}

/// What the start of the node at `address` waits for; empty if it has started. None: it does not answer.
pub(crate) fn starting(address: &str) -> Option<String> {
    let value: Value = serde_json::from_str(&http::get(address, "/status").ok()?).ok()?;
    Some(starting_text(&value))
}

fn starting_text(value: &Value) -> String {
    let step = |step: &Value| {
        let (service, doing) = (step["service"].as_str()?, step["doing"].as_str()?);
        Some(match step["percent"].as_u64() {
            Some(percent) => format!("{service}: {doing}, {percent} %"),
            None => format!("{service}: {doing}"),
        })
    };
    let steps = value["starting"].as_array().map(Vec::as_slice).unwrap_or_default();
    steps.iter().filter_map(step).collect::<Vec<_>>().join("; ")
}

/// How many times smaller content is for compression: `1.85`.
pub(crate) fn ratio(logical: u64, physical: u64) -> String {
    match logical.saturating_mul(100).checked_div(physical) {
        Some(hundredths) => format!("{}.{:02}", hundredths / 100, hundredths % 100),
        None => "-".to_owned(),
    }
}

fn text(value: &Value) -> String {
    let word = |key: &str| value[key].as_str().unwrap_or("?").to_owned();
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let mut lines = vec![
        format!("node     {} (process {}, {})", word("name"), number(&value["pid"]), word("state")),
        format!("serves   unix:{}  tcp:{}", word("socket"), word("listen")),
        format!("device   {}", word("device")),
        format!("clients  {}", number(&value["clients"])),
        String::new(),
    ];
    let starting = starting_text(value);
    if !starting.is_empty() {
        lines.insert(1, format!("waits    {starting}"));
    }
    let rows: Vec<Vec<String>> = value["osts"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default()
        .iter()
        .map(|ost| {
            let total = number(&ost["total_bytes"]);
            let free = number(&ost["free_bytes"]);
            let state = match (ost["failure"].is_string(), ost["ready"] == true) {
                (true, _) => "stopped",
                (false, true) => "serves",
                (false, false) => "opens",
            };
            vec![
                format!("OST{:04}", number(&ost["index"])),
                state.to_owned(),
                Bytes(total).to_string(),
                Bytes(total.saturating_sub(free)).to_string(),
                Bytes(free).to_string(),
                Bytes(number(&ost["logical_bytes"])).to_string(),
                ratio(number(&ost["logical_bytes"]), number(&ost["physical_bytes"])),
                number(&ost["objects"]).to_string(),
            ]
        })
        .collect();
    let osts = value["osts"].as_array().map(Vec::as_slice).unwrap_or_default();
    let stopped = osts.iter().filter_map(|ost| {
        let reason = ost["failure"].as_str()?;
        Some(format!(
            "OST{:04} stopped: {reason}; then start the node again",
            number(&ost["index"])
        ))
    });
    let threads = value["failure"].as_str().map(|reason| format!("stopped: {reason}"));
    let room = value["room"].as_str().map(|text| format!("warning: {text}"));
    let notes: Vec<String> = stopped.chain(threads).chain(room).collect();
    lines.push(answer::table(
        &["TARGET", "STATE", "SIZE", "USED", "FREE", "CONTENT", "RATIO", "OBJECTS"],
        &rows,
    ));
    if !notes.is_empty() {
        lines.push(String::new());
        lines.extend(notes);
    }
    lines.join("\n")
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_target_that_stopped_is_named_with_its_cause() {
        let value = serde_json::json!({
            "name": "n", "state": "degraded", "room": "it is short",
            "osts": [
                { "index": 0, "ready": true, "failure": null },
                { "index": 1, "ready": false, "failure": "writing the journal: the disk is full" },
                { "index": 2, "ready": false, "failure": null },
            ],
        });
        let text = text(&value);
        let state = |target: &str| {
            let line = text.lines().find(|line| line.starts_with(target)).unwrap();
            line.split_whitespace().nth(1).unwrap().to_owned()
        };
        assert_eq!(["OST0000", "OST0001", "OST0002"].map(state), ["serves", "stopped", "opens"]);
        for line in [
            "OST0001 stopped: writing the journal: the disk is full; then start the node again",
            "warning: it is short",
        ] {
            assert!(text.lines().any(|there| there == line), "{line} in {text}");
        }
    }
}
