//! Space and inodes of the file system.

use std::{sync::Arc, time::Duration};

use sheen_ports::Cancel;
use sheen_types::Errno;
use sheen_wire::{
    Opcode,
    metadata::{FilesystemStatistics, FilesystemStatisticsReply},
    object::{ObjectStatistics, ObjectStatisticsReply},
};

use crate::{client::Client, object_request::ObjectRequest, pool::Piece, request::Request};

/// What `statfs` shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VolumeStatistics {
    /// Space for data on all OSTs in bytes.
    pub total_bytes: u64,
    /// Of it not used. What one OST has free can be reserved there to the last block. A file takes from each OST by its stripes, so the
    /// largest new file may be smaller than what all have together, and small files use the rest.
    pub free_bytes: u64,
    /// Content stored, before compression.
    pub logical_bytes: u64,
    /// Space it takes.
    pub physical_bytes: u64,
    /// Inodes in use.
    pub inodes_used: u64,
    /// Inodes that can be in use.
    pub inodes_max: u64,
}

/// How long `statfs` waits for servers.
const SOON: Duration = Duration::from_millis(500);

impl Client {
    /// Space and inodes as they are, or as they were when all servers last answered (zeros: never) if not all do soon:
    /// `umount` asks for them before it unmounts, also when there is no server any more.
    ///
    /// # Errors
    /// EINTR, EIO.
    ///
    /// # Panics
    /// When a thread panicked while it noted them.
    pub fn recent_volume_statistics(
        self: &Arc<Self>,
        cancel: &Cancel,
    ) -> Result<VolumeStatistics, Errno> {
        let soon = Cancel::new();
        let killed = soon.clone();
        let _watch = cancel.on_cancel(Arc::new(move || killed.cancel()));
        if cancel.is_cancelled() {
            return Err(Errno::EINTR);
        }
        self.finisher.cancel_at(self.clock.now().after(SOON), soon.clone());
        let answer = self.volume_statistics(&soon);
        let mut last = self.last_volume.lock().expect("no panic while locked");
        match answer {
            Ok(volume) => *last = volume,
            Err(Errno::EINTR) if !cancel.is_cancelled() => {}
            Err(errno) => return Err(errno),
        }
        Ok(*last)
    }

    /// Space and inodes.
    ///
    /// # Errors
    /// EINTR, EIO.
    pub fn volume_statistics(self: &Arc<Self>, cancel: &Cancel) -> Result<VolumeStatistics, Errno> {
        let body = FilesystemStatistics { fid: self.root() };
        let reply = self.ask(Request::new(Opcode::FilesystemStatistics, &body), cancel)?;
        let inodes: FilesystemStatisticsReply = reply.decode()?;
        let services = self.session.lock().services.clone();
        let mut pieces: Vec<Piece<ObjectStatisticsReply>> = Vec::new();
        for &ost in services.keys() {
            let (client, cancel) = (self.clone(), cancel.clone());
            pieces.push(Piece::new(ost, move || {
                let body = ObjectStatistics { ost };
                let request = ObjectRequest::new(ost, Opcode::ObjectStatistics, &body);
                client.ask_object(request, &cancel)?.decode()
            }));
        }
        let mut volume = VolumeStatistics {
            inodes_used: inodes.inodes_used,
            inodes_max: inodes.inodes_max,
            ..VolumeStatistics::default()
        };
        for space in self.pool.run_all(pieces) {
            let space = space?;
            volume.total_bytes = volume.total_bytes.saturating_add(space.total_bytes);
            volume.free_bytes = volume.free_bytes.saturating_add(space.free_bytes);
            volume.logical_bytes = volume.logical_bytes.saturating_add(space.logical_bytes);
            volume.physical_bytes = volume.physical_bytes.saturating_add(space.physical_bytes);
        }
        Ok(volume)
    }
}
