//! Orders to a running node, by the socket that its own user alone may use.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::slow::Slow;
use crate::{
    arguments::NodeAddress,
    failure::{Failure, FailureKind},
    http,
};

/// What is said while an order takes long.
pub(super) const WAITING: &str =
    "waiting for the node, which has the order: it may carry it out also if you end the waiting";

/// The socket of orders of the node that is meant.
///
/// # Errors
/// When the node is named by another address than its socket's.
pub(super) fn socket(node: &NodeAddress) -> Result<PathBuf> {
    let address = node.resolve()?;
    let Some(socket) = address.strip_prefix("unix:") else {
        let text = format!("orders are given on the node's own machine, found {address}");
        bail!(
            Failure::new(FailureKind::Usage, text).hint("name the node's UNIX socket: --node PATH")
        );
    };
    Ok(sheen_control::operator_socket(Path::new(socket)))
}

/// Gives an order that changes nothing, and returns its answer.
///
/// # Errors
/// When nobody answers soon, or the node refuses; the text says what to do.
pub(super) fn ask(socket: &Path, path: &str, order: &Value) -> Result<Value> {
    exchange(socket, path, order, http::PATIENCE)
}

/// Gives an order, and returns its answer. It may wait for a key behind a network.
///
/// # Errors
/// When nobody answers, or the node refuses; the text says what to do.
pub(super) fn give(socket: &Path, path: &str, order: &Value) -> Result<Value> {
    let _slow = Slow::watch(WAITING);
    exchange(socket, path, order, http::ORDER_PATIENCE)
}

fn exchange(socket: &Path, path: &str, order: &Value, patience: Duration) -> Result<Value> {
    let answer = http::post_unix(socket, path, &order.to_string(), patience)?;
    let Some((is_done, body)) = answer else {
        let text = format!("no node answers at {}", socket.display());
        bail!(Failure::new(FailureKind::Unreachable, text).hint("is `sheen node` running?"));
    };
    let value: Value = serde_json::from_str(&body).context("the node's answer")?;
    if !is_done {
        let said = value["error"].as_str().unwrap_or(&body);
        bail!(Failure::new(FailureKind::Refused, format!("the node refuses: {said}")));
    }
    Ok(value)
}
