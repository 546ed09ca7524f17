//! `sheen fs`.

use anyhow::{Context, Result};
use serde::Serialize;
use sheen_wire::metadata::FilesystemInfo;

use crate::{admin::Admin, answer, arguments::Fs, source};

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
        Fs::Create { name, mode, address } => {
            let permissions = u32::from_str_radix(&mode, 8)
                .ok()
                .filter(|mode| *mode <= 0o7777)
                .with_context(|| format!("`{mode}` is no octal mode such as 755"))?;
            let mut admin = Admin::connect(&source::address(&address.node)?)?;
            let shown = Shown::from(&admin.create(&name, permissions)?);
            answer::either(json, &shown, || {
                format!(
                    "{} {}\nmount it with: sheen mount {}:/{} DIR",
                    shown.id, shown.name, address.node, shown.name
                )
            });
        }
        Fs::List { address } => {
            let mut admin = Admin::connect(&source::address(&address.node)?)?;
            let shown: Vec<Shown> = admin.list()?.iter().map(Shown::from).collect();
            answer::either(json, &shown, || list(&shown));
        }
        Fs::Delete { name, force, address } => {
            let mut admin = Admin::connect(&source::address(&address.node)?)?;
            admin.delete(&name, force)?;
            let done = serde_json::json!({ "name": name, "lifecycle": "deleting" });
            answer::either(json, &done, || format!("{name} is being deleted"));
        }
    }
    Ok(())
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
