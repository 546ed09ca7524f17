//! The arenas a server may reach, and the answers to its DMA_READ and DMA_WRITE.
//!
//! A server maps what it was sent a descriptor for, yet it may ask by message instead, always
//! `[vfio-user §Read and Write Operations]`. An answer touches only bytes of one mapped arena, at most
//! [`TRANSFER_BYTES_MAX`] of them; anything else is refused with an errno and touches nothing.

use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use sheen_dma::{Arena, DeviceView};

use super::{
    message::{Command, DmaAccess, TRANSFER_BYTES_MAX},
    socket::Message,
};

/// Arenas mapped for one server. The clones held here keep a device address from being given to another arena.
#[derive(Debug, Default)]
pub(super) struct SharedArenas(Mutex<Vec<Shared>>);

#[derive(Debug)]
struct Shared {
    arena: Arena,
    view: DeviceView,
}

impl Shared {
    fn range(&self) -> (u64, u64) {
        (self.arena.iova().0, self.view.bytes() as u64)
    }
}

impl SharedArenas {
    /// Makes the arena reachable. False: it is already.
    ///
    /// # Errors
    /// What the system says to one more mapping of it.
    pub(super) fn insert(&self, arena: &Arena) -> Result<bool, Errno> {
        let mut list = self.list();
        if list.iter().any(|shared| shared.arena.is_same(arena)) {
            return Ok(false);
        }
        list.push(Shared { arena: arena.clone(), view: DeviceView::of_arena(arena)? });
        Ok(true)
    }

    /// Makes the arena unreachable. False: it was.
    pub(super) fn remove(&self, arena: &Arena) -> bool {
        let mut list = self.list();
        let before = list.len();
        list.retain(|shared| !shared.arena.is_same(arena));
        list.len() < before
    }

    /// Carries out a command of the server; the payload of the reply, or why it is refused.
    pub(super) fn answer(&self, command: &Message) -> Result<Vec<u8>, Errno> {
        let asked = Command::from_number(command.header.command);
        if !matches!(asked, Some(Command::DmaRead | Command::DmaWrite)) {
            return Err(Errno::ENOTSUP);
        }
        let access = DmaAccess::decode(&command.payload).ok_or(Errno::EINVAL)?;
        let data = command.payload.get(DmaAccess::BYTES..).ok_or(Errno::EINVAL)?;
        let count = usize::try_from(access.count).map_err(|_| Errno::EINVAL)?;
        if access.count == 0 || access.count > u64::from(TRANSFER_BYTES_MAX) {
            return Err(Errno::EINVAL);
        }
        let mut reply = Vec::new();
        access.encode(&mut reply);
        match asked {
            Some(Command::DmaRead) if data.is_empty() => {
                let start = reply.len();
                reply.resize(start + count, 0);
                let into = reply.get_mut(start..).unwrap_or_default();
                self.within(access, |view, offset| view.read(offset, into))?;
            }
            Some(Command::DmaWrite) if data.len() == count => {
                self.within(access, |view, offset| view.write(offset, data))?;
            }
            _ => return Err(Errno::EINVAL),
        }
        Ok(reply)
    }

    /// Runs `act` with the arena that holds all of the access. EFAULT: none does.
    fn within(
        &self,
        access: DmaAccess,
        act: impl FnOnce(&DeviceView, u64) -> Option<()>,
    ) -> Result<(), Errno> {
        let list = self.list();
        let found = list.iter().find_map(|shared| {
            let (start, bytes) = shared.range();
            let offset = access.address.checked_sub(start)?;
            let end = offset.checked_add(access.count)?;
            (end <= bytes).then_some((&shared.view, offset))
        });
        let (view, offset) = found.ok_or(Errno::EFAULT)?;
        act(view, offset).ok_or(Errno::EFAULT)
    }

    fn list(&self) -> MutexGuard<'_, Vec<Shared>> {
        // Nothing that panics runs while it is held; a list is whole between calls in any case.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod test {
    use super::super::message::{Header, Kind};
    use super::*;

    fn command(command: Command, address: u64, count: u64, data: &[u8]) -> Message {
        let mut payload = Vec::new();
        DmaAccess { address, count }.encode(&mut payload);
        payload.extend_from_slice(data);
        let payload_bytes = u32::try_from(payload.len()).unwrap();
        let header =
            Header { id: 1, command: command.number(), payload_bytes, kind: Kind::Command };
        Message { header, payload, descriptors: Vec::new() }
    }

    #[test]
    fn a_server_reaches_mapped_arenas_and_not_a_byte_beside_them() {
        let arena = Arena::shared(8192).unwrap();
        let shared = SharedArenas::default();
        let start = arena.iova().0;
        let read = |address, count| {
            shared
                .answer(&command(Command::DmaRead, address, count, &[]))
                .map(|reply| reply[16..].to_vec())
        };
        assert_eq!(read(start, 1), Err(Errno::EFAULT), "not mapped yet");
        assert_eq!(shared.insert(&arena), Ok(true));
        assert_eq!(shared.insert(&arena), Ok(false));
        let written = shared.answer(&command(Command::DmaWrite, start + 8188, 4, &[1, 2, 3, 4]));
        assert_eq!(written.unwrap().len(), 16);
        assert_eq!(read(start + 8186, 6).unwrap(), [0, 0, 1, 2, 3, 4]);
        for (address, count) in
            [(start + 8188, 5), (start - 1, 2), (start + 8192, 1), (u64::MAX, 2), (u64::MAX - 1, 1)]
        {
            assert_eq!(read(address, count), Err(Errno::EFAULT), "{address:#x}+{count}");
        }
        assert_eq!(read(start, 0), Err(Errno::EINVAL));
        assert_eq!(read(start, u64::MAX), Err(Errno::EINVAL));
        assert_eq!(read(start, (1 << 20) + 1), Err(Errno::EINVAL));
        let torn = shared.answer(&command(Command::DmaWrite, start, 5, &[1]));
        assert_eq!(torn, Err(Errno::EINVAL));
        let other = shared.answer(&command(Command::RegionRead, start, 1, &[]));
        assert_eq!(other, Err(Errno::ENOTSUP));
        assert!(shared.remove(&arena));
        assert_eq!(read(start, 1), Err(Errno::EFAULT), "not mapped any more");
    }
}
