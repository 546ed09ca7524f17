//! The MDT's zone: recovery as at a start, on a copy-on-write view, then the namespace it makes.

use std::collections::BTreeMap;

use sheen_consensus::{Command, Group, GroupConfig, IoId, Recovery, RecoveryStep, Zone};
use sheen_meta::{Limits, SnapshotReader, State, operation::decode_entries};
use sheen_types::{BLOCK_BYTES, Bytes, Lba, Tick};

use super::{Finding, Kind, Progress, Report, ZoneFacts, blocks::ZoneBlocks, report::zone_name};
use crate::{
    device::{ZoneEntry, ZoneKind},
    mdt::snapshots::Assembler,
};

/// Turns of its timer a replica alone takes to lead.
const TIMERS_MAX: u32 = 16;

/// Recovers the replica and applies its log.
pub(super) fn check(
    blocks: &mut ZoneBlocks,
    zone: ZoneEntry,
    report: &mut Report,
    progress: &mut dyn FnMut(Progress),
) {
    let mut view = View { blocks, over: Some(BTreeMap::new()), bytes_read: 0, torn: None };
    let result = view.recover();
    let verified_bytes = view.bytes_read;
    report.notes.extend(view.torn.take());
    progress(Progress {
        zone: ZoneKind::Mdt,
        verified: Bytes(verified_bytes),
        total: Bytes(verified_bytes),
    });
    let (opened, objects) = match result {
        Ok(state) => (true, state.inodes()),
        Err(text) => {
            report.add(Finding::lasting(Kind::Metadata, zone, zone.first, text));
            (false, 0)
        }
    };
    let zone = zone_name(zone.kind);
    report.zones.push(ZoneFacts { zone, objects, verified_bytes, opened });
}

/// Recovers for real: the anchors are written anew.
pub(super) fn open_and_close(blocks: &mut ZoneBlocks) {
    let mut view = View { blocks, over: None, bytes_read: 0, torn: None };
    let mut state = Assembly::new();
    // What cannot be recovered was named by the check and stays as it is.
    let _ = view.recover_group(&mut state);
}

/// The zone, with what is written kept in memory if `over` is there.
struct View<'a> {
    blocks: &'a mut ZoneBlocks,
    over: Option<BTreeMap<u64, Vec<u8>>>,
    bytes_read: u64,
    /// What stands at the end of the log, if it is torn.
    torn: Option<String>,
}

/// The state of a snapshot, on its way.
struct Assembly {
    assembler: Assembler,
    reader: SnapshotReader,
    any: bool,
    fault: Option<String>,
}

impl Assembly {
    fn new() -> Self {
        let reader = SnapshotReader::new(Limits::default());
        Self { assembler: Assembler::default(), reader, any: false, fault: None }
    }

    fn push(&mut self, bytes: &[u8]) {
        self.any = true;
        self.assembler.push(bytes);
        while let Some(chunk) = self.assembler.next_chunk() {
            if let Err(error) = self.reader.push(&chunk) {
                self.fault.get_or_insert(format!("snapshot: {error}"));
            }
        }
    }

    fn finish(self) -> Result<State, String> {
        match (self.fault, self.any) {
            (Some(fault), _) => Err(fault),
            (None, false) => Ok(State::new(Limits::default())),
            (None, true) => self.reader.finish().map_err(|error| format!("snapshot: {error}")),
        }
    }
}

impl View<'_> {
    fn recover(&mut self) -> Result<State, String> {
        let mut assembly = Assembly::new();
        let mut group = self.recover_group(&mut assembly)?;
        let mut state = assembly.finish()?;
        self.settle(&mut group, &mut state)?;
        for _ in 0..TIMERS_MAX {
            let Some(deadline) = group.deadline() else { break };
            group.on_timer(deadline);
            self.settle(&mut group, &mut state)?;
        }
        state.check().map_err(|what| format!("the namespace contradicts itself: {what}"))?;
        Ok(state)
    }

    fn recover_group(&mut self, assembly: &mut Assembly) -> Result<Group, String> {
        let zone = Zone::new(self.blocks.blocks()).ok_or("its zone is too small")?;
        let mut recovery = Recovery::new(GroupConfig::default(), zone);
        // Bounded: recovery reads each part of its zone once.
        loop {
            match recovery.poll().map_err(|error| error.to_string())? {
                None => unreachable!("every command was answered"),
                Some(RecoveryStep::Read { io, lba, blocks }) => {
                    let bytes = self.read(lba, blocks);
                    recovery.on_read(io, bytes.as_deref());
                }
                Some(RecoveryStep::Write { io, lba, bytes, .. }) => {
                    let done = self.write(lba, &bytes);
                    recovery.on_done(io, done);
                }
                Some(RecoveryStep::Flush { io }) => {
                    let done = self.flush();
                    recovery.on_done(io, done);
                }
                Some(RecoveryStep::SnapshotBytes(bytes)) => assembly.push(&bytes),
                Some(RecoveryStep::Ready) => {
                    self.torn = recovery.log_end().and_then(|tail| {
                        let fault = tail.torn()?;
                        Some(format!(
                            "mdt: the log ends at {} of its zone, torn: {fault} (a record that was not acknowledged is gone; an acknowledged one has rotted)",
                            tail.lba
                        ))
                    });
                    return Ok(recovery.finish(Tick(0)));
                }
            }
        }
    }

    /// Carries out what the replica says; applies what it delivers.
    fn settle(&mut self, group: &mut Group, state: &mut State) -> Result<(), String> {
        group.pump();
        while let Some(command) = group.poll_command() {
            let ended: Option<(IoId, bool)> = match command {
                Command::Write { io, lba, bytes, .. } => Some((io, self.write(lba, &bytes))),
                Command::Flush { io } => Some((io, self.flush())),
                Command::Committed { position, payload } => {
                    let entries = decode_entries(&payload)
                        .map_err(|error| format!("log entry {}: {error}", position.index))?;
                    for entry in &entries {
                        state.apply(entry);
                    }
                    None
                }
                Command::Stopped => return Err("its log stopped".to_owned()),
                Command::Send { .. }
                | Command::Leading { .. }
                | Command::Deposed
                | Command::SnapshotDone { .. } => None,
            };
            if let Some((io, done)) = ended {
                group.on_io_complete(io, done);
                group.pump();
            }
        }
        Ok(())
    }

    fn read(&mut self, lba: Lba, blocks: u32) -> Option<Vec<u8>> {
        let mut bytes = vec![0; blocks as usize * BLOCK_BYTES];
        self.blocks.read(lba, &mut bytes).ok()?;
        self.bytes_read += bytes.len() as u64;
        let end = lba.0 + u64::from(blocks);
        for (&at, block) in self.over.iter().flat_map(|over| over.range(lba.0..end)) {
            let from = usize::try_from(at - lba.0).unwrap_or(0) * BLOCK_BYTES;
            bytes[from..from + BLOCK_BYTES].copy_from_slice(block);
        }
        Some(bytes)
    }

    fn write(&mut self, lba: Lba, bytes: &[u8]) -> bool {
        let Some(over) = &mut self.over else { return self.blocks.write(lba, bytes).is_ok() };
        for (at, block) in (lba.0..).zip(bytes.chunks(BLOCK_BYTES)) {
            over.insert(at, block.to_vec());
        }
        true
    }

    fn flush(&mut self) -> bool {
        self.over.is_some() || self.blocks.flush().is_ok()
    }
}
