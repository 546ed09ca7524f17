//! What the service manager is told: sd_notify(3), if it asks for it by `NOTIFY_SOCKET`.

use std::os::{
    linux::net::SocketAddrExt,
    unix::net::{SocketAddr, UnixDatagram},
};

/// Tells the service manager that the node serves.
pub(crate) fn ready() {
    send("READY=1\nSTATUS=serving");
}

/// Tells the service manager what the node is at.
pub(crate) fn status(text: &str) {
    send(&format!("STATUS={}", text.replace('\n', " ")));
}

/// Tells the service manager that the node ends.
pub(crate) fn stopping() {
    send("STOPPING=1\nSTATUS=stopping");
}

/// A manager that does not listen, or none, is no fault of ours.
fn send(message: &str) {
    let Some(name) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let Some(address) = address(name.as_encoded_bytes()) else { return };
    if let Ok(socket) = UnixDatagram::unbound() {
        let _ = socket.send_to_addr(message.as_bytes(), &address);
    }
}

/// A path, or behind an `@` a name without one.
fn address(name: &[u8]) -> Option<SocketAddr> {
    match name.split_first()? {
        (b'@', name) => SocketAddr::from_abstract_name(name).ok(),
        (b'/', _) => SocketAddr::from_pathname(std::str::from_utf8(name).ok()?).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_manager_is_addressed_by_path_or_by_name_alone() {
        assert_eq!(address(b"/run/x").unwrap().as_pathname().unwrap().to_str(), Some("/run/x"));
        assert_eq!(address(b"@x").unwrap().as_abstract_name(), Some(&b"x"[..]));
        assert!(address(b"relative").is_none() && address(b"").is_none());
    }
}
