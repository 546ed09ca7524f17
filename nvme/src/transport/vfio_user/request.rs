//! What a client asks, decoded for a server; and the answers, encoded.
//!
//! A server receives a [`Message`] from its [`super::Socket`], decodes it to a [`Request`], acts, and sends
//! [`reply`] or [`refuse`]. Requests come from outside: anything impossible is an [`Errno`] to refuse it with, and
//! the descriptors of a refused message are closed.

use std::{
    os::fd::{BorrowedFd, OwnedFd},
    time::Instant,
};

use nix::errno::Errno;

use super::{
    interrupts::{Action, Data, IrqSetHead},
    message::{
        Command, DeviceInfo, DmaMap, DmaUnmap, Header, IrqInfo, Kind, RegionAccess, RegionIoFds,
        SingleWrite, TRANSFER_BYTES_MAX,
    },
    region::{Region, RegionHead},
    socket::{Message, Socket, SocketError},
    version::Version,
};

/// A command of a client.
#[derive(Debug)]
pub enum Request {
    /// First message: answer with [`Reply::Version`] or close.
    Version(Version),
    /// Memory to map; without a descriptor it is reached by DMA_READ and DMA_WRITE only.
    DmaMap(DmaMap, Option<OwnedFd>),
    /// Memory to forget, mapping included, before the reply is sent.
    DmaUnmap(DmaUnmap),
    /// What device this is.
    DeviceInfo,
    /// Region `index`; the reply may take `argsz` bytes.
    RegionInfo {
        /// Region.
        index: u32,
        /// Largest reply payload taken.
        argsz: u32,
    },
    /// Descriptors for parts of a region; a server that has none refuses.
    RegionIoFds(RegionIoFds),
    /// Interrupt type `index`.
    IrqInfo {
        /// Interrupt type.
        index: u32,
    },
    /// Interrupts `start..start + count` of type `index`.
    SetIrqs(IrqSet),
    /// Read `count` bytes.
    RegionRead(RegionAccess),
    /// Write these bytes.
    RegionWrite(RegionAccess, Vec<u8>),
    /// Write these, in order.
    RegionWriteMulti(Vec<SingleWrite>),
    /// Reset the device.
    Reset,
}

/// What SET_IRQS asks, checked for consistency but not against the device.
#[derive(Debug)]
pub struct IrqSet {
    /// What to do.
    pub action: Action,
    /// Interrupt type.
    pub index: u32,
    /// First interrupt.
    pub start: u32,
    /// Interrupts; zero: all of the type are disabled.
    pub count: u32,
    /// With what.
    pub data: IrqData,
}

/// The data of an [`IrqSet`].
#[derive(Debug)]
pub enum IrqData {
    /// Perform the action.
    None,
    /// Perform it where true; as many as the count.
    Bools(Vec<bool>),
    /// Signal these from now on; as many as the count, or none: forget the ones there are.
    Eventfds(Vec<OwnedFd>),
}

impl Request {
    /// Decodes a command.
    ///
    /// # Errors
    /// The errno to [`refuse`] it with: EINVAL for a malformed one, ENOTSUP for one a server does not take.
    pub fn decode(message: Message) -> Result<Self, Errno> {
        let Message { header, payload, mut descriptors } = message;
        if !matches!(header.kind, Kind::Command | Kind::Posted) {
            return Err(Errno::EINVAL);
        }
        let command = Command::from_number(header.command).ok_or(Errno::ENOTSUP)?;
        let descriptors_max = match command {
            Command::DmaMap => 1,
            Command::DeviceSetIrqs => usize::MAX,
            _ => 0,
        };
        if descriptors.len() > descriptors_max {
            return Err(Errno::EINVAL);
        }
        let bytes = payload.as_slice();
        match command {
            Command::Version => Version::decode(bytes).ok().map(Self::Version),
            Command::DmaMap => DmaMap::decode(bytes)
                .filter(|map| map.argsz >= 32 && map.size != 0)
                .filter(|map| map.address.checked_add(map.size).is_some())
                .map(|map| Self::DmaMap(map, descriptors.pop())),
            Command::DmaUnmap => {
                DmaUnmap::decode(bytes).filter(|unmap| unmap.argsz >= 24).map(Self::DmaUnmap)
            }
            Command::DeviceGetInfo => {
                DeviceInfo::decode(bytes).filter(|info| info.argsz >= 16).map(|_| Self::DeviceInfo)
            }
            Command::DeviceGetRegionInfo => RegionHead::decode(bytes)
                .filter(|head| head.argsz >= 32)
                .map(|head| Self::RegionInfo { index: head.index, argsz: head.argsz }),
            Command::DeviceGetRegionIoFds => {
                let head = RegionIoFds::decode(bytes).filter(|head| head.flags == 0);
                head.filter(|head| head.count == 0 && head.argsz >= 16).map(Self::RegionIoFds)
            }
            Command::DeviceGetIrqInfo => IrqInfo::decode(bytes)
                .filter(|info| info.argsz >= 16)
                .map(|info| Self::IrqInfo { index: info.index }),
            Command::DeviceSetIrqs => irq_set(bytes, descriptors).map(Self::SetIrqs),
            Command::RegionRead => RegionAccess::decode(bytes)
                .filter(|access| access.count <= TRANSFER_BYTES_MAX)
                .filter(|_| bytes.len() == RegionAccess::BYTES)
                .map(Self::RegionRead),
            Command::RegionWrite => RegionAccess::decode(bytes).and_then(|access| {
                let data = bytes.get(RegionAccess::BYTES..)?;
                (usize::try_from(access.count) == Ok(data.len()))
                    .then(|| Self::RegionWrite(access, data.to_vec()))
            }),
            Command::RegionWriteMulti => writes(bytes).map(Self::RegionWriteMulti),
            Command::DeviceReset => bytes.is_empty().then_some(Self::Reset),
            // The server's own commands, and migration.
            Command::DmaRead
            | Command::DmaWrite
            | Command::DeviceFeature
            | Command::MigDataRead
            | Command::MigDataWrite => return Err(Errno::ENOTSUP),
        }
        .ok_or(Errno::EINVAL)
    }
}

fn irq_set(bytes: &[u8], descriptors: Vec<OwnedFd>) -> Option<IrqSet> {
    let head = IrqSetHead::decode(bytes)?;
    let (data, action) = head.parts()?;
    head.start.checked_add(head.count)?;
    let rest = bytes.get(IrqSetHead::BYTES..)?;
    let count = usize::try_from(head.count).ok()?;
    let data = match data {
        _ if usize::try_from(head.argsz) != Ok(bytes.len()) => return None,
        Data::None if rest.is_empty() && descriptors.is_empty() => {
            // A count of zero is the special case "disable all", which only triggering has.
            let all = head.count == 0;
            (!all || (head.start == 0 && action == Action::Trigger)).then_some(IrqData::None)?
        }
        Data::Bools if rest.len() == count && descriptors.is_empty() && count > 0 => {
            let bools: Option<Vec<bool>> = rest
                .iter()
                .map(|byte| match byte {
                    0 => Some(false),
                    1 => Some(true),
                    _ => None,
                })
                .collect();
            IrqData::Bools(bools?)
        }
        Data::Eventfds if rest.is_empty() && count > 0 => {
            let fits = descriptors.is_empty() || descriptors.len() == count;
            fits.then_some(IrqData::Eventfds(descriptors))?
        }
        Data::None | Data::Bools | Data::Eventfds => return None,
    };
    Some(IrqSet { action, index: head.index, start: head.start, count: head.count, data })
}

fn writes(bytes: &[u8]) -> Option<Vec<SingleWrite>> {
    let count = u64::from_le_bytes(*bytes.first_chunk()?);
    let list = bytes.get(8..)?;
    let length = usize::try_from(count).ok()?.checked_mul(SingleWrite::BYTES)?;
    if list.len() != length {
        return None;
    }
    let writes = list.chunks_exact(SingleWrite::BYTES).map(SingleWrite::decode);
    writes.map(|write| write.filter(|write| (1..=8).contains(&write.count))).collect()
}

/// What a server answers.
#[derive(Clone, Debug)]
pub enum Reply<'a> {
    /// To VERSION.
    Version(Version),
    /// To DMA_MAP, SET_IRQS and DEVICE_RESET: nothing but the header.
    Empty,
    /// To DMA_UNMAP: the entry as it was mapped.
    DmaUnmap(DmaUnmap),
    /// To DEVICE_GET_INFO; `argsz` is filled in.
    DeviceInfo {
        /// [`super::message::DEVICE_RESETS`] and [`super::message::DEVICE_IS_PCI`].
        flags: u32,
        /// Regions.
        num_regions: u32,
        /// Interrupt types.
        num_irqs: u32,
    },
    /// To DEVICE_GET_REGION_INFO of a client that takes `argsz` bytes. The descriptor to map it by goes with the
    /// reply only when the whole of it fits.
    Region {
        /// The region.
        region: &'a Region,
        /// From the request.
        argsz: u32,
    },
    /// To DEVICE_GET_IRQ_INFO; `argsz` is filled in.
    IrqInfo {
        /// Interrupt type.
        index: u32,
        /// [`super::interrupts`]' `IRQ_*` bits.
        flags: u32,
        /// Interrupts of the type.
        count: u32,
    },
    /// To REGION_READ.
    RegionRead(RegionAccess, &'a [u8]),
    /// To REGION_WRITE.
    RegionWrite(RegionAccess),
    /// To REGION_WRITE_MULTI: writes carried out.
    RegionWriteMulti(u64),
}

impl Reply<'_> {
    /// Appends the payload. Returns whether a descriptor may go along.
    pub fn encode(&self, out: &mut Vec<u8>) -> bool {
        match *self {
            Self::Version(version) => version.encode(out),
            Self::Empty => {}
            Self::DmaUnmap(entry) => entry.encode(out),
            Self::DeviceInfo { flags, num_regions, num_irqs } => {
                DeviceInfo { argsz: 16, flags, num_regions, num_irqs }.encode(out);
            }
            Self::Region { region, argsz } => return region.encode(argsz, out),
            Self::IrqInfo { index, flags, count } => {
                IrqInfo { argsz: 16, flags, index, count }.encode(out);
            }
            Self::RegionRead(access, data) => {
                access.encode(out);
                out.extend_from_slice(data);
            }
            Self::RegionWrite(access) => access.encode(out),
            Self::RegionWriteMulti(count) => out.extend_from_slice(&count.to_le_bytes()),
        }
        true
    }
}

/// Answers the command `header` stands before, unless it wants no answer.
///
/// # Errors
/// [`SocketError`]: close the connection.
pub fn reply(
    socket: &Socket,
    header: &Header,
    reply: &Reply<'_>,
    descriptors: &[BorrowedFd<'_>],
    deadline: Option<Instant>,
) -> Result<(), SocketError> {
    let mut payload = Vec::new();
    let with = if reply.encode(&mut payload) { descriptors } else { &[] };
    answer(socket, header, Kind::Reply, &payload, with, deadline)
}

/// Answers the command `header` stands before with an errno, unless it wants no answer.
///
/// # Errors
/// [`SocketError`]: close the connection.
pub fn refuse(
    socket: &Socket,
    header: &Header,
    errno: Errno,
    deadline: Option<Instant>,
) -> Result<(), SocketError> {
    // "If an error occurs, the reply message must only include the reply header."
    let number = (errno as i32).unsigned_abs();
    answer(socket, header, Kind::Failure(number), &[], &[], deadline)
}

fn answer(
    socket: &Socket,
    header: &Header,
    kind: Kind,
    payload: &[u8],
    descriptors: &[BorrowedFd<'_>],
    deadline: Option<Instant>,
) -> Result<(), SocketError> {
    match header.kind {
        Kind::Command => {
            socket.send((header.id, header.command, kind), payload, descriptors, deadline)
        }
        Kind::Posted | Kind::Reply | Kind::Failure(_) => Ok(()),
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use std::os::unix::net::UnixStream;

    fn message(command: u16, payload: &[u8], descriptors: usize) -> Message {
        let payload_bytes = u32::try_from(payload.len()).unwrap();
        let header = Header { id: 1, command, payload_bytes, kind: Kind::Command };
        let descriptor = || UnixStream::pair().unwrap().0.into();
        let descriptors = (0..descriptors).map(|_| descriptor()).collect();
        Message { header, payload: payload.to_vec(), descriptors }
    }

    fn decode(command: Command, payload: &[u8], descriptors: usize) -> Result<Request, Errno> {
        Request::decode(message(command.number(), payload, descriptors))
    }

    fn words(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    #[test]
    fn commands_a_server_does_not_take_are_not_supported() {
        assert_eq!(Request::decode(message(14, &[], 0)).unwrap_err(), Errno::ENOTSUP);
        assert_eq!(Request::decode(message(99, &[], 0)).unwrap_err(), Errno::ENOTSUP);
        for command in [Command::DmaRead, Command::DmaWrite, Command::MigDataRead] {
            assert_eq!(decode(command, &[0; 32], 0).unwrap_err(), Errno::ENOTSUP);
        }
        let mut reply = message(9, &[0; 16], 0);
        reply.header.kind = Kind::Reply;
        assert_eq!(Request::decode(reply).unwrap_err(), Errno::EINVAL);
    }

    #[test]
    fn every_command_is_refused_when_it_is_too_short_or_brings_descriptors_it_has_not() {
        for command in Command::ALL.iter().filter(|command| **command != Command::DeviceReset) {
            assert!(decode(*command, &[0; 3], 0).is_err(), "{command:?}");
        }
        assert!(decode(Command::DeviceReset, &[0], 0).is_err());
        let map = words(&[32, 3, 0, 0, 0, 1, 0x1000, 0]);
        assert!(matches!(decode(Command::DmaMap, &map, 1), Ok(Request::DmaMap(_, Some(_)))));
        assert!(matches!(decode(Command::DmaMap, &map, 0), Ok(Request::DmaMap(_, None))));
        assert!(decode(Command::DmaMap, &map, 2).is_err());
        assert!(decode(Command::DeviceGetInfo, &words(&[16, 0, 0, 0]), 1).is_err());
    }

    #[test]
    fn ranges_that_wrap_and_counts_that_lie_are_refused() {
        let wraps = words(&[32, 3, 0, 0, 0, u32::MAX, 0, 2]);
        assert!(decode(Command::DmaMap, &wraps, 0).is_err());
        assert!(decode(Command::DmaMap, &words(&[32, 3, 0, 0, 0, 1, 0, 0]), 0).is_err(), "empty");
        assert!(decode(Command::RegionRead, &words(&[0, 0, 0, (1 << 20) + 1]), 0).is_err());
        assert!(decode(Command::RegionWrite, &words(&[0, 0, 0, 8, 1]), 0).is_err());
        assert!(decode(Command::RegionWrite, &words(&[0, 0, 0, 4, 1]), 0).is_ok());
        assert!(decode(Command::RegionWriteMulti, &words(&[u32::MAX, u32::MAX]), 0).is_err());
        assert!(decode(Command::RegionWriteMulti, &words(&[1, 0, 0, 0, 0, 9, 0, 0]), 0).is_err());
        assert!(decode(Command::RegionWriteMulti, &words(&[1, 0, 0, 0, 0, 4, 7, 0]), 0).is_ok());
    }

    #[test]
    fn interrupts_are_set_with_as_many_eventfds_as_counted_or_none() {
        let set = |head: [u32; 5], rest: &[u8], descriptors| {
            let payload = [words(&head).as_slice(), rest].concat();
            decode(Command::DeviceSetIrqs, &payload, descriptors)
        };
        assert!(set([20, 0x24, 2, 0, 2], &[], 2).is_ok());
        assert!(set([20, 0x24, 2, 0, 2], &[], 0).is_ok());
        assert!(set([20, 0x24, 2, 0, 2], &[], 1).is_err());
        assert!(set([20, 0x21, 2, 0, 0], &[], 0).is_ok(), "disable all");
        assert!(set([20, 0x21, 2, 1, 0], &[], 0).is_err());
        assert!(set([20, 0x09, 2, 0, 0], &[], 0).is_err(), "masking all");
        assert!(set([22, 0x0a, 2, 0, 2], &[1, 0], 0).is_ok());
        assert!(set([22, 0x0a, 2, 0, 2], &[1, 2], 0).is_err(), "no boolean");
        assert!(set([20, 0x26, 2, 0, 1], &[], 1).is_err(), "two kinds of data");
        assert!(set([20, 0x24, 2, u32::MAX, 1], &[], 1).is_err(), "wraps");
    }
}
