//! A client in trouble reads registers that another raises: never an old version, and the newest again when it is over.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};

use super::ACTORS;
use super::reader::{Look, parse};
use super::registers::{History, Raiser, Register, Seen, now};
use super::scene::{Bystander, Scene};
use super::trouble::{LEASE, Trouble};
use crate::actor::Actor;

/// Readings before the trouble and after it.
const CALM: Duration = Duration::from_millis(500);
/// The client is itself again so soon after the trouble.
const RETURN_DEADLINE: Duration = Duration::from_secs(10);
/// No round of a healthy client takes this long: one that waits for the client in trouble waits for its eviction, a lease
/// at least. Less would measure how busy the machine is.
const HEALTHY: Duration = Duration::from_millis(1900);
/// A change that somebody else's lease is in the way of takes no longer than the lease, and what eviction takes.
const CHANGE: Duration = Duration::from_millis(4500);

/// All that was read.
#[derive(Debug, Default)]
struct Readings {
    seen: BTreeMap<&'static str, Vec<Seen>>,
    errors: Vec<(Look, String)>,
}

pub(super) fn run(scene: &mut Scene, trouble: Trouble, time: Duration) -> anyhow::Result<String> {
    let name = scene.directory()?;
    let (here, there) =
        (scene.troubled.directory().join(&name), scene.other.directory().join(&name));
    for register in Register::ALL {
        register.create(&there)?;
    }
    let aside = scene.directory()?;
    let healthy = scene.cluster.mount()?;
    let mut reader = Actor::start(&scene.program, &[ACTORS[0], &here.to_string_lossy()], 65534)?;
    let raisers: Vec<Raiser> =
        Register::ALL.iter().map(|register| Raiser::start(*register, &there)).collect();
    let mut readings = Readings::default();
    readings.take_for(&mut reader, CALM)?;
    let bystander = Bystander::start(&healthy.directory().join(&aside));
    let between = scene.between(&scene.troubled)?;
    let begun = now()?;
    between.begin(trouble)?;
    let taken = readings.take_for(&mut reader, time);
    let over = now()?;
    between.end(trouble)?;
    taken?;
    let most = if trouble == Trouble::NodeStops { time + 2 * HEALTHY } else { HEALTHY };
    let bystander = bystander.end(most);
    let back = readings.take_until_current(&mut reader, &raisers).context("after the trouble")?;
    readings.take_for(&mut reader, CALM)?;
    raisers.iter().for_each(Raiser::end);
    let histories: Vec<History> =
        raisers.into_iter().map(Raiser::join).collect::<Result<_, _>>()?;
    let (rounds, longest) = bystander?;
    healthy.unmount()?;
    let (judged, stale_loads) = readings.require(&histories, (begun, over))?;
    if time < LEASE && !readings.errors.is_empty() {
        bail!("a short trouble gave errors: {:?}", readings.errors.first());
    }
    let change = histories.iter().map(History::longest).max().unwrap_or_default();
    let allowed = if trouble == Trouble::NodeStops { time + CHANGE } else { CHANGE };
    ensure!(change < allowed, "a change took {} ms", change.as_millis());
    Ok(format!(
        "{judged} readings of {} versions, {} errors, {stale_loads} stale loads from mappings; longest change {} ms, \
         current again after {} ms; a healthy client: {rounds} rounds, longest {} ms",
        histories.iter().map(History::versions).sum::<u64>(),
        readings.errors.len(),
        change.as_millis(),
        back.as_millis(),
        longest.as_millis()
    ))
}

impl Readings {
    fn take(&mut self, line: &str) -> anyhow::Result<()> {
        let (look, outcome) = parse(line)?;
        match outcome {
            Ok(seen) => self.seen.entry(look.name()).or_default().push(seen),
            Err(error) => self.errors.push((look, error)),
        }
        Ok(())
    }

    /// Takes what the reader says for this long.
    fn take_for(&mut self, reader: &mut Actor, time: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + time;
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            if let Some(line) = reader.answer_within(left)? {
                self.take(&line)?;
            }
        }
        Ok(())
    }

    /// Takes what the reader says until every look saw a version of this moment or later.
    fn take_until_current(
        &mut self,
        reader: &mut Actor,
        raisers: &[Raiser],
    ) -> anyhow::Result<Duration> {
        let goals: Vec<u64> = raisers.iter().map(Raiser::version).collect();
        let begun = Instant::now();
        loop {
            let late = Look::ALL.into_iter().find(|look| {
                let goal = goals[index(look.register())];
                let last = self.seen.get(look.name()).and_then(|all| all.last());
                last.is_none_or(|seen| seen.version < goal)
            });
            let Some(late) = late else { return Ok(begun.elapsed()) };
            if begun.elapsed() > RETURN_DEADLINE {
                let error = self.errors.iter().rev().find(|(look, _)| *look == late);
                bail!(
                    "{} does not see version {} after {} s; its last error: {error:?}",
                    late.name(),
                    goals[index(late.register())],
                    RETURN_DEADLINE.as_secs()
                );
            }
            if let Some(line) = reader.answer_within(Duration::from_millis(100))? {
                self.take(&line)?;
            }
        }
    }

    /// Requires that all was right. Loads from mappings have no promise while the trouble lasts; those that were stale then
    /// are counted.
    fn require(
        &self,
        histories: &[History],
        trouble: (u64, u64),
    ) -> anyhow::Result<(usize, usize)> {
        let (mut judged, mut stale_loads) = (0, 0);
        let mut wrong = BTreeMap::<&str, (usize, String)>::new();
        // The client needs a moment to find out that the trouble is over.
        let settled = trouble.1 + u64::try_from(RETURN_DEADLINE.as_nanos())?;
        for look in Look::ALL {
            let history = &histories[index(look.register())];
            let seen = self.seen.get(look.name()).map(Vec::as_slice).unwrap_or_default();
            ensure!(!seen.is_empty(), "{} saw nothing", look.name());
            for seen in seen {
                judged += 1;
                let Err(error) = history.require(*seen) else { continue };
                if look == Look::Load && (trouble.0..settled).contains(&seen.begun) {
                    stale_loads += 1;
                    continue;
                }
                let told = wrong.entry(look.name()).or_insert_with(|| (0, error.to_string()));
                told.0 += 1;
            }
        }
        if wrong.is_empty() {
            return Ok((judged, stale_loads));
        }
        let all: Vec<String> = wrong
            .iter()
            .map(|(look, (count, first))| format!("{look}: {count} wrong, first: {first}"))
            .collect();
        bail!("of {judged} readings: {}", all.join("; "))
    }
}

fn index(register: Register) -> usize {
    Register::ALL.iter().position(|one| *one == register).unwrap_or(0)
}
