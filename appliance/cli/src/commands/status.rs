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
            vec![
                format!("OST{:04}", number(&ost["index"])),
                Bytes(total).to_string(),
                Bytes(total.saturating_sub(free)).to_string(),
                Bytes(free).to_string(),
                Bytes(number(&ost["logical_bytes"])).to_string(),
                ratio(number(&ost["logical_bytes"]), number(&ost["physical_bytes"])),
                number(&ost["objects"]).to_string(),
            ]
        })
        .collect();
    lines.push(answer::table(
        &["TARGET", "SIZE", "USED", "FREE", "CONTENT", "RATIO", "OBJECTS"],
        &rows,
    ));
    lines.join("\n")
}
