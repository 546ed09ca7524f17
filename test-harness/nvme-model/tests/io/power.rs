//! Durability: what was flushed or forced outlives a power cut, whatever else is lost or torn.

use sheen_nvme_model::{PowerCut, workload::Workload};

use super::{
    bed::{Bed, Way, Wish, seed},
    checks::plan,
};

/// Cuts the power in the middle of a workload, again and again; the sum of what the cuts did.
fn cut_power_often(way: Way, first_seed: u64, rounds: u64) -> PowerCut {
    let wish = Wish::default();
    let bed = Bed::new(way, wish);
    let Bed::Here(model) = &bed else { panic!("a power cut is played in process") };
    let mut sum = PowerCut::default();
    let mut workload: Option<Workload> = None;
    for round in 0..rounds {
        let seed = first_seed.wrapping_add(round);
        let rig = bed.rig(wish);
        let mut pair = rig.pair(16).unwrap();
        let plan = plan(seed, 0, 64, &pair);
        let arena = rig.arena.clone();
        let mut load = match workload.take() {
            Some(before) => before.go_on(arena),
            None => Workload::new(plan, arena),
        };
        load.read_all(&mut pair).unwrap_or_else(|failure| panic!("seed {seed}: {failure:?}"));
        for _ in 0..200 {
            load.turn(&mut pair).unwrap_or_else(|failure| panic!("seed {seed}: {failure:?}"));
        }
        let cut = model.with(|controller, _| {
            controller.remove_by_surprise();
            controller.cut_power(seed)
        });
        sum.at_risk += cut.at_risk;
        sum.reverted += cut.reverted;
        load.abandon();
        load.ledger().on_power_cut();
        drop(pair);
        let _ = rig.detach();
        model.with(|controller, _| controller.insert());
        workload = Some(load);
    }
    sum
}

#[test]
fn flushed_and_forced_writes_outlive_power_cuts() {
    for way in [Way::Stepped, Way::Threaded] {
        let seed = seed("power cuts");
        let rounds = if cfg!(debug_assertions) { 10 } else { 40 };
        let sum = cut_power_often(way, seed, rounds);
        println!(
            "{way:?}: {rounds} power cuts, {} blocks at risk, {} reverted",
            sum.at_risk, sum.reverted
        );
        assert!(sum.at_risk > 0 && sum.reverted > 0, "the cuts did something: {sum:?}");
    }
}

#[test]
fn a_cache_that_is_cut_off_without_a_flush_is_found_by_the_judge() {
    // The check can fail: claiming durability that was not asked for is noticed.
    let wish = Wish::default();
    let bed = Bed::new(Way::Stepped, wish);
    let Bed::Here(model) = &bed else { panic!("in process") };
    let mut is_noticed = false;
    for seed in 0..20 {
        let rig = bed.rig(wish);
        let mut pair = rig.pair(16).unwrap();
        let mut load = Workload::new(plan(seed, 0, 64, &pair), rig.arena.clone());
        load.zero_all(&mut pair).unwrap();
        for _ in 0..200 {
            load.turn(&mut pair).unwrap();
        }
        load.drain(&mut pair).unwrap();
        load.ledger().on_flushed();
        model.with(|controller, _| {
            controller.remove_by_surprise();
            controller.cut_power(seed)
        });
        load.ledger().on_power_cut();
        drop(pair);
        let _ = rig.detach();
        model.with(|controller, _| controller.insert());
        let rig = bed.rig(wish);
        let mut pair = rig.pair(16).unwrap();
        let mut load = load.go_on(rig.arena.clone());
        is_noticed |= load.read_all(&mut pair).is_err();
        drop(pair);
        let _ = rig.detach();
    }
    assert!(is_noticed);
}
