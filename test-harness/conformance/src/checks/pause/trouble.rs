//! What may come between a client and its node: a stopped process, a cut link.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::network::{Cut, Namespace};

/// How long a client may be silent before it is evicted, in the lane's clusters.
pub(super) const LEASE: Duration = Duration::from_secs(2);

/// The node's configuration of times.
pub(super) fn times() -> String {
    "[times]\nlease = \"2s\"\nrevoke = \"3s\"\ngrace = \"3s\"\n".to_owned()
}

/// What comes between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The mount's process is stopped.
    ClientStops,
    /// The node's process is stopped.
    NodeStops,
    /// The link is cut.
    Link(Cut),
}

impl Trouble {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::ClientStops => "the client is stopped",
            Self::NodeStops => "the node is stopped",
            Self::Link(Cut::BothWays) => "the link is cut both ways",
            Self::Link(Cut::ToClient) => "the link is cut towards the client",
            Self::Link(Cut::ToNode) => "the link is cut towards the node",
        }
    }
}

/// Those it comes between.
#[derive(Debug, Clone, Copy)]
pub(super) struct Between<'a> {
    pub(super) client: u32,
    pub(super) node: u32,
    pub(super) link: &'a Namespace,
}

impl Between<'_> {
    pub(super) fn begin(&self, trouble: Trouble) -> anyhow::Result<()> {
        match trouble {
            Trouble::ClientStops => signal(self.client, Signal::SIGSTOP),
            Trouble::NodeStops => signal(self.node, Signal::SIGSTOP),
            Trouble::Link(cut) => self.link.cut(cut),
        }
    }

    pub(super) fn end(&self, trouble: Trouble) -> anyhow::Result<()> {
        match trouble {
            Trouble::ClientStops => signal(self.client, Signal::SIGCONT),
            Trouble::NodeStops => signal(self.node, Signal::SIGCONT),
            Trouble::Link(_) => self.link.heal(),
        }
    }
}

fn signal(process: u32, signal: Signal) -> anyhow::Result<()> {
    Ok(kill(Pid::from_raw(i32::try_from(process)?), signal)?)
}
