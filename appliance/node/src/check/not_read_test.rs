//! A device that does not carry out reads: the check ends, and blames no block.

use std::{os::fd::RawFd, path::Path};

use sheen_ports::{
    Block, BlockCommand, BlockCompletion, BlockError, BlockGeometry, BlockOperation,
};
use sheen_types::{BLOCK_BYTES, Lba};

use super::{
    CheckError, Kind, Report, ZoneBlocks, check_zone, ost,
    test::{filled, object, ost_1},
};
use crate::device::{Device, ZoneBlock, ZoneEntry, ZoneKind};

/// A device whose reads of one block fail.
struct Failing {
    inner: sheen_nvme::Zone<ZoneBlock>,
    lba: Lba,
    error: BlockError,
    failed: Vec<BlockCompletion>,
}

impl Block for Failing {
    fn geometry(&self) -> BlockGeometry {
        self.inner.geometry()
    }

    fn submit(&mut self, command: BlockCommand) -> Result<(), BlockCommand> {
        match command {
            BlockCommand { token, operation: BlockOperation::Read { lba, buffer } }
                if (lba.0..lba.0 + (buffer.len() / BLOCK_BYTES) as u64).contains(&self.lba.0) =>
            {
                let (buffer, result) = (Some(buffer), Err(self.error));
                self.failed.push(BlockCompletion { token, buffer, result });
                Ok(())
            }
            other => self.inner.submit(other),
        }
    }

    fn ring(&mut self) {
        self.inner.ring();
    }

    fn poll(&mut self, completions: &mut Vec<BlockCompletion>) -> usize {
        let failed = self.failed.len();
        completions.append(&mut self.failed);
        failed + self.inner.poll(completions)
    }

    fn in_flight(&self) -> usize {
        self.failed.len() + self.inner.in_flight()
    }

    fn wake_descriptor(&self) -> Option<RawFd> {
        None
    }
}

/// Checks a zone whose reads of `lba`, counted from the zone's start, fail with `error`.
fn check_failing(path: &Path, kind: ZoneKind, lba: Lba, error: BlockError) -> Checked {
    let device = Device::open(path).unwrap();
    let zone = device.zone(kind).unwrap();
    let mut blocks = ZoneBlocks::open(&device, zone).unwrap();
    let inner = device.handle().open_zone(zone, 8).unwrap();
    blocks.block = Box::new(Failing { inner, lba, error, failed: Vec::new() });
    let mut report = Report::new(path, device.superblock());
    let result = check_zone(&mut blocks, zone, &mut report, &mut |_| {});
    Checked { zone, result, report }
}

struct Checked {
    zone: ZoneEntry,
    result: Result<(), CheckError>,
    report: Report,
}

#[test]
fn a_read_that_was_not_carried_out_ends_the_check_and_blames_no_block() {
    let (_folder, path) = filled();
    let (device, _, mut blocks) = ost_1(&path, None);
    let inspection = ost::inspect(&mut blocks).unwrap();
    let data = inspection.stored(object(7)).unwrap()[0].lba;
    drop((device, blocks));
    for error in [BlockError::Retry, BlockError::Gone, BlockError::Rejected, BlockError::NoSpace] {
        for (kind, lba) in
            [(ZoneKind::Ost(1), data), (ZoneKind::Ost(1), Lba(0)), (ZoneKind::Mdt, Lba(0))]
        {
            let Checked { zone, result, report } = check_failing(&path, kind, lba, error);
            assert!(
                report.findings.iter().all(|found| found.kind != Kind::Unreadable),
                "{error}: {:?}",
                report.findings
            );
            let at = zone.first.plus(lba.0);
            assert!(
                matches!(&result, Err(CheckError::NotRead { zone, error: why, .. })
                    if *zone == kind && *why == error),
                "{kind} {at} {error}: {result:?}"
            );
        }
    }
}

#[test]
fn a_block_that_the_medium_lost_is_named_unreadable_and_its_neighbours_are_not() {
    let (_folder, path) = filled();
    let (device, _, mut blocks) = ost_1(&path, None);
    let lba = ost::inspect(&mut blocks).unwrap().stored(object(7)).unwrap()[0].lba;
    drop((device, blocks));
    let Checked { zone, result, report } =
        check_failing(&path, ZoneKind::Ost(1), lba, BlockError::MediaLost);
    result.unwrap();
    let found: Vec<_> = report.findings.iter().map(|found| (found.kind, found.lba)).collect();
    assert_eq!(found, [(Kind::Unreadable, zone.first.plus(lba.0).0)]);
}
