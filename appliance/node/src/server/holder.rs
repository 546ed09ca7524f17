//! Who listens at an address, as `/proc` tells it: for the error of a start that does not get the address.

use std::{
    fmt, fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
};

/// State of a listening TCP socket in `/proc/net/tcp`.
const LISTENING: &str = "0A";
/// Flags of a listening socket in `/proc/net/unix` (`__SO_ACCEPTCON`).
const ACCEPTS: &str = "00010000";

/// A process that has an address.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Holder {
    pid: u32,
    /// Its program; empty if the process is gone.
    name: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} ({})", self.pid, self.name)
    }
}

/// Returns the process that listens at a TCP address. `None`: nobody, or it is not ours to know.
pub(super) fn of_tcp(address: SocketAddr) -> Option<Holder> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"];
    let mut lines = tables.iter().filter_map(|table| fs::read_to_string(table).ok());
    lines
        .find_map(|table| table.lines().find_map(|line| tcp_inode(line, address)))
        .and_then(of_inode)
}

/// Returns the process that listens on a UNIX socket. `None`: nobody, or it is not ours to know.
pub(super) fn of_unix(path: &Path) -> Option<Holder> {
    let table = fs::read_to_string("/proc/net/unix").ok()?;
    let path = path.to_str()?;
    table.lines().find_map(|line| unix_inode(line, path)).and_then(of_inode)
}

/// `0: 0100007F:2653 00000000:0000 0A … uid timeout inode …`: the inode, if `address` is refused for this socket.
fn tcp_inode(line: &str, address: SocketAddr) -> Option<u64> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
    let (ip, port) = local.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    if *state != LISTENING || port != address.port() {
        return None;
    }
    let ip = ip_of(ip)?;
    let overlaps = ip == address.ip() || ip.is_unspecified() || address.ip().is_unspecified();
    if overlaps { inode.parse().ok() } else { None }
}

/// An address as the kernel prints it: words of 32 bits in the machine's order, whose bytes are in the network's.
fn ip_of(text: &str) -> Option<IpAddr> {
    let mut bytes = Vec::with_capacity(16);
    for at in (0..text.len()).step_by(8) {
        let word = u32::from_str_radix(text.get(at..at + 8)?, 16).ok()?;
        bytes.extend_from_slice(&word.to_le().to_le_bytes());
    }
    match bytes.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into()),
        16 => {
            let ip = Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?);
            Some(ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), IpAddr::V4))
        }
        _ => None,
    }
}

/// `0000000000000000: 00000002 00000000 00010000 0001 01 12345 /path`
fn unix_inode(line: &str, path: &str) -> Option<u64> {
    let mut rest = line;
    let mut fields = [""; 7];
    for field in &mut fields {
        (*field, rest) = rest.trim_start().split_once(' ')?;
    }
    let [.., flags, _, _, inode] = fields;
    (flags == ACCEPTS && rest == path).then(|| inode.parse().ok()).flatten()
}

/// Returns the process with a descriptor of the socket.
fn of_inode(inode: u64) -> Option<Holder> {
    let wanted = format!("socket:[{inode}]");
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let pid = pids.find(|pid| {
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd"));
        descriptors.into_iter().flatten().flatten().any(|descriptor| {
            fs::read_link(descriptor.path()).is_ok_and(|link| link.as_os_str() == wanted.as_str())
        })
    })?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some(Holder { pid, name: name.trim().to_owned() })
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn lines_of_the_kernel_are_read() {
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        let line = "   0: 0100007F:2653 00000000:0000 0A 00000000:00000000 00:00000000 00000000  0 0 4711 1";
        assert_eq!(tcp_inode(line, address("127.0.0.1:9811")), Some(4711));
        assert_eq!(tcp_inode(line, address("0.0.0.0:9811")), Some(4711));
        assert_eq!(tcp_inode(line, address("10.0.0.1:9811")), None);
        assert_eq!(tcp_inode(line, address("127.0.0.1:9810")), None);
        assert_eq!(tcp_inode(&line.replace(" 0A ", " 01 "), address("127.0.0.1:9811")), None);
        assert_eq!(ip_of("00000000000000000000000001000000"), Some("::1".parse().unwrap()));
        let line = "0000000000000000: 00000002 00000000 00010000 0001 01 12345 /run/a b.sock";
        assert_eq!(unix_inode(line, "/run/a b.sock"), Some(12345));
        assert_eq!(unix_inode(line, "/run/a"), None);
        assert_eq!(unix_inode("Num RefCount Protocol Flags Type St Inode Path", "Path"), None);
    }
}
