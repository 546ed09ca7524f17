//! `sheen client`.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use sheen_identity::UnixSeconds;
use sheen_node::server::identities::{ClientShown, RightsRequest, Speaks};

use super::orders;
use crate::{
    answer,
    arguments::NodeAddress,
    failure::{Failure, FailureKind},
    owner::Owner,
};

mod file;
mod shown;

use file::{FileToWrite, Written, list_certificate};
use shown::{may, table, text};

/// What can be asked of clients.
#[derive(Debug, Subcommand)]
pub(crate) enum Client {
    /// Make a client: one file that lets another machine in
    ///
    /// Writes an identity file: a private key, its certificate, and whom the client believes. Whoever has the file is this client: copy it
    /// over a channel you trust, readable by root alone. Unless told otherwise the client may use every file system and its word about users is
    /// taken, as that of a Lustre or NFS client: give it to machines you trust, or say --map-root or --squash.
    New(New),
    /// List the clients
    List {
        #[command(flatten)]
        node: NodeAddress,
    },
    /// Show one client with everything it may do
    Show {
        /// Its name
        name: String,
        #[command(flatten)]
        node: NodeAddress,
    },
    /// Change what a client may do; its file stays as it is
    ///
    /// What is not named stays. If something is taken away, or it is to speak for others, its sessions end: its mounts come back by
    /// themselves, under what it may do then.
    Set(Set),
    /// Give a client a new file, with a new key
    ///
    /// The old file works until its own end, so that both can be exchanged while everything serves; with --end-others it stops at once, and the
    /// client's sessions end: what programs there have open is EIO. At most four files count; a fifth is made only with --end-others.
    Renew(Renew),
    /// End a client: at once it may do nothing, and its sessions end
    ///
    /// It is shown as revoked from then on; its name is free for a new one.
    Revoke {
        /// Its name
        name: String,
        /// Do not even show it as revoked
        #[arg(long)]
        forget: bool,
        #[command(flatten)]
        node: NodeAddress,
    },
}

/// `sheen client new`.
#[derive(Debug, Args)]
pub(crate) struct New {
    /// Its name: letters, digits, `.`, `_`, `-`; at most 63
    name: String,
    #[command(flatten)]
    file: FileToWrite,
    /// A file system it may use; may be said several times [default: every one, those to come included]
    #[arg(long, value_name = "NAME")]
    fs: Vec<String>,
    #[command(flatten)]
    speaks: SpeaksFor,
    /// It changes nothing
    #[arg(long)]
    read_only: bool,
    /// Networks it may come from, as 10.0.0.0/8 [default: from anywhere]
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    networks: Vec<String>,
    /// Networks from where its word about users is taken in spite of --squash or --map-root
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    trusted_networks: Vec<String>,
    /// Sessions at once; each mount is one [default: 64]
    #[arg(long, value_name = "N")]
    sessions: Option<u16>,
    #[command(flatten)]
    node: NodeAddress,
}

/// For whom it speaks.
#[derive(Debug, Args)]
#[group(multiple = false)]
struct SpeaksFor {
    /// All its users count as this one: USER:GROUP, names or numbers
    #[arg(long, value_name = "USER:GROUP")]
    squash: Option<String>,
    /// Its root counts as nobody; of other users its word is taken
    #[arg(long)]
    map_root: bool,
}

/// `sheen client set`.
#[derive(Debug, Args)]
pub(crate) struct Set {
    /// Its name
    name: String,
    /// A file system it may use, in place of those before; may be said several times
    #[arg(long, value_name = "NAME", conflicts_with = "every_fs")]
    fs: Vec<String>,
    /// It may use every file system, those to come included
    #[arg(long)]
    every_fs: bool,
    #[command(flatten)]
    speaks: SpeaksFor,
    /// Its word about users is taken
    #[arg(long, conflicts_with_all = ["squash", "map_root"])]
    trusted: bool,
    /// It changes nothing
    #[arg(long, conflicts_with = "read_write")]
    read_only: bool,
    /// It may change what its users may
    #[arg(long)]
    read_write: bool,
    /// Networks it may come from; `any`: from anywhere
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    networks: Vec<String>,
    /// Networks from where its word is taken in spite of --squash or --map-root; `none`: there are none
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    trusted_networks: Vec<String>,
    /// Sessions at once
    #[arg(long, value_name = "N")]
    sessions: Option<u16>,
    #[command(flatten)]
    node: NodeAddress,
}

/// `sheen client renew`.
#[derive(Debug, Args)]
pub(crate) struct Renew {
    /// Its name
    name: String,
    #[command(flatten)]
    file: FileToWrite,
    /// Its files before stop to count at once, and its sessions end
    #[arg(long)]
    end_others: bool,
    #[command(flatten)]
    node: NodeAddress,
}

/// Does what was asked.
///
/// # Errors
/// When the node does not answer or refuses, or the file is not written; the text says what to do.
pub(crate) fn run(json: bool, client: &Client) -> Result<()> {
    match client {
        Client::New(new) => make(json, new),
        Client::List { node } => list(json, node),
        Client::Show { name, node } => {
            let order = json!({ "order": "list", "name": name });
            show(json, &one(orders::ask(&orders::socket(node)?, "/client", &order)?)?)
        }
        Client::Set(set) => change(json, set),
        Client::Renew(renewed) => renew(json, renewed),
        Client::Revoke { name, forget, node } => revoke(json, name, *forget, node),
    }
}

impl SpeaksFor {
    fn choice(&self) -> Result<Option<Speaks>> {
        let squash = self.squash.as_deref().map(Owner::parse).transpose()?;
        Ok(match squash {
            Some(Owner { uid, gid }) => Some(Speaks::User { uid, gid }),
            None => self.map_root.then_some(Speaks::EverybodyButRoot),
        })
    }
}

fn make(json: bool, new: &New) -> Result<()> {
    let socket = orders::socket(&new.node)?;
    let rights = RightsRequest {
        filesystems: Some(new.fs.clone()),
        speaks: new.speaks.choice()?,
        read_only: Some(new.read_only),
        networks: Some(new.networks.clone()),
        trusted_networks: Some(new.trusted_networks.clone()),
        sessions: new.sessions,
    };
    let written = new.file.write(&new.name, &socket)?;
    let order = json!({
        "order": "new", "name": new.name, "rights": rights, "certificate": written.certificate,
    });
    let client = list_certificate(&socket, &order, &written)?;
    told(json, &client, &written);
    Ok(())
}

fn renew(json: bool, renewed: &Renew) -> Result<()> {
    let socket = orders::socket(&renewed.node)?;
    let written = renewed.file.write(&renewed.name, &socket)?;
    let others = if renewed.end_others { "end" } else { "stay" };
    let order = json!({
        "order": "renew", "name": renewed.name, "certificate": written.certificate, "others": others,
    });
    let client = list_certificate(&socket, &order, &written)?;
    told(json, &client, &written);
    Ok(())
}

/// Tells of a file that was made.
fn told(json: bool, client: &ClientShown, written: &Written) {
    let done = json!({ "file": written.path, "client": client });
    answer::either(json, &done, || {
        format!(
            "{} lets {} in until {}: {}.\nWhoever has this file is this client: copy it over a channel you trust, and delete what you do not need.",
            written.path.display(),
            client.name,
            // The file's own end: the client may have others that last longer.
            written.certificate["not_after"]
                .as_u64()
                .map_or_else(|| "-".to_owned(), |at| UnixSeconds(at).to_string()),
            may(client),
        )
    });
}

fn change(json: bool, set: &Set) -> Result<()> {
    let networks = |given: &[String], nothing: &str| match given {
        [] => None,
        [word] if word == nothing => Some(Vec::new()),
        given => Some(given.to_vec()),
    };
    let rights = RightsRequest {
        filesystems: match (set.every_fs, set.fs.is_empty()) {
            (true, _) => Some(Vec::new()),
            (false, true) => None,
            (false, false) => Some(set.fs.clone()),
        },
        speaks: match set.trusted {
            true => Some(Speaks::Everybody),
            false => set.speaks.choice()?,
        },
        read_only: (set.read_only || set.read_write).then_some(set.read_only),
        networks: networks(&set.networks, "any"),
        trusted_networks: networks(&set.trusted_networks, "none"),
        sessions: set.sessions,
    };
    if rights == RightsRequest::default() {
        bail!(
            Failure::new(FailureKind::Usage, "nothing is to be changed")
                .hint("see sheen client set --help")
        );
    }
    let order = json!({ "order": "set", "name": set.name, "rights": rights });
    show(json, &order_one(&set.node, &order)?)
}

fn revoke(json: bool, name: &str, forget: bool, node: &NodeAddress) -> Result<()> {
    let order = json!({ "order": "revoke", "name": name, "forget": forget });
    let answer = orders::give(&orders::socket(node)?, "/client", &order)?;
    answer::either(json, &answer, || format!("{name} may do nothing any more; its sessions ended"));
    Ok(())
}

fn order_one(node: &NodeAddress, order: &Value) -> Result<ClientShown> {
    one(orders::give(&orders::socket(node)?, "/client", order)?)
}

fn one(answer: Value) -> Result<ClientShown> {
    clients(answer)?.pop().context("the node's answer names no client")
}

fn clients(mut answer: Value) -> Result<Vec<ClientShown>> {
    serde_json::from_value(answer["clients"].take()).context("the node's answer")
}

fn list(json: bool, node: &NodeAddress) -> Result<()> {
    let order = json!({ "order": "list" });
    let clients = clients(orders::ask(&orders::socket(node)?, "/client", &order)?)?;
    answer::either(json, &clients, || table(&clients, now()));
    Ok(())
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn show(json: bool, client: &ClientShown) -> Result<()> {
    answer::either(json, client, || text(client, now()));
    Ok(())
}
