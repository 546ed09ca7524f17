//! `sheen fs`.

use std::io::{IsTerminal, Write, stderr, stdin};

use anyhow::{Context, Result};
use serde::Serialize;
use sheen_wire::metadata::{ClientInfo, FilesystemInfo};

use crate::{
    admin::Admin,
    answer,
    arguments::Fs,
    failure::{Failure, FailureKind},
    owner::Owner,
};

/// Clients named in a message.
const SHOWN_MAX: usize = 5;

/// A file system as shown.
#[derive(Debug, Serialize)]
pub(crate) struct Shown {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Inodes in it.
    pub inodes: u64,
    /// Sessions that have it mounted.
    pub clients: u32,
    /// `available` or `deleting`.
    pub lifecycle: &'static str,
    /// When it was made, in seconds since 1970.
    pub created: i64,
}

impl From<&FilesystemInfo> for Shown {
    fn from(info: &FilesystemInfo) -> Self {
        Self {
            id: String::from_utf8_lossy(&info.id).into_owned(),
            name: String::from_utf8_lossy(&info.name).into_owned(),
            inodes: info.inodes,
            clients: info.clients,
            lifecycle: if info.deleting { "deleting" } else { "available" },
            created: info.created.seconds,
        }
    }
}

/// Makes, lists or deletes file systems.
///
/// # Errors
/// When the node refuses or does not answer.
pub(crate) fn run(json: bool, fs: Fs) -> Result<()> {
    match fs {
        Fs::Create { name, mode, owner, address } => {
            let permissions = u32::from_str_radix(&mode, 8)
                .ok()
                .filter(|mode| *mode <= 0o7777)
                .ok_or_else(|| {
                    let text = format!("`{mode}` is no octal mode such as 755");
                    Failure::new(FailureKind::Usage, text)
                })?;
            let owner =
                owner.map_or_else(|| Ok(Owner::of_process()), |text| Owner::parse(&text))?;
            let node = address.resolve()?;
            let mut admin = Admin::connect(&node)?;
            let shown = Shown::from(&admin.create(&name, permissions, owner)?);
            answer::either(json, &shown, || {
                format!(
                    "{} {}\nmount it with: sheen mount {}:/{} DIR",
                    shown.id,
                    shown.name,
                    node.strip_prefix("tcp:").unwrap_or(&node),
                    shown.name
                )
            });
        }
        Fs::List { address } => {
            let mut admin = Admin::connect(&address.resolve()?)?;
            let shown: Vec<Shown> = admin.list()?.iter().map(Shown::from).collect();
            answer::either(json, &shown, || list(&shown));
        }
        Fs::Delete { name, force, yes, address } => {
            let mut admin = Admin::connect(&address.resolve()?)?;
            consent(&mut admin, &name, force, yes)?;
            admin.delete(&name, force)?;
            let done = serde_json::json!({ "name": name, "lifecycle": "deleting" });
            answer::either(json, &done, || format!("{name} is being deleted"));
        }
    }
    Ok(())
}

/// Makes sure that a file system is meant to be deleted with what is in it: names who has it mounted, and asks. Programs are not
/// asked, they say --yes. One that is empty and not mounted is deleted unasked: nothing is lost.
fn consent(admin: &mut Admin, name: &str, force: bool, yes: bool) -> Result<()> {
    let clients = admin.clients(name)?;
    if force && yes {
        return Ok(());
    }
    let state = match clients.as_slice() {
        [] => format!("everything in {name} would be lost"),
        clients => format!("{name} is mounted by {}", mounted_by(clients)),
    };
    if !force {
        if clients.is_empty() {
            return Ok(());
        }
        let failure = Failure::new(FailureKind::InUse, state);
        return Err(failure.hint("unmount it there first, or say --force --yes").into());
    }
    let mut asked = String::new();
    if stdin().is_terminal() && stderr().is_terminal() {
        let _ = write!(
            stderr(),
            "{state}. What is in it is lost for all. Type its name to delete it: "
        );
        stdin().read_line(&mut asked).context("reading the answer")?;
    }
    if asked.trim() == name {
        return Ok(());
    }
    let failure = Failure::new(FailureKind::Refused, format!("{state}: nothing was done"));
    Err(failure.hint("say --force --yes if that is what you want").into())
}

/// The labels of clients, the first few of many.
fn mounted_by(clients: &[ClientInfo]) -> String {
    let label = |client: &ClientInfo| match client.label.as_slice() {
        [] => format!("client {}", client.client.0),
        label => String::from_utf8_lossy(label).into_owned(),
    };
    let mut text = clients.iter().take(SHOWN_MAX).map(label).collect::<Vec<_>>().join(", ");
    if let Some(more @ 1..) = clients.len().checked_sub(SHOWN_MAX) {
        text.push_str(&format!(" and {more} more"));
    }
    text
}

fn list(shown: &[Shown]) -> String {
    if shown.is_empty() {
        return "no file systems yet; make one with: sheen fs create NAME".to_owned();
    }
    let rows: Vec<Vec<String>> = shown
        .iter()
        .map(|fs| {
            vec![
                fs.id.clone(),
                fs.name.clone(),
                fs.lifecycle.to_owned(),
                fs.inodes.to_string(),
                fs.clients.to_string(),
            ]
        })
        .collect();
    answer::table(&["ID", "NAME", "STATE", "INODES", "CLIENTS"], &rows)
}

#[cfg(test)]
mod test {
    use sheen_types::ClientId;

    use super::*;

    #[test]
    fn clients_are_named_by_their_labels_and_the_rest_is_counted() {
        let client = |number: u64, label: &str| ClientInfo {
            client: ClientId(number),
            label: label.as_bytes().to_vec(),
        };
        let few = [client(1, "host1 77 at /mnt"), client(2, "")];
        assert_eq!(mounted_by(&few), "host1 77 at /mnt, client 2");
        let many: Vec<_> = (0..7).map(|number| client(number, "h")).collect();
        assert_eq!(mounted_by(&many), "h, h, h, h, h and 2 more");
    }
}
