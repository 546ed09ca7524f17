//! Which file system of which node a client belongs to.

use std::fmt;

use sheen_wire::metadata::ConnectReply;

/// Identity of node and file system, as the node tells it. A node that is formatted anew gets another.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Home {
    node: [u8; 16],
    filesystem: Vec<u8>,
}

impl Home {
    /// Who answers.
    pub(crate) fn of(reply: &ConnectReply) -> Self {
        Self { node: reply.node, filesystem: reply.filesystem.clone() }
    }
}

impl fmt::Display for Home {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let filesystem = String::from_utf8_lossy(&self.filesystem);
        write!(f, "{filesystem} of node {:032x}", u128::from_be_bytes(self.node))
    }
}
