//! The pause lane: clients and nodes that stop and go on, and links that are cut, shorter and longer than a lease.
//!
//! While one client is in trouble, another changes what it caches; then the trouble ends. Nothing that was given up may
//! be read any more, nothing of a client that was evicted may land, what was lost is told, programs that wait can be
//! killed, a mount can be taken away, and nobody else notices.

mod fence;
mod holder;
mod reader;
mod registers;
mod scene;
mod stale;
mod trouble;
mod waits;

use super::LaneContext;
use crate::network::Cut;
pub(crate) use scene::Bystander;
use scene::Scene;
use trouble::{LEASE, Trouble};

const CHECK: &str = "pause";

/// The first words of calls of this program as an actor (see [`run_actor`]).
pub const ACTORS: [&str; 2] = ["pause-reader", "pause-holder"];

/// An actor of this lane: its word, and the path it works on.
///
/// # Errors
/// When it cannot work.
pub fn run_actor(word: &str, path: &str) -> anyhow::Result<()> {
    if word == ACTORS[0] { reader::run(path) } else { holder::run(path) }
}

/// Runs the check on a cluster of its own.
pub fn run(context: &mut LaneContext<'_>) {
    let scratch = context.scratch.join(CHECK);
    let rounds = context.rounds.unwrap_or(context.effort.pick(1, 5));
    let report = &mut *context.report;
    let mut made = None;
    report.case(CHECK, "node, links and mounts are up", || {
        made = Some(Scene::start(&scratch)?);
        Ok(String::new())
    });
    let Some(mut scene) = made else { return };
    let both = Trouble::Link(Cut::BothWays);
    let one_way = [Trouble::Link(Cut::ToClient), Trouble::Link(Cut::ToNode)];
    for _ in 0..rounds {
        for trouble in [Trouble::ClientStops, both, Trouble::NodeStops] {
            let name = format!("{} for less than a lease: no error, nothing stale", trouble.name());
            report.case(CHECK, &name, || stale::run(&mut scene, trouble, LEASE / 2));
        }
        for trouble in [Trouble::ClientStops, both, one_way[0], one_way[1], Trouble::NodeStops] {
            let name = format!("{} for longer than a lease: nothing stale", trouble.name());
            report.case(CHECK, &name, || stale::run(&mut scene, trouble, 2 * LEASE));
        }
        for trouble in [Trouble::ClientStops, both, one_way[0], one_way[1]] {
            let name = format!("{}: what was evicted does not land, and is told", trouble.name());
            report.case(CHECK, &name, || fence::run(&mut scene, trouble));
        }
        for trouble in [Trouble::NodeStops, both] {
            let name = format!("{}: programs that wait are killed at once", trouble.name());
            report.case(CHECK, &name, || waits::kill(&mut scene, trouble));
            let name = format!("{}: a timer ends the wait for a lock", trouble.name());
            report.case(CHECK, &name, || waits::timer(&mut scene, trouble));
        }
        let name = "a mount's process that is killed while pages are written ends";
        report.case(CHECK, name, || waits::kill_mount(&mut scene));
        for trouble in [Trouble::NodeStops, Trouble::ClientStops, both] {
            let name = format!("{}: a mount can be taken away", trouble.name());
            report.case(CHECK, &name, || waits::unmount(&mut scene, trouble));
        }
    }
    report.case(CHECK, "unmount and stop", || {
        scene.end()?;
        Ok(String::new())
    });
}
