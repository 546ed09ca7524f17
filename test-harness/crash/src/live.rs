//! An image to be damaged: many objects of all kinds, an aged journal, checkpoints, and what blocks held before.

use sheen_store::{Limits, RequestToken, Zone};
use sheen_types::Lba;

use crate::{
    adapter::{self, Call, Images},
    chance::Chance,
    image::Image,
    reference::{Change, State},
    restart::{self, Setup, Violation},
};

/// Objects of the image.
const OBJECTS: usize = 24;
/// Blocks of the zone.
const BLOCKS: usize = 2048;
/// Changes behind which the image is remembered: the later ones are still known to the journal.
const MOMENTS: [usize; 6] = [200, 400, 520, 560, 580, 592];
/// Changes before the last opening.
const CHANGES: usize = 600;
/// Changes since: of them only the mark behind the last one says that they are durable.
const LAST_CHANGES: usize = 20;

/// The image.
#[derive(Debug)]
pub struct Live {
    /// As it lies on the device, closed.
    pub image: Image,
    /// How its store is opened.
    pub setup: Setup,
    /// What it holds.
    pub content: Vec<State>,
    /// Earlier images.
    pub earlier: Vec<Image>,
    /// The block of the mark that ends the journal.
    pub mark: Lba,
}

impl Live {
    /// Makes one; a seed makes always the same.
    ///
    /// # Errors
    /// When the store does not do what it is asked for.
    ///
    /// # Panics
    /// When the zone is too small, or the store busy with one request.
    pub fn new(seed: u64) -> Result<Self, Violation> {
        Self::at(Lba(512), seed)
    }

    /// The same, in a zone that begins at `first`.
    ///
    /// # Errors
    /// As [`Self::new`].
    ///
    /// # Panics
    /// As [`Self::new`].
    pub fn at(first: Lba, seed: u64) -> Result<Self, Violation> {
        let mut chance = Chance::new(seed);
        let zone = Zone { first, blocks: BLOCKS as u64 };
        let limits = Limits { requests_max: 8, discard: false, ..Limits::default() };
        let setup = Setup { zone, limits, objects: OBJECTS };
        let mut image = Image::new(zone.first, BLOCKS);
        let formatted = sheen_store::format(zone, chance.draw());
        for (lba, bytes) in formatted.unwrap_or_else(|error| panic!("{error}")) {
            image.write(lba, &bytes);
        }
        let mut store = restart::open(&mut image, &setup).map_err(Violation::Open)?;
        let mut content = vec![State::default(); OBJECTS];
        let mut earlier = Vec::new();
        let mut images = Images::default();
        for request in 1..=CHANGES + LAST_CHANGES {
            if request == CHANGES + 1 {
                // The anchor says that everything before is durable.
                store = restart::open(&mut image, &setup).map_err(Violation::Open)?;
            }
            let number = u64::try_from(request).unwrap_or(u64::MAX);
            let (object, change) = (chance.below(OBJECTS), change(&mut chance));
            let tag = u32::try_from(request).unwrap_or(u32::MAX);
            let mut commands = Vec::new();
            let call = Call { request: number, object, change, tag, durable: false, packs: true };
            let taken = adapter::ask(&mut store, &call, &mut images, &mut commands);
            assert!(taken, "one request at a time");
            let ended = restart::carry_out(&mut store, &mut image, &mut images, commands, number)?;
            if ended.is_ok() {
                content[object].apply(change, tag);
            }
            if request % 70 == 0 && request < CHANGES {
                store.checkpoint();
            }
            if MOMENTS.contains(&request) {
                earlier.push(image.clone());
            }
        }
        // Ended well.
        let mark = store.journal_tail();
        for request in [u64::MAX - 1, u64::MAX] {
            let mut commands = Vec::new();
            if request == u64::MAX {
                store.mark(true, &mut commands);
            }
            let taken = store.sync(RequestToken(request), &mut commands);
            assert!(taken.is_ok(), "one request at a time");
            let ended = restart::carry_out(&mut store, &mut image, &mut images, commands, request)?;
            ended.map_err(Violation::Refused)?;
        }
        assert!(store.unmarked().is_none(), "there is room for a mark");
        Ok(Self { image, setup, content, earlier, mark })
    }
}

fn change(chance: &mut Chance) -> Change {
    let first = chance.below(60);
    let end = first + 1 + chance.below(90);
    match chance.below(20) {
        0..=13 => Change::Write { first, end },
        14 => Change::Truncate { size: end },
        15 => Change::Hole { first, end, extend: true },
        16 => Change::Zero { first, end, extend: true },
        17 => Change::Allocate { first, end, keep_size: false },
        18 => Change::Destroy,
        _ => Change::Write { first: end, end: end + 1 },
    }
}
