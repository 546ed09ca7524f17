//! Objects of removed files: several jobs at a time, a bounded window over the list, and deletes that always work.

use std::collections::BTreeSet;

use sheen_types::{Errno, Fid, OstIndex};
use sheen_wire::{Field, Opcode};

use super::{
    MdtLimits, OstJob,
    gateway::DESTROY_OBJECTS_MAX,
    test::unlink,
    test_support::{Client, Sent, World, nothing_held},
};

/// Makes files, eight at a time.
fn make(world: &mut World, client: &mut Client, numbers: std::ops::Range<u32>) {
    let numbers: Vec<u32> = numbers.collect();
    for some in numbers.chunks(8) {
        let sent: Vec<Sent> = (0..)
            .zip(some)
            .map(|(tag, number)| {
                let request = client.create_request(Fid::ROOT, &format!("file {number}"));
                client.send(world, Opcode::Create, tag, &request.to_vec(), &[])
            })
            .collect();
        world.run();
        assert!(sent.iter().all(|sent| sent.status(world) == 0));
    }
}

/// Removes files, eight at a time: every one works.
fn remove(world: &mut World, client: &mut Client, numbers: std::ops::Range<u32>) {
    let numbers: Vec<u32> = numbers.collect();
    for some in numbers.chunks(8) {
        let sent: Vec<Sent> = (0..)
            .zip(some)
            .map(|(tag, number)| {
                let request = unlink(&format!("file {number}")).to_vec();
                client.send(world, Opcode::Unlink, tag, &request, &[])
            })
            .collect();
        world.run();
        assert!(sent.iter().all(|sent| sent.status(world) == 0));
    }
}

fn destroys(world: &World) -> Vec<Vec<Fid>> {
    let jobs = world.osts.borrow().jobs.clone();
    let objects = |job| match job {
        OstJob::Destroy { ost: OstIndex(0), objects } => Some(objects),
        _ => None,
    };
    jobs.into_iter().filter_map(objects).collect()
}

#[test]
fn several_destroys_are_under_way_and_no_more_than_the_window_holds() {
    let mut world = World::new().without_linger();
    let mut a = world.mount(1);
    make(&mut world, &mut a, 0..1000);
    world.osts.borrow_mut().stalled = true;
    remove(&mut world, &mut a, 0..1000);
    let under_way = destroys(&world);
    assert_eq!(under_way.len(), 4, "at the same time");
    let core = |world: &World| {
        let core = &world.service.as_ref().unwrap().core;
        let window = core.destroying.values().map(|window| window.under_way.len()).sum::<usize>();
        (core.state.destroys_pending(), window)
    };
    let told: usize = under_way.iter().map(Vec::len).sum();
    assert_eq!(core(&world), (1000, told));
    world.osts.borrow_mut().stalled = false;
    world.run();
    assert_eq!(core(&world), (0, 0));
    let all = destroys(&world);
    assert!(all.iter().all(|objects| objects.len() <= DESTROY_OBJECTS_MAX));
    assert!(all.len() <= 4 + 1000_usize.div_ceil(DESTROY_OBJECTS_MAX), "{} jobs", all.len());
    let objects: Vec<Fid> = all.concat();
    assert_eq!(objects.len(), 1000, "each once");
    assert_eq!(objects.iter().collect::<BTreeSet<_>>().len(), 1000);
}

#[test]
fn a_destroy_that_failed_is_asked_again_and_the_others_go_on() {
    let mut world = World::new();
    let mut a = world.mount(1);
    make(&mut world, &mut a, 0..200);
    world.osts.borrow_mut().failures = 2;
    remove(&mut world, &mut a, 0..200);
    world.pass(std::time::Duration::from_millis(200));
    assert_eq!(world.service.as_ref().unwrap().core.state.destroys_pending(), 0);
    assert_eq!(world.service.as_ref().unwrap().core.background.jobs_held(), 0);
}

#[test]
fn deletes_always_work_and_creates_wait_for_the_osts() {
    let limits = MdtLimits { destroys_pending_max: 20, ..MdtLimits::default() };
    let mut world = World::with_limits(limits).without_linger();
    let mut a = world.mount(1);
    make(&mut world, &mut a, 0..100);
    world.osts.borrow_mut().stalled = true;
    remove(&mut world, &mut a, 0..20);
    make(&mut world, &mut a, 100..101);
    remove(&mut world, &mut a, 20..101);
    let request = a.create_request(Fid::ROOT, "late");
    assert_eq!(a.call(&mut world, Opcode::Create, &request).frame.status, -Errno::EAGAIN.0);
    assert_eq!(world.service.as_ref().unwrap().core.state.destroys_pending(), 101);
    world.osts.borrow_mut().stalled = false;
    world.run();
    assert_eq!(a.call(&mut world, Opcode::Create, &request).frame.status, 0);
}

/// One OST that does not come back, and as many removed files there as all OSTs together may have.
#[test]
fn a_dead_ost_keeps_no_file_from_being_made_elsewhere() {
    let limits = MdtLimits { destroys_pending_max: 20, ..MdtLimits::default() };
    let mut world = World::with(limits, sheen_meta::Limits::default(), 2).without_linger();
    let mut a = world.mount(1);
    make(&mut world, &mut a, 0..100);
    world.osts.borrow_mut().dead.insert(OstIndex(0));
    remove(&mut world, &mut a, 0..100);
    let core = |world: &World| {
        let core = &world.service.as_ref().unwrap().core;
        [0, 1].map(|ost| core.state.destroys_pending_of(OstIndex(ost)))
    };
    assert_eq!(core(&world), [50, 0]);
    make(&mut world, &mut a, 100..120);
    let places = |world: &World| {
        let state = &world.service.as_ref().unwrap().core.state;
        let page = state.read_directory(Fid::ROOT, 0, 200).unwrap();
        let first = |fid| state.layout(fid).unwrap().components[0].objects[0].ost.0;
        page.entries.iter().map(|entry| first(entry.fid)).collect::<Vec<u32>>()
    };
    assert_eq!(places(&world), [1; 20], "it is passed by");
    // The same after a restart, which finds the list.
    world.restart();
    a.reconnect(&mut world);
    a.reassert(&mut world, &nothing_held());
    make(&mut world, &mut a, 120..130);
    assert_eq!(places(&world), [1; 30]);
    // Creates wait when all are behind, and the one that catches up gets the next.
    world.osts.borrow_mut().dead.insert(OstIndex(1));
    remove(&mut world, &mut a, 100..130);
    let request = a.create_request(Fid::ROOT, "late");
    assert_eq!(a.call(&mut world, Opcode::Create, &request).frame.status, -Errno::EAGAIN.0);
    world.osts.borrow_mut().dead.remove(&OstIndex(0));
    world.run();
    assert_eq!(core(&world), [0, 30]);
    assert_eq!(a.call(&mut world, Opcode::Create, &request).frame.status, 0);
    assert_eq!(places(&world), [0]);
}
