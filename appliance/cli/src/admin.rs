//! An administrative session with a node: file systems made, listed, deleted.

use std::{
    ffi::OsStr,
    path::Path,
    sync::{Arc, mpsc},
    time::Duration,
};

use anyhow::{Context, Result};
use sheen_dma::Arena;
use sheen_ports::{Call, Cancel, Link};
use sheen_types::{ClientId, Epoch, Errno, Tag, Xid};
use sheen_wire::{
    Field, Frame, Opcode,
    fields::List,
    metadata::{
        ClientInfo, ClientList, Connect, ConnectReply, FilesystemCreate, FilesystemDelete,
        FilesystemInfo,
    },
};

use crate::{
    failure::{Failure, FailureKind},
    owner::Owner,
};

/// Service number of the MDT.
const MDT_SERVICE: u32 = 0;
/// Room for the list of file systems.
const LIST_BYTES: usize = 1 << 20;

/// How long a node may take to tell its clients.
const CLIENTS_WITHIN: Duration = Duration::from_secs(2);

/// Numbers of the processes on this host that have a file system of the node at `socket` mounted, as they told it. None if it does not
/// answer soon.
pub(crate) fn local_clients(socket: &Path) -> Vec<i32> {
    let address = format!("unix:{}", socket.display());
    let (sender, told) = mpsc::channel();
    let ask = move || {
        // Nobody listens any more if it came late.
        let _ = sender.send(all_clients(&address));
    };
    if std::thread::Builder::new().name("clients".to_owned()).spawn(ask).is_err() {
        return Vec::new();
    }
    let Ok(Ok(clients)) = told.recv_timeout(CLIENTS_WITHIN) else { return Vec::new() };
    let host = nix::unistd::gethostname().unwrap_or_default();
    clients.iter().filter_map(|client| process_of(&client.label, &host)).collect()
}

fn all_clients(address: &str) -> Result<Vec<ClientInfo>> {
    let mut admin = Admin::connect(address)?;
    let mut clients = Vec::new();
    for info in admin.list()? {
        clients.extend(admin.clients(&String::from_utf8_lossy(&info.name))?);
    }
    Ok(clients)
}

/// How a mount's process is called by the node's administrator.
pub(crate) fn label(host: &OsStr, process: u32, dir: &Path) -> String {
    format!("{} {process} at {}", host.to_string_lossy(), dir.display())
}

/// The process a label names, if it is on this host.
fn process_of(label: &[u8], host: &OsStr) -> Option<i32> {
    let text = String::from_utf8_lossy(label);
    text.strip_prefix(&*host.to_string_lossy())?.strip_prefix(' ')?.split(' ').next()?.parse().ok()
}

/// An open session.
pub(crate) struct Admin {
    link: Arc<dyn Link>,
    client: ClientId,
    epoch: Epoch,
    next_xid: u64,
}

impl Admin {
    /// Opens a session with the node at `address`.
    ///
    /// # Errors
    /// When nobody answers there.
    pub(crate) fn connect(address: &str) -> Result<Self> {
        let arena = Arena::shared(LIST_BYTES * 4).context("memory for the connection")?;
        let link = sheen_rdma::connect(address, MDT_SERVICE, &arena).map_err(|error| {
            let kind = match &error {
                sheen_rdma::ConnectError::System(error)
                    if error.kind() == std::io::ErrorKind::PermissionDenied =>
                {
                    FailureKind::Permission
                }
                sheen_rdma::ConnectError::System(_) => FailureKind::Unreachable,
                sheen_rdma::ConnectError::Address => FailureKind::Usage,
                sheen_rdma::ConnectError::Refused(_)
                | sheen_rdma::ConnectError::Protocol(_)
                | sheen_rdma::ConnectError::Handshake(_)
                | sheen_rdma::ConnectError::InClear => FailureKind::Refused,
            };
            if kind == FailureKind::Permission {
                return not_ours(address);
            }
            Failure::new(kind, format!("no node answers at {address}: {error}"))
                .hint("is `sheen node` running there? --node names another")
        })?;
        let mut admin = Self { link, client: ClientId(0), epoch: Epoch(0), next_xid: 1 };
        let mut uuid = [0; 16];
        std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut uuid)?;
        let connect = Connect {
            uuid,
            client: ClientId(0),
            filesystem: Vec::new(),
            label: format!("sheen-admin {}", std::process::id()).into_bytes(),
            slots: 1,
        };
        let (body, _) = admin.call(Opcode::Connect, &connect.to_vec())?;
        let reply = ConnectReply::from_bytes(&body).context("the node's answer to Connect")?;
        admin.client = reply.client;
        admin.epoch = reply.epoch;
        Ok(admin)
    }

    /// Makes a file system whose root directory has these permissions and this owner.
    ///
    /// # Errors
    /// When the name is taken or not a name.
    pub(crate) fn create(
        &mut self,
        name: &str,
        permissions: u32,
        owner: Owner,
    ) -> Result<FilesystemInfo> {
        let Owner { uid, gid } = owner;
        let name = name.as_bytes().to_vec();
        let request = FilesystemCreate { name, permissions, uid, gid };
        let (body, _) = self.call(Opcode::FilesystemCreate, &request.to_vec())?;
        FilesystemInfo::from_bytes(&body).context("the node's answer")
    }

    /// Every file system.
    ///
    /// # Errors
    /// When the node does not answer.
    pub(crate) fn list(&mut self) -> Result<Vec<FilesystemInfo>> {
        let (_, payload) = self.call(Opcode::FilesystemList, &[])?;
        Ok(List::from_bytes(&payload).context("the node's answer")?.0)
    }

    /// Deletes a file system.
    ///
    /// # Errors
    /// When there is none of that name, or it is in use and not `force`.
    pub(crate) fn delete(&mut self, name: &str, force: bool) -> Result<()> {
        let request = FilesystemDelete { name: name.as_bytes().to_vec(), force };
        self.call(Opcode::FilesystemDelete, &request.to_vec()).map(drop)
    }

    /// The sessions that have the file system mounted.
    ///
    /// # Errors
    /// When there is none of that name, or the node does not answer.
    pub(crate) fn clients(&mut self, name: &str) -> Result<Vec<ClientInfo>> {
        let request = ClientList { filesystem: name.as_bytes().to_vec() };
        let (_, payload) = self.call(Opcode::ClientList, &request.to_vec())?;
        Ok(List::from_bytes(&payload).context("the node's answer")?.0)
    }

    fn call(&mut self, opcode: Opcode, body: &[u8]) -> Result<(Vec<u8>, Vec<u8>)> {
        let xid = Xid(self.next_xid);
        self.next_xid += 1;
        let frame = Frame {
            client: self.client,
            epoch: self.epoch,
            tag: Tag(0),
            ..Frame::request(opcode, xid)
        };
        let room = self.link.buffer(LIST_BYTES);
        let call = Call { frame, body: body.to_vec(), payload: None, room };
        let result = self.link.call(call, &Cancel::new());
        let (frame, body) = result.reply.context("the node went away")?;
        if frame.status != 0 {
            return Err(reason(opcode, Errno(-frame.status)).into());
        }
        let bytes = usize::try_from(frame.payload_bytes)?;
        let payload = result
            .room
            .and_then(|room| room.as_slice().get(..bytes).map(<[u8]>::to_vec))
            .unwrap_or_default();
        Ok((body, payload))
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        // The node ends a session that falls silent; saying goodbye only makes it sooner.
        let _ = self.call(Opcode::Disconnect, &[]);
        self.link.close();
    }
}

/// Returns whether this user may not connect to a node's socket: it is another user's.
pub(crate) fn is_refused(socket: &Path) -> bool {
    let error = std::os::unix::net::UnixStream::connect(socket).err();
    error.is_some_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied)
}

/// The node's socket belongs to another user.
pub(crate) fn not_ours(address: &str) -> Failure {
    Failure::new(FailureKind::Permission, format!("you may not use the node at {address}"))
        .hint("it is another user's")
}

/// A file system cannot be called so.
pub(crate) fn not_a_name() -> Failure {
    Failure::new(FailureKind::Usage, "not a name for a file system")
        .hint("use letters, digits, `.`, `_`, `-`, at most 63")
}

fn reason(opcode: Opcode, errno: Errno) -> Failure {
    let of = |kind, text: &str| Failure::new(kind, text);
    match (opcode, errno) {
        (Opcode::Connect, Errno::EACCES) | (_, Errno::EPERM) => {
            of(FailureKind::Permission, "you may not administer this node")
                .hint("root and the user it runs as may")
        }
        (Opcode::FilesystemCreate, Errno::EEXIST) => {
            of(FailureKind::Exists, "a file system of that name exists")
        }
        (Opcode::FilesystemCreate, Errno::EINVAL) => not_a_name(),
        (Opcode::FilesystemDelete | Opcode::ClientList, Errno::ENOENT) => {
            of(FailureKind::NotFound, "there is no file system of that name")
                .hint("`sheen fs list` shows those there are")
        }
        (Opcode::FilesystemDelete, Errno::EBUSY) => of(FailureKind::InUse, "it is mounted")
            .hint("unmount it everywhere first, or say --force --yes"),
        (Opcode::FilesystemDelete, Errno::ENOTEMPTY) => {
            of(FailureKind::Refused, "it holds files").hint("say --force --yes to delete them all")
        }
        _ => Failure::new(
            FailureKind::Refused,
            format!("the node refuses {}: {errno}", opcode.name()),
        ),
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_client_s_process_is_read_off_its_label() {
        let host = OsStr::new("node one");
        let label = label(host, 77, Path::new("/mnt/a b"));
        assert_eq!(process_of(label.as_bytes(), host), Some(77));
        for other in ["node one7 77 at /mnt", "node one", "node one x at /mnt", ""] {
            assert_eq!(process_of(other.as_bytes(), host), None, "{other}");
        }
    }
}
