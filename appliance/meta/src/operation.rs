//! What the consensus log carries: every change of the namespace, as an explicit record.
//!
//! Bytes of an [`Entry`]: see `docs/formats/meta.md`. A log record may hold several entries one
//! after the other ([`encode_entries`], [`decode_entries`]).

use sheen_types::{
    ClientId, Epoch, Fid, OstIndex, Tag, Timespec, TransactionNumber, Xid, layout::STRIPES_MAX,
};
use sheen_wire::{
    DecodeError, Decoder, Encoder, Field,
    fields::List,
    lease::SizeUpdate,
    message,
    metadata::{
        Connect, Create, FilesystemCreate, FilesystemDelete, InstantiateLayout, Link, Rename,
        SetAttributes, SetXattr, TellAccesses, Unlink, XattrName,
    },
};

use crate::identity::{
    ForgetIdentity, OpenSession, PutCertificateAuthority, PutClusterSecret, PutIdentity,
    PutSessionSecret, RevokeIdentity,
};

/// Version of the encoding of entries. 1: first, without placement; 2: with it; 3: with [`LeasePromise`]; 4: with
/// [`TellAccesses`], and names of attributes that hold a slash; 5: with an owner in [`FilesystemCreate`]; 6: with identities, secrets
/// and [`OpenSession`]; 7: new objects may carry their file system. All are read.
pub const ENTRY_VERSION: u8 = 7;
const WITHOUT_LABEL: u8 = 6;
const WITHOUT_IDENTITIES: u8 = 5;
const WITHOUT_OWNER: u8 = 4;
const WITHOUT_ACCESSES: u8 = 3;
const WITHOUT_PROMISE: u8 = 2;
const WITHOUT_PLACEMENT: u8 = 1;
/// Most entries in one log record.
pub const ENTRIES_MAX: usize = 1024;
/// Bytes of a log record before its entries.
pub const RECORD_HEAD_BYTES: usize = 3;
/// Bytes of an entry beside its operation: session, slot and number, time, transaction, the most a placement may have, the label flag.
const ENTRY_BYTES: usize = 8 + 2 + 8 + 12 + 8 + 2 + 4 * STRIPES_MAX + 1;

message! {
    /// One change, as proposed by the leader.
    pub struct Entry {
        /// Session that asked; `ClientId(0)` for the server itself and for Connect. With 0 no reply
        /// slot is written.
        pub client: ClientId,
        /// Reply slot of the session.
        pub tag: Tag,
        /// Number of the request; the same xid in the same slot is applied once.
        pub xid: Xid,
        /// Wall clock of the proposer: every time the operation sets to "now".
        pub time: Timespec,
        /// Number of this change; must rise from entry to entry. Kept in the reply slot.
        pub transaction: TransactionNumber,
        /// The change.
        pub operation: Operation,
        /// OSTs for objects the change gives, in order, chosen by the proposer from what it knows of
        /// space and health. Empty: one after the other.
        pub placement: List<OstIndex>,
        /// Objects the change gives carry the number of their file system ([`Fid::ver`]). Not so in records up to version 6: what
        /// they gave is applied again as it was.
        pub labelled: bool,
    }
}

message! {
    /// The session of [`Entry::client`] or, as the server's own operation, any session ends.
    pub struct Disconnect {
        /// The session.
        pub client: ClientId,
    }
}

message! {
    /// A new file system.
    pub struct MakeFilesystem {
        /// What was asked.
        pub request: FilesystemCreate,
        /// Random bits for the id (`fs-` and 17 hex digits: 68 bits, the first bytes count first).
        pub random: [u8; 9],
    }
}

message! {
    /// A step of the background deletion of a file system.
    pub struct Reap {
        /// Root of the file system.
        pub root: Fid,
        /// Most inodes and names to remove in this step.
        pub steps_max: u32,
    }
}

message! {
    /// A new inode.
    pub struct CreateInode {
        /// What was asked.
        pub request: Create,
        /// Target, for a symbolic link; else empty.
        pub target: Vec<u8>,
    }
}

message! {
    /// A name goes away.
    pub struct RemoveName {
        /// What was asked.
        pub request: Unlink,
        /// Whether the inode may be open somewhere: then it becomes an orphan when its last name
        /// goes, until [`Operation::OrphanRelease`]. If in doubt, say true and release later.
        pub open: bool,
    }
}

message! {
    /// A name moves.
    pub struct MoveName {
        /// What was asked.
        pub request: Rename,
        /// Whether the inode that is replaced may be open somewhere; see [`RemoveName::open`].
        pub open: bool,
    }
}

message! {
    /// An extended attribute is set.
    pub struct PutXattr {
        /// What was asked.
        pub request: SetXattr,
        /// The value.
        pub value: Vec<u8>,
    }
}

message! {
    /// The last open of an unlinked inode is gone.
    pub struct OrphanRelease {
        /// The inode.
        pub fid: Fid,
    }
}

message! {
    /// An OST joins, or changes whether it takes new objects.
    pub struct OstRegister {
        /// The OST.
        pub ost: OstIndex,
        /// Whether new objects may be placed on it.
        pub accepts_objects: bool,
    }
}

message! {
    /// Clients may have been told, from now on, that they may cache for so long.
    pub struct LeasePromise {
        /// The longest lease that a client may count on.
        pub milliseconds: u32,
    }
}

message! {
    /// An OST destroyed objects durably; they leave the list of pending destroys.
    pub struct ObjectsDestroyed {
        /// The OST.
        pub ost: OstIndex,
        /// The objects.
        pub objects: List<Fid>,
    }
}

macro_rules! operations {
    ($($(#[$doc:meta])* $name:ident($body:ty) = $number:literal,)*) => {
        /// Every kind of change. The number in front of the body is part of the format.
        #[derive(Clone, PartialEq, Eq, Debug)]
        pub enum Operation { $($(#[$doc])* $name($body),)* }

        impl Operation {
            /// The operation's name, for logs and metrics.
            #[must_use]
            pub const fn name(&self) -> &'static str {
                match self { $(Self::$name(_) => stringify!($name),)* }
            }
        }

        impl Field for Operation {
            fn encode(&self, out: &mut Encoder<'_>) {
                match self { $(Self::$name(body) => {
                    let number: u8 = $number;
                    number.encode(out);
                    body.encode(out);
                })* }
            }

            fn decode(input: &mut Decoder<'_>) -> Result<Self, DecodeError> {
                let number = u8::decode(input)?;
                Self::decode_body(number, input)
            }
        }

        impl Operation {
            /// Reads what follows an operation's number.
            fn decode_body(number: u8, input: &mut Decoder<'_>) -> Result<Self, DecodeError> {
                match number {
                    $($number => Ok(Self::$name(Field::decode(input)?)),)*
                    _ => Err(DecodeError::Value("operation")),
                }
            }
        }
    };
}

message! {
    /// No further data.
    pub struct Nothing {}
}

operations! {
    /// A leader starts to serve: gives it a new server epoch ([`crate::Reply::ServerEpoch`]).
    ServerStart(Nothing) = 1,
    /// Opens or re-opens a session ([`crate::Reply::Session`]).
    Connect(Connect) = 2,
    /// Ends a session, asked by it or by the server (eviction).
    Disconnect(Disconnect) = 3,
    /// Grants a sequence to [`Entry::client`] ([`crate::Reply::Sequence`]).
    SequenceGrant(Nothing) = 4,
    /// Makes a file system ([`crate::Reply::Filesystem`]).
    FilesystemCreate(MakeFilesystem) = 5,
    /// Deletes a file system: its name is free at once, content goes by [`Operation::Reap`].
    FilesystemDelete(FilesystemDelete) = 6,
    /// Background step of a deletion ([`crate::Reply::Reaped`]).
    Reap(Reap) = 7,
    /// Makes an inode ([`crate::Reply::Entry`]).
    Create(CreateInode) = 8,
    /// Another name ([`crate::Reply::Entry`]).
    Link(Link) = 9,
    /// Removes a name ([`crate::Reply::Unlinked`]).
    Unlink(RemoveName) = 10,
    /// Moves a name ([`crate::Reply::Renamed`]).
    Rename(MoveName) = 11,
    /// Changes attributes.
    SetAttributes(SetAttributes) = 12,
    /// Sets an extended attribute.
    SetXattr(PutXattr) = 13,
    /// Removes an extended attribute.
    RemoveXattr(XattrName) = 14,
    /// Gives objects to components.
    InstantiateLayout(InstantiateLayout) = 15,
    /// Stores what a writer learned of size, space and times.
    UpdateSize(SizeUpdate) = 16,
    /// Last close of an unlinked inode: it is destroyed.
    OrphanRelease(OrphanRelease) = 17,
    /// An OST joins or changes.
    OstRegister(OstRegister) = 18,
    /// An OST destroyed objects.
    ObjectsDestroyed(ObjectsDestroyed) = 19,
    /// For how long clients may cache.
    LeasePromise(LeasePromise) = 20,
    /// Stores when inodes were last read.
    UpdateAccesses(TellAccesses) = 21,
    /// Opens or re-opens a session of a principal ([`crate::Reply::Session`]).
    OpenSession(OpenSession) = 22,
    /// Makes or changes an identity.
    IdentityPut(PutIdentity) = 23,
    /// Takes everything from an identity.
    IdentityRevoke(RevokeIdentity) = 24,
    /// Forgets an identity.
    IdentityForget(ForgetIdentity) = 25,
    /// Makes an authority, or goes on with its rotation.
    CertificateAuthority(PutCertificateAuthority) = 26,
    /// Stores the cluster's secret, wrapped.
    ClusterSecret(PutClusterSecret) = 27,
    /// Stores a secret of sessions, sealed.
    SessionSecret(PutSessionSecret) = 28,
}

/// The bytes of a log record that holds `entries` in order.
///
/// # Panics
/// With more than [`ENTRIES_MAX`] entries: the caller cuts its batches.
#[must_use]
pub fn encode_entries(entries: &[Entry]) -> Vec<u8> {
    assert!(entries.len() <= ENTRIES_MAX, "{} entries in one record", entries.len());
    let mut bytes = Vec::with_capacity(64 + entries.len() * 192);
    let mut out = Encoder(&mut bytes);
    ENTRY_VERSION.encode(&mut out);
    u16::try_from(entries.len()).unwrap_or(u16::MAX).encode(&mut out);
    for entry in entries {
        entry.encode(&mut out);
    }
    bytes
}

/// The entries in a log record.
///
/// # Errors
/// [`DecodeError`] if the bytes are of another version or not a record of entries.
pub fn decode_entries(bytes: &[u8]) -> Result<Vec<Entry>, DecodeError> {
    let mut input = Decoder::new(bytes);
    let version = u8::decode(&mut input)?;
    let decode = match version {
        ENTRY_VERSION => Entry::decode,
        WITHOUT_LABEL | WITHOUT_IDENTITIES => decode_without_label,
        WITHOUT_OWNER | WITHOUT_ACCESSES | WITHOUT_PROMISE => decode_without_owner,
        WITHOUT_PLACEMENT => decode_without_placement,
        _ => return Err(DecodeError::Version(u16::from(version))),
    };
    let count = usize::from(u16::decode(&mut input)?);
    if count > ENTRIES_MAX {
        return Err(DecodeError::Value("entry count"));
    }
    let entries = (0..count).map(|_| decode(&mut input)).collect::<Result<Vec<_>, _>>()?;
    input.finish()?;
    Ok(entries)
}

fn decode_without_label(input: &mut Decoder<'_>) -> Result<Entry, DecodeError> {
    let entry = decode_head(input, Operation::decode)?;
    Ok(Entry { placement: Field::decode(input)?, ..entry })
}

fn decode_without_owner(input: &mut Decoder<'_>) -> Result<Entry, DecodeError> {
    let entry = decode_without_placement(input)?;
    Ok(Entry { placement: Field::decode(input)?, ..entry })
}

fn decode_without_placement(input: &mut Decoder<'_>) -> Result<Entry, DecodeError> {
    decode_head(input, decode_ownerless)
}

/// Reads an entry up to its operation, which `operation` reads.
fn decode_head(
    input: &mut Decoder<'_>,
    operation: fn(&mut Decoder<'_>) -> Result<Operation, DecodeError>,
) -> Result<Entry, DecodeError> {
    Ok(Entry {
        client: Field::decode(input)?,
        tag: Field::decode(input)?,
        xid: Field::decode(input)?,
        time: Field::decode(input)?,
        transaction: Field::decode(input)?,
        operation: operation(input)?,
        placement: List(Vec::new()),
        labelled: false,
    })
}

/// Reads an operation as it was written up to version [`WITHOUT_OWNER`]: root owns new file systems.
fn decode_ownerless(input: &mut Decoder<'_>) -> Result<Operation, DecodeError> {
    const FILESYSTEM_CREATE: u8 = 5;
    let number = u8::decode(input)?;
    if number != FILESYSTEM_CREATE {
        return Operation::decode_body(number, input);
    }
    let request = FilesystemCreate {
        name: Field::decode(input)?,
        permissions: Field::decode(input)?,
        uid: 0,
        gid: 0,
    };
    let random = Field::decode(input)?;
    Ok(Operation::FilesystemCreate(MakeFilesystem { request, random }))
}

/// Bytes that the entry of an operation takes in a log record at most, whatever its placement.
#[must_use]
pub fn entry_bytes_max(operation: &Operation) -> usize {
    ENTRY_BYTES + operation.to_vec().len()
}

impl Entry {
    /// An entry of the server itself: no session, no reply slot.
    #[must_use]
    pub const fn internal(
        time: Timespec,
        transaction: TransactionNumber,
        operation: Operation,
    ) -> Self {
        Self {
            client: ClientId(0),
            tag: Tag(0),
            xid: Xid(0),
            time,
            transaction,
            operation,
            placement: List(Vec::new()),
            labelled: true,
        }
    }
}

/// First server epoch a fresh state gives.
pub const FIRST_SERVER_EPOCH: Epoch = Epoch(1);

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn an_entry_takes_no_more_than_is_told_before() {
        let body = OrphanRelease { fid: Fid::ROOT };
        let operation = Operation::OrphanRelease(body);
        let mut entry = Entry::internal(Timespec::ZERO, TransactionNumber(7), operation);
        entry.placement = List(vec![OstIndex(1); STRIPES_MAX]);
        let most = RECORD_HEAD_BYTES + 2 * entry_bytes_max(&entry.operation);
        assert_eq!(encode_entries(&[entry.clone(), entry]).len(), most);
    }

    #[test]
    fn records_of_the_first_version_are_read_as_without_placement() {
        let entry = Entry::internal(
            Timespec::ZERO,
            TransactionNumber(7),
            Operation::OrphanRelease(OrphanRelease { fid: Fid::ROOT }),
        );
        let mut bytes = encode_entries(std::slice::from_ref(&entry));
        assert_eq!(decode_entries(&bytes), Ok(vec![entry.clone()]));
        // The label flag is one byte that versions up to 6 do not have.
        bytes.truncate(bytes.len() - 1);
        assert_eq!(decode_entries(&bytes), Err(DecodeError::Short));
        let entry = Entry { labelled: false, ..entry };
        for version in [5, 6] {
            bytes[0] = version;
            assert_eq!(decode_entries(&bytes), Ok(vec![entry.clone()]), "{version}");
        }
        // An empty list is its count: two bytes that the first version does not have.
        bytes.truncate(bytes.len() - 2);
        assert_eq!(decode_entries(&bytes), Err(DecodeError::Short));
        bytes[0] = 1;
        assert_eq!(decode_entries(&bytes), Ok(vec![entry]));
        bytes[0] = ENTRY_VERSION + 1;
        let newer = DecodeError::Version(u16::from(ENTRY_VERSION + 1));
        assert_eq!(decode_entries(&bytes), Err(newer));
    }

    #[test]
    fn file_systems_in_records_without_an_owner_are_roots() {
        let request = FilesystemCreate { name: b"fs".to_vec(), permissions: 0o750, uid: 7, gid: 8 };
        let make = MakeFilesystem { request: request.clone(), random: [9; 9] };
        let internal = |make| {
            Entry::internal(Timespec::ZERO, TransactionNumber(7), Operation::FilesystemCreate(make))
        };
        let entry = Entry { placement: List(vec![OstIndex(3)]), ..internal(make) };
        let bytes = encode_entries(std::slice::from_ref(&entry));
        assert_eq!(decode_entries(&bytes), Ok(vec![entry]));
        // Behind owner and group: the random bits, and a list of one. Without the label flag.
        let mut old = bytes;
        old.pop();
        let owner_end = old.len() - 9 - 6;
        old.drain(owner_end - 8..owner_end);
        let request = FilesystemCreate { uid: 0, gid: 0, ..request };
        let roots = internal(MakeFilesystem { request, random: [9; 9] });
        let roots = Entry { labelled: false, ..roots };
        for version in [2, 3, 4] {
            old[0] = version;
            let entry = Entry { placement: List(vec![OstIndex(3)]), ..roots.clone() };
            assert_eq!(decode_entries(&old), Ok(vec![entry]), "{version}");
        }
        old.truncate(old.len() - 6);
        old[0] = 1;
        assert_eq!(decode_entries(&old), Ok(vec![roots]));
    }
}
