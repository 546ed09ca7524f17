//! Who may ask what: a table from opcode to what the request takes, looked up each time a request is carried out.
//!
//! What a session may do is fixed when it is opened and ends with it (`sheen_meta::State::session_access`), so a request that waited is
//! as good as one that just came. An inode never changes its file system. Cost: the first field of the body, one look into the table
//! of sessions, one for each inode named. What a session was told of before its right was looked at, it was told by its own file
//! system. Deliberately absent: permissions of inodes, which a session that is trusted checks itself; a session that is not is served
//! nothing here.

use sheen_meta::{SessionAccess, SessionPrincipal};
use sheen_ports::ConnectionId;
use sheen_types::{ClientId, Errno, Fid};
use sheen_wire::{
    DecodeError, Decoder, Field, Opcode,
    lease::{LeaseRequest, LockMode},
    metadata::{Open, Rename},
};

use super::{core::Mdt, request::Incoming};

/// Why a request is refused. The order is that in which refusals are counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refusal {
    /// It is the owner's to ask.
    Owner,
    /// An inode is of another file system than the session.
    Filesystem,
    /// It changes something, and the session reads only.
    ReadOnly,
    /// Permissions would have to be checked for the session, which the MDT does not do yet.
    Checked,
}

impl Refusal {
    /// How many there are.
    pub(crate) const COUNT: usize = 4;

    /// What the client is told. Of another file system it learns nothing: an inode there is as one that does not exist.
    const fn errno(self) -> Errno {
        match self {
            Self::Owner => Errno::EPERM,
            Self::Filesystem => Errno::ESTALE,
            Self::ReadOnly => Errno::EROFS,
            Self::Checked => Errno::EACCES,
        }
    }
}

/// What a request takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Demand {
    /// Somebody whose sessions are served.
    Opens,
    /// A session: it says something of itself, or gives back what it holds.
    Session,
    /// A session of the owner's.
    Owner,
    /// A file system, and these inodes of it.
    Reads([Fid; 2]),
    /// The same, to change something.
    Changes([Fid; 2]),
    /// No service of this kind answers it.
    Elsewhere,
}

/// The demand of a request. Every opcode is named: a new one needs a decision.
fn demand_of(incoming: &Incoming) -> Result<Demand, DecodeError> {
    const NONE: [Fid; 2] = [Fid::NONE; 2];
    let body = &mut Decoder::new(&incoming.body);
    let mut next = || Fid::decode(body);
    Ok(match incoming.frame.opcode {
        Opcode::Connect => Demand::Opens,
        // Each inode a Reassert names is looked at there.
        Opcode::Disconnect
        | Opcode::Ping
        | Opcode::OstList
        | Opcode::Reassert
        | Opcode::Close
        | Opcode::LeaseCancel
        | Opcode::LockCancel
        | Opcode::LockRelease => Demand::Session,
        Opcode::FilesystemCreate
        | Opcode::FilesystemList
        | Opcode::FilesystemDelete
        | Opcode::ClientList => Demand::Owner,
        Opcode::Lookup
        | Opcode::GetAttributes
        | Opcode::ReadDirectory
        | Opcode::ReadLink
        | Opcode::GetXattr
        | Opcode::ListXattr
        | Opcode::FilesystemStatistics
        | Opcode::LockSet
        | Opcode::LockTest => Demand::Reads([next()?, Fid::NONE]),
        Opcode::SetAttributes
        | Opcode::Create
        | Opcode::Unlink
        | Opcode::SetXattr
        | Opcode::RemoveXattr
        | Opcode::InstantiateLayout
        | Opcode::UpdateSize => Demand::Changes([next()?, Fid::NONE]),
        Opcode::Link => Demand::Changes([next()?, next()?]),
        Opcode::Rename => {
            let rename: Rename = incoming.body()?;
            Demand::Changes([rename.from_parent, rename.to_parent])
        }
        // Of the inodes a TellAccesses names, those of the session's file system count.
        Opcode::SequenceGrant | Opcode::TellAccesses | Opcode::MakeRoom => Demand::Changes(NONE),
        Opcode::Open => {
            let Open { fid, write, .. } = incoming.body()?;
            if write { Demand::Changes([fid, Fid::NONE]) } else { Demand::Reads([fid, Fid::NONE]) }
        }
        Opcode::LeaseRequest => {
            let LeaseRequest { fid, mode, .. } = incoming.body()?;
            let reads = mode == LockMode::ProtectedRead;
            if reads { Demand::Reads([fid, Fid::NONE]) } else { Demand::Changes([fid, Fid::NONE]) }
        }
        Opcode::Attach
        | Opcode::ObjectWrite
        | Opcode::ObjectRead
        | Opcode::ObjectPunch
        | Opcode::ObjectTruncate
        | Opcode::ObjectGlimpse
        | Opcode::ObjectSync
        | Opcode::ObjectDestroy
        | Opcode::ObjectSeek
        | Opcode::ObjectAllocate
        | Opcode::ObjectStatistics
        | Opcode::ObjectFence
        | Opcode::ObjectRepack
        | Opcode::LeaseRevoke
        | Opcode::Evicted => Demand::Elsewhere,
    })
}

impl Mdt {
    /// Whether a request may be carried out for who asks.
    ///
    /// # Errors
    /// EPROTO: the body is malformed. ENOTCONN: there is no such session. EPERM, ESTALE, EROFS, EACCES: see [`Refusal`]; counted.
    pub(crate) fn authorize(&self, incoming: &Incoming) -> Result<(), Errno> {
        let demand = demand_of(incoming).map_err(|_| Errno::EPROTO)?;
        let refused = match demand {
            Demand::Elsewhere => return Ok(()),
            Demand::Opens => self.check_opens(incoming.request.connection),
            Demand::Session | Demand::Owner | Demand::Reads(_) | Demand::Changes(_) => {
                let access = self.state.session_access(incoming.frame.client);
                self.check_demand(demand, access.ok_or(Errno::ENOTCONN)?)
            }
        };
        refused.map_err(|refusal| {
            self.stats.refused[refusal as usize].add(1);
            let (client, opcode) = (incoming.frame.client.0, incoming.frame.opcode);
            tracing::debug!(client, ?opcode, ?refusal, "a request is refused");
            refusal.errno()
        })
    }

    /// Whether sessions are opened over a connection. Permissions would have to be checked for those of other users of this host.
    fn check_opens(&self, connection: ConnectionId) -> Result<(), Refusal> {
        match self.connections.get(&connection).map(|opened| opened.principal) {
            Some(SessionPrincipal::User { .. }) => Err(Refusal::Checked),
            // One that has ended is told so elsewhere.
            Some(
                SessionPrincipal::Owner
                | SessionPrincipal::Identity { .. }
                | SessionPrincipal::ExemptIdentity { .. },
            )
            | None => Ok(()),
        }
    }

    fn check_demand(&self, demand: Demand, access: SessionAccess) -> Result<(), Refusal> {
        let (changes, inodes) = match demand {
            Demand::Opens | Demand::Session | Demand::Elsewhere => return Ok(()),
            Demand::Owner if access.principal == SessionPrincipal::Owner => return Ok(()),
            Demand::Owner => return Err(Refusal::Owner),
            Demand::Reads(inodes) => (false, inodes),
            Demand::Changes(inodes) => (true, inodes),
        };
        if access.checked {
            return Err(Refusal::Checked);
        }
        if access.root.is_none() {
            return Err(Refusal::Filesystem);
        }
        if changes && access.read_only {
            return Err(Refusal::ReadOnly);
        }
        let own = inodes.iter().all(|&fid| !self.is_elsewhere(access.root, fid));
        if own { Ok(()) } else { Err(Refusal::Filesystem) }
    }

    /// Whether an inode is of another file system than that of `root`. One that does not exist is of none.
    fn is_elsewhere(&self, root: Fid, fid: Fid) -> bool {
        self.state.root_of(fid).is_ok_and(|of| of != root)
    }

    /// Whether a session may say that it holds something of an inode, or read it: what is not its to have is passed over.
    pub(crate) fn may_hold(&self, client: ClientId, fid: Fid, write: bool) -> bool {
        let demand = if write { Demand::Changes } else { Demand::Reads };
        let access = self.state.session_access(client);
        access.is_some_and(|access| self.check_demand(demand([fid, Fid::NONE]), access).is_ok())
    }
}
