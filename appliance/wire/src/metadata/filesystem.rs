//! Messages about whole file systems: made, deleted, listed, their clients, their space.

use sheen_types::{ClientId, Fid, Timespec};

use crate::message;

message! {
    /// [`crate::Opcode::FilesystemCreate`]. Reply: [`FilesystemInfo`].
    pub struct FilesystemCreate {
        /// Name: 1..=63 of `[a-zA-Z0-9._-]`, first a letter or digit.
        pub name: Vec<u8>,
        /// Permissions of the root directory.
        pub permissions: u32,
        /// Owner of the root directory; `u32::MAX` is nobody's id, and refused.
        pub uid: u32,
        /// Group of the root directory; likewise.
        pub gid: u32,
    }
}

message! {
    /// [`crate::Opcode::FilesystemDelete`]. Reply: empty; the content is destroyed in the background.
    pub struct FilesystemDelete {
        /// Name.
        pub name: Vec<u8>,
        /// Delete though it is mounted or not empty.
        pub force: bool,
    }
}

message! {
    /// A file system. The payload of FilesystemList's reply is a [`crate::fields::List`] of these.
    pub struct FilesystemInfo {
        /// `fs-` and 17 hex digits, as FSx ids are.
        pub id: Vec<u8>,
        /// Name.
        pub name: Vec<u8>,
        /// Root.
        pub root: Fid,
        /// When it was made.
        pub created: Timespec,
        /// Inodes in it.
        pub inodes: u64,
        /// Sessions that have it mounted.
        pub clients: u32,
        /// Being deleted.
        pub deleting: bool,
    }
}

message! {
    /// [`crate::Opcode::ClientList`]. Reply: empty, payload a [`crate::fields::List`] of [`ClientInfo`]; -ENOENT: no such file system.
    pub struct ClientList {
        /// Name of the file system.
        pub filesystem: Vec<u8>,
    }
}

message! {
    /// A session that has a file system mounted.
    pub struct ClientInfo {
        /// The session.
        pub client: ClientId,
        /// What the client calls itself, for people; may be empty.
        pub label: Vec<u8>,
    }
}

message! {
    /// FilesystemStatistics. Reply: [`FilesystemStatisticsReply`]. Space is asked of the OSTs.
    pub struct FilesystemStatistics {
        /// Root of the file system.
        pub fid: Fid,
    }
}

message! {
    /// Inodes of a file system.
    pub struct FilesystemStatisticsReply {
        /// Inodes in use.
        pub inodes_used: u64,
        /// Inodes that can be in use.
        pub inodes_max: u64,
    }
}
