//! A node that listens for clients at another port than before, and what still looks for it at the old one.
//!
//! A client over TCP knows the node by its address alone: it waits for the node there, for ever if need be, and no word of the
//! node reaches it. Clients over the UNIX socket, as the mount of `sheen up`, notice nothing.

use std::{fs, net::SocketAddr, path::PathBuf};

use serde::Serialize;
use sheen_fuse::kernel::mountpoint::MountPoint;

use super::{place::Reached, server::Server};
use crate::source::Source;

/// The system's list of file systems to mount.
const FSTAB: &str = "/etc/fstab";

/// What is to be told of it.
#[derive(Debug, Serialize)]
pub(super) struct Moved {
    from: SocketAddr,
    to: SocketAddr,
    /// Mounts from the old address in this mount namespace.
    mounts: Vec<MountedFrom>,
    /// Lines of fstab that name it.
    fstab: Vec<usize>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct MountedFrom {
    dir: PathBuf,
    /// What to mount there now.
    source: String,
}

impl Moved {
    /// Looks for what names the old address. None: it is the old one.
    pub(super) fn of(from: SocketAddr, to: SocketAddr) -> Option<Self> {
        if from == to {
            return None;
        }
        let there = Reached::over_tcp(from);
        let mounts = MountPoint::all().unwrap_or_default();
        let mounts = mounts.iter().filter(|mount| mount.is_sheen()).filter_map(|mount| {
            let server = Server::of(mount);
            let told = server.as_ref().map_or(&mount.source, |server| &server.source);
            Some(MountedFrom { dir: mount.path.clone(), source: moved(&there, told, to)? })
        });
        let fstab = fs::read_to_string(FSTAB).unwrap_or_default();
        Some(Self { from, to, mounts: mounts.collect(), fstab: lines_from(&there, &fstab) })
    }

    /// What a person is told, as the end of an answer.
    pub(super) fn text(&self) -> String {
        let Self { from, to, mounts, fstab } = self;
        let mut text = format!(
            "\n\nwarning: the node was found at {from}, which another program took. Clients that were told that\
             \naddress wait for the node there: they must be given {to}."
        );
        for MountedFrom { dir, source } in mounts {
            let dir = dir.display();
            text.push_str(&format!("\n  sheen umount {dir} && sheen mount {source} {dir}"));
        }
        for line in fstab {
            text.push_str(&format!("\n  {FSTAB}, line {line}: write {to} in place of {from}"));
        }
        text
    }
}

/// The source that leads to the node at `to`, of one that led to it before.
fn moved(before: &Reached, source: &str, to: SocketAddr) -> Option<String> {
    let name = Source::parse(source).ok()?.name;
    before.is_here(source).then(|| format!("{to}:/{name}"))
}

/// Numbers of the lines of `fstab` that mount a file system of the node, from 1.
fn lines_from(node: &Reached, fstab: &str) -> Vec<usize> {
    let is_of_node = |line: &str| {
        let mut fields = line.split_whitespace();
        let (source, kind) = (fields.next(), fields.nth(1));
        matches!(kind, Some("sheen" | "fuse.sheen"))
            && source.is_some_and(|source| !source.starts_with('#') && node.is_here(source))
    };
    let lines = fstab.lines().enumerate().filter(|(_, line)| is_of_node(line));
    lines.map(|(index, _)| index + 1).collect()
}

#[cfg(test)]
mod test {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn what_names_the_old_address_is_found_and_told_the_new_one() {
        let (old, new) = (address("127.0.0.1:9810"), address("127.0.0.1:7000"));
        let there = Reached::over_tcp(old);
        for ours in ["127.0.0.1:9810:/a", "localhost:/a", "127.0.0.1@tcp:/a"] {
            assert_eq!(moved(&there, ours, new).unwrap(), "127.0.0.1:7000:/a", "{ours}");
        }
        for other in ["127.0.0.1:9811:/a", "10.0.0.1:/a", "/run/node.sock:/a", "unix:/n:/a", "none"]
        {
            assert_eq!(moved(&there, other, new), None, "{other}");
        }
        let fstab = "127.0.0.1:9810:/a /m sheen _netdev 0 0\n\
                     # 127.0.0.1:9810:/a /m sheen\n\
                     #127.0.0.1:9810:/a /m sheen\n\
                     /dev/sda1 / ext4 defaults 0 1\n\
                     unix:/run/n.sock:/a /n sheen defaults 0 0\n\
                     localhost:/a /o fuse.sheen\n\
                     127.0.0.1:9810:/a /p nfs\n";
        assert_eq!(lines_from(&there, fstab), [1, 6]);
        let (dir, source) = ("/m".into(), "127.0.0.1:7000:/a".to_owned());
        let mounts = vec![MountedFrom { dir, source }];
        let text = Moved { from: old, to: new, mounts, fstab: vec![6] }.text();
        for told in
            ["sheen umount /m && sheen mount 127.0.0.1:7000:/a /m", "/etc/fstab, line 6: write"]
        {
            assert!(text.contains(told), "{text}");
        }
    }

    #[test]
    fn a_node_that_stays_where_it_was_leaves_nobody_behind() {
        let here = address("127.0.0.1:9810");
        assert!(Moved::of(here, here).is_none());
        assert!(Moved::of(here, address("127.0.0.1:7000")).is_some());
    }
}
