//! `sheen status`.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde_json::Value;
use sheen_identity::{UnixSeconds, expiry::DAY_SECONDS, expiry::WARN_DAYS};
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

/// What there is to do about certificates; nothing for weeks before one ends.
pub(super) fn identity_notes(identity: &Value) -> Vec<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let near = now.saturating_add(WARN_DAYS * DAY_SECONDS);
    let fault = identity["fault"].as_str();
    let mut notes: Vec<String> = fault
        .map(|text| format!("warning: the node has no identity: {text}"))
        .into_iter()
        .collect();
    let ends = identity["ends"].as_array().map(Vec::as_slice).unwrap_or_default();
    notes.extend(ends.iter().filter_map(|end| {
        let expires = end["expires"].as_u64().filter(|&expires| expires < near)?;
        let ends = if expires < now { "ended" } else { "ends" };
        let day = UnixSeconds(expires);
        Some(match end["kind"].as_str()? {
            "authority" => format!(
                "warning: the certificate authority {ends} on {day}: exchange it (sheen ca rotate)"
            ),
            _ => format!("warning: the node's certificate {ends} on {day} and is not made anew; its log says why"),
        })
    }));
    if let Some(ending @ 1..) = identity["clients_ending"].as_u64() {
        let next = identity["next_end"].as_u64().filter(|&next| next < near);
        let next = next.map_or_else(String::new, |at| format!(", the next on {}", UnixSeconds(at)));
        notes.push(format!(
            "warning: clients that are over or end within {WARN_DAYS} days: {ending}{next}; see sheen client list, and renew them (sheen client renew)"
        ));
    }
    notes
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
    let identity = identity_notes(&value["identity"]);
    let notes: Vec<String> = stopped.chain(threads).chain(room).chain(identity).collect();
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

    #[test]
    fn what_ends_is_told_weeks_before_and_what_does_not_is_not() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let identity = |days: u64, clients: u64| {
            serde_json::json!({
                "fault": null, "clients": 7, "clients_ending": clients, "next_end": now + 3 * DAY_SECONDS,
                "ends": [
                    { "kind": "authority", "name": "1", "expires": now + days * DAY_SECONDS },
                    { "kind": "node", "name": "n", "expires": now + 60 * DAY_SECONDS },
                ],
            })
        };
        assert!(identity_notes(&identity(40, 0)).is_empty());
        let notes = identity_notes(&identity(20, 2));
        assert!(notes[0].contains("authority ends on") && notes[0].contains("sheen ca rotate"));
        assert!(notes[1].contains("30 days: 2, the next on") && notes.len() == 2, "{notes:?}");
        let fault = serde_json::json!({ "fault": "no key" });
        assert_eq!(identity_notes(&fault), ["warning: the node has no identity: no key"]);
        assert!(identity_notes(&Value::Null).is_empty(), "of an earlier release");
    }
}
