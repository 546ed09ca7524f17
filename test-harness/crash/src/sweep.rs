//! The corruption sweep: an image is damaged, block by block, in every way a device damages; nothing wrong may come of it.
//!
//! Property, for each damage:
//! - an inspection and an opening end alike: both fail with the same error, which names a damaged place, or both succeed;
//! - each object then reads as it should, or with an error for exactly the damaged blocks it owns: no wrong byte is returned;
//! - an inspection at rest, with the checksums it lists, finds exactly the blocks that reading finds;
//! - each such block has a name that fits: a flipped bit or a wiped block is rotten, a block of another place is misdirected
//!   (and its owner told), an earlier content is stale if journal or checkpoint still know of it, and else nobody's;
//! - the last batches of the journal, of which only its mark says that they are durable, are as all others; if one damage takes the mark
//!   and some of them, the journal is told as torn, with the objects whose last changes are gone;
//! - a bad batch of a checkpoint is read from its twin, and told as healed;
//! - a bad copy of the anchor is told with its place, and an opening makes it good.
//!
//! Source: `docs/formats/store.md`, `docs/formats/journal.md`.

use std::collections::{BTreeMap, BTreeSet};

use sheen_store::{
    Claim, Command, Diagnosis, Inspection, OpenError, Past, Store, Verdict, Witness,
};
use sheen_types::{Fid, Lba, checksum::crc32c};

use crate::{
    chance::Chance,
    image::{BLOCK, Image},
    live::Live,
    reading::{self, BadBlock},
    restart::{self, Violation},
};

/// A way to damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// One bit of a block.
    Flip,
    /// Two blocks change places.
    Swap,
    /// A block is what it was earlier.
    Rollback,
    /// A block is zeros.
    Wipe,
    /// A block cannot be read.
    Unreadable,
}

impl Kind {
    const ALL: [Self; 5] = [Self::Flip, Self::Swap, Self::Rollback, Self::Wipe, Self::Unreadable];
}

/// What came of a damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// Nothing: nobody needs what was damaged, or it has a copy that is looked at anyway.
    Harmless,
    /// A copy was read in its place, and that is told.
    Healed,
    /// The store does not open; the place is named.
    Refused,
    /// The journal's mark and what it speaks for are damaged at once: the journal is called torn.
    Torn,
    /// Blocks of objects are bad, and named so.
    Named(Name),
}

/// A name of a bad block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "they are those of the store's verdict")]
pub enum Name {
    Rotten,
    Misdirected,
    Stale,
    Unreadable,
}

/// What was told of one damage, for another who checks the same image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// It does not open.
    Refused,
    /// It opens; what is wrong.
    Opened {
        /// The bad copies of what is kept twice: first blocks.
        healed: BTreeSet<Lba>,
        /// Each bad block, whose it is and its name.
        named: BTreeMap<Lba, (Fid, Name)>,
    },
}

/// Another check of a damaged image, given what was told of it.
pub type Second<'a> = dyn FnMut(&Image, &Told) -> Result<(), String> + 'a;

/// What a sweep saw.
#[derive(Clone, Debug, Default)]
pub struct Swept {
    /// Damages by kind and end; one with several bad blocks is counted at each of their names.
    pub ends: BTreeMap<(Kind, End), u64>,
    /// Damages.
    pub damages: u64,
    /// Objects of the image.
    pub objects: u64,
}

/// A damage: blocks by number, and what becomes of each (None: unreadable).
type Damage = Vec<(usize, Option<Vec<u8>>)>;

/// Damages `live` in `count` ways.
///
/// # Errors
/// The first damage of which something wrong comes, in words.
pub fn sweep(live: &mut Live, count: u64, seed: u64) -> Result<Swept, String> {
    sweep_with(live, count, seed, &mut |_, _| Ok(()))
}

/// The same; `second` looks at each damaged image as well.
///
/// # Errors
/// As [`sweep`], and what `second` finds wrong.
pub fn sweep_with(
    live: &mut Live,
    count: u64,
    seed: u64,
    second: &mut Second<'_>,
) -> Result<Swept, String> {
    let mut swept = Swept { objects: live.content.len() as u64, ..Swept::default() };
    let mut chance = Chance::new(seed);
    let plain =
        restart::inspect(&mut live.image, &live.setup).map_err(|error| error.to_string())?;
    let owned: Vec<usize> =
        claims(&plain).iter().map(|claim| live.image.number(claim.lba)).collect();
    let data_first = live.image.number(plain.facts().data.0);
    let last = live.image.blocks() - 1;
    let used: Vec<usize> = (0..data_first)
        .chain([last])
        .filter(|&number| live.image.block(number).iter().any(|&byte| byte != 0))
        .collect();
    for number in 0..count {
        let kind = Kind::ALL[chance.below(Kind::ALL.len())];
        let damage = damage(live, kind, [&owned, &used], &mut chance);
        if damage.is_empty() {
            continue;
        }
        let numbers: Vec<usize> = damage.iter().map(|(number, _)| *number).collect();
        live.image.remember();
        let changed = inflict(&mut live.image, damage);
        let ends = look(live, kind, &changed, second);
        live.image.go_back();
        let ends = ends.map_err(|why| {
            format!("damage {number} of seed {seed}, {kind:?} of zone blocks {numbers:?}: {why}")
        })?;
        swept.damages += 1;
        for end in ends {
            *swept.ends.entry((kind, end)).or_default() += 1;
        }
    }
    Ok(swept)
}

/// A block to damage: mostly one of an object, or one the store uses for itself.
fn pick(live: &Live, [owned, used]: [&[usize]; 2], chance: &mut Chance) -> usize {
    match chance.below(10) {
        0..=4 if !owned.is_empty() => owned[chance.below(owned.len())],
        5..=8 => used[chance.below(used.len())],
        _ => chance.below(live.image.blocks()),
    }
}

fn damage(live: &Live, kind: Kind, places: [&[usize]; 2], chance: &mut Chance) -> Damage {
    let number = pick(live, places, chance);
    let mut block = live.image.block(number).to_vec();
    match kind {
        Kind::Flip => {
            block[chance.below(BLOCK)] ^= 1 << chance.below(8);
            vec![(number, Some(block))]
        }
        Kind::Swap => {
            let other = pick(live, places, chance);
            let bytes = live.image.block(other).to_vec();
            vec![(number, Some(bytes)), (other, Some(block))]
        }
        Kind::Rollback => {
            let earlier = &live.earlier[chance.below(live.earlier.len())];
            vec![(number, Some(earlier.block(number).to_vec()))]
        }
        Kind::Wipe => vec![(number, Some(vec![0; BLOCK]))],
        Kind::Unreadable => vec![(number, None)],
    }
}

/// Carries it out; the blocks that are not what they were.
fn inflict(image: &mut Image, damage: Damage) -> BTreeSet<Lba> {
    let mut changed = BTreeSet::new();
    for (number, bytes) in damage {
        let lba = image.lba(number);
        match bytes {
            Some(bytes) if bytes == image.block(number) => {}
            Some(bytes) => {
                image.write(lba, &bytes);
                changed.insert(lba);
            }
            None => {
                image.make_unreadable(number);
                changed.insert(lba);
            }
        }
    }
    changed
}

fn look(
    live: &mut Live,
    kind: Kind,
    changed: &BTreeSet<Lba>,
    second: &mut Second<'_>,
) -> Result<Vec<End>, String> {
    let Live { image, setup, content, mark, .. } = live;
    let inspected = restart::inspect(image, setup);
    let told = tell(&inspected, image, kind)?;
    second(image, &told)?;
    // An opening writes anchors, and nothing where data lies.
    let opened = restart::open(image, setup);
    let (inspection, mut store) = match (inspected, opened) {
        (Ok(inspection), Ok(store)) => (inspection, store),
        (Err(one), Err(other)) if one == other => {
            return if names_place(&one, changed) {
                Ok(vec![End::Refused])
            } else {
                Err(format!("another place is named: {one}"))
            };
        }
        (inspected, opened) => {
            let (inspected, opened) = (inspected.err(), opened.err());
            return Err(format!("inspected: {inspected:?}, opened: {opened:?}"));
        }
    };
    check_anchor(&inspection, &store, changed)?;
    // The opening made it good.
    if inspection.bad_anchor().is_some() {
        let again = restart::inspect(image, setup).map_err(|error| error.to_string())?;
        if let Some(bad) = again.bad_anchor() {
            return Err(format!("opened, and still: {bad}"));
        }
    }
    if let Some(conflict) = inspection.conflicts().first() {
        return Err(format!("a conflict: {conflict:?}"));
    }
    let end = inspection.journal_end();
    let is_torn = changed.len() > 1 && changed.contains(mark) && end.is_torn();
    if end != store.journal_end() || end.dropped > 0 && !is_torn {
        return Err(format!("inspected: {end}, opened: {}", store.journal_end()));
    }
    let bad = match read_all(&mut store, image, content) {
        Err(_) if is_torn => return Ok(vec![End::Torn]),
        bad => bad?,
    };
    let Told::Opened { healed, named } = told else { return Err("it was refused".to_owned()) };
    if !named.keys().eq(bad.keys()) {
        return Err(format!("reading finds {bad:?}, the inspection {named:?}"));
    }
    if let Some(place) = named.keys().find(|&place| !changed.contains(place)) {
        return Err(format!("{place} is bad, {changed:?} were damaged"));
    }
    if named.is_empty() {
        return Ok(vec![if healed.is_empty() { End::Harmless } else { End::Healed }]);
    }
    Ok(named.into_values().map(|(_, name)| End::Named(name)).collect())
}

/// What an inspection says, and the names of what it finds bad.
fn tell(
    inspected: &Result<Box<Inspection>, OpenError>,
    image: &Image,
    kind: Kind,
) -> Result<Told, String> {
    let Ok(inspection) = inspected else { return Ok(Told::Refused) };
    let mut healed: BTreeSet<Lba> = inspection.healed().iter().map(|damage| damage.lba).collect();
    healed.extend(inspection.bad_anchor().map(|bad| bad.lba));
    let mut named = BTreeMap::new();
    for claim in check_at_rest(inspection, image) {
        let name = name(inspection, image, &claim, kind)?;
        named.insert(claim.lba, (claim.object, name));
    }
    Ok(Told::Opened { healed, named })
}

/// A copy of the anchor is told as bad if it was damaged, and the store knows as much.
fn check_anchor(
    inspection: &Inspection,
    store: &Store,
    changed: &BTreeSet<Lba>,
) -> Result<(), String> {
    let zone = inspection.facts().zone;
    let copies = [zone.first, zone.first.plus(zone.blocks - 1)];
    let damaged = copies.into_iter().find(|lba| changed.contains(lba));
    let (told, healed) = (inspection.bad_anchor(), store.healed_anchor());
    if told.map(|bad| bad.lba) != damaged || told != healed {
        return Err(format!("anchor {damaged:?} damaged, {told:?} told, {healed:?} healed"));
    }
    Ok(())
}

/// Whether an error names a damaged place: a batch by its first block.
fn names_place(error: &OpenError, changed: &BTreeSet<Lba>) -> bool {
    match error {
        OpenError::Anchor(damage) => damage.lbas.iter().any(|lba| changed.contains(lba)),
        OpenError::Checkpoint(damage) | OpenError::Journal(damage) => {
            changed.range(damage.lba..damage.lba.plus(64)).next().is_some()
        }
        OpenError::Zone { .. } | OpenError::Block { .. } | OpenError::Device(_) => false,
    }
}

/// Reads every object; which blocks are bad. Objects without one must be what they should.
fn read_all(
    store: &mut Store,
    image: &Image,
    content: &[crate::reference::State],
) -> Result<BTreeMap<Lba, BadBlock>, String> {
    let mut bad = BTreeMap::new();
    for (object, expected) in content.iter().enumerate() {
        let before = bad.len();
        reading::bad_blocks(store, object, restart::reader(image), &mut bad);
        let found = reading::read_state(store, object, restart::reader(image));
        match found {
            Ok(found) if found == *expected => {}
            Ok(found) => return Err(format!("object {object} is {found:?}, not {expected:?}")),
            Err(_) if bad.len() > before => {}
            Err(fault) => return Err(format!("object {object}: {fault}, and no block is bad")),
        }
    }
    Ok(bad)
}

fn claims(inspection: &Inspection) -> Vec<Claim> {
    let mut claims = BTreeMap::new();
    for (object, _) in inspection.objects() {
        for run in inspection.stored(object).unwrap_or_default() {
            for (at, &checksum) in (0..).zip(&run.checksums) {
                let (lba, block) = (run.lba.plus(at), run.block + at);
                claims.insert(lba, Claim { lba, object, block, checksum });
            }
        }
    }
    claims.into_values().collect()
}

/// What the inspection lists and the device does not hold.
fn check_at_rest(inspection: &Inspection, image: &Image) -> Vec<Claim> {
    let is_bad = |claim: &Claim| {
        image.read(claim.lba, 1).is_none_or(|block| crc32c(block) != claim.checksum)
    };
    claims(inspection).into_iter().filter(is_bad).collect()
}

/// The name of a bad block, if it fits how it was damaged.
fn name(inspection: &Inspection, image: &Image, bad: &Claim, kind: Kind) -> Result<Name, String> {
    let found = image.read(bad.lba, 1).map(crc32c);
    let mut checksum_as = |_: Lba| found.unwrap_or(0);
    let mut diagnosis = Diagnosis::new(*bad, found.is_some());
    for (witness, claim) in past(inspection, image, bad.lba) {
        diagnosis.hear(witness, &claim, &mut checksum_as);
    }
    let verdict = diagnosis.search(inspection, &mut checksum_as);
    let name = match verdict {
        Verdict::Unreadable => Name::Unreadable,
        Verdict::Misdirected { .. } => Name::Misdirected,
        Verdict::Stale { .. } => Name::Stale,
        Verdict::Rotten => Name::Rotten,
    };
    let fits = match (kind, verdict) {
        (Kind::Unreadable, Verdict::Unreadable)
        | (Kind::Flip | Kind::Wipe, Verdict::Rotten)
        // What nobody remembers is nobody's; so is a block of the store's own, or a free one.
        | (Kind::Rollback | Kind::Swap, Verdict::Rotten) => true,
        (Kind::Rollback | Kind::Swap, Verdict::Stale { held, .. }) => {
            Some(held.checksum) == found && held.lba == bad.lba
        }
        (Kind::Rollback | Kind::Swap, Verdict::Misdirected { belongs }) => {
            Some(belongs.checksum) == found && belongs.lba != bad.lba
        }
        _ => false,
    };
    // Zeros are nobody's.
    let is_something = found != Some(crc32c(&[0; BLOCK]));
    let swapped = kind == Kind::Swap && verdict == Verdict::Rotten && is_something;
    if swapped && claims(inspection).iter().any(|claim| Some(claim.checksum) == found) {
        return Err(format!("{bad:?} holds an object's block, and is called rotten"));
    }
    if fits { Ok(name) } else { Err(format!("{bad:?} is called {verdict:?}")) }
}

/// What the journal and the checkpoints say of a place.
fn past(inspection: &Inspection, image: &Image, place: Lba) -> Vec<(Witness, Claim)> {
    let mut commands = Vec::new();
    let mut past = Past::search(inspection, [place], &mut commands);
    while let Some(Command::Read { io, lba, blocks }) = commands.pop() {
        let bytes = image.read(lba, blocks).ok_or(sheen_store::IoFault::Media);
        if let Some(claims) = past.on_io(io, bytes, &mut commands) {
            return claims.to_vec();
        }
    }
    Vec::new()
}

/// A sweep of an image made for it.
///
/// # Errors
/// What is wrong, in words.
pub fn sweep_new(count: u64, seed: u64) -> Result<Swept, String> {
    let mut live = Live::new(seed).map_err(|violation: Violation| violation.to_string())?;
    sweep(&mut live, count, seed)
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn every_damage_of_a_short_sweep_is_named_and_none_returns_a_wrong_byte() {
        let swept = sweep_new(80, 1);
        let swept = swept.unwrap_or_else(|why| panic!("{why}"));
        assert!(swept.damages >= 60);
        for name in [Name::Rotten, Name::Misdirected, Name::Unreadable] {
            let named = swept.ends.keys().any(|(_, end)| *end == End::Named(name));
            assert!(named, "{name:?} in {:?}", swept.ends);
        }
    }
}
