//! The service's part: carries out the store's commands on a device, in any order chance likes.

use std::collections::{BTreeMap, BTreeSet};

use sheen_store::{
    Command, FixedRuns, Inspection, IoFault, IoToken, Limits, Merge, MergeToken, OldBlock,
    OpenError, Opening, Outcome, Packed, Progress, ReadPin, ReadPlan, RequestToken, Segment,
    Source, Store, Zone,
};
use sheen_types::{Codec, Errno, Lba, checksum::crc32c};

use crate::{
    chance::Chance,
    device::{BLOCK, Crash, Device, Pending},
    packing::{Packer, unpack},
};

/// A request that ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) request: u64,
    pub(crate) result: Result<Outcome, Errno>,
}

/// Something that will happen at some time.
#[derive(Debug)]
enum Event {
    Io { io: IoToken, pending: Pending, data_of: Option<u64> },
    Merge { request: u64, merge: MergeToken, image_blocks: u32, merges: [Option<Merge>; 2] },
    Repack { request: u64, token: MergeToken, plan: Box<ReadPlan> },
    Read { plan: ReadPlan, pin: ReadPin, expected: Option<Vec<u8>> },
}

/// The file system of a device that is a sparse file.
#[derive(Debug)]
pub(crate) struct Host {
    /// Blocks it can still give.
    pub(crate) room: u64,
    /// Blocks it gave.
    pub(crate) given: BTreeSet<u64>,
}

impl Host {
    /// One that gave the fixed runs of a zone at the device's start before, and has room for so many more blocks.
    pub(crate) fn with_room(zone: Zone, room: u64) -> Self {
        let FixedRuns { journal, tables: [areas, twins] } = FixedRuns::of(zone.blocks).unwrap();
        let given = [journal, areas, twins].into_iter();
        let given = given.flat_map(|(lba, blocks)| lba.0..lba.0 + blocks);
        Self { room, given: given.map(|block| zone.first.0 + block).collect() }
    }

    fn take(&mut self, pending: &Pending) -> Result<(), IoFault> {
        let range = pending.range();
        match pending {
            Pending::Write { .. } => {
                let fresh: Vec<u64> = range.filter(|block| !self.given.contains(block)).collect();
                self.room = self.room.checked_sub(fresh.len() as u64).ok_or(IoFault::NoSpace)?;
                self.given.extend(fresh);
            }
            Pending::Discard { .. } => {
                self.room += range.filter(|block| self.given.remove(block)).count() as u64;
            }
            Pending::Flush { .. } => {}
        }
        Ok(())
    }
}

/// A token, and a write or flush, or a read of so many blocks.
type OpeningIo = (IoToken, Result<Pending, (Lba, u32)>);

/// A store, its device, and what is under way between them.
pub(crate) struct World {
    pub(crate) zone: Zone,
    pub(crate) limits: Limits,
    pub(crate) device: Device,
    pub(crate) store: Option<Box<Store>>,
    pub(crate) images: BTreeMap<u64, Vec<u8>>,
    /// First block of each repack.
    pub(crate) repacks: BTreeMap<u64, u64>,
    pub(crate) ended: Vec<Ended>,
    commands: Vec<Command>,
    events: Vec<Event>,
    pub(crate) io_count: u64,
    /// How often a data write fails.
    pub(crate) faults_one_in: u64,
    /// The medium loses every block that data is written to.
    pub(crate) medium_is_bad: bool,
    /// What gives the device its blocks as they are written; None: it has them all.
    pub(crate) host: Option<Host>,
    /// How often a write of a checkpoint area fails.
    pub(crate) area_faults_one_in: u64,
    pub(crate) area_faults: u64,
    /// The areas, and their twins.
    areas: [std::ops::Range<u64>; 2],
    /// Requests whose data met a fault.
    pub(crate) faulted: BTreeSet<u64>,
}

impl World {
    pub(crate) fn new(zone: Zone, limits: Limits, identity: u64) -> Self {
        let mut device = Device::default();
        for (lba, bytes) in sheen_store::format(zone, identity).unwrap() {
            device.complete(Pending::Write { lba, bytes });
        }
        let flush = device.flush();
        device.complete(flush);
        let mut world = Self {
            zone,
            limits,
            device,
            store: None,
            images: BTreeMap::new(),
            repacks: BTreeMap::new(),
            ended: Vec::new(),
            commands: Vec::new(),
            events: Vec::new(),
            io_count: 0,
            faults_one_in: u64::MAX,
            medium_is_bad: false,
            host: None,
            area_faults_one_in: u64::MAX,
            area_faults: 0,
            areas: [0..0, 0..0],
            faulted: BTreeSet::new(),
        };
        let facts = world.inspect().unwrap().facts();
        let (journal, data) = (facts.journal, facts.data);
        let end = zone.first.0 + zone.blocks - 1;
        world.areas = [journal.0.0 + journal.1..data.0.0, data.0.0 + data.1..end];
        world
    }

    pub(crate) fn store(&mut self) -> &mut Store {
        self.store.as_mut().unwrap()
    }

    /// Calls the store, then carries out what it says.
    pub(crate) fn call<T>(&mut self, f: impl FnOnce(&mut Store, &mut Vec<Command>) -> T) -> T {
        let result = f(self.store.as_mut().unwrap(), &mut self.commands);
        self.carry_out();
        result
    }

    pub(crate) fn pump(&mut self) {
        self.call(Store::pump);
    }

    pub(crate) fn read(
        &mut self,
        fid: sheen_types::Fid,
        offset: u64,
        length: u64,
        expected: Option<Vec<u8>>,
    ) {
        let mut plan = ReadPlan::default();
        let pin = self.store().read(fid, offset, length, &mut plan);
        self.events.push(Event::Read { plan, pin, expected });
    }

    fn carry_out(&mut self) {
        for command in std::mem::take(&mut self.commands) {
            match command {
                Command::Merge { request, merge, image_blocks, merges } => {
                    let request = request.0;
                    self.events.push(Event::Merge { request, merge, image_blocks, merges });
                }
                Command::Repack { request, token, plan } => {
                    self.events.push(Event::Repack { request: request.0, token, plan });
                }
                Command::WriteData { io, request, lba, image_block, blocks } => {
                    let image = &self.images[&request.0];
                    let from = image_block as usize * BLOCK;
                    let bytes = image[from..from + blocks as usize * BLOCK].to_vec();
                    self.push_write(io, lba, bytes, Some(request.0));
                }
                Command::WriteBytes { io, lba, bytes } => self.push_write(io, lba, bytes, None),
                Command::Flush { io } => {
                    let pending = self.device.flush();
                    self.events.push(Event::Io { io, pending, data_of: None });
                }
                Command::Complete { request: RequestToken(request), result } => {
                    self.images.remove(&request);
                    self.ended.push(Ended { request, result });
                }
                Command::Discard { io, lba, blocks } => {
                    self.push_io(io, Pending::Discard { lba, blocks }, None);
                }
                Command::Read { .. } => panic!("an open store reads nothing"),
            }
        }
    }

    fn push_write(&mut self, io: IoToken, lba: Lba, bytes: Vec<u8>, data_of: Option<u64>) {
        self.io_count += 1;
        self.push_io(io, Pending::Write { lba, bytes }, data_of);
    }

    /// Blocks on their way belong to nobody else.
    fn push_io(&mut self, io: IoToken, pending: Pending, data_of: Option<u64>) {
        let range = pending.range();
        assert!(
            range.start >= self.zone.first.0 && range.end <= self.zone.first.0 + self.zone.blocks
        );
        for event in &self.events {
            match event {
                Event::Io { pending, .. } => {
                    let other = pending.range();
                    assert!(
                        range.end <= other.start || other.end <= range.start,
                        "two at {range:?}"
                    );
                }
                Event::Read { plan, .. } => {
                    for segment in &plan.segments {
                        let (lba, blocks) = match segment.source {
                            Source::Hole => continue,
                            Source::Device(lba) => (lba, segment.blocks),
                            Source::Packed { lba, stored, .. } => (lba, u32::from(stored)),
                        };
                        let end = lba.0 + u64::from(blocks);
                        assert!(
                            range.end <= lba.0 || end <= range.start,
                            "written while read: {lba}"
                        );
                    }
                }
                Event::Merge { .. } | Event::Repack { .. } => {}
            }
        }
        self.events.push(Event::Io { io, pending, data_of });
    }

    /// Lets one pending thing happen; false if there is none.
    pub(crate) fn step(&mut self, chance: &mut Chance) -> bool {
        if self.events.is_empty() {
            return false;
        }
        let event = self.events.swap_remove(chance.index(self.events.len()));
        match event {
            Event::Io { io, pending, data_of } => {
                let result = self.carry_out_io(pending, data_of, chance);
                self.call(|store, commands| store.on_io(io, result, commands));
            }
            Event::Merge { request, merge, image_blocks, merges } => {
                self.merge(request, merge, image_blocks, merges);
            }
            Event::Repack { request, token, plan } => self.repack(request, token, &plan, chance),
            Event::Read { plan, pin, expected } => {
                let bytes = self.read_plan(&plan);
                if let Some(expected) = expected {
                    assert!(bytes == expected, "read differs");
                }
                self.store().release(pin);
            }
        }
        true
    }

    fn is_area(&self, pending: &Pending) -> bool {
        let Pending::Write { lba, .. } = pending else { return false };
        self.areas.iter().any(|area| area.contains(&lba.0))
    }

    fn carry_out_io(
        &mut self,
        pending: Pending,
        data_of: Option<u64>,
        chance: &mut Chance,
    ) -> Result<(), IoFault> {
        if let Some(host) = &mut self.host {
            host.take(&pending)?;
        }
        match data_of {
            Some(_) if self.medium_is_bad => Err(IoFault::Media),
            Some(request) if chance.one_in(self.faults_one_in) => {
                self.faulted.insert(request);
                // A failed write may have happened, in part.
                if let Pending::Write { lba, bytes } = pending {
                    for (lba, block) in (lba.0..).map(Lba).zip(bytes.chunks(BLOCK)) {
                        if chance.one_in(2) {
                            self.device.complete(Pending::Write { lba, bytes: block.to_vec() });
                        }
                    }
                }
                Err(if chance.one_in(2) { IoFault::NoSpace } else { IoFault::Media })
            }
            None if self.is_area(&pending) && chance.one_in(self.area_faults_one_in) => {
                self.area_faults += 1;
                if chance.one_in(2) {
                    self.device.complete(pending);
                }
                Err(IoFault::Media)
            }
            None if matches!(pending, Pending::Discard { .. }) && chance.one_in(4) => {
                Err(IoFault::Media)
            }
            Some(_) | None => {
                self.device.complete(pending);
                Ok(())
            }
        }
    }

    fn merge(
        &mut self,
        request: u64,
        merge: MergeToken,
        image_blocks: u32,
        merges: [Option<Merge>; 2],
    ) {
        let olds = merges.each_ref().map(|merge| merge.as_ref().map(|m| self.old_block(&m.old)));
        let image =
            self.images.entry(request).or_insert_with(|| vec![0; image_blocks as usize * BLOCK]);
        assert_eq!(image.len(), image_blocks as usize * BLOCK);
        let mut checksums = [None; 2];
        for (at, (merge, old)) in merges.iter().zip(olds).enumerate() {
            let (Some(merge), Some(old)) = (merge, old) else { continue };
            let from = merge.image_block as usize * BLOCK;
            let block = &mut image[from..from + BLOCK];
            let (start, end) = (merge.fresh_start as usize, merge.fresh_end as usize);
            block[..start].copy_from_slice(&old[..start]);
            block[end..].copy_from_slice(&old[end..]);
            checksums[at] = Some(crc32c(block));
        }
        self.call(|store, commands| store.merged(merge, checksums, commands));
    }

    /// Packs a range anew, some of it.
    fn repack(&mut self, request: u64, token: MergeToken, plan: &ReadPlan, chance: &mut Chance) {
        let bytes = self.read_plan(plan);
        let origin = self.repacks[&request];
        let (mut image, mut checksums, mut packed) = (Vec::new(), Vec::new(), Vec::new());
        let is_hole = |segment: &Segment| segment.source == Source::Hole;
        let alike = |a: &Segment, b: &Segment| is_hole(a) == is_hole(b);
        for range in plan.segments.chunk_by(alike).filter(|range| !is_hole(&range[0])) {
            let first = range[0].image_block;
            let blocks: u32 = range.iter().map(|segment| segment.blocks).sum();
            let from = first as usize * BLOCK;
            let bytes = &bytes[from..from + blocks as usize * BLOCK];
            let whole = 0..u64::from(blocks);
            let packer = Packer::new(bytes, origin + u64::from(first), whole, chance);
            image.extend(packer.image);
            checksums.extend(packer.checksums);
            packed.extend(
                packer.packed.iter().map(|group| Packed { first: group.first + first, ..*group }),
            );
        }
        self.images.insert(request, image);
        self.call(|store, commands| store.repacked(token, &checksums, &packed, commands));
    }

    /// Answers the one merge there is as if its block now had this checksum; its image is zeros. False if there is none.
    pub(crate) fn answer_merge(&mut self, checksum: u32) -> bool {
        let is_merge = |event: &Event| matches!(event, Event::Merge { .. });
        let Some(at) = self.events.iter().position(is_merge) else { return false };
        let Event::Merge { request, merge, image_blocks, merges } = self.events.remove(at) else {
            return false;
        };
        self.images.insert(request, vec![0; image_blocks as usize * BLOCK]);
        let checksums = merges.map(|merge| merge.map(|_| checksum));
        self.call(|store, commands| store.merged(merge, checksums, commands));
        true
    }

    fn old_block(&self, old: &OldBlock) -> Vec<u8> {
        match old {
            OldBlock::Plain { lba, checksum } => {
                let old = self.device.read(*lba);
                assert_eq!(crc32c(&old), *checksum, "old block at {lba}");
                old
            }
            OldBlock::Packed(group) => {
                let unpacked =
                    self.read_group(group.lba, &group.checksums, group.whole, group.codec);
                let from = usize::from(group.block) * BLOCK;
                unpacked[from..from + BLOCK].to_vec()
            }
        }
    }

    fn read_group(&self, lba: Lba, checksums: &[u32], whole: u16, codec: Codec) -> Vec<u8> {
        let stored = self.device.read_run(lba, checksums.len() as u32);
        for ((block, &sum), at) in stored.chunks(BLOCK).zip(checksums).zip(0..) {
            assert_eq!(crc32c(block), sum, "stored block at {}", lba.plus(at));
        }
        unpack(&stored, whole, codec)
    }

    /// The bytes of a plan; every block's checksum is checked.
    pub(crate) fn read_plan(&self, plan: &ReadPlan) -> Vec<u8> {
        let mut image = vec![0; plan.checksums.len() * BLOCK];
        let mut next = 0;
        let mut packed_checksums = &plan.packed_checksums[..];
        for segment in &plan.segments {
            assert_eq!(segment.image_block, next, "no gaps");
            next += segment.blocks;
            let from = segment.image_block as usize * BLOCK;
            let lba = match segment.source {
                Source::Hole => continue,
                Source::Device(lba) => lba,
                Source::Packed { lba, stored, first, whole, codec } => {
                    let (own, rest) = packed_checksums.split_at(usize::from(stored));
                    packed_checksums = rest;
                    let bytes = self.read_group(lba, own, whole, codec);
                    let (skip, count) =
                        (usize::from(first) * BLOCK, segment.blocks as usize * BLOCK);
                    image[from..from + count].copy_from_slice(&bytes[skip..skip + count]);
                    continue;
                }
            };
            let bytes = self.device.read_run(lba, segment.blocks);
            image[from..from + bytes.len()].copy_from_slice(&bytes);
            let sums = &plan.checksums[segment.image_block as usize..];
            for ((block, &sum), at) in bytes.chunks(BLOCK).zip(sums).zip(0..) {
                assert_eq!(crc32c(block), sum, "block at {}", lba.plus(at));
            }
        }
        assert!(packed_checksums.is_empty());
        let skip = plan.skip as usize;
        let length = usize::try_from(plan.length).unwrap();
        if length == 0 {
            return Vec::new();
        }
        image[skip..skip + length].to_vec()
    }

    /// Runs until nothing is left to do.
    pub(crate) fn settle(&mut self, chance: &mut Chance) {
        self.pump();
        while self.step(chance) {
            self.pump();
        }
    }

    /// Stops the world in the midst of whatever it does.
    pub(crate) fn crash(&mut self, crash: Crash, chance: &mut Chance) {
        let pending = self.events.drain(..).filter_map(|event| match event {
            Event::Io { pending, .. } => Some(pending),
            Event::Merge { .. } | Event::Repack { .. } | Event::Read { .. } => None,
        });
        let pending = pending.collect();
        self.device.crash(crash, pending, chance);
        self.store = None;
        self.images.clear();
        self.ended.clear();
    }

    /// Opens the store; may crash on the way and begin anew.
    pub(crate) fn open(&mut self, crash: Crash, chance: &mut Chance) {
        loop {
            let steps = if chance.one_in(4) { chance.below(20) } else { u64::MAX };
            if self.try_open(steps, crash, chance).unwrap() {
                return;
            }
        }
    }

    /// Opens the store without a crash.
    pub(crate) fn open_once(&mut self, chance: &mut Chance) -> Result<(), OpenError> {
        self.try_open(u64::MAX, Crash::Kill, chance).map(|_| ())
    }

    /// Opens the store, or crashes after so many steps (false).
    fn try_open(
        &mut self,
        mut steps_left: u64,
        crash: Crash,
        chance: &mut Chance,
    ) -> Result<bool, OpenError> {
        let mut commands = Vec::new();
        let mut opening = Opening::new(self.zone, self.limits, &mut commands);
        let mut pending: Vec<OpeningIo> = Vec::new();
        loop {
            pending.extend(commands.drain(..).map(|command| self.opening_io(command)));
            if steps_left == 0 {
                let pending = pending.into_iter().filter_map(|(_, pending)| pending.ok()).collect();
                self.device.crash(crash, pending, chance);
                return Ok(false);
            }
            steps_left -= 1;
            let (io, operation) = pending.swap_remove(chance.index(pending.len()));
            let mut bytes = Vec::new();
            match operation {
                Ok(pending) => self.device.complete(pending),
                Err((lba, blocks)) => bytes = self.device.read_run(lba, blocks),
            }
            match opening.on_io(io, Ok(&bytes), &mut commands)? {
                Progress::Working(next) => opening = next,
                Progress::Inspected(_) => panic!("it was to be opened"),
                Progress::Ready(store) => {
                    assert!(pending.is_empty() && commands.is_empty(), "an open store is at rest");
                    self.store = Some(store);
                    return Ok(true);
                }
            }
        }
    }

    /// Looks at what is there; nothing is written.
    pub(crate) fn inspect(&self) -> Result<Box<Inspection>, OpenError> {
        let mut commands = Vec::new();
        let mut opening = Opening::inspect(self.zone, self.limits, &mut commands);
        loop {
            let Some(Command::Read { io, lba, blocks }) = commands.pop() else {
                panic!("an inspection only reads")
            };
            let bytes = self.device.read_run(lba, blocks);
            match opening.on_io(io, Ok(&bytes), &mut commands)? {
                Progress::Working(next) => opening = next,
                Progress::Inspected(inspection) => return Ok(inspection),
                Progress::Ready(_) => panic!("it was to be looked at"),
            }
        }
    }

    fn opening_io(&self, command: Command) -> OpeningIo {
        match command {
            Command::Read { io, lba, blocks } => (io, Err((lba, blocks))),
            Command::WriteBytes { io, lba, bytes } => (io, Ok(Pending::Write { lba, bytes })),
            Command::Flush { io } => (io, Ok(self.device.flush())),
            Command::Merge { .. }
            | Command::Repack { .. }
            | Command::WriteData { .. }
            | Command::Discard { .. }
            | Command::Complete { .. } => {
                panic!("an opening has no requests")
            }
        }
    }
}
