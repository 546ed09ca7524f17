//! A random history of one store: changes, reads, syncs, crashes, all checked against the reference.

use std::collections::{BTreeMap, BTreeSet};

use sheen_store::{
    Allocate, Limits, Owner, Punch, PunchKind, ReadPlan, Repack, RequestToken, StoredRun, Truncate,
    Write, Zone,
};
use sheen_types::{Errno, Fid, Lba, Timespec};

use crate::{
    chance::Chance,
    device::{BLOCK, Crash},
    packing::Packer,
    reference::{CELL, Change, Reference, State, Status, Step},
    world::World,
};

const OBJECTS: u64 = 4;
const REQUESTS: u32 = 24;

/// A history under way.
pub(crate) struct History {
    chance: Chance,
    pub(crate) world: World,
    objects: BTreeMap<Fid, Reference>,
    tag: u32,
    request: u64,
    /// Whether some writes are packed.
    packs: bool,
    /// Requests completed when each sync or durable change was asked for, by its request.
    syncs: BTreeMap<u64, Vec<u64>>,
    completed: Vec<u64>,
    pub(crate) checked: u64,
    pub(crate) skipped: u64,
    pub(crate) checkpoints: u64,
    pub(crate) repacks: u64,
    /// Packed groups written.
    pub(crate) groups: usize,
    /// Parts of packed groups seen, and how many were not whole groups.
    pub(crate) parts: (usize, usize),
}

fn fid(number: u64) -> Fid {
    Fid::new(Fid::NORMAL_SEQUENCE_FIRST, number as u32 + 1)
}

fn pattern(cells: &[u32]) -> Vec<u8> {
    let cell = CELL as usize;
    let mut bytes = vec![0; cells.len() * cell];
    let mut at = 0;
    for same in cells.chunk_by(|a, b| a == b) {
        let end = at + same.len() * cell;
        if same[0] != 0 {
            bytes[at..end].copy_from_slice(&same[0].to_le_bytes().repeat((end - at) / 4));
        }
        at = end;
    }
    bytes
}

/// The first cell with two tags, its number, and the tags.
fn torn_cell(bytes: &[u8]) -> Option<(usize, Vec<u32>)> {
    bytes.chunks(CELL as usize).enumerate().find_map(|(number, cell)| {
        let mut tags: Vec<u32> = cell
            .chunks(4)
            .map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]))
            .collect();
        tags.dedup();
        (tags.len() > 1).then_some((number, tags))
    })
}

impl History {
    pub(crate) fn new(seed: u64) -> Self {
        let mut chance = Chance::new(seed);
        let zone = Zone { first: Lba(chance.below(3) * 1000), blocks: 2048 + chance.below(200) };
        let limits = Limits {
            requests_max: REQUESTS,
            unflushed_blocks_max: 40 + chance.below(400),
            journal_writes_max: 1 + chance.below(3) as u32,
            discard: chance.one_in(2),
        };
        let mut world = World::new(zone, limits, chance.next());
        world.faults_one_in = if chance.one_in(4) { 12 } else { u64::MAX };
        world.area_faults_one_in = if chance.one_in(4) { 6 } else { u64::MAX };
        let packs = !chance.one_in(3);
        Self {
            chance,
            world,
            objects: (0..OBJECTS).map(|number| (fid(number), Reference::default())).collect(),
            tag: 0,
            request: 0,
            packs,
            syncs: BTreeMap::new(),
            completed: Vec::new(),
            checked: 0,
            skipped: 0,
            checkpoints: 0,
            repacks: 0,
            groups: 0,
            parts: (0, 0),
        }
    }

    pub(crate) fn run(&mut self, lives: u64) {
        let mut crash = Crash::Kill;
        for _ in 0..lives {
            self.open(crash);
            crash = if self.chance.one_in(2) { Crash::Kill } else { Crash::Power };
            let steps = 20 + self.chance.below(250);
            for _ in 0..steps {
                self.turn();
            }
            if self.chance.one_in(4) {
                self.settle();
            }
            self.checkpoints += self.world.store().statistics().checkpoints;
            self.world.crash(crash, &mut self.chance);
        }
        self.open(crash);
        self.settle();
    }

    /// Opens the store; a look beforehand saw the same.
    fn open(&mut self, crash: Crash) {
        let inspection = self.world.inspect().unwrap();
        self.world.open(crash, &mut self.chance);
        self.check_alike(&inspection);
        self.check_recovered(crash);
    }

    /// The store holds what was found on its device.
    fn check_alike(&mut self, inspection: &sheen_store::Inspection) {
        assert_eq!(inspection.conflicts(), []);
        let store = self.world.store();
        assert!(inspection.objects().map(|(object, _)| object).eq(store.objects(Fid::NONE)));
        for (object, attributes) in inspection.objects() {
            assert_eq!(Some(attributes), store.attributes(object));
            assert_eq!(inspection.stored(object), store.stored(object));
        }
        assert_eq!(inspection.facts().used_blocks, store.statistics().used_blocks);
    }

    fn turn(&mut self) {
        match self.chance.below(10) {
            0..=2 => self.change(),
            3 => self.look(),
            4 => self.sync(),
            5 if self.chance.one_in(8) => self.world.store().checkpoint(),
            5 if self.chance.one_in(2) => self.repack(),
            _ => {
                self.world.step(&mut self.chance);
            }
        }
        if !self.chance.one_in(4) {
            self.world.pump();
        }
        self.note_ended();
    }

    fn pick_range(&mut self) -> (u64, u64) {
        let base = if self.chance.one_in(4) { 2060 } else { 0 };
        let first = base + self.chance.below(80);
        let most = if self.chance.one_in(12) { 400 } else { 24 };
        (first, first + 1 + self.chance.below(most))
    }

    fn change(&mut self) {
        let object = fid(self.chance.below(OBJECTS));
        let (first, end) = self.pick_range();
        let extend = self.chance.one_in(2);
        // Whether a hole in an object that is being made alters anything depends on who comes first.
        let reference = &self.objects[&object];
        let extend = extend || !reference.surely_exists();
        let change = match self.chance.below(16) {
            0..=8 => Change::Write { first, end },
            9 | 10 => Change::Truncate { size: if extend { first } else { first / 4 } },
            11 => Change::Hole { first, end, extend },
            12 => Change::Zero { first, end, extend },
            13 => {
                Change::Allocate { first, end: end + 600 * self.chance.below(3), keep_size: extend }
            }
            14 => Change::Destroy,
            _ => Change::Write { first: end, end: end + 1 },
        };
        let durable = self.chance.one_in(6) || change == Change::Destroy;
        self.tag += 1;
        self.request += 1;
        let (request, tag) = (self.request, self.tag);
        if !self.submit(request, object, change, durable, tag) {
            return;
        }
        let step = Step { request, tag, change, status: Status::Asked };
        self.objects.get_mut(&object).unwrap().steps.push(step);
        if durable {
            self.syncs.insert(request, Vec::new());
        }
        self.note_ended();
    }

    fn submit(
        &mut self,
        request: u64,
        object: Fid,
        change: Change,
        durable: bool,
        tag: u32,
    ) -> bool {
        let mtime = Timespec { seconds: i64::from(tag), nanoseconds: 0 };
        let token = RequestToken(request);
        let bytes = |first: u64, end: u64| (first * CELL, (end - first) * CELL);
        let punch = |kind, first, end, extend| {
            let (offset, length) = bytes(first, end);
            Punch { object, offset, length, kind, extend, mtime, durable }
        };
        match change {
            Change::Write { first, end } => {
                let (offset, length) = bytes(first, end);
                let cells = vec![tag; (end - first) as usize];
                let (skip, bytes) = (offset as usize % BLOCK, pattern(&cells));
                let mut image = vec![0; (skip + bytes.len()).div_ceil(BLOCK) * BLOCK];
                image[skip..skip + bytes.len()].copy_from_slice(&bytes);
                let origin = offset / BLOCK as u64;
                let whole = offset.div_ceil(BLOCK as u64)..(offset + length) / BLOCK as u64;
                let whole = whole.start - origin..whole.end.max(whole.start) - origin;
                let whole = if self.packs { whole } else { 0..0 };
                let Packer { packed, image, checksums } =
                    Packer::new(&image, origin, whole, &mut self.chance);
                self.world.images.insert(request, image);
                self.groups += packed.len();
                let (checksums, packed) = (&checksums[..], &packed[..]);
                let owner = Owner { uid: 1, gid: 2, projid: 3 };
                let write =
                    Write { object, offset, length, checksums, packed, mtime, owner, durable };
                self.world.call(|store, commands| store.write(token, &write, commands)).is_ok()
            }
            Change::Truncate { size } => {
                let truncate = Truncate { object, size: size * CELL, mtime, durable };
                self.world
                    .call(|store, commands| store.truncate(token, &truncate, commands))
                    .is_ok()
            }
            Change::Hole { first, end, extend } => {
                let punch = punch(PunchKind::Hole, first, end, extend);
                self.world.call(|store, commands| store.punch(token, &punch, commands)).is_ok()
            }
            Change::Zero { first, end, extend } => {
                let punch = punch(PunchKind::Zero, first, end, extend);
                self.world.call(|store, commands| store.punch(token, &punch, commands)).is_ok()
            }
            Change::Allocate { first, end, keep_size } => {
                let (offset, length) = bytes(first, end);
                let allocate = Allocate { object, offset, length, keep_size, mtime, durable };
                self.world
                    .call(|store, commands| store.allocate(token, &allocate, commands))
                    .is_ok()
            }
            Change::Destroy => {
                self.world.call(|store, commands| store.destroy(token, &[object], commands)).is_ok()
            }
        }
    }

    /// Stores a range anew; the content stays.
    fn repack(&mut self) {
        let object = fid(self.chance.below(OBJECTS));
        let (first, end) = self.pick_range();
        let block = BLOCK as u64;
        let (first, end) = (first * CELL / block, (end * CELL).div_ceil(block));
        self.request += 1;
        let durable = self.chance.one_in(6);
        let length = (end - first) * block;
        let repack = Repack { object, offset: first * block, length, durable };
        let token = RequestToken(self.request);
        self.world.repacks.insert(self.request, first);
        if self.world.call(|store, commands| store.repack(token, &repack, commands)).is_ok() {
            self.repacks += 1;
        }
    }

    fn sync(&mut self) {
        self.request += 1;
        let token = RequestToken(self.request);
        if self.world.call(|store, commands| store.sync(token, commands)).is_ok() {
            self.syncs.insert(self.request, self.completed.clone());
        }
    }

    fn note_ended(&mut self) {
        for ended in std::mem::take(&mut self.world.ended) {
            let request = ended.request;
            let covered = self.syncs.remove(&request);
            let status = match ended.result {
                Ok(_) if covered.is_some() => Status::Durable,
                Ok(_) => Status::Completed,
                Err(Errno::ENOSPC | Errno::EAGAIN) if !self.world.faulted.contains(&request) => {
                    Status::Failed
                }
                Err(Errno::ENOSPC | Errno::EIO) if self.world.faulted.contains(&request) => {
                    Status::Faulty
                }
                Err(errno) => panic!("request {request}: {errno}"),
            };
            self.completed.push(request);
            for object in self.objects.values_mut() {
                object.complete(request, status);
                object
                    .make_durable(|other| covered.as_ref().is_some_and(|all| all.contains(&other)));
            }
        }
    }

    /// Reads some of an object, at once planned and later carried out.
    fn look(&mut self) {
        let object = fid(self.chance.below(OBJECTS));
        let (first, end) = self.pick_range();
        let (offset, length) = (first * CELL, (end - first) * CELL);
        let reference = &self.objects[&object];
        let expected = reference.is_settled().then(|| {
            let state = reference.settled();
            let size = state.cells.len();
            pattern(&state.cells[(first as usize).min(size)..(end as usize).min(size)])
        });
        self.world.read(object, offset, length, expected);
    }

    fn read_state(&mut self, object: Fid) -> State {
        let Some(attributes) = self.world.store().attributes(object) else {
            return State::default();
        };
        let mut bytes = Vec::new();
        let mut plan = ReadPlan::default();
        while (bytes.len() as u64) < attributes.size {
            let offset = bytes.len() as u64;
            let pin = self.world.store().read(object, offset, 1 << 20, &mut plan);
            bytes.extend(self.world.read_plan(&plan));
            self.world.store().release(pin);
        }
        assert_eq!(bytes.len() as u64 % CELL, 0, "sizes are whole cells");
        let cells: Vec<u32> = bytes
            .chunks(CELL as usize)
            .map(|cell| u32::from_le_bytes([cell[0], cell[1], cell[2], cell[3]]))
            .collect();
        let whole = bytes == pattern(&cells);
        let state = State { exists: true, cells, mtime: attributes.mtime.seconds };
        let reference = &self.objects[&object];
        assert!(whole, "two changes' {:?}: {state:?} from {reference:?}", torn_cell(&bytes));
        state
    }

    fn check_recovered(&mut self, crash: Crash) {
        let certain = match crash {
            Crash::Kill => Status::Completed,
            Crash::Power => Status::Durable,
        };
        for number in 0..OBJECTS {
            let found = self.read_state(fid(number));
            let reference = self.objects.get_mut(&fid(number)).unwrap();
            self.checked += 1;
            self.skipped += u64::from(!reference.accept(&found, certain));
        }
        self.syncs.clear();
        self.completed.clear();
        self.check_space();
    }

    /// Every block is free, freed, mapped by exactly one object, or held back.
    fn check_space(&mut self) {
        let objects: Vec<Fid> = self.world.store().objects(Fid::NONE).collect();
        let store = self.world.store();
        let blocks_of = |&object| store.attributes(object).unwrap().blocks;
        let mapped: u64 = objects.iter().map(blocks_of).sum();
        let runs: Vec<StoredRun> =
            objects.iter().flat_map(|&object| store.stored(object).unwrap()).collect();
        // Parts of one packed group lie in the same blocks; nothing else does.
        let owned: BTreeSet<u64> =
            runs.iter().flat_map(|run| run.lba.0..run.lba.0 + run.stored_blocks).collect();
        let statistics = self.world.store().statistics();
        assert_eq!(statistics.used_blocks, mapped);
        assert_eq!(statistics.used_blocks, owned.len() as u64);
        assert_eq!(statistics.logical_blocks, runs.iter().map(|run| run.blocks).sum::<u64>());
        for run in runs.iter().filter(|run| run.blocks != run.stored_blocks) {
            self.parts.0 += 1;
            self.parts.1 += usize::from(run.blocks <= run.stored_blocks);
        }
        assert_eq!(
            statistics.allocatable_blocks
                + statistics.quarantined_blocks
                + statistics.discarding_blocks
                + mapped,
            statistics.total_blocks + statistics.reserve_blocks
        );
        assert_eq!(statistics.requests, 0);
    }

    fn settle(&mut self) {
        self.world.settle(&mut self.chance);
        self.note_ended();
        assert!(self.world.store().is_idle());
        for number in 0..OBJECTS {
            let found = self.read_state(fid(number));
            let reference = &self.objects[&fid(number)];
            assert!(reference.is_settled(), "every request ends");
            assert_eq!(found, reference.settled(), "object {number}");
        }
        self.check_space();
        let inspection = self.world.inspect().unwrap();
        self.check_alike(&inspection);
    }
}
