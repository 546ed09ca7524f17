//! Network namespaces with a link to this machine that can be cut in each direction, as a client's cable or switch fails.
//!
//! A cut is silent: packets of one direction go to an address nobody has, so that neither side is told of it. That needs
//! nothing but neighbour entries, which every kernel has. All of it goes when the value is dropped; needs root.

use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::time::Duration;

use crate::interruption::Guard;
use crate::process;

const DEADLINE: Duration = Duration::from_secs(10);
/// The hardware address nobody has.
const NOBODY: &str = "02:53:00:00:00:ff";
const HOST: &str = "02:53:00:00:00:01";
const CLIENT: &str = "02:53:00:00:00:02";

/// What a cut takes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Nothing reaches the client.
    ToClient,
    /// Nothing reaches the node.
    ToNode,
    /// Nothing reaches either.
    BothWays,
}

/// A namespace with one link.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    interface: String,
    host: Ipv4Addr,
    client: Ipv4Addr,
    _guard: Guard,
}

impl Namespace {
    /// Makes the namespace `number` of this process.
    ///
    /// # Errors
    /// When the kernel refuses, as it does for users without rights.
    pub fn new(number: u8) -> anyhow::Result<Self> {
        let pid = std::process::id();
        let name = format!("sheen-{pid}-{number}");
        let interface = format!("sh{pid}n{number}");
        let host = host_address();
        // 198.18.0.0/15 is set aside for tests of networks. [RFC 2544, appendix C.2.2]
        let client = Ipv4Addr::from_bits(host.to_bits() + 1 + u32::from(number));
        let guard = Guard::of_namespace(&name);
        ip(&["netns", "add", &name])?;
        // From here on dropping takes everything away.
        let made = Self { name, interface, host, client, _guard: guard };
        made.link()?;
        Ok(made)
    }

    fn link(&self) -> anyhow::Result<()> {
        let (host, client) = (self.host.to_string(), self.client.to_string());
        let (name, interface) = (self.name.as_str(), self.interface.as_str());
        let pair = ["link", "add", interface, "address", HOST, "type", "veth", "peer", "name"];
        ip(&[&pair[..], &["eth0", "address", CLIENT, "netns", name]].concat())?;
        ip(&["address", "add", &host, "peer", &client, "dev", interface])?;
        ip(&["link", "set", interface, "up"])?;
        ip(&["-n", name, "address", "add", &client, "peer", &host, "dev", "eth0"])?;
        ip(&["-n", name, "link", "set", "eth0", "up"])?;
        ip(&["-n", name, "link", "set", "lo", "up"])?;
        self.heal()
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Cuts the link.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn cut(&self, cut: Cut) -> anyhow::Result<()> {
        match cut {
            Cut::ToClient => self.route_to_client(NOBODY),
            Cut::ToNode => self.route_to_node(NOBODY),
            Cut::BothWays => {
                self.route_to_client(NOBODY)?;
                self.route_to_node(NOBODY)
            }
        }
    }

    /// Makes the link whole.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn heal(&self) -> anyhow::Result<()> {
        self.route_to_client(CLIENT)?;
        self.route_to_node(HOST)
    }

    fn route_to_client(&self, hardware: &str) -> anyhow::Result<()> {
        let client = self.client.to_string();
        let entry = ["neighbour", "replace", &client, "lladdr", hardware];
        ip(&[&entry[..], &["nud", "permanent", "dev", &self.interface]].concat())
    }

    fn route_to_node(&self, hardware: &str) -> anyhow::Result<()> {
        let host = self.host.to_string();
        let entry = ["-n", &self.name, "neighbour", "replace", &host, "lladdr", hardware];
        ip(&[&entry[..], &["nud", "permanent", "dev", "eth0"]].concat())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // The link goes with it.
        let _ = ip(&["netns", "delete", &self.name]);
    }
}

/// The address under which all namespaces of this process find this machine.
#[must_use]
pub fn listen_address() -> IpAddr {
    host_address().into()
}

fn host_address() -> Ipv4Addr {
    // Runs side by side get networks of their own, as far as there are any.
    let [.., third] = (std::process::id() % 256).to_be_bytes();
    Ipv4Addr::new(198, 18, third, 1)
}

fn ip(arguments: &[&str]) -> anyhow::Result<()> {
    process::run(Command::new("ip").args(arguments), DEADLINE).map(drop)
}
