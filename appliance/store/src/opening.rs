//! Opening: from the blocks of a zone to a running store, or to an error with a name.
//!
//! Anchor → checkpoint → journal → data of the last, not known flushed records → flush, new anchor → open.

use std::{error::Error, fmt};

use sheen_journal::{Anchor, AnchorDamage, Damage, Fault, ScanStart, Scanner, Step, Tail, Writer};
use sheen_types::{BLOCK_BYTES, Fid, Lba};

use crate::{
    Command, Inspection, IoFault, IoToken, Limits, Store, Zone,
    anchor::{ANCHOR_KIND, AnchorState, BadAnchor, VOIDS_MAX},
    discard::Discards,
    io::Io,
    journal_end::JournalEnd,
    layout::anchor_lbas,
    loading::{Loading, Loads},
    log::Log,
    replay::Replay,
    switch::{Lengths, Switch},
    verification::Verification,
};

/// Why a store cannot be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// Neither copy of the anchor can be used.
    Anchor(AnchorDamage),
    /// The zone is not the one that was formatted.
    Zone {
        /// What the anchor says.
        expected: Zone,
        /// What was given.
        found: Zone,
    },
    /// The checkpoint is damaged.
    Checkpoint(Damage),
    /// The journal is damaged.
    Journal(Damage),
    /// An object maps a block that is another's, or none of the data blocks.
    Block {
        /// The object.
        object: Fid,
        /// The block.
        lba: Lba,
    },
    /// The device failed, or did not carry out what it was told: nothing is known of what it holds, and another opening may
    /// find it all. Blocks it lost ([`IoFault::Media`] of a read) are named by the other errors.
    Device(IoFault),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anchor(damage) => write!(f, "store: {damage}"),
            Self::Zone { expected, found } => write!(
                f,
                "store: the zone is {} blocks at {}, its anchor says {} blocks at {}",
                found.blocks, found.first, expected.blocks, expected.first
            ),
            Self::Checkpoint(damage) => write!(f, "store checkpoint: {damage}"),
            Self::Journal(damage) => write!(f, "store journal: {damage}"),
            Self::Block { object, lba } => {
                write!(f, "store index: object {object} maps {lba}, which is not its to map")
            }
            Self::Device(fault) => write!(f, "store: {fault}"),
        }
    }
}

impl Error for OpenError {}

/// How far an opening is.
#[derive(Debug)]
pub enum Progress {
    /// Carry out the commands (Read, WriteBytes, Flush) and report each.
    Working(Box<Opening>),
    /// Open. Commands may have been pushed with it; carry them out as the store's.
    Ready(Box<Store>),
    /// What [`Opening::inspect`] found.
    Inspected(Box<Inspection>),
}

/// A store on its way to be open.
#[derive(Debug)]
pub struct Opening {
    zone: Zone,
    limits: Limits,
    goal: Goal,
    phase: Phase,
}

/// What an opening leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goal {
    /// A running store.
    Serve,
    /// A look at what is there; nothing is written.
    Inspect,
}

/// See the module.
#[derive(Debug)]
enum Phase {
    Anchor([Option<Result<Anchor, Fault>>; 2]),
    Checkpoint { base: Base, loading: Box<Loading>, asked: u32 },
    Journal { base: Base, scanner: Scanner, replay: Replay, asked: u32 },
    Verification { base: Base, tail: Tail, replay: Replay, verification: Verification },
    Switch(Box<Store>),
    Inspected(Box<Inspection>),
}

/// What the anchor said.
#[derive(Debug)]
struct Base {
    identity: u64,
    generation: u64,
    /// The copy of the anchor that was not used.
    bad_anchor: Option<BadAnchor>,
    state: AnchorState,
    /// The checkpoint's log, once it is read.
    lengths: Option<Lengths>,
    /// Its batches that were bad in one copy, the first of so many.
    healed: Vec<Damage>,
    healed_batches: u64,
}

impl Opening {
    /// Begins; pushes the first reads.
    ///
    /// # Panics
    /// When the zone has no blocks.
    #[must_use]
    pub fn new(zone: Zone, limits: Limits, commands: &mut Vec<Command>) -> Box<Self> {
        Self::begin(zone, limits, Goal::Serve, commands)
    }

    /// Begins a look at what the zone holds: the same as an opening, up to where that would write. Ends in
    /// [`Progress::Inspected`].
    ///
    /// # Panics
    /// When the zone has no blocks.
    #[must_use]
    pub fn inspect(zone: Zone, limits: Limits, commands: &mut Vec<Command>) -> Box<Self> {
        Self::begin(zone, limits, Goal::Inspect, commands)
    }

    fn begin(zone: Zone, limits: Limits, goal: Goal, commands: &mut Vec<Command>) -> Box<Self> {
        assert!(zone.blocks > 1, "a zone has blocks");
        for (read, lba) in (0..).zip(anchor_lbas(zone)) {
            commands.push(Command::Read { io: Io::Open { read }.token(), lba, blocks: 1 });
        }
        Box::new(Self { zone, limits, goal, phase: Phase::Anchor([None, None]) })
    }

    /// A read completed with its bytes, or a write or flush with none.
    ///
    /// # Errors
    /// [`OpenError`]: the opening ends. Its other operations in flight may be ignored.
    ///
    /// # Panics
    /// When the token is not of an operation in flight.
    pub fn on_io(
        self: Box<Self>,
        io: IoToken,
        result: Result<&[u8], IoFault>,
        commands: &mut Vec<Command>,
    ) -> Result<Progress, OpenError> {
        let Self { zone, limits, goal, phase } = *self;
        if let Err(fault) = result
            && fault != IoFault::Media
        {
            return Err(OpenError::Device(fault));
        }
        let phase = match phase {
            Phase::Anchor(copies) => on_anchor(zone, copies, io, result, commands)?,
            Phase::Checkpoint { base, mut loading, asked } => {
                feed(loading.scanner(), asked, result);
                load_checkpoint(base, loading, commands)?
            }
            Phase::Journal { base, mut scanner, replay, asked } => {
                feed(&mut scanner, asked, result);
                scan_journal(base, scanner, replay, (limits, goal), commands)?
            }
            Phase::Verification { base, tail, replay, mut verification } => {
                let Io::Open { read } = Io::of(io) else { panic!("only reads are in flight") };
                verification.on_read(read, result);
                verify(base, tail, replay, verification, (limits, goal), commands)?
            }
            Phase::Switch(mut store) => {
                store.on_io(io, result.map(|_| ()), commands);
                if let Err(fault) = result {
                    return Err(OpenError::Device(fault));
                }
                store.pump(commands);
                if store.is_idle() {
                    store.discards = Discards::new(&store.layout, store.limits.discard);
                    if store.healed_batches > 0 {
                        store.switch.want_base();
                    }
                    return Ok(Progress::Ready(store));
                }
                Phase::Switch(store)
            }
            Phase::Inspected(_) => panic!("an inspection that ended has nothing in flight"),
        };
        if let Phase::Inspected(inspection) = phase {
            return Ok(Progress::Inspected(inspection));
        }
        Ok(Progress::Working(Box::new(Self { zone, limits, goal, phase })))
    }
}

fn feed(scanner: &mut Scanner, asked: u32, result: Result<&[u8], IoFault>) {
    let whole = asked as usize * BLOCK_BYTES;
    match result {
        Ok(bytes) if bytes.len() == whole => scanner.feed(bytes),
        Ok(_) | Err(_) => scanner.feed_unreadable(asked),
    }
}

fn on_anchor(
    zone: Zone,
    mut copies: [Option<Result<Anchor, Fault>>; 2],
    io: IoToken,
    result: Result<&[u8], IoFault>,
    commands: &mut Vec<Command>,
) -> Result<Phase, OpenError> {
    let lbas = anchor_lbas(zone);
    let Io::Open { read } = Io::of(io) else { panic!("only reads are in flight") };
    let copy = read as usize;
    copies[copy] = Some(match result {
        Ok(block) => Anchor::decode(block, lbas[copy], ANCHOR_KIND),
        Err(_) => Err(Fault::Unreadable),
    });
    let [Some(first), Some(second)] = copies else { return Ok(Phase::Anchor(copies)) };
    let copies = [first, second];
    let bad_anchor = BadAnchor::of(lbas, &copies);
    let [first, second] = copies;
    let anchor = Anchor::newer(lbas, first, second).map_err(OpenError::Anchor)?;
    let state = AnchorState::decode(&anchor.payload)
        .map_err(|fault| OpenError::Anchor(AnchorDamage { lbas, faults: [fault; 2] }))?;
    if state.layout.zone != zone {
        return Err(OpenError::Zone { expected: state.layout.zone, found: zone });
    }
    let loading = Box::new(Loading::new(anchor.identity, &state));
    let base = Base {
        identity: anchor.identity,
        generation: anchor.generation,
        bad_anchor,
        state,
        lengths: None,
        healed: Vec::new(),
        healed_batches: 0,
    };
    load_checkpoint(base, loading, commands)
}

/// A read the scanner asks for; only one is in flight.
fn ask(lba: Lba, blocks: u32, commands: &mut Vec<Command>) -> u32 {
    commands.push(Command::Read { io: Io::Open { read: 0 }.token(), lba, blocks });
    blocks
}

fn load_checkpoint(
    mut base: Base,
    mut loading: Box<Loading>,
    commands: &mut Vec<Command>,
) -> Result<Phase, OpenError> {
    match loading.step().map_err(OpenError::Checkpoint)? {
        Loads::Read(lba, blocks) => {
            let asked = ask(lba, blocks, commands);
            return Ok(Phase::Checkpoint { base, loading, asked });
        }
        Loads::End => {}
    }
    let (index, lengths, healed, healed_batches) = loading.finish();
    base.lengths = Some(lengths);
    (base.healed, base.healed_batches) = (healed, healed_batches);
    let state = &base.state;
    let start = ScanStart {
        position: state.head,
        durable_sequence: state.durable_sequence,
        incarnations: state.head_incarnation..=state.incarnation,
        last_sequence: u64::MAX,
    };
    let scanner = Scanner::new(state.layout.journal(base.identity), &start);
    let replay = Replay::new(state, index);
    // No read is fed yet: the first step asks for it.
    scan_journal_begin(base, scanner, replay, commands)
}

fn scan_journal_begin(
    base: Base,
    mut scanner: Scanner,
    replay: Replay,
    commands: &mut Vec<Command>,
) -> Result<Phase, OpenError> {
    match scanner.step().map_err(OpenError::Journal)? {
        Step::Read { lba, blocks } => {
            let asked = ask(lba, blocks, commands);
            Ok(Phase::Journal { base, scanner, replay, asked })
        }
        Step::Batch(_) | Step::End(_) => panic!("a scanner without bytes asks for some"),
    }
}

fn scan_journal(
    base: Base,
    mut scanner: Scanner,
    mut replay: Replay,
    purpose: (Limits, Goal),
    commands: &mut Vec<Command>,
) -> Result<Phase, OpenError> {
    let ring = base.state.layout.journal(base.identity);
    let tail = loop {
        match scanner.step().map_err(OpenError::Journal)? {
            Step::Read { lba, blocks } => {
                let asked = ask(lba, blocks, commands);
                return Ok(Phase::Journal { base, scanner, replay, asked });
            }
            Step::Batch(batch) => {
                replay.on_batch(&batch).map_err(|field| {
                    OpenError::Journal(Damage {
                        lba: ring.lba(batch.position.block),
                        sequence: batch.position.sequence,
                        fault: Fault::Malformed { field },
                    })
                })?;
            }
            Step::End(tail) => break tail,
        }
    };
    replay.apply_through(tail.durable_sequence);
    let verification = Verification::new(&base.state.layout, replay.take_doubtful());
    verify(base, tail, replay, verification, purpose, commands)
}

fn verify(
    base: Base,
    tail: Tail,
    mut replay: Replay,
    mut verification: Verification,
    (limits, goal): (Limits, Goal),
    commands: &mut Vec<Command>,
) -> Result<Phase, OpenError> {
    verification.send_reads(commands);
    if !verification.is_done() {
        return Ok(Phase::Verification { base, tail, replay, verification });
    }
    let dropped = verification.decide(&mut replay);
    let end = JournalEnd::new(&tail, &dropped);
    if goal == Goal::Inspect {
        let (index, _, _) = replay.finish();
        let healed = (base.healed, base.bad_anchor);
        let inspection = Inspection::new(base.state.layout, base.identity, index, (healed, end));
        return Ok(Phase::Inspected(Box::new(inspection)));
    }
    let mut store = assemble(base, &tail, replay, limits)?;
    store.journal_end = end;
    store.pump(commands);
    Ok(Phase::Switch(store))
}

/// The store as recovered, with the switch to its new anchor under way.
fn assemble(
    base: Base,
    tail: &Tail,
    replay: Replay,
    limits: Limits,
) -> Result<Box<Store>, OpenError> {
    let current = base.state;
    let layout = current.layout;
    let (index, voids, dirty) = replay.finish();
    let incarnation = current.incarnation + 1;
    let ring = layout.journal(base.identity);
    let writer = Writer::new(ring, current.head, tail.next, incarnation);
    let generation = current.generation.saturating_add(1);
    let next = AnchorState { incarnation, generation, voids, ..current.clone() };
    let mut switch = Switch::new((base.identity, base.generation), current, base.lengths);
    let crowded = next.voids.len() > VOIDS_MAX;
    if crowded {
        switch.say_with_checkpoint(next);
    } else {
        switch.say(next);
    }
    let mut store = Store::assemble(layout, limits, index, Log::new(writer), switch, generation)?;
    store.dirty = dirty;
    store.healed_batches = base.healed_batches;
    store.healed_anchor = base.bad_anchor;
    if !crowded {
        store.flusher.wait_for_switch();
    }
    Ok(store)
}
