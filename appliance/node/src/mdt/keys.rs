//! What changes depend on: names, inodes, and who has them open.

use sheen_meta::Operation;
use sheen_types::{Fid, Name};

use super::core::Mdt;

/// What only one change at a time may be under way on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    /// An entry of a directory.
    Name(Fid, Name),
    /// An inode, but for entries in it.
    Inode(Fid),
}

impl Mdt {
    /// What no other change may be under way on.
    pub(crate) fn keys_of(&self, operation: &Operation) -> Vec<Key> {
        let name = |parent: Fid, name: &Name| Key::Name(parent, name.clone());
        let child = |parent: Fid, name: &Name| {
            self.state.lookup(parent, name).ok().map(|(fid, _)| Key::Inode(fid))
        };
        let mut keys = Vec::new();
        match operation {
            Operation::Create(body) if body.request.unnamed => {}
            Operation::Create(body) => {
                keys.push(name(body.request.parent, &body.request.name));
                keys.extend(child(body.request.parent, &body.request.name));
            }
            Operation::Link(request) => {
                keys.push(name(request.parent, &request.name));
                keys.push(Key::Inode(request.fid));
            }
            Operation::Unlink(body) => {
                keys.push(name(body.request.parent, &body.request.name));
                keys.extend(child(body.request.parent, &body.request.name));
            }
            Operation::Rename(body) => {
                let request = &body.request;
                for (parent, entry) in [
                    (request.from_parent, &request.from_name),
                    (request.to_parent, &request.to_name),
                ] {
                    keys.push(name(parent, entry));
                    keys.extend(child(parent, entry));
                }
            }
            Operation::SetAttributes(request) => keys.push(Key::Inode(request.fid)),
            Operation::SetXattr(body) => keys.push(Key::Inode(body.request.fid)),
            Operation::RemoveXattr(request) => keys.push(Key::Inode(request.fid)),
            Operation::InstantiateLayout(request) => keys.push(Key::Inode(request.fid)),
            Operation::OrphanRelease(release) => keys.push(Key::Inode(release.fid)),
            Operation::UpdateSize(_)
            | Operation::UpdateAccesses(_)
            | Operation::ServerStart(_)
            | Operation::LeasePromise(_)
            | Operation::Connect(_)
            | Operation::OpenSession(_)
            | Operation::IdentityPut(_)
            | Operation::IdentityRevoke(_)
            | Operation::IdentityForget(_)
            | Operation::CertificateAuthority(_)
            | Operation::ClusterSecret(_)
            | Operation::SessionSecret(_)
            | Operation::Disconnect(_)
            | Operation::SequenceGrant(_)
            | Operation::FilesystemCreate(_)
            | Operation::FilesystemDelete(_)
            | Operation::Reap(_)
            | Operation::OstRegister(_)
            | Operation::ObjectsDestroyed(_) => {}
        }
        keys.sort();
        keys.dedup();
        keys
    }
}
