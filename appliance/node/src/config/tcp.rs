//! Whom a node takes over TCP, and whether what travels is encrypted.

use serde::Deserialize;
use sheen_rdma::handshake::Transit;

/// Clients of other hosts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TcpConfig {
    /// Who is let in.
    pub clients: TcpClients,
    /// Whether what identified clients send and get is encrypted. Of others nothing is.
    pub encryption: TcpEncryption,
}

/// Who is let in over TCP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TcpClients {
    /// Whoever reaches the port, as the node's owner.
    Anybody,
    /// Clients that show an identity's certificate.
    #[default]
    Identified,
}

/// Whether what travels is encrypted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TcpEncryption {
    /// It is, and authenticated.
    #[default]
    On,
    /// It is neither: for a network whose owner trusts everybody on it. Who connects is known all the same.
    Off,
}

impl TcpConfig {
    /// What the node's end of a handshake asks for.
    #[must_use]
    pub const fn transit(self) -> Transit {
        match self.encryption {
            TcpEncryption::On => Transit::Sealed,
            TcpEncryption::Off => Transit::Plain,
        }
    }

    /// Says it in a word or two, for people and programs: `anybody`, `identified`, `identified, not encrypted`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match (self.clients, self.encryption) {
            (TcpClients::Anybody, _) => "anybody",
            (TcpClients::Identified, TcpEncryption::On) => "identified",
            (TcpClients::Identified, TcpEncryption::Off) => "identified, not encrypted",
        }
    }
}
