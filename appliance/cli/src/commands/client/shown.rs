//! Clients as people read them.

use sheen_identity::{UnixSeconds, expiry::DAY_SECONDS, expiry::WARN_DAYS};
use sheen_node::server::identities::{ClientShown, Speaks};

use crate::answer;

pub(super) fn table(clients: &[ClientShown], now: u64) -> String {
    if clients.is_empty() {
        return "no clients yet; make one with: sheen client new NAME --out FILE".to_owned();
    }
    let row = |client: &ClientShown| {
        vec![
            client.name.clone(),
            state(client, now),
            client.expires.map_or_else(|| "-".to_owned(), |at| UnixSeconds(at).to_string()),
            filesystems(client),
            speaks(client),
            if client.rights.read_only { "read" } else { "write" }.to_owned(),
            client.sessions.to_string(),
        ]
    };
    let head = ["NAME", "STATE", "EXPIRES", "FILE SYSTEMS", "SPEAKS FOR", "MAY", "SESSIONS"];
    answer::table(&head, &clients.iter().map(row).collect::<Vec<_>>())
}

fn state(client: &ClientShown, now: u64) -> String {
    match client.expires {
        None => "revoked",
        Some(at) if at < now => "expired",
        Some(at) if at < now.saturating_add(WARN_DAYS * DAY_SECONDS) => "expires soon",
        Some(_) => "good",
    }
    .to_owned()
}

fn filesystems(client: &ClientShown) -> String {
    match (client.rights.every_filesystem, client.rights.filesystems.as_slice()) {
        (true, _) => "every".to_owned(),
        (false, []) => "none".to_owned(),
        (false, names) => names.join(","),
    }
}

fn speaks(client: &ClientShown) -> String {
    match client.rights.speaks {
        Speaks::Everybody => "everybody".to_owned(),
        Speaks::EverybodyButRoot => "all but root".to_owned(),
        Speaks::User { uid, gid } => format!("{uid}:{gid}"),
    }
}

/// What a client may do, in a line.
pub(super) fn may(client: &ClientShown) -> String {
    let filesystems = match filesystems(client).as_str() {
        "every" => "every file system".to_owned(),
        names => format!("file systems {names}"),
    };
    let speaks = match client.rights.speaks {
        Speaks::Everybody => "its word about users is taken, root's too".to_owned(),
        Speaks::EverybodyButRoot => "its root counts as nobody".to_owned(),
        Speaks::User { uid, gid } => format!("all its users count as {uid}:{gid}"),
    };
    let changes = if client.rights.read_only { "read only" } else { "to read and write" };
    format!("{filesystems}, {changes}; {speaks}")
}

pub(super) fn text(client: &ClientShown, now: u64) -> String {
    let day = |at: u64| UnixSeconds(at).to_string();
    let from = |networks: &[String]| match networks {
        [] => "anywhere".to_owned(),
        networks => networks.join(", "),
    };
    let mut lines = vec![
        format!("{}  {}", client.name, state(client, now)),
        format!("may       {}", may(client)),
        format!("from      {}", from(&client.rights.networks)),
    ];
    if !client.rights.trusted_networks.is_empty() {
        lines.push(format!("trusted   from {}", client.rights.trusted_networks.join(", ")));
    }
    let (has, most) = (client.sessions, client.rights.sessions_max);
    lines.push(format!("sessions  {has} of {most}"));
    lines.push(format!("made      {}", day(client.created)));
    lines.extend(client.revoked.map(|at| format!("revoked   {}", day(at))));
    let end = |at: u64| if at < now { "ended" } else { "until" };
    lines.extend(client.certificates.iter().map(|it| {
        format!(
            "file      {} {}, certificate {}",
            end(it.not_after),
            day(it.not_after),
            it.fingerprint
        )
    }));
    lines.join("\n")
}
