//! The messages of vfio-user: header, commands, and the payloads of fixed size.
//!
//! Source: "vfio-user Protocol Specification", QEMU `docs/interop/vfio-user.rst` (read at commit 1053bb627cf5), cited
//! as `[vfio-user §Heading]`. Offsets are those of its tables. Payloads of variable size: [`super::version`],
//! [`super::region`], [`super::interrupts`]. Deliberately absent: migration (`DEVICE_FEATURE`, `MIG_DATA_*`), which a
//! driver has no use for; the server's decoder answers those with an error.

use super::layout::layout;

/// Protocol version proposed: major must match, the server may lower the minor `[vfio-user §VFIO_USER_VERSION]`.
/// Nothing later than 0.0 is needed; optional parts are negotiated by capability.
pub const PROTOCOL_MAJOR: u16 = 0;
/// See [`PROTOCOL_MAJOR`].
pub const PROTOCOL_MINOR: u16 = 0;

/// Most data of one REGION or DMA access we send or take; the specification's default `max_data_xfer_size`.
/// A peer that offers less is honoured.
pub const TRANSFER_BYTES_MAX: u32 = 1 << 20;

/// Largest message taken: header, the largest fixed part (32 bytes) and the data. A larger one ends the connection.
pub const MESSAGE_BYTES_MAX: u32 = 16 + 32 + TRANSFER_BYTES_MAX;

/// Descriptors taken with one message (`max_msg_fds`). More end the connection: they would be lost.
pub const DESCRIPTORS_MAX: usize = 32;

macro_rules! commands {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)*) => {
        /// What a message asks or answers `[vfio-user §Commands]`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Command { $($(#[$doc])* $name = $number,)* }

        impl Command {
            /// All commands of the specification's table, in its order.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The number on the wire.
            #[must_use]
            pub const fn number(self) -> u16 {
                match self { $(Self::$name => $number,)* }
            }

            /// The command with this number.
            #[must_use]
            pub const fn from_number(number: u16) -> Option<Self> {
                match number { $($number => Some(Self::$name),)* _ => None }
            }
        }
    };
}

commands! {
    /// Proposes a protocol version and capabilities; the first message.
    Version = 1,
    /// Memory the server may reach from now on.
    DmaMap = 2,
    /// Memory the server may reach no more.
    DmaUnmap = 3,
    /// What device this is.
    DeviceGetInfo = 4,
    /// A region: size, access, what of it can be mapped.
    DeviceGetRegionInfo = 5,
    /// Descriptors that stand for accesses to parts of a region.
    DeviceGetRegionIoFds = 6,
    /// An interrupt type.
    DeviceGetIrqInfo = 7,
    /// Connects interrupts with eventfds.
    DeviceSetIrqs = 8,
    /// Reads from a region.
    RegionRead = 9,
    /// Writes to a region.
    RegionWrite = 10,
    /// The server reads memory of the client.
    DmaRead = 11,
    /// The server writes memory of the client.
    DmaWrite = 12,
    /// Resets the device.
    DeviceReset = 13,
    /// Several small region writes at once.
    RegionWriteMulti = 15,
    /// Migration features; not used here.
    DeviceFeature = 16,
    /// Migration data; not used here.
    MigDataRead = 17,
    /// Migration data; not used here.
    MigDataWrite = 18,
}

layout! {
    /// The 16 bytes before every payload, as they are on the wire `[vfio-user §Header]`.
    pub struct RawHeader: 16 {
        /// Chosen by the sender of a command, echoed in its reply.
        0 id: u16,
        /// [`Command`] as a number.
        2 command: u16,
        /// Of the whole message, this header included.
        4 size: u32,
        /// Bits 0-3 type, 4 no reply wanted, 5 error.
        8 flags: u32,
        /// In a reply with the error bit: an errno, or zero.
        12 error: u32,
    }
}

const TYPE_MASK: u32 = 0xf;
const TYPE_COMMAND: u32 = 0;
const TYPE_REPLY: u32 = 1;
const FLAG_NO_REPLY: u32 = 1 << 4;
const FLAG_ERROR: u32 = 1 << 5;

/// What kind of message a header announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A command that wants its reply.
    Command,
    /// A command that wants none.
    Posted,
    /// The command was carried out.
    Reply,
    /// The command failed with this errno (EIO where the peer gave none).
    Failure(u32),
}

/// A header whose size and type have been checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Chosen by the sender of the command.
    pub id: u16,
    /// Command number, known or not.
    pub command: u16,
    /// Bytes behind the header.
    pub payload_bytes: u32,
    /// Command or reply.
    pub kind: Kind,
}

/// Why sixteen bytes are no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderError {
    /// The size does not reach the end of the header, or passes [`MESSAGE_BYTES_MAX`].
    Size(u32),
    /// The type is neither command nor reply.
    Type(u32),
}

impl Header {
    /// Size of a header.
    pub const BYTES: usize = RawHeader::BYTES;

    /// Errno of a failure whose sender gave none.
    const EIO: u32 = 5;

    /// Appends the header.
    ///
    /// # Panics
    /// When the payload is larger than a message can be; its sender has checked.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let (flags, error) = match self.kind {
            Kind::Command => (TYPE_COMMAND, 0),
            Kind::Posted => (TYPE_COMMAND | FLAG_NO_REPLY, 0),
            Kind::Reply => (TYPE_REPLY, 0),
            Kind::Failure(errno) => (TYPE_REPLY | FLAG_ERROR, errno),
        };
        let size = self.payload_bytes.checked_add(16).expect("a payload below the message bound");
        RawHeader { id: self.id, command: self.command, size, flags, error }.encode(out);
    }

    /// Reads and checks a header.
    ///
    /// # Errors
    /// [`HeaderError`] when size or type are impossible.
    pub fn decode(bytes: &[u8; Self::BYTES]) -> Result<Self, HeaderError> {
        let raw = RawHeader::decode(bytes).ok_or(HeaderError::Size(0))?;
        let payload_bytes = match raw.size.checked_sub(16) {
            Some(payload) if raw.size <= MESSAGE_BYTES_MAX => payload,
            _ => return Err(HeaderError::Size(raw.size)),
        };
        let kind = match raw.flags & TYPE_MASK {
            TYPE_COMMAND if raw.flags & FLAG_NO_REPLY != 0 => Kind::Posted,
            TYPE_COMMAND => Kind::Command,
            TYPE_REPLY if raw.flags & FLAG_ERROR == 0 => Kind::Reply,
            // "It may be zero even if the Error bit is set in Flags."
            TYPE_REPLY if raw.error == 0 => Kind::Failure(Self::EIO),
            TYPE_REPLY => Kind::Failure(raw.error),
            other => return Err(HeaderError::Type(other)),
        };
        Ok(Self { id: raw.id, command: raw.command, payload_bytes, kind })
    }
}

layout! {
    /// Request of DMA_MAP; the reply is empty `[vfio-user §VFIO_USER_DMA_MAP]`.
    pub struct DmaMap: 32 {
        /// Size of this structure.
        0 argsz: u32,
        /// [`DMA_READABLE`], [`DMA_WRITEABLE`].
        4 flags: u32,
        /// Of the region in the descriptor sent along, zero without one.
        8 offset: u64,
        /// Device address of the first byte.
        16 address: u64,
        /// Bytes.
        24 size: u64,
    }
}

/// [`DmaMap::flags`]: the server may read.
pub const DMA_READABLE: u32 = 1 << 0;
/// [`DmaMap::flags`]: the server may write.
pub const DMA_WRITEABLE: u32 = 1 << 1;

layout! {
    /// Request and reply of DMA_UNMAP `[vfio-user §VFIO_USER_DMA_UNMAP]`.
    pub struct DmaUnmap: 24 {
        /// Largest reply payload taken.
        0 argsz: u32,
        /// Zero.
        4 flags: u32,
        /// As mapped.
        8 address: u64,
        /// As mapped.
        16 size: u64,
    }
}

layout! {
    /// Request and reply of DEVICE_GET_INFO `[vfio-user §VFIO_USER_DEVICE_GET_INFO]`.
    pub struct DeviceInfo: 16 {
        /// Request: largest reply payload taken. Reply: size needed.
        0 argsz: u32,
        /// [`DEVICE_RESETS`], [`DEVICE_IS_PCI`].
        4 flags: u32,
        /// Regions, PCI's nine and more.
        8 num_regions: u32,
        /// Interrupt types.
        12 num_irqs: u32,
    }
}

/// [`DeviceInfo::flags`]: DEVICE_RESET is understood.
pub const DEVICE_RESETS: u32 = 1 << 0;
/// [`DeviceInfo::flags`]: a PCI device; the only kind the protocol has.
pub const DEVICE_IS_PCI: u32 = 1 << 1;

layout! {
    /// Request and head of the reply of DEVICE_GET_REGION_IO_FDS
    /// `[vfio-user §VFIO_USER_DEVICE_GET_REGION_IO_FDS]`.
    pub struct RegionIoFds: 16 {
        /// Request: largest reply payload taken. Reply: size needed.
        0 argsz: u32,
        /// Zero.
        4 flags: u32,
        /// Region.
        8 index: u32,
        /// Reply: sub-regions that follow; request: zero.
        12 count: u32,
    }
}

layout! {
    /// A sub-region in the reply of DEVICE_GET_REGION_IO_FDS, either type
    /// `[vfio-user §Sub-Region IO FD info format (ioeventfd)]`.
    pub struct SubRegionIo: 40 {
        /// In the region.
        0 offset: u64,
        /// Bytes, zero when the access size does not matter.
        8 size: u64,
        /// Which descriptor of the message.
        16 fd_index: u32,
        /// 0 ioeventfd, 1 ioregionfd.
        20 kind: u32,
        /// KVM's flags.
        24 flags: u32,
        /// Zero.
        28 padding: u32,
        /// Value to match (ioeventfd) or to pass on (ioregionfd).
        32 data: u64,
    }
}

layout! {
    /// Request and reply of DEVICE_GET_IRQ_INFO `[vfio-user §VFIO_USER_DEVICE_GET_IRQ_INFO]`.
    pub struct IrqInfo: 16 {
        /// Request: largest reply payload taken. Reply: size needed.
        0 argsz: u32,
        /// [`super::interrupts`]' `IRQ_*` bits.
        4 flags: u32,
        /// Interrupt type.
        8 index: u32,
        /// Reply: interrupts of the type.
        12 count: u32,
    }
}

layout! {
    /// Head of REGION_READ and REGION_WRITE, requests and replies `[vfio-user §VFIO_USER_REGION_READ]`.
    pub struct RegionAccess: 16 {
        /// In the region.
        0 offset: u64,
        /// Region index.
        8 region: u32,
        /// Bytes of data.
        12 count: u32,
    }
}

layout! {
    /// Head of DMA_READ and DMA_WRITE, requests and replies `[vfio-user §VFIO_USER_DMA_READ]`.
    ///
    /// The table of DMA_WRITE's reply gives `count` four bytes, every other table of the pair eight; servers in use
    /// expect eight. Eight are sent; the first four are the same bytes either way.
    pub struct DmaAccess: 16 {
        /// Device address.
        0 address: u64,
        /// Bytes of data.
        8 count: u64,
    }
}

layout! {
    /// One write of REGION_WRITE_MULTI `[vfio-user §Single Device Write Format]`.
    pub struct SingleWrite: 24 {
        /// In the region.
        0 offset: u64,
        /// Region index.
        8 region: u32,
        /// Bytes of `data` that count, at most eight.
        12 count: u32,
        /// Little-endian.
        16 data: u64,
    }
}

/// Index of BAR 0 among the regions of a PCI device (`VFIO_PCI_BAR0_REGION_INDEX`).
pub const REGION_BAR0: u32 = 0;
/// Index of the configuration space among the regions of a PCI device (`VFIO_PCI_CONFIG_REGION_INDEX`).
pub const REGION_CONFIG: u32 = 7;
