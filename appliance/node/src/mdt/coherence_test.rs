//! Clients that cache all they may, at random, through restarts: whatever a client may cache is true.
//!
//! A client here keeps every attribute, name, absence and content its leases allow until the moment it answers a
//! revoke, and delays its messages at will. After every step all caches are held against the state. Requests on names
//! only one client uses have one possible outcome each, so carrying one out twice, or not at all, is found too.

use std::collections::{BTreeMap, BTreeSet};

use sheen_types::{Attributes, Errno, Fid, FileKind, Name, Timespec, Xid};
use sheen_wire::{
    Field, Opcode,
    fields::List,
    lease::{
        LeaseCancel, LeaseGrant, LeaseReply, LeaseRequest, LeaseRevoke, LockMode, SizeUpdate, bits,
    },
    metadata::{
        AttributesReply, Close, EntryReply, GetAttributes, HeldLease, Link, Lookup, Open,
        OpenReply, Reassert, Rename, RenameReply, SetAttributes, Unlink, UnlinkReply, set,
    },
};

use super::{
    test_ports::Received,
    test_support::{CREDENTIALS, Client, World, name, setting},
};

struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % bound
    }
}

#[derive(Debug, Default, Clone)]
struct Cached {
    bits: u32,
    /// 0 none, 1 read, 2 write.
    data: u8,
    sequence: u64,
    attributes: Option<Attributes>,
    content: Option<u64>,
    /// Content was written and the MDT not told.
    untold: bool,
    /// Bits given back; the MDT has not confirmed it. A grant that crossed may still name them.
    returning: Vec<u32>,
}

#[derive(Debug, Clone)]
struct Asked {
    opcode: Opcode,
    tag: u16,
    body: Vec<u8>,
    /// For names only this client uses.
    must_succeed: bool,
    about: Option<Name>,
    fid: Fid,
    changes: bool,
}

struct Model {
    client: Client,
    asked: BTreeMap<Xid, Asked>,
    tags: BTreeSet<u16>,
    inodes: BTreeMap<Fid, Cached>,
    names: BTreeMap<Name, Option<Fid>>,
    revokes: Vec<LeaseRevoke>,
    /// Changes sent and not answered: nothing is cached meanwhile.
    changes: usize,
    private: u32,
    own_file: Option<Name>,
    open: BTreeSet<Fid>,
    /// Directories that replies to changes told of.
    told: u32,
}

/// True content of files, as a version. [`Fid::NONE`] stands for a restart: what clients had learned may be lost then,
/// and the MDT's copy of a size older than the objects'.
type Contents = BTreeMap<Fid, u64>;

impl Model {
    fn new(world: &mut World, number: u8) -> Self {
        Self {
            client: world.mount(number),
            asked: BTreeMap::new(),
            tags: (0..6).collect(),
            inodes: BTreeMap::new(),
            names: BTreeMap::new(),
            revokes: Vec::new(),
            changes: 0,
            private: 0,
            own_file: None,
            open: BTreeSet::new(),
            told: 0,
        }
    }

    fn send(&mut self, world: &World, asked: Asked) {
        if asked.changes {
            // Its own leases are not in its way: what it knows may change under it.
            self.changes += 1;
            self.names.clear();
            self.inodes.values_mut().for_each(|inode| inode.attributes = None);
        }
        let sent = self.client.send(world, asked.opcode, asked.tag, &asked.body, &[]);
        self.asked.insert(sent.xid, asked);
    }

    fn plain(&mut self, world: &World, opcode: Opcode, fid: Fid, body: &impl Field) {
        let body = body.to_vec();
        let asked =
            Asked { opcode, tag: 0, body, must_succeed: false, about: None, fid, changes: false };
        self.send(world, asked);
    }

    fn change(&mut self, world: &World, opcode: Opcode, must_succeed: bool, body: &impl Field) {
        let Some(tag) = self.tags.pop_first() else { return };
        let body = body.to_vec();
        let fid = Fid::NONE;
        self.send(
            world,
            Asked { opcode, tag, body, must_succeed, about: None, fid, changes: true },
        );
    }

    fn grant(&mut self, fid: Fid, grant: &LeaseGrant) -> bool {
        let inode = self.inodes.entry(fid).or_default();
        if grant.sequence <= inode.sequence {
            return false;
        }
        inode.sequence = grant.sequence;
        let returning = inode.returning.iter().fold(0, |all, bits| all | bits);
        // What is asked back and not returned yet is held until the answer, though grants do not name it.
        let asked_back = self.revokes.iter().filter(|revoke| revoke.fid == fid);
        let asked_back = asked_back.fold(0, |all, revoke| all | revoke.bits);
        let kept = inode.bits & asked_back;
        inode.bits = (grant.read_bits & !bits::DATA & !returning) | kept;
        if (returning | asked_back) & bits::DATA == 0 {
            inode.data = if grant.write_bits & bits::DATA != 0 {
                2
            } else {
                u8::from(grant.read_bits & bits::DATA != 0)
            };
        }
        true
    }

    fn learn(&mut self, attributes: &Attributes, grant: &LeaseGrant, contents: &Contents) {
        let fid = attributes.fid;
        let fresh = self.grant(fid, grant);
        let quiet = self.changes == 0;
        let inode = self.inodes.entry(fid).or_default();
        if !fresh {
            return;
        }
        let readable = bits::UPDATE | bits::PERM;
        inode.attributes = (quiet && inode.bits & readable == readable).then_some(*attributes);
        if inode.data > 0 && inode.content.is_none() {
            inode.content = Some(contents.get(&fid).copied().unwrap_or(0));
        }
    }

    fn learn_directory(&mut self, after: Option<AttributesReply>, contents: &Contents) {
        if let Some(AttributesReply { attributes, lease }) = after {
            self.told += 1;
            self.learn(&attributes, &lease, contents);
        }
    }

    /// Takes in the next message.
    fn receive(&mut self, message: Received, contents: &Contents) {
        if message.frame.opcode == Opcode::LeaseRevoke {
            let revoke = LeaseRevoke::from_bytes(&message.body).unwrap();
            let inode = self.inodes.entry(revoke.fid).or_default();
            inode.sequence = inode.sequence.max(revoke.sequence);
            self.revokes.push(revoke);
            return;
        }
        let Some(asked) = self.asked.remove(&message.frame.xid) else { return };
        if asked.changes {
            self.changes -= 1;
            self.tags.insert(asked.tag);
            self.names.clear();
            self.inodes.values_mut().for_each(|inode| inode.attributes = None);
        }
        if asked.opcode == Opcode::LeaseCancel {
            let returned = LeaseCancel::from_bytes(&asked.body).unwrap();
            let returning = &mut self.inodes.entry(asked.fid).or_default().returning;
            let at = returning.iter().position(|bits| *bits == returned.bits).unwrap();
            returning.swap_remove(at);
        }
        let status = message.frame.status;
        assert!(!asked.must_succeed || status == 0, "{:?} gave {status}", asked.opcode);
        let missing = asked.opcode == Opcode::Lookup && status == -Errno::ENOENT.0;
        if missing {
            let lease = LeaseGrant::from_bytes(&message.body).unwrap();
            self.grant(Fid::ROOT, &lease);
            let covered = self.inodes[&Fid::ROOT].bits & bits::UPDATE != 0;
            if let (Some(about), true, 0) = (asked.about, covered, self.changes) {
                self.names.insert(about, None);
            }
        } else if status == 0 {
            self.take_success(asked, &message, contents);
        }
    }

    fn take_success(&mut self, asked: Asked, message: &Received, contents: &Contents) {
        match asked.opcode {
            Opcode::Lookup => {
                let entry: EntryReply = message.body();
                self.learn(&entry.attributes, &entry.lease, contents);
                let fid = entry.attributes.fid;
                let covered = self.inodes[&fid].bits & bits::LOOKUP != 0
                    && self.inodes[&fid].sequence == entry.lease.sequence;
                if let (Some(about), true, 0) = (asked.about, covered, self.changes) {
                    self.names.insert(about, Some(fid));
                }
            }
            Opcode::Create | Opcode::Link => {
                let entry: EntryReply = message.body();
                self.learn(&entry.attributes, &entry.lease, contents);
                if let Some(parent) = entry.parent {
                    self.told += 1;
                    self.learn(&parent, &entry.parent_lease, contents);
                }
            }
            Opcode::Unlink => {
                let gone: UnlinkReply = message.body();
                self.learn_directory(gone.parent, contents);
            }
            Opcode::Rename => {
                let moved: RenameReply = message.body();
                self.learn_directory(moved.from_parent, contents);
            }
            Opcode::GetAttributes | Opcode::SetAttributes => {
                let reply: AttributesReply = message.body();
                self.learn(&reply.attributes, &reply.lease, contents);
            }
            Opcode::Open => {
                let reply: OpenReply = message.body();
                self.open.insert(asked.fid);
                self.learn(&reply.attributes, &reply.lease, contents);
            }
            Opcode::LeaseRequest => {
                let reply: LeaseReply = message.body();
                let told = contents.get(&asked.fid).copied().unwrap_or(0);
                self.learn(&reply.attributes, &reply.lease, contents);
                let regular = reply.attributes.kind == FileKind::Regular;
                let told_all = !contents.contains_key(&Fid::NONE);
                if told_all
                    && regular
                    && self.inodes[&asked.fid].data == 2
                    && !self.inodes[&asked.fid].untold
                {
                    assert_eq!(reply.attributes.size, told, "what the last writer learned");
                }
            }
            _ => {}
        }
    }

    fn answer_revoke(&mut self, world: &World, at: usize, contents: &Contents) {
        let revoke = self.revokes.remove(at);
        let inode = self.inodes.entry(revoke.fid).or_default();
        let mut learned = None;
        if revoke.bits & bits::DATA != 0 {
            if inode.data == 2 && std::mem::take(&mut inode.untold) {
                let size = contents.get(&revoke.fid).copied().unwrap_or(0);
                let (mtime, atime) = (Timespec::ZERO, Timespec::ZERO);
                learned = Some(SizeUpdate { fid: revoke.fid, size, blocks: 0, mtime, atime });
            }
            inode.data = if revoke.to_read { inode.data.min(1) } else { 0 };
            if inode.data == 0 {
                inode.content = None;
            }
        }
        inode.bits &= !revoke.bits;
        inode.returning.push(revoke.bits);
        if revoke.bits & (bits::UPDATE | bits::PERM) != 0 {
            inode.attributes = None;
        }
        let (fid, lost) = (revoke.fid, revoke.bits);
        self.names.retain(|_, found| match found {
            Some(inode) => *inode != fid || lost & bits::LOOKUP == 0,
            None => fid != Fid::ROOT || lost & bits::UPDATE == 0,
        });
        let LeaseRevoke { fid, bits, to_read, sequence } = revoke;
        let cancel = LeaseCancel { fid, bits, to_read, sequence, learned };
        self.plain(world, Opcode::LeaseCancel, fid, &cancel);
    }

    fn act(&mut self, world: &World, chance: &mut Chance, contents: &mut Contents) {
        let known: Vec<Fid> = self.inodes.keys().copied().filter(|fid| *fid != Fid::ROOT).collect();
        let some = if known.is_empty() { Fid::ROOT } else { known[chance.below(known.len())] };
        match chance.below(14) {
            0..=2 => self.look_up(world, ["a", "b", "c", "d"][chance.below(4)]),
            3 => self.plain(world, Opcode::GetAttributes, some, &GetAttributes { fid: some }),
            4 => {
                let fid = Fid::ROOT;
                self.plain(world, Opcode::GetAttributes, fid, &GetAttributes { fid });
            }
            5..=9 => self.change_something(world, chance, some),
            10 => self.private_step(world),
            11 => {
                let mode = [LockMode::ProtectedRead, LockMode::ProtectedWrite][chance.below(2)];
                let request = LeaseRequest { fid: some, bits: bits::DATA, mode };
                self.plain(world, Opcode::LeaseRequest, some, &request);
            }
            12 if self.open.remove(&some) => {
                let request = Close { fid: some, write_only: false };
                self.plain(world, Opcode::Close, some, &request);
            }
            12 => {
                let request = Open { fid: some, write: chance.below(2) == 0, append: false };
                self.plain(world, Opcode::Open, some, &request);
            }
            _ => {
                // Under DATA in PW, content changes without a word, even while it is being asked back.
                if let Some(inode) = self.inodes.get_mut(&some).filter(|inode| inode.data == 2) {
                    let version = contents.entry(some).or_default();
                    *version += 1;
                    inode.content = Some(*version);
                    inode.untold = true;
                }
            }
        }
    }

    fn look_up(&mut self, world: &World, file: &str) {
        let asked = Asked {
            opcode: Opcode::Lookup,
            tag: 0,
            body: Lookup { parent: Fid::ROOT, name: Some(name(file)) }.to_vec(),
            must_succeed: false,
            about: Some(name(file)),
            fid: Fid::NONE,
            changes: false,
        };
        self.send(world, asked);
    }

    /// Changes names all clients use, or an inode it knows.
    fn change_something(&mut self, world: &World, chance: &mut Chance, some: Fid) {
        let file = name(["a", "b", "c", "d"][chance.below(4)]);
        let other = name(["a", "b", "c", "d"][chance.below(4)]);
        let (parent, credentials) = (Fid::ROOT, CREDENTIALS);
        match chance.below(5) {
            0 => {
                let mut request = self.client.create_request(parent, "x");
                request.name = file;
                request.exclusive = chance.below(2) == 0;
                self.change(world, Opcode::Create, false, &request);
            }
            1 => {
                let request = Unlink { parent, name: file, directory: false, credentials };
                self.change(world, Opcode::Unlink, false, &request);
            }
            2 => {
                let request = Rename {
                    from_parent: parent,
                    from_name: file,
                    to_parent: parent,
                    to_name: other,
                    flags: 0,
                    credentials,
                    whiteout: Fid::NONE,
                };
                self.change(world, Opcode::Rename, false, &request);
            }
            3 => {
                let permissions = 0o600 + u32::try_from(chance.below(8)).unwrap();
                self.change(world, Opcode::SetAttributes, false, &set_mode(some, permissions));
            }
            _ => {
                let request = Link { fid: some, parent, name: file };
                self.change(world, Opcode::Link, false, &request);
            }
        }
    }

    /// Makes or removes a file nobody else knows of: it must succeed, once.
    fn private_step(&mut self, world: &World) {
        if self.tags.is_empty() {
            return;
        }
        match self.own_file.take() {
            None => {
                self.private += 1;
                let file = format!("{}-{}", self.client.client, self.private);
                let request = self.client.create_request(Fid::ROOT, &file);
                self.own_file = Some(name(&file));
                self.change(world, Opcode::Create, true, &request);
            }
            Some(file) => {
                let busy = self
                    .asked
                    .values()
                    .any(|asked| asked.opcode == Opcode::Create && asked.must_succeed);
                if busy {
                    self.own_file = Some(file);
                    return;
                }
                let request = Unlink {
                    parent: Fid::ROOT,
                    name: file,
                    directory: false,
                    credentials: CREDENTIALS,
                };
                self.change(world, Opcode::Unlink, true, &request);
            }
        }
    }

    /// After the MDT came back: connect, assert what is held, send again what was not answered.
    fn come_back(&mut self, world: &mut World) {
        let asked = std::mem::take(&mut self.asked);
        self.client.reconnect(world);
        assert!(self.client.resumed);
        for revoke in std::mem::take(&mut self.revokes) {
            // Not asserted: it was on its way back.
            let inode = self.inodes.entry(revoke.fid).or_default();
            inode.bits &= !revoke.bits;
            if revoke.bits & bits::DATA != 0 {
                (inode.data, inode.content, inode.untold) = (0, None, false);
            }
        }
        self.names.clear();
        let mut leases = Vec::new();
        for (&fid, inode) in &mut self.inodes {
            inode.sequence = 0;
            inode.returning.clear();
            inode.attributes = None;
            let (read, write) = match inode.data {
                0 => (0, 0),
                1 => (bits::DATA, 0),
                _ => (0, bits::DATA),
            };
            leases.push(HeldLease { fid, read_bits: inode.bits | read, write_bits: write });
        }
        let opens =
            self.open.iter().map(|&fid| sheen_wire::metadata::HeldOpen { fid, write: true });
        let held = Reassert {
            opens: List(opens.collect()),
            leases: List(leases),
            locks: List(Vec::new()),
            complete: true,
        };
        assert_eq!(self.client.reassert(world, &held), 0);
        for (xid, asked) in asked {
            if asked.opcode == Opcode::LeaseCancel {
                // Of no interest to an MDT that forgot.
                continue;
            }
            self.client.send_as(world, asked.opcode, asked.tag, xid, &asked.body, &[]);
            self.asked.insert(xid, asked);
        }
    }

    /// Everything it may cache is true.
    fn check(&self, world: &World, contents: &Contents) {
        let state = &world.service.as_ref().unwrap().core.state;
        for (&fid, inode) in &self.inodes {
            if let Some(cached) = inode.attributes {
                let now = state.attributes(fid);
                let now = now.unwrap_or_else(|_| panic!("{fid} is gone under a lease"));
                let brief = |a: &Attributes| (a.permissions, a.nlink, a.uid, a.kind);
                assert_eq!(brief(&cached), brief(&now), "{fid} changed under a lease");
                if now.kind == FileKind::Directory {
                    assert_eq!(cached.mtime, now.mtime, "directory {fid} changed under a lease");
                }
            }
            if let (1.., Some(content)) = (inode.data, inode.content) {
                assert_eq!(Some(&content), contents.get(&fid).or(Some(&0)), "content of {fid}");
            }
        }
        for (file, &cached) in &self.names {
            let now = state.lookup(Fid::ROOT, file).ok().map(|(fid, _)| fid);
            assert_eq!(cached, now, "{file} leads elsewhere under a lease");
        }
    }
}

fn set_mode(fid: Fid, permissions: u32) -> SetAttributes {
    SetAttributes { permissions, ..setting(fid, set::MODE) }
}

fn check_all(world: &World, models: &[Model], contents: &Contents) {
    world.service.as_ref().unwrap().core.check_waits();
    let mut writers: BTreeMap<Fid, usize> = BTreeMap::new();
    let mut readers: BTreeMap<Fid, usize> = BTreeMap::new();
    for model in models {
        model.check(world, contents);
        for (&fid, inode) in &model.inodes {
            *writers.entry(fid).or_default() += usize::from(inode.data == 2);
            *readers.entry(fid).or_default() += usize::from(inode.data == 1);
        }
    }
    for (fid, count) in writers {
        assert!(count <= 1 && (count == 0 || readers[&fid] == 0), "content of {fid} in two modes");
    }
}

fn deliver(world: &World, model: &mut Model, contents: &Contents) -> bool {
    let connection = model.client.connection;
    let message = world
        .wire
        .borrow_mut()
        .streams
        .get_mut(&connection)
        .and_then(std::collections::VecDeque::pop_front);
    match message {
        Some(message) => {
            model.receive(message, contents);
            true
        }
        None => false,
    }
}

fn restart(world: &mut World, models: &mut [Model]) {
    world.stalled.set(false);
    world.restart();
    for model in &mut *models {
        model.come_back(world);
    }
    world.run();
}

fn run(seed: u64) -> u64 {
    let mut chance = Chance(seed);
    let mut world = World::new();
    let mut models: Vec<Model> = (1..=3).map(|number| Model::new(&mut world, number)).collect();
    let mut contents = Contents::new();
    for _ in 0..1500 {
        let at = chance.below(models.len());
        match chance.below(100) {
            0..=34 => models[at].act(&world, &mut chance, &mut contents),
            35..=64 => {
                deliver(&world, &mut models[at], &contents);
            }
            65..=79 => {
                let waiting = models[at].revokes.len();
                if waiting > 0 {
                    let which = chance.below(waiting);
                    models[at].answer_revoke(&world, which, &contents);
                }
            }
            80 if chance.below(8) == 0 => {
                contents.insert(Fid::NONE, 0);
                restart(&mut world, &mut models);
            }
            81 => world.stalled.set(!world.stalled.get()),
            _ => {
                world.clock.0.set(world.clock.0.get() + 1_000_000);
                world.service.as_mut().unwrap().turn();
            }
        }
        check_all(&world, &models, &contents);
    }
    world.stalled.set(false);
    for _ in 0..10_000 {
        world.run();
        let mut any = false;
        for model in &mut models {
            while deliver(&world, model, &contents) {
                any = true;
            }
            while !model.revokes.is_empty() {
                model.answer_revoke(&world, 0, &contents);
                any = true;
            }
        }
        check_all(&world, &models, &contents);
        if !any {
            break;
        }
    }
    for model in &models {
        assert!(model.asked.is_empty(), "never answered: {:?}", model.asked);
    }
    assert!(models.iter().any(|model| model.told > 0), "no reply told of a directory");
    world.service.as_ref().unwrap().core.state.last_transaction().0 & 0xffff_ffff
}

#[test]
fn whatever_a_client_may_cache_is_true_at_every_step() {
    let mut changes = 0;
    for seed in 0..60 {
        let result = std::panic::catch_unwind(|| run(seed));
        changes += result.unwrap_or_else(|_| panic!("seed {seed}"));
    }
    assert!(changes > 1000, "only {changes} changes");
}
