//! Bodies of session and metadata messages. The comment at each names the reply's body and payload.

mod filesystem;

use sheen_types::{
    AttributeName, Attributes, ClientId, Epoch, Fid, FileKind, Name, OstIndex, Timespec,
};

use crate::{
    fields::{AttachKey, List},
    flock::FileLock,
    lease::{LeaseGrant, SizeUpdate},
    message,
};

pub use self::filesystem::{
    ClientInfo, ClientList, FilesystemCreate, FilesystemDelete, FilesystemInfo,
    FilesystemStatistics, FilesystemStatisticsReply,
};

message! {
    /// Opens a session, or with `client` != 0 re-opens one after a lost connection. Reply: [`ConnectReply`]. Callbacks come over
    /// the connection from the first request on it that is none of the handshake (Connect, [`OstList`], [`Reassert`]): who sends
    /// that must take them.
    pub struct Connect {
        /// Chosen at random by the client once; the same uuid gets the same session back.
        pub uuid: [u8; 16],
        /// Session to re-open; or 0: nothing is cached under any session of this uuid.
        pub client: ClientId,
        /// Name of the file system; empty for an administrative session (no root).
        pub filesystem: Vec<u8>,
        /// Host name and process of the client, for people.
        pub label: Vec<u8>,
        /// Mutating requests the client may have in flight (tags 0..slots).
        pub slots: u16,
    }
}

message! {
    /// Body of Ping; it may be empty. Reply: [`PingReply`].
    pub struct Ping {
        /// Counts steps of cleaning what is being revoked (write-back, above all). A client that gets on has longer.
        pub cleaned: u64,
    }
}

message! {
    /// Answer to [`Ping`] by an MDT; that of an OST is empty.
    pub struct PingReply {
        /// The server's time.
        pub now: Timespec,
    }
}

message! {
    /// Answer to [`Connect`].
    pub struct ConnectReply {
        /// The session.
        pub client: ClientId,
        /// Its incarnation: goes into every frame from now on, to OSTs too.
        pub epoch: Epoch,
        /// Incarnation of the MDT: if it changed, leases, opens and locks must be re-asserted
        /// ([`Reassert`]) before anything else.
        pub server_epoch: Epoch,
        /// Whether the session was known (else a re-opened session was evicted: everything cached is void).
        pub resumed: bool,
        /// Root of the file system.
        pub root: Fid,
        /// Slots granted.
        pub slots: u16,
        /// From the moment a request was sent that the MDT answered, the client may cache for this long without
        /// another. Milliseconds.
        pub lease_milliseconds: u32,
        /// A client whose connection ended, and that is in somebody's way, is evicted after this long. What is cached
        /// must be void by then. Milliseconds.
        pub reconnect_milliseconds: u32,
        /// The node: uuid of its device, made when it was formatted.
        pub node: [u8; 16],
        /// Id of the file system ([`FilesystemInfo::id`]); empty for an administrative session.
        pub filesystem: Vec<u8>,
        /// OSTs of the system in order of index: the first [`OSTS_PER_REPLY`].
        pub osts: List<OstAddress>,
        /// There are more: [`OstList`] tells.
        pub more_osts: bool,
        /// Proves to an OST service that this session with this epoch is the client's ([`Attach`]).
        pub attach_key: AttachKey,
    }
}

message! {
    /// Makes the connection the only one of a session at an OST service; frame: the session and its epoch. Reply: empty.
    /// EAGAIN: the service was not told of the session, or of this epoch, yet. ENOTCONN: the session ended, or has a later epoch.
    /// EACCES: the key is not this session's, or the peer is not who opened the session.
    pub struct Attach {
        /// [`ConnectReply::attach_key`] of this session and epoch.
        pub key: AttachKey,
    }
}

/// Most OSTs in one reply: it must fit a body.
pub const OSTS_PER_REPLY: usize = 128;

message! {
    /// Asks for OSTs that did not fit the answer to Connect. Reply: [`OstListReply`].
    pub struct OstList {
        /// First index wanted.
        pub from: OstIndex,
    }
}

message! {
    /// Answer to [`OstList`].
    pub struct OstListReply {
        /// At most [`OSTS_PER_REPLY`], in order of index.
        pub osts: List<OstAddress>,
        /// There are more behind the last one.
        pub more: bool,
    }
}

message! {
    /// Where an OST is served: which service (reactor) of the node the connection came to.
    pub struct OstAddress {
        /// The OST.
        pub ost: OstIndex,
        /// Service number within the node: one connection per service serves all its OSTs.
        pub service: u16,
    }
}

message! {
    /// Payload of Reassert: what the client held when the MDT went away. It may be split over
    /// several requests; the last has `complete` set.
    ///
    /// Reply: empty; or with a payload, [`LostLocks`]: the session lives, and this request did not end the assertion, whatever its
    /// `complete` says. The client then sends on without locks of these files, at last a `complete` that is answered empty. A
    /// client that loses locks and left no room for that payload ([`crate::Frame::reply_room`]) is answered -ESTALE and evicted.
    pub struct Reassert {
        /// Inodes it has open: (fid, open for write).
        pub opens: List<HeldOpen>,
        /// Leases it holds.
        pub leases: List<HeldLease>,
        /// File locks it holds.
        pub locks: List<FileLock>,
        /// Nothing more to come.
        pub complete: bool,
    }
}

message! {
    /// Reply payload of [`Reassert`]: files of which the client holds no lock any more, because a lock of it that the request named was
    /// in the way of another client's, or found no place. Each is named once: there are no more than locks in the request.
    pub struct LostLocks {
        /// The files.
        pub files: List<Fid>,
    }
}

message! {
    /// An open held by a client.
    pub struct HeldOpen {
        /// The inode.
        pub fid: Fid,
        /// For writing.
        pub write: bool,
    }
}

message! {
    /// A lease held by a client.
    pub struct HeldLease {
        /// The inode.
        pub fid: Fid,
        /// Bits in PR.
        pub read_bits: u32,
        /// Bits in PW.
        pub write_bits: u32,
    }
}

message! {
    /// [`crate::Opcode::SequenceGrant`]'s reply: the client names its inodes `[sequence:1..=2^17:0]`.
    pub struct SequenceGrantReply {
        /// The granted sequence.
        pub sequence: u64,
    }
}

message! {
    /// Who asks: checked by the MDT for what the kernel cannot know, recorded as owner of new inodes.
    pub struct Credentials {
        /// File system user id.
        pub uid: u32,
        /// File system group id.
        pub gid: u32,
    }
}

message! {
    /// Name to inode. Reply: [`EntryReply`], payload: the layout of a regular file. -ENOENT carries a
    /// [`LeaseGrant`] on the *parent* as body: with UPDATE in it the absence may be cached.
    pub struct Lookup {
        /// The directory.
        pub parent: Fid,
        /// The name; None asks for `..`.
        pub name: Option<Name>,
    }
}

message! {
    /// An inode found or made.
    pub struct EntryReply {
        /// Its attributes.
        pub attributes: Attributes,
        /// What of it may be cached.
        pub lease: LeaseGrant,
        /// What of the directory may be cached.
        pub parent_lease: LeaseGrant,
        /// The directory right after Create or Link changed it, under `parent_lease`. None: nothing is told of it, because it was
        /// not changed, or the request was sent again and that is a while ago.
        pub parent: Option<Attributes>,
        /// For Create with `open`: see [`OpenReply::shared`].
        pub shared: bool,
        /// Whether Create made it (false: it existed and was opened).
        pub created: bool,
    }
}

message! {
    /// Attributes of an inode. Reply: [`AttributesReply`], payload: the layout of a regular file.
    pub struct GetAttributes {
        /// The inode.
        pub fid: Fid,
    }
}

message! {
    /// Attributes after a read or change.
    pub struct AttributesReply {
        /// The attributes.
        pub attributes: Attributes,
        /// What may be cached.
        pub lease: LeaseGrant,
    }
}

/// Which fields of [`SetAttributes`] count.
pub mod set {
    /// `permissions`.
    pub const MODE: u32 = 1;
    /// `uid`.
    pub const UID: u32 = 2;
    /// `gid`.
    pub const GID: u32 = 4;
    /// `size`; mtime := the server's now. The objects are cut after it.
    pub const SIZE: u32 = 8;
    /// `atime`.
    pub const ATIME: u32 = 16;
    /// `mtime`.
    pub const MTIME: u32 = 32;
    /// atime := the server's now.
    pub const ATIME_NOW: u32 = 64;
    /// mtime := the server's now.
    pub const MTIME_NOW: u32 = 128;
    /// `projid`.
    pub const PROJID: u32 = 256;
    /// `flags`.
    pub const FLAGS: u32 = 512;
    /// Drop set-user-ID, and set-group-ID if group-executable, for a write by somebody unprivileged.
    pub const KILL_SUIDGID: u32 = 1024;
    /// `ctime`, which no request may set: in records of the log that were written up to version 2 of the wire.
    pub const CTIME: u32 = 2048;
    /// With [`KILL_SUIDGID`]: drop set-group-ID also without group-execute; the writer is not in the group.
    pub const KILL_SGID: u32 = 4096;
    /// `ctime` is when objects of the file were last changed: what is set is later. Where a clock was ahead and set back, that is not
    /// so by itself.
    pub const AFTER: u32 = 8192;
}

message! {
    /// Changes attributes. Reply: [`AttributesReply`], payload: the layout of a regular file.
    pub struct SetAttributes {
        /// The inode.
        pub fid: Fid,
        /// OR of [`set`].
        pub valid: u32,
        /// Permission bits.
        pub permissions: u32,
        /// Owner.
        pub uid: u32,
        /// Group.
        pub gid: u32,
        /// Project.
        pub projid: u32,
        /// Size.
        pub size: u64,
        /// Access time.
        pub atime: Timespec,
        /// Modification time.
        pub mtime: Timespec,
        /// See [`set::AFTER`] and [`set::CTIME`].
        pub ctime: Timespec,
        /// Inode flags (`FS_*_FL`).
        pub flags: u32,
        /// Who asks.
        pub credentials: Credentials,
    }
}

impl SetAttributes {
    /// Changes what `valid` says, all of it to 0.
    #[must_use]
    pub const fn zeroing(fid: Fid, valid: u32, credentials: Credentials) -> Self {
        Self {
            fid,
            valid,
            permissions: 0,
            uid: 0,
            gid: 0,
            projid: 0,
            size: 0,
            atime: Timespec::ZERO,
            mtime: Timespec::ZERO,
            ctime: Timespec::ZERO,
            flags: 0,
            credentials,
        }
    }
}

message! {
    /// Makes an inode. Reply: [`EntryReply`], payload: the layout of a regular file. Idempotent on `fid`.
    /// With `open`, and without `exclusive`, a name that leads to anything but a regular file gives -ESTALE: the
    /// caller believed it free and looks it up anew.
    pub struct Create {
        /// The directory.
        pub parent: Fid,
        /// The name.
        pub name: Name,
        /// Id for the new inode, from a sequence granted to the client.
        pub fid: Fid,
        /// Kind.
        pub kind: FileKind,
        /// Permission bits as the program gave them.
        pub permissions: u32,
        /// The process's umask: applied here unless the directory has a default ACL.
        pub umask: u32,
        /// Device number of a special file.
        pub rdev: u64,
        /// Fail with -EEXIST if the name is taken. Without it an existing inode is returned (opened).
        pub exclusive: bool,
        /// Register an open by this client: 0 none, 1 read, 2 write.
        pub open: u8,
        /// Owner and group of the new inode (the directory's set-group-ID bit changes the group).
        pub credentials: Credentials,
        /// `O_TMPFILE`: make it without a name (`name` is ignored; it is an orphan until linked).
        pub unnamed: bool,
    }
    // Payload of a symbolic link's Create: its target, 1..=4095 bytes.
}

message! {
    /// Another name. Reply: [`EntryReply`].
    pub struct Link {
        /// The inode.
        pub fid: Fid,
        /// The directory of the new name.
        pub parent: Fid,
        /// The new name.
        pub name: Name,
    }
}

message! {
    /// Removes a name. Reply: [`UnlinkReply`].
    pub struct Unlink {
        /// The directory.
        pub parent: Fid,
        /// The name.
        pub name: Name,
        /// Expect a directory (`rmdir`), else anything but one.
        pub directory: bool,
        /// Who asks, for the sticky bit.
        pub credentials: Credentials,
    }
}

message! {
    /// What went away.
    pub struct UnlinkReply {
        /// The inode the name led to.
        pub fid: Fid,
        /// Its links now.
        pub nlink: u32,
        /// The directory right after the change. None: the request was sent again, and that is a while ago.
        pub parent: Option<AttributesReply>,
    }
}

message! {
    /// Moves a name. Reply: [`RenameReply`].
    pub struct Rename {
        /// Directory it is in.
        pub from_parent: Fid,
        /// Its name.
        pub from_name: Name,
        /// Directory it goes to.
        pub to_parent: Fid,
        /// Its new name.
        pub to_name: Name,
        /// `RENAME_NOREPLACE` 1, `RENAME_EXCHANGE` 2, `RENAME_WHITEOUT` 4.
        pub flags: u32,
        /// Who asks, for the sticky bit.
        pub credentials: Credentials,
        /// Id for the whiteout of `RENAME_WHITEOUT`, else [`Fid::NONE`].
        pub whiteout: Fid,
    }
}

message! {
    /// What a rename did.
    pub struct RenameReply {
        /// The inode that moved.
        pub moved: Fid,
        /// The inode that was replaced (or exchanged), or [`Fid::NONE`].
        pub replaced: Fid,
        /// The directory of the old name right after the change. None: as [`UnlinkReply::parent`].
        pub from_parent: Option<AttributesReply>,
        /// The directory of the new name, likewise; None too if it is the same one.
        pub to_parent: Option<AttributesReply>,
    }
}

message! {
    /// Registers that this client has the inode open, or goes on to use it, of whatever kind, though it has no name. Counted
    /// per client, not per descriptor: a client sends it for its first descriptor (and again to add `write`). Reply:
    /// [`OpenReply`], payload: the layout.
    /// -EPERM: for writing, and the inode is immutable, or append-only without `append`.
    pub struct Open {
        /// The inode.
        pub fid: Fid,
        /// For writing.
        pub write: bool,
        /// Every write goes to the end (`O_APPEND`).
        pub append: bool,
    }
}

message! {
    /// Answer to [`Open`].
    pub struct OpenReply {
        /// Attributes.
        pub attributes: Attributes,
        /// What may be cached.
        pub lease: LeaseGrant,
        /// Another client has it open and one of all openers writes: this descriptor must not use the kernel's
        /// page cache for read(2) and write(2).
        pub shared: bool,
    }
}

message! {
    /// Takes [`Open`] back. Reply: empty.
    pub struct Close {
        /// The inode.
        pub fid: Fid,
        /// Only the write part.
        pub write_only: bool,
    }
}

message! {
    /// Entries behind `cookie`. Reply: [`ReadDirectoryReply`], payload: [`crate::directory::DirectoryEntry`]s
    /// one after the other, as many as fit the reply room. -ENOENT: the directory was removed.
    pub struct ReadDirectory {
        /// The directory.
        pub fid: Fid,
        /// Where to go on; 0 for the start.
        pub cookie: u64,
        /// With attributes and leases.
        pub plus: bool,
    }
}

message! {
    /// Head of a directory page.
    pub struct ReadDirectoryReply {
        /// What of the directory may be cached.
        pub lease: LeaseGrant,
        /// The parent, for `..`.
        pub parent: Fid,
        /// Entries in the payload.
        pub count: u32,
        /// Nothing follows the last entry.
        pub end: bool,
    }
}

message! {
    /// ReadLink. Reply: empty body, payload: the target.
    pub struct ReadLink {
        /// The symbolic link.
        pub fid: Fid,
    }
}

message! {
    /// GetXattr and RemoveXattr. Reply to GetXattr: payload is the value. Names are those of the system call:
    /// `user.`, `trusted.`, `security.`, `system.posix_acl_access`, `system.posix_acl_default`.
    pub struct XattrName {
        /// The inode.
        pub fid: Fid,
        /// The whole name.
        pub name: AttributeName,
    }
}

message! {
    /// SetXattr; payload: the value, at most 64 KiB. Reply: [`AttributesReply`] (an ACL changes the mode).
    pub struct SetXattr {
        /// The inode.
        pub fid: Fid,
        /// The whole name.
        pub name: AttributeName,
        /// `XATTR_CREATE` 1, `XATTR_REPLACE` 2.
        pub flags: u32,
        /// Drop set-group-ID (`FUSE_SETXATTR_ACL_KILL_SGID`).
        pub kill_sgid: bool,
    }
}

message! {
    /// ListXattr. Reply: payload is the names, each ended by NUL.
    pub struct ListXattr {
        /// The inode.
        pub fid: Fid,
    }
}

message! {
    /// Gives objects to every component of the layout that meets the range. Reply: empty body, payload: the layout.
    pub struct InstantiateLayout {
        /// The file.
        pub fid: Fid,
        /// First byte.
        pub start: u64,
        /// First byte behind.
        pub end: u64,
    }
}

message! {
    /// UpdateSize. Reply: empty.
    pub struct UpdateSize {
        /// What the client learned.
        pub update: SizeUpdate,
    }
}

message! {
    /// Payload of TellAccesses. Reply: empty. Nobody's lease is in its way: caches elsewhere show the access when they next
    /// ask. A time counts if it is later than what the MDT has and not after its now.
    pub struct TellAccesses {
        /// At most [`ACCESSES_MAX`].
        pub accesses: List<Access>,
    }
}

message! {
    /// [`crate::Opcode::MakeRoom`]. Reply: [`MakeRoomReply`], when what lost its name before is destroyed on that OST, or
    /// after two seconds. -EINVAL: there is no such OST. -EBUSY: clients are coming back after a start, or the OST may still
    /// carry out what those that did not come back sent; ask again.
    pub struct MakeRoom {
        /// The OST that had no room.
        pub ost: OstIndex,
    }
}

message! {
    /// Answer to [`MakeRoom`].
    pub struct MakeRoomReply {
        /// Objects destroyed on the OST since the MDT started. As before: no room came.
        pub destroyed: u64,
    }
}

/// Most inodes in one [`TellAccesses`].
pub const ACCESSES_MAX: usize = 1024;

message! {
    /// An inode was read.
    pub struct Access {
        /// The inode. One that is gone, or that keeps no access times, is passed over.
        pub fid: Fid,
        /// When, by the server's clock as far as the client knows it.
        pub atime: Timespec,
    }
}
