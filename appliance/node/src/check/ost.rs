//! An OST's zone: what its store says is stored, and whether it is.

use sheen_store::{
    BadAnchor, Command, Conflict, Inspection, IoFault, Limits, OpenError, Opening,
    Progress as Opened, Store, StoredRun, Zone,
};
use sheen_types::{BLOCK_BYTES, Bytes, Fid, Lba, checksum::crc32c, units::BLOCK_BYTES_U64};

use super::{
    Finding, Kind, Progress, Report, ZoneFacts,
    blocks::{READ_BYTES, ZoneBlocks},
    naming::{self, Wrong},
    report::zone_name,
};
use crate::{device::ZoneEntry, ost::io_fault};

/// Blocks of one read.
const READ_BLOCKS: u64 = (READ_BYTES / BLOCK_BYTES) as u64;

/// Inspects the zone and reads all it stores.
pub(super) fn check(
    blocks: &mut ZoneBlocks,
    zone: ZoneEntry,
    report: &mut Report,
    progress: &mut dyn FnMut(Progress),
) {
    let mut facts =
        ZoneFacts { zone: zone_name(zone.kind), objects: 0, verified_bytes: 0, opened: false };
    match inspect(blocks) {
        Err(error) => {
            let lba = zone.first.plus(place_of(&error).0);
            report.add(Finding::lasting(Kind::Zone, zone, lba, format!("cannot serve: {error}")));
        }
        Ok(inspection) => {
            facts.opened = true;
            facts.objects = inspection.facts().objects;
            report_conflicts(&inspection, zone, report);
            for damage in inspection.healed() {
                let lba = zone.first.plus(damage.lba.0);
                let text = format!("checkpoint, read from its twin instead: {damage}");
                report.add(Finding::healable(Kind::Twin, lba, text).of_zone(zone));
            }
            report_anchor(&inspection, zone, report);
            report_end(&inspection, zone, report);
            let mut reading = Reading { blocks, zone, report, progress, verified: 0, total: 0 };
            reading.read_all(&inspection);
            facts.verified_bytes = reading.verified * BLOCK_BYTES_U64;
        }
    }
    report.zones.push(facts);
}

/// The zone's block that an error is about.
fn place_of(error: &OpenError) -> Lba {
    match error {
        OpenError::Anchor(damage) => damage.lbas[0],
        OpenError::Checkpoint(damage) | OpenError::Journal(damage) => damage.lba,
        OpenError::Block { lba, .. } => *lba,
        OpenError::Zone { .. } | OpenError::Device(_) => Lba(0),
    }
}

/// Runs an inspection to its end.
pub(super) fn inspect(blocks: &mut ZoneBlocks) -> Result<Box<Inspection>, OpenError> {
    let zone = Zone { first: Lba(0), blocks: blocks.blocks() };
    let mut commands = Vec::new();
    let mut opening = Opening::inspect(zone, Limits::default(), &mut commands);
    // Bounded: the machine reads each part of the zone a bounded number of times.
    loop {
        let Some(Command::Read { io, lba, blocks: count }) = take_first(&mut commands) else {
            unreachable!("an inspection reads until it ends")
        };
        let bytes = read(blocks, lba, u64::from(count));
        opening =
            match opening.on_io(io, bytes.as_deref().map_err(|&fault| fault), &mut commands)? {
                Opened::Working(opening) => opening,
                Opened::Inspected(inspection) => return Ok(inspection),
                Opened::Ready(_) => unreachable!("an inspection does not serve"),
            };
    }
}

fn take_first(commands: &mut Vec<Command>) -> Option<Command> {
    (!commands.is_empty()).then(|| commands.remove(0))
}

pub(super) fn read(blocks: &mut ZoneBlocks, lba: Lba, count: u64) -> Result<Vec<u8>, IoFault> {
    let mut bytes = vec![0; usize::try_from(count).unwrap_or(0) * BLOCK_BYTES];
    blocks.read(lba, &mut bytes).map_err(io_fault)?;
    Ok(bytes)
}

/// An anchor is kept twice, and one good copy is enough to open.
fn report_anchor(inspection: &Inspection, zone: ZoneEntry, report: &mut Report) {
    if let Some(BadAnchor { copy, lba, flaw }) = inspection.bad_anchor() {
        let text = format!("anchor copy {copy}, read from its twin instead: {flaw}");
        let finding = Finding::healable(Kind::Twin, zone.first.plus(lba.0), text);
        report.add(finding.of_zone(zone));
    }
}

/// What was being written when the store ended is gone by right. What nobody marked as durable and has rotted looks the same.
fn report_end(inspection: &Inspection, zone: ZoneEntry, report: &mut Report) {
    let end = inspection.journal_end();
    if end.is_torn() {
        let zone = zone_name(zone.kind);
        report.notes.push(format!(
            "{zone}: {end} (a change that was not acknowledged is gone; an acknowledged one has rotted)"
        ));
    }
}

fn report_conflicts(inspection: &Inspection, zone: ZoneEntry, report: &mut Report) {
    for conflict in inspection.conflicts() {
        match *conflict {
            Conflict::Shared { lba, blocks, owners: [first, second] } => {
                for (mine, other) in [(first, second), (second, first)] {
                    let text =
                        format!("{blocks} blocks are also block {} of object {}", other.1, other.0);
                    let lba = zone.first.plus(lba.0);
                    let finding = Finding::lasting(Kind::Shared, zone, lba, text);
                    report.add(finding.of_object(mine.0, mine.1, blocks));
                }
            }
            Conflict::Outside { lba, blocks, owner } => {
                let text = format!("{blocks} blocks do not lie among the data");
                let lba = zone.first.plus(lba.0);
                let finding = Finding::lasting(Kind::Outside, zone, lba, text);
                report.add(finding.of_object(owner.0, owner.1, blocks));
            }
        }
    }
}

/// The pass over all that is stored.
struct Reading<'a> {
    blocks: &'a mut ZoneBlocks,
    zone: ZoneEntry,
    report: &'a mut Report,
    progress: &'a mut dyn FnMut(Progress),
    /// In blocks.
    verified: u64,
    total: u64,
}

impl Reading<'_> {
    fn read_all(&mut self, inspection: &Inspection) {
        self.total = inspection.facts().used_blocks;
        let mut wrong = Vec::new();
        for (object, _) in inspection.objects() {
            for run in inspection.stored(object).unwrap_or_default() {
                if run.written {
                    self.read_run(object, &run, &mut wrong);
                }
                if self.blocks.not_read().is_some() {
                    return;
                }
            }
        }
        self.show(true);
        for (kind, wrong, text) in naming::name(self.blocks, inspection, wrong) {
            let lba = self.zone.first.plus(wrong.lba.0);
            let finding = Finding::lasting(kind, self.zone, lba, text);
            self.report.add(finding.of_object(wrong.object, wrong.block, 1));
        }
    }

    fn read_run(&mut self, object: Fid, run: &StoredRun, wrong: &mut Vec<Wrong>) {
        let mut done = 0;
        while done < run.stored_blocks {
            let count = (run.stored_blocks - done).min(READ_BLOCKS);
            let lba = run.lba.plus(done);
            let bytes = read(self.blocks, lba, count);
            if self.blocks.not_read().is_some() {
                return;
            }
            for at in 0..count {
                let number = usize::try_from(done + at).unwrap_or(usize::MAX);
                let Some(&expected) = run.checksums.get(number) else { break };
                let found = match &bytes {
                    Ok(bytes) => block(bytes, at).map(crc32c),
                    // One block the medium lost fails the whole read: each alone.
                    Err(_) => read(self.blocks, lba.plus(at), 1).ok().map(|block| crc32c(&block)),
                };
                if found != Some(expected) && wrong.len() < Report::FINDINGS_MAX {
                    // Blocks of a packed run are all its object's block.
                    let block = run.block + (done + at).min(run.blocks - 1);
                    wrong.push(Wrong { object, block, lba: lba.plus(at), expected, found });
                }
            }
            done += count;
            self.verified += count;
            self.show(false);
        }
    }

    /// Tells of progress, now and then.
    fn show(&mut self, ended: bool) {
        if ended || self.verified.is_multiple_of(64) {
            (self.progress)(Progress {
                zone: self.zone.kind,
                verified: Bytes(self.verified * BLOCK_BYTES_U64),
                total: Bytes(self.total * BLOCK_BYTES_U64),
            });
        }
    }
}

fn block(bytes: &[u8], at: u64) -> Option<&[u8]> {
    let from = usize::try_from(at).ok()? * BLOCK_BYTES;
    bytes.get(from..from + BLOCK_BYTES)
}

/// Opens the store as a node does, lets it write what it wants to, and closes it.
pub(super) fn open_and_close(blocks: &mut ZoneBlocks) {
    let zone = Zone { first: Lba(0), blocks: blocks.blocks() };
    let mut commands = Vec::new();
    let mut opening = Opening::new(zone, Limits::default(), &mut commands);
    while let Some(command) = take_first(&mut commands) {
        let Some((io, result)) = carry_out(blocks, command) else { return };
        let result = result.as_deref().map_err(|&fault| fault);
        opening = match opening.on_io(io, result, &mut commands) {
            Ok(Opened::Working(opening)) => opening,
            Ok(Opened::Ready(store)) => return close(blocks, store, commands),
            Ok(Opened::Inspected(_)) | Err(_) => return,
        };
    }
}

/// Ends what a store still has to write, a checkpoint included.
fn close(blocks: &mut ZoneBlocks, mut store: Box<Store>, mut commands: Vec<Command>) {
    store.checkpoint();
    loop {
        store.pump(&mut commands);
        if commands.is_empty() {
            return;
        }
        for command in std::mem::take(&mut commands) {
            let Some((io, result)) = carry_out(blocks, command) else { return };
            store.on_io(io, result.map(drop), &mut commands);
        }
    }
}

/// A command that needs no request; None for others, which a store without requests does not give.
pub(super) fn carry_out(
    blocks: &mut ZoneBlocks,
    command: Command,
) -> Option<(sheen_store::IoToken, Result<Vec<u8>, IoFault>)> {
    Some(match command {
        Command::Read { io, lba, blocks: count } => (io, read(blocks, lba, u64::from(count))),
        Command::WriteBytes { io, lba, bytes } => {
            let result = blocks.write(lba, &bytes).map(|()| Vec::new());
            (io, result.map_err(io_fault))
        }
        Command::Flush { io } => (io, blocks.flush().map(|()| Vec::new()).map_err(io_fault)),
        // A device that keeps the content is as right as one that drops it.
        Command::Discard { io, .. } => (io, Ok(Vec::new())),
        Command::Merge { .. }
        | Command::Repack { .. }
        | Command::WriteData { .. }
        | Command::Complete { .. } => return None,
    })
}
