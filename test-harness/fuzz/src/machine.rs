//! A store with its zone in memory, one request at a time: what the service does, without time and without faults.

use std::collections::BTreeMap;

use sheen_store::{
    Allocate, Command, IoFault, IoToken, Limits, Merge, MergeToken, OldBlock, OpenError, Opening,
    Outcome, Owner, Progress, Punch, PunchKind, ReadPlan, RequestToken, Source, Store, Truncate,
    Write, Zone,
};
use sheen_types::{BLOCK_BYTES, Codec, Errno, Fid, Lba, Timespec, checksum::crc32c};

use crate::{disk::Disk, packing};

/// More than any opening of a small zone and any request takes: beyond it, something goes in circles.
const STEPS_MAX: u32 = 200_000;

/// A block that is not the one stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Where it lies.
    pub lba: Lba,
}

/// An open store.
#[derive(Debug)]
pub struct Machine {
    /// Its zone.
    pub disk: Disk,
    /// It.
    pub store: Box<Store>,
    commands: Vec<Command>,
    images: BTreeMap<u64, Vec<u8>>,
    ended: BTreeMap<u64, Result<Outcome, Errno>>,
    requests: u64,
    fails_next: bool,
    last_data: Option<(Lba, u32)>,
}

impl Machine {
    /// A new store on an empty disk.
    ///
    /// # Panics
    /// When the zone cannot be formatted.
    #[must_use]
    pub fn format(zone: Zone, identity: u64) -> Self {
        let mut disk = Disk::default();
        let writes = sheen_store::format(zone, identity).expect("a zone of a good size");
        for (lba, bytes) in writes {
            disk.write(lba, &bytes);
        }
        Self::open(zone, disk).expect("a fresh store opens")
    }

    /// Opens what is on `disk`.
    ///
    /// # Errors
    /// What the opening says.
    ///
    /// # Panics
    /// When it does not end.
    pub fn open(zone: Zone, mut disk: Disk) -> Result<Self, OpenError> {
        let mut commands = Vec::new();
        let mut opening = Opening::new(zone, Limits::default(), &mut commands);
        for _ in 0..STEPS_MAX {
            assert!(!commands.is_empty(), "an opening waits for something");
            let command = commands.remove(0);
            let (io, bytes) = carry_out(&mut disk, command);
            opening = match opening.on_io(io, Ok(&bytes), &mut commands)? {
                Progress::Working(opening) => opening,
                Progress::Inspected(_) => panic!("an opening that serves was asked for"),
                Progress::Ready(store) => {
                    let mut machine = Self {
                        disk,
                        store,
                        commands,
                        images: BTreeMap::new(),
                        ended: BTreeMap::new(),
                        requests: 0,
                        fails_next: false,
                        last_data: None,
                    };
                    machine.run();
                    return Ok(machine);
                }
            };
        }
        panic!("an opening goes in circles");
    }

    /// Opens what is on `disk`, as the same service: its times go on.
    ///
    /// # Panics
    /// When it does not open.
    #[must_use]
    pub fn reopen(self, zone: Zone, disk: Disk) -> Self {
        let machine = Self::open(zone, disk).expect("a store of ours");
        Self { requests: self.requests, ..machine }
    }

    /// The medium loses the next data that is written.
    pub fn fail_next_data(&mut self) {
        self.fails_next = true;
    }

    /// Where the last data was written.
    #[must_use]
    pub fn last_data(&self) -> Option<(Lba, u32)> {
        self.last_data
    }

    /// The time of the last request.
    #[must_use]
    pub fn last_time(&self) -> Timespec {
        time(RequestToken(self.requests))
    }

    /// Writes `bytes` at `offset`.
    ///
    /// # Errors
    /// What the store says.
    pub fn write(&mut self, object: Fid, offset: u64, bytes: &[u8]) -> Result<Outcome, Errno> {
        self.write_packed(object, offset, bytes, None)
    }

    /// Writes `bytes` at `offset`; each window that is covered whole is packed, if that saves a block.
    ///
    /// # Errors
    /// What the store says.
    pub fn write_packed(
        &mut self,
        object: Fid,
        offset: u64,
        bytes: &[u8],
        codec: Option<Codec>,
    ) -> Result<Outcome, Errno> {
        let skip = usize::try_from(offset % BLOCK_BYTES as u64).unwrap_or(0);
        let mut image = vec![0; (skip + bytes.len()).next_multiple_of(BLOCK_BYTES)];
        image[skip..skip + bytes.len()].copy_from_slice(bytes);
        let mut packed = Vec::new();
        if let Some(codec) = codec.filter(|_| skip == 0 && bytes.len() == image.len()) {
            image = packing::pack(codec, offset / BLOCK_BYTES as u64, &image, &mut packed);
        }
        let checksums: Vec<u32> = image.chunks_exact(BLOCK_BYTES).map(crc32c).collect();
        let request = self.request();
        self.images.insert(request.0, image);
        let write = Write {
            object,
            offset,
            length: bytes.len() as u64,
            checksums: &checksums,
            packed: &packed,
            mtime: time(request),
            owner: Owner { uid: object.oid, gid: 7, projid: 1 },
            durable: false,
        };
        self.call(request, |store, commands| store.write(request, &write, commands))
    }

    /// Sets a size.
    ///
    /// # Errors
    /// What the store says.
    pub fn truncate(&mut self, object: Fid, size: u64) -> Result<Outcome, Errno> {
        let request = self.request();
        let truncate = Truncate { object, size, mtime: time(request), durable: false };
        self.call(request, |store, commands| store.truncate(request, &truncate, commands))
    }

    /// Clears a range.
    ///
    /// # Errors
    /// What the store says.
    pub fn punch(
        &mut self,
        object: Fid,
        offset: u64,
        length: u64,
        kind: PunchKind,
    ) -> Result<Outcome, Errno> {
        let request = self.request();
        let mtime = time(request);
        let punch = Punch { object, offset, length, kind, extend: false, mtime, durable: false };
        self.call(request, |store, commands| store.punch(request, &punch, commands))
    }

    /// Reserves space.
    ///
    /// # Errors
    /// What the store says.
    pub fn allocate(&mut self, object: Fid, offset: u64, length: u64) -> Result<Outcome, Errno> {
        let request = self.request();
        let mtime = time(request);
        let allocate = Allocate { object, offset, length, keep_size: false, mtime, durable: false };
        self.call(request, |store, commands| store.allocate(request, &allocate, commands))
    }

    /// Destroys an object.
    ///
    /// # Errors
    /// What the store says.
    pub fn destroy(&mut self, object: Fid) -> Result<Outcome, Errno> {
        let request = self.request();
        self.call(request, |store, commands| store.destroy(request, &[object], commands))
    }

    /// Makes everything durable.
    ///
    /// # Errors
    /// What the store says.
    pub fn sync(&mut self) -> Result<Outcome, Errno> {
        let request = self.request();
        self.call(request, |store, commands| store.sync(request, commands))
    }

    /// Writes the index down.
    pub fn checkpoint(&mut self) {
        self.store.checkpoint();
        self.run();
    }

    /// Reads a range, verified.
    ///
    /// # Errors
    /// The first block that is not what was stored.
    ///
    /// # Panics
    /// When the plan has gaps.
    pub fn read(&mut self, object: Fid, offset: u64, length: u64) -> Result<Vec<u8>, Damage> {
        let mut plan = ReadPlan::default();
        let pin = self.store.read(object, offset, length, &mut plan);
        let result = self.read_plan(&plan);
        self.store.release(pin);
        result
    }

    fn read_plan(&self, plan: &ReadPlan) -> Result<Vec<u8>, Damage> {
        let mut image = Vec::with_capacity(plan.checksums.len() * BLOCK_BYTES);
        let mut packed_sums = plan.packed_checksums.as_slice();
        for segment in &plan.segments {
            assert_eq!(image.len(), segment.image_block as usize * BLOCK_BYTES, "no gaps");
            match segment.source {
                Source::Hole => {
                    image.resize(image.len() + segment.blocks as usize * BLOCK_BYTES, 0);
                }
                Source::Device(lba) => {
                    let from = segment.image_block as usize;
                    let sums = &plan.checksums[from..from + segment.blocks as usize];
                    image.extend_from_slice(&self.read_blocks(lba, sums)?);
                }
                Source::Packed { lba, stored, first, whole, codec } => {
                    let (sums, rest) = packed_sums.split_at(usize::from(stored));
                    packed_sums = rest;
                    let group = self.read_group(lba, sums, whole, codec)?;
                    let from = usize::from(first) * BLOCK_BYTES;
                    let to = from + segment.blocks as usize * BLOCK_BYTES;
                    image.extend_from_slice(&group[from..to]);
                }
            }
        }
        let length = usize::try_from(plan.length).unwrap_or(usize::MAX);
        let skip = if length == 0 { 0 } else { plan.skip as usize };
        Ok(image[skip..skip + length].to_vec())
    }

    fn read_blocks(&self, lba: Lba, checksums: &[u32]) -> Result<Vec<u8>, Damage> {
        let bytes = self.disk.read(lba, u32::try_from(checksums.len()).unwrap_or(0));
        for ((block, &sum), at) in bytes.chunks_exact(BLOCK_BYTES).zip(checksums).zip(0..) {
            if crc32c(block) != sum {
                return Err(Damage { lba: lba.plus(at) });
            }
        }
        Ok(bytes)
    }

    /// A packed group, unpacked.
    fn read_group(
        &self,
        lba: Lba,
        checksums: &[u32],
        whole: u16,
        codec: Codec,
    ) -> Result<Vec<u8>, Damage> {
        let stored = self.read_blocks(lba, checksums)?;
        packing::unpack(codec, &stored, usize::from(whole)).ok_or(Damage { lba })
    }

    fn request(&mut self) -> RequestToken {
        self.requests += 1;
        RequestToken(self.requests)
    }

    fn call(
        &mut self,
        request: RequestToken,
        f: impl FnOnce(&mut Store, &mut Vec<Command>) -> Result<(), sheen_store::Busy>,
    ) -> Result<Outcome, Errno> {
        f(&mut self.store, &mut self.commands).expect("one request at a time is never too many");
        self.run();
        self.images.remove(&request.0);
        let ended = self.ended.remove(&request.0);
        ended.expect("with nothing left to do, the request ended")
    }

    /// Carries out commands until there are none.
    fn run(&mut self) {
        for _ in 0..STEPS_MAX {
            self.store.pump(&mut self.commands);
            if self.commands.is_empty() {
                return;
            }
            for command in std::mem::take(&mut self.commands) {
                self.carry_out(command);
            }
        }
        panic!("a store goes in circles");
    }

    fn carry_out(&mut self, command: Command) {
        match command {
            Command::Complete { request, result } => {
                self.ended.insert(request.0, result);
            }
            Command::Merge { request, merge, image_blocks, merges } => {
                self.merge(request, merge, image_blocks, merges);
            }
            Command::WriteData { io, request, lba, image_block, blocks } => {
                if std::mem::take(&mut self.fails_next) {
                    return self.store.on_io(io, Err(IoFault::Media), &mut self.commands);
                }
                self.last_data = Some((lba, blocks));
                let image = &self.images[&request.0];
                let from = image_block as usize * BLOCK_BYTES;
                let to = from + blocks as usize * BLOCK_BYTES;
                self.disk.write(lba, &image[from..to]);
                self.store.on_io(io, Ok(()), &mut self.commands);
            }
            Command::Repack { .. } => panic!("nobody asked for that"),
            Command::WriteBytes { .. }
            | Command::Discard { .. }
            | Command::Flush { .. }
            | Command::Read { .. } => {
                let (io, _) = carry_out(&mut self.disk, command);
                self.store.on_io(io, Ok(()), &mut self.commands);
            }
        }
    }

    fn merge(
        &mut self,
        request: RequestToken,
        token: MergeToken,
        image_blocks: u32,
        merges: [Option<Merge>; 2],
    ) {
        let empty = || vec![0; image_blocks as usize * BLOCK_BYTES];
        let image = self.images.entry(request.0).or_insert_with(empty);
        let mut checksums = [None; 2];
        for (merge, checksum) in merges.iter().zip(&mut checksums) {
            let Some(merge) = merge else { continue };
            let Some(old) = old_block(&self.disk, &merge.old) else {
                return self.store.merge_failed(token, Errno::EIO, &mut self.commands);
            };
            let from = merge.image_block as usize * BLOCK_BYTES;
            let block = &mut image[from..from + BLOCK_BYTES];
            let (start, end) = (merge.fresh_start as usize, merge.fresh_end as usize);
            block[..start].copy_from_slice(&old[..start]);
            block[end..].copy_from_slice(&old[end..]);
            *checksum = Some(crc32c(block));
        }
        self.store.merged(token, checksums, &mut self.commands);
    }
}

/// The old block of a merge; None if it is not what it should be.
fn old_block(disk: &Disk, old: &OldBlock) -> Option<Vec<u8>> {
    match old {
        OldBlock::Plain { lba, checksum } => {
            Some(disk.read(*lba, 1)).filter(|block| crc32c(block) == *checksum)
        }
        OldBlock::Packed(group) => {
            let stored = disk.read(group.lba, u32::try_from(group.checksums.len()).ok()?);
            let sums = stored.chunks_exact(BLOCK_BYTES).map(crc32c);
            if !sums.eq(group.checksums.iter().copied()) {
                return None;
            }
            let whole = packing::unpack(group.codec, &stored, usize::from(group.whole))?;
            let from = usize::from(group.block) * BLOCK_BYTES;
            whole.get(from..from + BLOCK_BYTES).map(<[u8]>::to_vec)
        }
    }
}

/// Rises from request to request, so that a fixture tells its times.
fn time(request: RequestToken) -> Timespec {
    let seconds = i64::try_from(request.0).unwrap_or(0) + 1_800_000_000;
    Timespec { seconds, nanoseconds: 5 }
}

/// A command that needs no request: the token, and what was read.
fn carry_out(disk: &mut Disk, command: Command) -> (IoToken, Vec<u8>) {
    match command {
        Command::Read { io, lba, blocks } => (io, disk.read(lba, blocks)),
        Command::WriteBytes { io, lba, bytes } => {
            disk.write(lba, &bytes);
            (io, Vec::new())
        }
        Command::Flush { io } => (io, Vec::new()),
        Command::Discard { io, lba, blocks } => {
            disk.discard(lba, blocks);
            (io, Vec::new())
        }
        Command::Merge { .. }
        | Command::Repack { .. }
        | Command::WriteData { .. }
        | Command::Complete { .. } => {
            panic!("{command:?} belongs to a request")
        }
    }
}
