//! What a crash may leave of the blocks that are not durable: every choice of contents, or a sample of them.
//!
//! A choice says for each pending block and each of its sectors which content is there: 0 the durable one, n the n-th
//! pending. Whole blocks first, then torn ones. Few choices are enumerated, many are sampled.

use crate::{
    chance::Chance,
    image::SECTORS,
    medium::{Hashes, Version},
};

/// A pending block.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Its number.
    pub number: usize,
    /// Hashes of its durable content.
    pub durable: &'a Hashes,
    /// What is pending.
    pub versions: &'a [Version],
    /// The least content that can be there: 0, or the last completed if only what is in flight can be lost.
    pub floor: u8,
}

/// How a state came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shape {
    /// The first writes whole, the later ones not at all.
    Prefix,
    /// A subset of blocks; all subsets are tried.
    Subset,
    /// A subset of blocks, sampled.
    SampledSubset,
    /// A subset of sectors; all subsets are tried.
    Torn,
    /// A subset of blocks, some of them in part, sampled.
    SampledTorn,
}

impl Shape {
    /// All shapes.
    pub const ALL: [Self; 5] =
        [Self::Prefix, Self::Subset, Self::SampledSubset, Self::Torn, Self::SampledTorn];

    /// Its name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Prefix => "prefix of the writes",
            Self::Subset => "4 KiB subset, exhaustive",
            Self::SampledSubset => "4 KiB subset, sampled",
            Self::Torn => "512 B subset, exhaustive",
            Self::SampledTorn => "512 B subset, sampled",
        }
    }
}

/// How many choices are tried at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Subsets of blocks up to which all are tried.
    pub exhaustive_max: u64,
    /// Subsets of sectors up to which all are tried.
    pub torn_exhaustive_max: u64,
    /// Subsets of blocks drawn, if there are more.
    pub sampled: usize,
    /// Choices with torn blocks drawn, if there are more.
    pub torn_sampled: usize,
}

/// One choice: a content for each sector of each place.
pub type Choice = Vec<[u8; SECTORS]>;

impl Place<'_> {
    fn top(&self) -> u8 {
        u8::try_from(self.versions.len()).unwrap_or(u8::MAX)
    }

    fn hash(&self, sector: usize, content: u8) -> u64 {
        match usize::from(content).checked_sub(1) {
            Some(at) => self.versions[at].hashes[sector],
            None => self.durable[sector],
        }
    }

    /// Sectors whose possible contents differ.
    fn differing(&self) -> impl Iterator<Item = usize> {
        (0..SECTORS).filter(|&sector| {
            (self.floor..self.top())
                .any(|content| self.hash(sector, content) != self.hash(sector, self.top()))
        })
    }

    fn uniform(content: u8) -> [u8; SECTORS] {
        [content; SECTORS]
    }
}

/// Hash of the image a choice makes of one with hash `durable`.
#[must_use]
pub fn hash(durable: u64, places: &[Place<'_>], choice: &Choice) -> u64 {
    let mut hash = durable;
    for (place, sectors) in places.iter().zip(choice) {
        for (sector, &content) in sectors.iter().enumerate() {
            if content > 0 {
                hash ^= place.durable[sector] ^ place.hash(sector, content);
            }
        }
    }
    hash
}

/// Calls `f` with choices until it fails.
///
/// # Errors
/// What `f` fails with.
pub fn for_each<E>(
    places: &[Place<'_>],
    budget: &Budget,
    chance: &mut Chance,
    mut f: impl FnMut(Shape, &Choice) -> Result<(), E>,
) -> Result<(), E> {
    prefixes(places, &mut f)?;
    let blocks: Vec<(usize, Vec<usize>)> =
        places.iter().enumerate().map(|(at, _)| (at, (0..SECTORS).collect())).collect();
    if count(places, &blocks) <= budget.exhaustive_max {
        all(places, &blocks, Shape::Subset, &mut f)?;
    } else {
        corners(places, chance, budget.sampled, &mut f)?;
        for _ in 0..budget.sampled {
            f(Shape::SampledSubset, &sample(places, chance))?;
        }
    }
    let sectors: Vec<(usize, Vec<usize>)> = places
        .iter()
        .enumerate()
        .flat_map(|(at, place)| place.differing().map(move |sector| (at, vec![sector])))
        .collect();
    if count(places, &sectors) <= budget.torn_exhaustive_max {
        return all(places, &sectors, Shape::Torn, &mut f);
    }
    for _ in 0..budget.torn_sampled {
        let mut choice = sample(places, chance);
        for _ in 0..=chance.below(3) {
            let at = chance.below(places.len());
            choice[at] = tear(&places[at], chance);
        }
        f(Shape::SampledTorn, &choice)?;
    }
    Ok(())
}

/// How many choices there are if each unit (sectors of a place that go together) is free.
fn count(places: &[Place<'_>], units: &[(usize, Vec<usize>)]) -> u64 {
    units.iter().fold(1, |count: u64, (at, _)| {
        let place = &places[*at];
        count.saturating_mul(u64::from(place.top() - place.floor) + 1)
    })
}

/// Every choice of the units; what belongs to none has its last content.
fn all<E>(
    places: &[Place<'_>],
    units: &[(usize, Vec<usize>)],
    shape: Shape,
    f: &mut impl FnMut(Shape, &Choice) -> Result<(), E>,
) -> Result<(), E> {
    let mut choice: Choice = places.iter().map(|place| Place::uniform(place.top())).collect();
    let set = |choice: &mut Choice, (at, sectors): &(usize, Vec<usize>), content: u8| {
        for &sector in sectors {
            choice[*at][sector] = content;
        }
    };
    for unit in units {
        set(&mut choice, unit, places[unit.0].floor);
    }
    loop {
        f(shape, &choice)?;
        // The next in the order of a number whose digits are the units.
        let mut carried = true;
        for unit in units {
            let place = &places[unit.0];
            let content = choice[unit.0][unit.1[0]];
            if content < place.top() {
                set(&mut choice, unit, content + 1);
                carried = false;
                break;
            }
            set(&mut choice, unit, place.floor);
        }
        if carried {
            return Ok(());
        }
    }
}

/// Each prefix of the pending writes, whole.
fn prefixes<E>(
    places: &[Place<'_>],
    f: &mut impl FnMut(Shape, &Choice) -> Result<(), E>,
) -> Result<(), E> {
    let mut writes: Vec<u64> =
        places.iter().flat_map(|place| place.versions).map(|version| version.write).collect();
    writes.push(0);
    writes.sort_unstable();
    writes.dedup();
    for last in writes {
        let choice = places.iter().map(|place| {
            let there = place.versions.iter().take_while(|version| version.write <= last).count();
            Place::uniform(u8::try_from(there).unwrap_or(u8::MAX).max(place.floor))
        });
        f(Shape::Prefix, &choice.collect())?;
    }
    Ok(())
}

/// One block missing, and one block alone.
fn corners<E>(
    places: &[Place<'_>],
    chance: &mut Chance,
    most: usize,
    f: &mut impl FnMut(Shape, &Choice) -> Result<(), E>,
) -> Result<(), E> {
    for _ in 0..places.len().min(most) {
        let at = chance.below(places.len());
        let mut choice: Choice = places.iter().map(|place| Place::uniform(place.top())).collect();
        choice[at] = Place::uniform(places[at].floor);
        f(Shape::SampledSubset, &choice)?;
        choice = places.iter().map(|place| Place::uniform(place.floor)).collect();
        choice[at] = Place::uniform(places[at].top());
        f(Shape::SampledSubset, &choice)?;
    }
    Ok(())
}

/// Each block there or not, with odds that differ from one sample to the next.
fn sample(places: &[Place<'_>], chance: &mut Chance) -> Choice {
    let odds = 1 + chance.below(7);
    places
        .iter()
        .map(|place| {
            let range = usize::from(place.top() - place.floor);
            let content = if range > 1 && chance.one_in(3) {
                place.floor + u8::try_from(chance.below(range + 1)).unwrap_or(0)
            } else if chance.below(8) < odds {
                place.top()
            } else {
                place.floor
            };
            Place::uniform(content)
        })
        .collect()
}

/// A block of which a part is there: up to a sector, from a sector on, or any.
fn tear(place: &Place<'_>, chance: &mut Chance) -> [u8; SECTORS] {
    let cut = 1 + chance.below(SECTORS - 1);
    let (floor, top) = (place.floor, place.top());
    let kind = chance.below(3);
    let mask = chance.draw();
    std::array::from_fn(|sector| {
        let there = match kind {
            0 => sector < cut,
            1 => sector >= cut,
            _ => mask >> sector & 1 == 1,
        };
        if there { top } else { floor }
    })
}

#[cfg(test)]
mod test {
    use std::{collections::BTreeSet, rc::Rc};

    use super::*;

    fn version(write: u64, hash: u64) -> Version {
        let content: Rc<[u8]> = vec![0; 4096].into();
        Version { write, completed: None, content, hashes: [hash; SECTORS] }
    }

    const BUDGET: Budget =
        Budget { exhaustive_max: 64, torn_exhaustive_max: 512, sampled: 5, torn_sampled: 5 };

    fn found(places: &[Place<'_>]) -> BTreeSet<(Shape, u64)> {
        let mut found = BTreeSet::new();
        let ended = for_each(places, &BUDGET, &mut Chance::new(1), |shape, choice| {
            found.insert((shape, hash(0, places, choice)));
            Ok::<(), ()>(())
        });
        assert!(ended.is_ok());
        found
    }

    #[test]
    fn every_subset_of_few_blocks_and_every_tear_of_one_is_tried() {
        let durable = [0; SECTORS];
        let (one, two) = ([version(1, 1), version(2, 2)], [version(3, 4)]);
        let places = [
            Place { number: 0, durable: &durable, versions: &one, floor: 0 },
            Place { number: 1, durable: &durable, versions: &two, floor: 0 },
        ];
        let subsets = found(&places);
        assert_eq!(subsets.iter().filter(|(shape, _)| *shape == Shape::Subset).count(), 1);
        // Eight equal sectors cancel out: the hash of a whole block of them is 0.
        let mut tears = 0;
        let single = [Place { number: 1, durable: &durable, versions: &two, floor: 0 }];
        let ended = for_each(&single, &BUDGET, &mut Chance::new(1), |shape, _| {
            tears += usize::from(shape == Shape::Torn);
            Ok::<(), ()>(())
        });
        assert!(ended.is_ok());
        assert_eq!(tears, 256);
        let mut subsets = 0;
        let ended = for_each(&places, &BUDGET, &mut Chance::new(1), |shape, _| {
            subsets += usize::from(shape == Shape::Subset);
            Ok::<(), ()>(())
        });
        assert!(ended.is_ok());
        assert_eq!(subsets, 6);
    }

    #[test]
    fn what_is_below_the_floor_is_never_chosen() {
        let durable = [0; SECTORS];
        let versions = [version(1, 1), version(2, 2)];
        let places = [Place { number: 0, durable: &durable, versions: &versions, floor: 1 }];
        let ended = for_each(&places, &BUDGET, &mut Chance::new(1), |_, choice| {
            if choice[0].iter().all(|&content| content >= 1) { Ok(()) } else { Err(()) }
        });
        assert!(ended.is_ok());
    }
}
