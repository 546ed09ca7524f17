//! The places a node listens on. One that is in use is waited for a while: a process that was killed keeps its sockets until
//! its memory is given back.

use std::{
    fs::Permissions,
    io,
    net::{SocketAddr, TcpListener},
    os::unix::{
        fs::{FileTypeExt, PermissionsExt},
        net::{UnixListener, UnixStream},
    },
    path::Path,
    time::{Duration, Instant},
};

use super::{NodeError, holder};

/// How long a start waits for an address or a device that is in use.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// Pause between two tries.
const PAUSE: Duration = Duration::from_millis(20);

/// Listens on a UNIX socket, for its owner and group. A socket nobody listens on any more is replaced; one that is in use is
/// waited for up to `patience`.
pub(super) fn unix(path: &Path, patience: Duration) -> Result<UnixListener, NodeError> {
    let place = Place { key: "socket", name: path.display().to_string() };
    place.listen(patience, || holder::of_unix(path), || bind_unix(path))
}

/// Listens on a TCP address, the value of `key` in the configuration. One that is in use is waited for up to `patience`.
///
/// # Errors
/// [`NodeError::Listen`]; names the process that has the address, if the system tells.
pub fn tcp(
    key: &'static str,
    address: SocketAddr,
    patience: Duration,
) -> Result<TcpListener, NodeError> {
    let place = Place { key, name: address.to_string() };
    place.listen(patience, || holder::of_tcp(address), || TcpListener::bind(address))
}

/// Tries until `is_busy` no longer holds of the error, at most for `patience`. `told` gets the first error.
pub(super) fn patiently<T, E>(
    patience: Duration,
    is_busy: impl Fn(&E) -> bool,
    told: impl FnOnce(&E),
    mut attempt: impl FnMut() -> Result<T, E>,
) -> Result<T, E> {
    let begun = Instant::now();
    let mut told = Some(told);
    loop {
        match attempt() {
            Err(error) if is_busy(&error) && begun.elapsed() < patience => {
                if let Some(told) = told.take() {
                    told(&error);
                }
                std::thread::sleep(PAUSE);
            }
            result => return result,
        }
    }
}

/// What is listened on.
struct Place {
    key: &'static str,
    name: String,
}

impl Place {
    fn listen<T>(
        self,
        patience: Duration,
        holder: impl Fn() -> Option<holder::Holder>,
        bind: impl FnMut() -> io::Result<T>,
    ) -> Result<T, NodeError> {
        let Self { key, name: place } = self;
        let is_busy = |error: &io::Error| error.kind() == io::ErrorKind::AddrInUse;
        let told = |_: &io::Error| {
            let by = holder().map(|holder| format!(" by {holder}")).unwrap_or_default();
            tracing::warn!("{key} {place} is in use{by}; waiting up to {patience:?} for it");
        };
        let source = match patiently(patience, is_busy, told, bind) {
            Ok(listener) => return Ok(listener),
            Err(error) if is_busy(&error) => {
                let by = match holder() {
                    Some(holder) => format!("in use by {holder}"),
                    None => "in use by a process that the system does not name".to_owned(),
                };
                io::Error::new(
                    io::ErrorKind::AddrInUse,
                    format!(
                        "{by}; stop it, or choose another address (key `{key}` of the configuration)"
                    ),
                )
            }
            Err(error) => error,
        };
        Err(NodeError::Listen { key, place, source })
    }
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
        let first = unix(&path, Duration::ZERO).unwrap();
        let error = unix(&path, Duration::ZERO).unwrap_err().to_string();
        let ours = format!("in use by process {} (", std::process::id());
        assert!(error.contains(&ours) && error.contains("key `socket`"), "{error}");
        drop(first);
        drop(unix(&path, Duration::ZERO).unwrap());
        remove(&path);
        std::fs::write(&path, "data").unwrap();
        let error = unix(&path, Duration::ZERO).unwrap_err().to_string();
        assert!(error.starts_with("socket ") && error.contains("no socket"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"data");
    }
    /// Lets go of what it holds after `time`.
    fn hold(held: impl Send + 'static, time: Duration) -> std::thread::JoinHandle<()> {
        std::thread::spawn(move || {
            std::thread::sleep(time);
            drop(held);
        })
    }

    #[test]
    fn an_address_that_is_let_go_is_taken() {
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = held.local_addr().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("node.sock");
        let socket = unix(&path, Duration::ZERO).unwrap();
        let holding = hold((held, socket), Duration::from_secs(1));
        let begun = Instant::now();
        let taken = tcp("metrics", address, PATIENCE).unwrap();
        assert!(begun.elapsed() >= Duration::from_millis(900), "{:?}", begun.elapsed());
        assert_eq!(taken.local_addr().unwrap(), address);
        drop(unix(&path, PATIENCE).unwrap());
        holding.join().unwrap();
    }

    #[test]
    fn an_address_that_is_never_let_go_is_an_error_that_names_its_holder() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(held) = TcpListener::bind(address) else { continue };
            let address = held.local_addr().unwrap();
            let begun = Instant::now();
            let patience = Duration::from_millis(300);
            let error = tcp("metrics", address, patience).unwrap_err().to_string();
            assert!(begun.elapsed() >= patience);
            let (pid, start) =
                (std::process::id(), format!("metrics {address}: in use by process"));
            assert!(error.starts_with(&start) && error.contains(&format!(" {pid} (")), "{error}");
        }
        // Not ours to have: nothing to wait for.
        let begun = Instant::now();
        let error = tcp("listen", "192.0.2.1:1".parse().unwrap(), PATIENCE).unwrap_err();
        assert!(begun.elapsed() < Duration::from_secs(1) && !error.to_string().contains("in use"));
    }
}
