//! What a check found.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use serde::Serialize;
use sheen_types::{Fid, Lba};

use crate::device::{Superblock, ZoneEntry, ZoneKind};

/// What is wrong with something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A copy of the superblock is bad; the other holds.
    Superblock,
    /// A copy of the key block is bad; the other holds.
    KeyBlock,
    /// A zone cannot be opened: what it needs is damaged in every copy.
    Zone,
    /// Something kept twice has one bad copy.
    Twin,
    /// A stored block is not what was stored there, and nothing else we know.
    Rotten,
    /// A stored block holds another block's content: a write or a read went astray.
    Misdirected,
    /// A stored block holds what was there before: a write was lost.
    Stale,
    /// The device could not read a stored block.
    Unreadable,
    /// Two objects own the same block.
    Shared,
    /// An object owns a block that is not data.
    Outside,
    /// The metadata contradicts itself.
    Metadata,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What.
    pub kind: Kind,
    /// Which zone; none for the superblock.
    pub zone: Option<String>,
    /// First block on the device.
    pub lba: u64,
    /// How many blocks.
    pub blocks: u64,
    /// The object affected.
    pub object: Option<String>,
    /// First byte of the object affected.
    pub offset: Option<u64>,
    /// Whether [`super::repair`] makes it good.
    pub repairable: bool,
    /// All of it, for people.
    pub text: String,
}

impl Finding {
    /// Something kept twice, one copy of which is bad.
    pub(super) fn healable(kind: Kind, lba: Lba, text: String) -> Self {
        let (zone, object, offset) = (None, None, None);
        Self { kind, zone, lba: lba.0, blocks: 1, object, offset, repairable: true, text }
    }

    /// The same, in a zone.
    pub(super) fn of_zone(mut self, zone: ZoneEntry) -> Self {
        self.zone = Some(zone_name(zone.kind));
        self
    }

    /// Something that stays wrong.
    pub(super) fn lasting(kind: Kind, zone: ZoneEntry, lba: Lba, text: String) -> Self {
        let zone = Some(zone_name(zone.kind));
        let (object, offset) = (None, None);
        Self { kind, zone, lba: lba.0, blocks: 1, object, offset, repairable: false, text }
    }

    /// The same, of an object.
    pub(super) fn of_object(mut self, object: Fid, block: u64, blocks: u64) -> Self {
        self.object = Some(object.to_string());
        self.offset = Some(block.saturating_mul(4096));
        self.blocks = blocks;
        self
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(zone) = &self.zone {
            write!(f, "{zone}: ")?;
        }
        if let (Some(object), Some(offset)) = (&self.object, self.offset) {
            write!(f, "object {object} at byte {offset}: ")?;
        }
        let byte = self.lba.saturating_mul(4096);
        write!(f, "{} (device byte {byte})", self.text)
    }
}

/// `mdt`, `ost 3`: as reports name a zone.
pub(super) fn zone_name(kind: ZoneKind) -> String {
    match kind {
        ZoneKind::Mdt => "mdt".to_owned(),
        ZoneKind::Ost(number) => format!("ost {number}"),
    }
}

/// What a zone holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ZoneFacts {
    /// Which.
    pub zone: String,
    /// Objects, or inodes.
    pub objects: u64,
    /// Bytes verified.
    pub verified_bytes: u64,
    /// Whether it could be opened.
    pub opened: bool,
}

/// Everything a check found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The device.
    pub device: PathBuf,
    /// Its number.
    pub uuid: String,
    /// What each zone holds.
    pub zones: Vec<ZoneFacts>,
    /// What is not wrong and still worth a word: what a crash, or rot nobody can tell from it, left at the end of a log.
    pub notes: Vec<String>,
    /// What is wrong, at most [`Report::FINDINGS_MAX`].
    pub findings: Vec<Finding>,
    /// What is wrong, all of it.
    pub findings_total: u64,
    /// How much of it a repair makes good.
    pub repairable: u64,
}

impl Report {
    /// Findings kept; more are counted only.
    pub const FINDINGS_MAX: usize = 100_000;

    pub(super) fn new(device: &Path, superblock: &Superblock) -> Self {
        Self {
            device: device.into(),
            uuid: superblock.uuid_text(),
            zones: Vec::new(),
            notes: Vec::new(),
            findings: Vec::new(),
            findings_total: 0,
            repairable: 0,
        }
    }

    pub(super) fn add(&mut self, finding: Finding) {
        self.findings_total += 1;
        self.repairable += u64::from(finding.repairable);
        if self.findings.len() < Self::FINDINGS_MAX {
            self.findings.push(finding);
        }
    }

    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.findings_total == 0
    }

    /// The objects affected, in the order found, each once.
    #[must_use]
    pub fn objects(&self) -> Vec<&str> {
        let mut objects: Vec<&str> = Vec::new();
        for object in self.findings.iter().filter_map(|finding| finding.object.as_deref()) {
            if objects.last() != Some(&object) {
                objects.push(object);
            }
        }
        objects.sort_unstable();
        objects.dedup();
        objects
    }
}
