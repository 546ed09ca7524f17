//! `sheen ca`.

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use serde_json::json;
use sheen_identity::UnixSeconds;
use sheen_node::server::identities::{AuthoritiesShown, AuthorityShown};

use super::orders;
use crate::{
    answer,
    arguments::NodeAddress,
    failure::{Failure, FailureKind},
};

/// What can be asked of certificate authorities.
#[derive(Debug, Subcommand)]
pub(crate) enum Authority {
    /// Show the authorities and the node's certificate
    Show {
        #[command(flatten)]
        node: NodeAddress,
    },
    /// Make the next authority; it signs from now on, and both are believed
    Rotate {
        #[command(flatten)]
        node: NodeAddress,
    },
    /// End the old authority: files it signed let nobody in any more
    ///
    /// Renew every client first (`sheen client renew`); those made before are named.
    Retire {
        /// Yes, files of the old authority are to count no more
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        node: NodeAddress,
    },
}

/// Does what was asked.
///
/// # Errors
/// When the node does not answer or refuses; the text says what to do.
pub(crate) fn run(json: bool, authority: &Authority) -> Result<()> {
    let shown = match authority {
        Authority::Show { node } => order(node, "show")?,
        Authority::Rotate { node } => order(node, "rotate")?,
        Authority::Retire { yes, node } => {
            if !yes {
                bail!(unasked(&order(node, "show")?));
            }
            order(node, "retire")?
        }
    };
    answer::either(json, &shown, || text(&shown));
    Ok(())
}

fn order(node: &NodeAddress, word: &str) -> Result<AuthoritiesShown> {
    let exchange = if word == "show" { orders::ask } else { orders::give };
    let answer = exchange(&orders::socket(node)?, "/authority", &json!({ "order": word }))?;
    serde_json::from_value(answer).context("the node's answer")
}

fn unasked(shown: &AuthoritiesShown) -> Failure {
    let text = match shown.older_clients.as_slice() {
        [] => "files that the old authority signed would let nobody in any more".to_owned(),
        names => format!(
            "files that the old authority signed would let nobody in any more; clients made before the next one: {}",
            names.join(", ")
        ),
    };
    Failure::new(FailureKind::Refused, text).hint("renew them (sheen client renew), then say --yes")
}

fn text(shown: &AuthoritiesShown) -> String {
    let row = |authority: &AuthorityShown| {
        vec![
            authority.generation.to_string(),
            authority.state.clone(),
            UnixSeconds(authority.created).to_string(),
            UnixSeconds(authority.expires).to_string(),
            authority.fingerprint.clone(),
        ]
    };
    let rows: Vec<_> = shown.authorities.iter().map(row).collect();
    let mut lines =
        vec![answer::table(&["AUTHORITY", "STATE", "MADE", "EXPIRES", "FINGERPRINT"], &rows)];
    lines.push(String::new());
    lines.push(format!(
        "the node's certificate is good until {} and is made anew by itself: {}",
        UnixSeconds(shown.node_expires),
        shown.node_fingerprint
    ));
    let is_rotating = shown.authorities.iter().any(|it| it.state == "next");
    if is_rotating && !shown.older_clients.is_empty() {
        lines.push(format!(
            "made before the next authority: {}; renew those that were not since (sheen client renew)",
            shown.older_clients.join(", ")
        ));
    }
    lines.join("\n")
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn an_exchange_names_the_clients_made_before_it() {
        let authority = |generation, state: &str| AuthorityShown {
            generation,
            state: state.to_owned(),
            fingerprint: "ab".repeat(32),
            created: 0,
            expires: 86_400,
        };
        let shown = AuthoritiesShown {
            authorities: vec![authority(1, "current"), authority(2, "next")],
            node_fingerprint: "cd".repeat(32),
            node_expires: 86_400,
            older_clients: vec!["web1".to_owned()],
        };
        let text = text(&shown);
        assert!(text.contains("current") && text.contains("1970-01-02"), "{text}");
        assert!(text.contains("made before the next authority: web1"), "{text}");
        let refused = unasked(&shown);
        assert!(refused.message.contains("web1") && refused.hint.unwrap().contains("--yes"));
    }
}
