//! Random histories on a device that loses what devices lose, checked against a plain model.
//!
//! Seeds are fixed; `SHEEN_SEED=n` runs one history, `SHEEN_HISTORIES=n` that many.

use std::io::Write as _;

use crate::history::History;

/// Names the seed if a history fails.
struct Named(u64);

impl Drop for Named {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = writeln!(std::io::stderr(), "failed: SHEEN_SEED={}", self.0);
        }
    }
}

fn number_from(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
fn after_any_crash_what_was_promised_is_there_and_nothing_by_half() {
    let mut area_faults = 0;
    let (mut checked, mut skipped, mut ios, mut checkpoints, mut faults) = (0, 0, 0, 0, 0);
    let (mut groups, mut parts, mut repacks) = (0, (0, 0), 0);
    let seeds = match number_from("SHEEN_SEED") {
        Some(seed) => seed..seed + 1,
        None => 1..1 + number_from("SHEEN_HISTORIES").unwrap_or(400),
    };
    for seed in seeds {
        let _named = Named(seed);
        let mut history = History::new(seed);
        history.run(1 + seed % 6);
        checked += history.checked;
        skipped += history.skipped;
        ios += history.world.io_count;
        checkpoints += history.checkpoints;
        faults += history.world.faulted.len();
        area_faults += history.world.area_faults;
        groups += history.groups;
        repacks += history.repacks;
        parts = (parts.0 + history.parts.0, parts.1 + history.parts.1);
    }
    println!(
        "{checked} objects checked, {skipped} in part, {ios} writes, {checkpoints} checkpoints, \
         {faults} faults, {area_faults} of areas, {groups} groups packed, {repacks} repacks, {} runs of groups left, {} surely cut",
        parts.0, parts.1
    );
    assert!(skipped * 10 < checked.max(10), "{skipped} of {checked} were not decided");
}
