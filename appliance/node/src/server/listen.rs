//! The places a node listens on.

use std::{
    fs::Permissions,
    io,
    net::{SocketAddr, TcpListener},
    os::unix::{
        fs::{FileTypeExt, PermissionsExt},
        net::{UnixListener, UnixStream},
    },
    path::Path,
};

use super::NodeError;

/// Listens on a UNIX socket, for its owner and group. A socket nobody listens on any more is replaced.
pub(super) fn unix(path: &Path) -> Result<UnixListener, NodeError> {
    bind_unix(path).map_err(|source| NodeError::Listen {
        key: "socket",
        place: path.display().to_string(),
        source,
    })
}

fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => {
            if UnixStream::connect(path).is_ok() {
                return Err(io::Error::new(
                    io::ErrorKind::AddrInUse,
                    "another process listens there",
                ));
            }
            std::fs::remove_file(path)?;
        }
        Ok(_) => {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "there is a file that is no socket",
            ));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o660))?;
    Ok(listener)
}

/// Listens on a TCP address.
pub(super) fn tcp(address: SocketAddr) -> Result<TcpListener, NodeError> {
    TcpListener::bind(address).map_err(|source| NodeError::Listen {
        key: "listen",
        place: address.to_string(),
        source,
    })
}

/// Takes the socket's name away, so that clients see at once that nobody is there.
pub(super) fn remove(path: &Path) {
    if let Err(error) = std::fs::remove_file(path) {
        tracing::debug!(path = %path.display(), %error, "socket not removed");
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_dead_socket_is_replaced_and_a_live_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run/node.sock");
        let first = unix(&path).unwrap();
        let error = unix(&path).unwrap_err().to_string();
        assert!(error.ends_with("another process listens there"), "{error}");
        drop(first);
        drop(unix(&path).unwrap());
        remove(&path);
        std::fs::write(&path, "data").unwrap();
        let error = unix(&path).unwrap_err().to_string();
        assert!(error.starts_with("socket ") && error.contains("no socket"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"data");
    }
}
