//! What a client must be told.

use std::time::Duration;

use crate::accesses::AccessTimes;

/// Configuration of a [`crate::Client`].
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// Where the node is, in the form the fabric understands: path of a UNIX socket or `host:port`.
    pub address: String,
    /// File system to use.
    pub filesystem: String,
    /// Host and process, for people who look at the server.
    pub label: String,
    /// Chosen at random once: the same uuid gets the same session back.
    pub uuid: [u8; 16],
    /// Changes of metadata in flight at a time, 1..=64. More wait.
    pub slots: u16,
    /// Threads that carry pieces of one read or write to several objects at a time.
    pub transfer_threads: usize,
    /// Which reads count for access times.
    pub access_times: AccessTimes,
    /// Those of directories do not (`nodiratime`).
    pub no_directory_access_times: bool,
    /// Inodes the client keeps leases of though nobody uses them; beyond, the oldest leases are given back.
    pub idle_inodes_max: usize,
    /// Bytes of acknowledged changes that are not durable yet and are kept to be sent again, should an OST lose its power,
    /// of all OSTs together. One OST alone may hold half of it and is flushed in the background from a quarter on; at its
    /// share its writers wait for that, and no others. Each OST may exceed this by one request.
    pub unstable_bytes_max: usize,
    /// As many such changes at most, shared in the same way.
    pub unstable_changes_max: usize,
    /// What is kept for about so long is flushed in the background.
    pub unstable_age: Duration,
}

impl ClientConfig {
    /// The usual configuration with a fresh uuid.
    ///
    /// # Errors
    /// When the system's source of random bytes cannot be read.
    pub fn new(address: &str, filesystem: &str, label: &str) -> std::io::Result<Self> {
        use std::io::Read as _;
        let mut uuid = [0; 16];
        std::fs::File::open("/dev/urandom")?.read_exact(&mut uuid)?;
        Ok(Self {
            address: address.to_owned(),
            filesystem: filesystem.to_owned(),
            label: label.to_owned(),
            uuid,
            slots: 32,
            transfer_threads: 8,
            access_times: AccessTimes::Relative,
            no_directory_access_times: false,
            idle_inodes_max: 1 << 16,
            unstable_bytes_max: 128 << 20,
            unstable_changes_max: 1 << 15,
            unstable_age: Duration::from_secs(5),
        })
    }
}
