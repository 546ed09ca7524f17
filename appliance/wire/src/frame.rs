//! The 72 bytes every message starts with.

use sheen_types::{
    ClientId, Epoch, Tag, TransactionNumber, Xid,
    checksum::{crc32c, crc32c_of_parts},
    units::TRANSFER_BYTES_MAX,
};

use crate::{
    codec::{DecodeError, Decoder, Field},
    number_enum,
};

/// Version of everything in this crate. 1: first. 2: the frame carries the server's incarnation. 3: times are the server's.
/// 4: a file system is made for an owner, room is asked for. 5: attributes tell when
/// `atime` was decided. 6: replies to changes of names tell what the directories are.
/// 7: a client proves to an OST whose session it is.
pub const PROTOCOL_VERSION: u16 = 8;
/// Bytes of an encoded [`Frame`].
pub const FRAME_BYTES: usize = 72;
/// Longest body. Frame and body fit one message slot of 1 KiB; what is longer travels as payload.
pub const BODY_BYTES_MAX: usize = 1024 - FRAME_BYTES;
/// Longest payload: one slab.
pub const PAYLOAD_BYTES_MAX: usize = TRANSFER_BYTES_MAX;

number_enum! {
    /// Direction and meaning of a message.
    pub enum Kind: u8 {
        /// Client to server.
        Request = 1,
        /// Server to client, answers the request with the same xid.
        Reply = 2,
        /// Server to client, unasked; the client answers, if it must, by a request of its own.
        Callback = 3,
    }
}

number_enum! {
    /// What a message asks for. 0x01..: session, 0x10..: metadata, 0x40..: leases and locks,
    /// 0x60..: objects, 0x80..: callbacks.
    pub enum Opcode: u16 {
        /// Opens or re-opens a session with the MDT. Body [`crate::metadata::Connect`].
        Connect = 0x01,
        /// Ends a session.
        Disconnect = 0x02,
        /// Keeps a session alive.
        Ping = 0x03,
        /// Re-asserts opens, leases and locks after the MDT restarted. Payload.
        Reassert = 0x04,
        /// Attaches a connection to an OST service. Body [`crate::metadata::Attach`].
        Attach = 0x05,
        /// Grants a sequence of FIDs to the client.
        SequenceGrant = 0x06,
        /// OSTs that did not fit the answer to Connect.
        OstList = 0x07,
        /// Makes a file system.
        FilesystemCreate = 0x08,
        /// Lists file systems.
        FilesystemList = 0x09,
        /// Deletes a file system with everything in it.
        FilesystemDelete = 0x0a,
        /// Lists the sessions that have a file system mounted. Body [`crate::metadata::ClientList`].
        ClientList = 0x0b,
        /// Name to inode.
        Lookup = 0x10,
        /// Attributes of an inode.
        GetAttributes = 0x11,
        /// Changes attributes.
        SetAttributes = 0x12,
        /// Makes an inode and its entry, and opens it when asked.
        Create = 0x13,
        /// Another name for an inode.
        Link = 0x14,
        /// Removes a name (file or empty directory).
        Unlink = 0x15,
        /// Moves a name.
        Rename = 0x16,
        /// Registers that the client has the inode open.
        Open = 0x17,
        /// Takes [`Opcode::Open`] back.
        Close = 0x18,
        /// Entries of a directory.
        ReadDirectory = 0x19,
        /// Target of a symbolic link.
        ReadLink = 0x1a,
        /// Reads an extended attribute.
        GetXattr = 0x1b,
        /// Sets an extended attribute.
        SetXattr = 0x1c,
        /// Lists extended attributes.
        ListXattr = 0x1d,
        /// Removes an extended attribute.
        RemoveXattr = 0x1e,
        /// Gives objects to the components that cover a range.
        InstantiateLayout = 0x1f,
        /// Space and inodes of a file system.
        FilesystemStatistics = 0x20,
        /// Stores the size, times and space a client learned while it held the data lease.
        UpdateSize = 0x21,
        /// Tells when inodes were last read. Payload.
        TellAccesses = 0x22,
        /// An OST had no room for a change: what lingers is to give some.
        MakeRoom = 0x23,
        /// Asks for lease bits on an inode.
        LeaseRequest = 0x40,
        /// Gives lease bits back (asked by [`Opcode::LeaseRevoke`] or not).
        LeaseCancel = 0x41,
        /// Takes, changes or drops a file lock.
        LockSet = 0x42,
        /// Tells which lock is in the way.
        LockTest = 0x43,
        /// Gives up a waiting [`Opcode::LockSet`].
        LockCancel = 0x44,
        /// Drops every lock of an owner on an inode.
        LockRelease = 0x45,
        /// Writes a range of an object. Payload.
        ObjectWrite = 0x60,
        /// Reads a range of an object. Payload in the reply.
        ObjectRead = 0x61,
        /// Makes a range a hole, or allocated zeros.
        ObjectPunch = 0x62,
        /// Cuts or extends an object.
        ObjectTruncate = 0x63,
        /// Sizes and times of objects.
        ObjectGlimpse = 0x64,
        /// Makes everything acknowledged so far durable.
        ObjectSync = 0x65,
        /// Destroys objects. Reserved for services among themselves: no client is served it.
        ObjectDestroy = 0x66,
        /// Finds data or a hole.
        ObjectSeek = 0x67,
        /// Reserves space for a range.
        ObjectAllocate = 0x68,
        /// Space of the OST.
        ObjectStatistics = 0x69,
        /// Refuses a session from now on. Reserved for services among themselves: no client is served it.
        ObjectFence = 0x6a,
        /// Stores a range anew, compressed or not.
        ObjectRepack = 0x6b,
        /// Server to client: give these lease bits back.
        LeaseRevoke = 0x80,
        /// Server to client: the session was ended by the server.
        Evicted = 0x82,
    }
}

impl Opcode {
    /// Whether the MDT keeps the outcome in the reply slot (client, tag): the client gives each such request a tag no
    /// other has in flight, and a resent one the same tag and xid. Every other request is harmless to repeat and
    /// its tag is ignored. InstantiateLayout is one of those: it gives objects once however often it is asked, and
    /// a client whose slots are all waiting for others must still be able to write back.
    #[must_use]
    pub const fn uses_slot(self) -> bool {
        matches!(
            self,
            Self::SequenceGrant
                | Self::FilesystemCreate
                | Self::FilesystemDelete
                | Self::SetAttributes
                | Self::Create
                | Self::Link
                | Self::Unlink
                | Self::Rename
                | Self::SetXattr
                | Self::RemoveXattr
        )
    }
}

/// The head of a message.
///
/// Statuses every request to an MDT may get: -ENOTCONN, the session is unknown, ended or of another epoch (Connect
/// again); -EAGAIN, except for LockSet and LockTest, a table of the server is full (try again a little later). To what
/// opens: -ENFILE, this client has as much of the table of opens as there is for it.
///
/// | bytes  | field             | meaning                                                     |
/// |--------|-------------------|-------------------------------------------------------------|
/// | 0..2   | version           | [`PROTOCOL_VERSION`]; stays here in every later version      |
/// | 2      | kind              | [`Kind`]                                                     |
/// | 3      | flags             | [`Frame::FLAG_RESENT`], [`Frame::FLAG_KEEPS`]                |
/// | 4..8   | checksum          | CRC32C of frame and body, this field taken as zero           |
/// | 8..16  | xid               | request number; a callback's own count                       |
/// | 16..24 | client            | session the message belongs to; 0 before Connect             |
/// | 24..28 | epoch             | incarnation of the session                                   |
/// | 28..30 | tag               | reply slot of a mutating request                             |
/// | 30..32 | opcode            | [`Opcode`]                                                   |
/// | 32..36 | body_bytes        | 0..=[`BODY_BYTES_MAX`]                                       |
/// | 36..40 | payload_bytes     | request: bytes offered; reply: bytes returned                |
/// | 40..44 | payload_checksum  | CRC32C of the payload                                        |
/// | 44..48 | status            | reply: 0 or a negative errno; else 0                         |
/// | 48..56 | transaction       | reply: number of the change, else 0                          |
/// | 56..64 | committed         | reply: see below. Request: room for a reply payload in bytes |
/// | 64..72 | incarnation       | reply: see below. Request and callback: 0                    |
///
/// An OST numbers the changes of each of its targets 1, 2, … in the order in which they took effect, anew in each
/// incarnation. `committed` is the target's durable sequence: every change of this incarnation with a number up to it
/// survives a loss of power; a change that is not durable may be lost with the incarnation, whatever became of later
/// ones. `incarnation` is drawn when the service starts and never 0. A reply that is about no target (Attach, Ping)
/// carries a `committed` of 0.
///
/// An MDT acknowledges what is durable: `transaction` and `committed` are transaction numbers, `incarnation` is the
/// server's epoch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frame {
    /// See the table.
    pub kind: Kind,
    /// See the table.
    pub flags: u8,
    /// See the table.
    pub xid: Xid,
    /// See the table.
    pub client: ClientId,
    /// See the table.
    pub epoch: Epoch,
    /// See the table.
    pub tag: Tag,
    /// See the table.
    pub opcode: Opcode,
    /// See the table.
    pub body_bytes: u32,
    /// See the table.
    pub payload_bytes: u32,
    /// See the table.
    pub payload_checksum: u32,
    /// See the table.
    pub status: i32,
    /// See the table.
    pub transaction: TransactionNumber,
    /// See the table.
    pub committed: u64,
    /// See the table.
    pub incarnation: u64,
}

impl Frame {
    /// The request was sent before on another connection; it may have been applied.
    pub const FLAG_RESENT: u8 = 1;

    /// Unlink and Rename: the client may have to send changes of the file that loses its name to an
    /// OST again. The MDT asks this client too for DATA before it has the file's objects destroyed.
    pub const FLAG_KEEPS: u8 = 2;

    /// A request with nothing but its opcode and number.
    #[must_use]
    pub const fn request(opcode: Opcode, xid: Xid) -> Self {
        Self {
            kind: Kind::Request,
            flags: 0,
            xid,
            client: ClientId(0),
            epoch: Epoch(0),
            tag: Tag(0),
            opcode,
            body_bytes: 0,
            payload_bytes: 0,
            payload_checksum: 0,
            status: 0,
            transaction: TransactionNumber(0),
            committed: 0,
            incarnation: 0,
        }
    }

    /// The reply to `self` with `status` (0 or a negative errno).
    #[must_use]
    pub const fn reply(&self, status: i32) -> Self {
        Self {
            kind: Kind::Reply,
            flags: 0,
            body_bytes: 0,
            payload_bytes: 0,
            payload_checksum: 0,
            status,
            transaction: TransactionNumber(0),
            committed: 0,
            incarnation: 0,
            ..*self
        }
    }

    /// Writes frame and body, with their lengths and checksum set, to the end of `out`.
    ///
    /// # Panics
    /// When the body is longer than [`BODY_BYTES_MAX`]: senders put long content into the payload.
    pub fn encode_with(&self, body: &[u8], out: &mut Vec<u8>) {
        assert!(body.len() <= BODY_BYTES_MAX, "body of {} bytes for {:?}", body.len(), self.opcode);
        let body_bytes = u32::try_from(body.len()).unwrap_or(0);
        let start = out.len();
        out.extend_from_slice(&self.to_bytes(body_bytes));
        out.extend_from_slice(body);
        // The checksum's own field is still zero, as it is to be taken.
        let checksum = crc32c(&out[start..]);
        out[start + 4..start + 8].copy_from_slice(&checksum.to_le_bytes());
    }

    /// The frame as bytes, with a checksum of zero.
    fn to_bytes(self, body_bytes: u32) -> [u8; FRAME_BYTES] {
        let mut bytes = [0; FRAME_BYTES];
        bytes[0..2].copy_from_slice(&PROTOCOL_VERSION.to_le_bytes());
        bytes[2] = self.kind.number();
        bytes[3] = self.flags;
        bytes[8..16].copy_from_slice(&self.xid.0.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.client.0.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.epoch.0.to_le_bytes());
        bytes[28..30].copy_from_slice(&self.tag.0.to_le_bytes());
        bytes[30..32].copy_from_slice(&self.opcode.number().to_le_bytes());
        bytes[32..36].copy_from_slice(&body_bytes.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.payload_bytes.to_le_bytes());
        bytes[40..44].copy_from_slice(&self.payload_checksum.to_le_bytes());
        bytes[44..48].copy_from_slice(&self.status.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.transaction.0.to_le_bytes());
        bytes[56..64].copy_from_slice(&self.committed.to_le_bytes());
        bytes[64..72].copy_from_slice(&self.incarnation.to_le_bytes());
        bytes
    }

    /// Reads the 72 bytes of a frame without checking the checksum, for transports that must know
    /// the lengths before the body has come.
    ///
    /// # Errors
    /// [`DecodeError`] on another version or an impossible value.
    pub fn peek(bytes: &[u8]) -> Result<Self, DecodeError> {
        // Of a known length, so that no field's place is checked again.
        let head: &[u8; FRAME_BYTES] = bytes.first_chunk().ok_or(DecodeError::Short)?;
        let mut input = Decoder::new(head);
        let version = u16::decode(&mut input)?;
        if version != PROTOCOL_VERSION {
            return Err(DecodeError::Version(version));
        }
        let kind = Kind::decode(&mut input)?;
        let flags = u8::decode(&mut input)?;
        let _checksum = u32::decode(&mut input)?;
        let frame = Self {
            kind,
            flags,
            xid: Field::decode(&mut input)?,
            client: Field::decode(&mut input)?,
            epoch: Field::decode(&mut input)?,
            tag: Field::decode(&mut input)?,
            opcode: Field::decode(&mut input)?,
            body_bytes: Field::decode(&mut input)?,
            payload_bytes: Field::decode(&mut input)?,
            payload_checksum: Field::decode(&mut input)?,
            status: Field::decode(&mut input)?,
            transaction: Field::decode(&mut input)?,
            committed: Field::decode(&mut input)?,
            incarnation: Field::decode(&mut input)?,
        };
        if frame.body_bytes as usize > BODY_BYTES_MAX {
            return Err(DecodeError::Value("body_bytes"));
        }
        if frame.payload_bytes as usize > PAYLOAD_BYTES_MAX {
            return Err(DecodeError::Value("payload_bytes"));
        }
        if frame.kind == Kind::Request && frame.committed > PAYLOAD_BYTES_MAX as u64 {
            return Err(DecodeError::Value("reply room"));
        }
        if frame.kind != Kind::Reply && frame.incarnation != 0 {
            return Err(DecodeError::Value("incarnation"));
        }
        if frame.status > 0 {
            return Err(DecodeError::Value("status"));
        }
        Ok(frame)
    }

    /// Reads and checks a whole message: frame, and the body behind it.
    ///
    /// # Errors
    /// [`DecodeError`] if a length, value or the checksum is wrong.
    pub fn decode_with(bytes: &[u8]) -> Result<(Self, &[u8]), DecodeError> {
        let frame = Self::peek(bytes)?;
        let end = FRAME_BYTES + frame.body_bytes as usize;
        let message = bytes.get(..end).ok_or(DecodeError::Short)?;
        let expected =
            u32::from_le_bytes(message[4..8].try_into().map_err(|_| DecodeError::Short)?);
        let found = message_checksum(message);
        if expected != found {
            return Err(DecodeError::Checksum { expected, found });
        }
        Ok((frame, &message[FRAME_BYTES..]))
    }

    /// Bytes of reply payload the sender of this request has room for.
    #[must_use]
    pub fn reply_room(&self) -> usize {
        usize::try_from(self.committed).unwrap_or(0)
    }
}

/// CRC32C of a message (which has a whole frame) with its checksum field taken as zero.
fn message_checksum(message: &[u8]) -> u32 {
    // One pass over a copy costs less than three over the parts.
    let mut copy = [0; COPY_BYTES];
    let Some(short) = copy.get_mut(..message.len()) else {
        return crc32c_of_parts(&[&message[..4], &[0; 4], &message[8..]]);
    };
    short.copy_from_slice(message);
    short[4..8].fill(0);
    crc32c(short)
}

/// Messages up to this are summed in one pass: all that carry data.
const COPY_BYTES: usize = 192;

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_message_reads_back_as_it_was_written() {
        let frame =
            Frame { tag: Tag(7), client: ClientId(3), ..Frame::request(Opcode::Create, Xid(9)) };
        let mut bytes = Vec::new();
        frame.encode_with(b"body", &mut bytes);
        assert_eq!(bytes.len(), FRAME_BYTES + 4);
        let (read, body) = Frame::decode_with(&bytes).unwrap();
        assert_eq!(read, Frame { body_bytes: 4, ..frame });
        assert_eq!(body, b"body");
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        for body in [&b"x"[..], &[7; COPY_BYTES]] {
            let mut bytes = Vec::new();
            Frame::request(Opcode::Ping, Xid(1)).encode_with(body, &mut bytes);
            assert!(Frame::decode_with(&bytes).is_ok());
            for bit in 0..bytes.len() * 8 {
                let mut damaged = bytes.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                assert!(Frame::decode_with(&damaged).is_err(), "bit {bit}");
            }
        }
    }
}
