//! Sleeping on an interrupt: a thread that waits for a command is woken by it, and polls again after.

use std::{
    os::fd::{AsFd as _, BorrowedFd},
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use sheen_nvme::driver::NvmeBlock;
use sheen_nvme_model::rig::Rig;
use sheen_ports::{Block, BlockCommand, BlockOperation};
use sheen_types::Lba;

use super::bed::{Bed, Way, Wish};

const PATIENCE: Duration = Duration::from_secs(10);
/// Far longer than arming interrupts takes: the first reads arm them, the others are slept through, however little of the
/// processor this thread gets.
const READ_TIME: Duration = Duration::from_millis(60);

/// Reads one block the way a reactor does: sleeps whenever the device says it may. Returns the sleeps.
fn read_sleeping(block: &mut NvmeBlock, rig: &Rig, wake: BorrowedFd<'_>) -> u32 {
    let buffer = rig.arena.allocate(4096).unwrap();
    let operation = BlockOperation::Read { lba: Lba(3), buffer };
    block.submit(BlockCommand { token: 1, operation }).unwrap();
    block.ring();
    let (mut ended, mut sleeps) = (Vec::new(), 0);
    let begun = Instant::now();
    while block.poll(&mut ended) == 0 {
        assert!(begun.elapsed() < PATIENCE, "the command ends");
        if block.prepare_sleep() {
            sleeps += 1;
            let mut descriptors = [PollFd::new(wake, PollFlags::POLLIN)];
            let timeout = PollTimeout::try_from(5000).unwrap();
            assert!(poll(&mut descriptors, timeout).unwrap() > 0, "nothing woke the sleeper");
            block.end_sleep();
        } else {
            std::thread::yield_now();
        }
    }
    assert!(ended[0].result.is_ok());
    sleeps
}

fn sleeps_and_wakes(way: Way) {
    let wish = Wish { read_time: READ_TIME, ..Wish::default() };
    let bed = Bed::new(way, wish);
    let rig = bed.rig(wish);
    let mut block = NvmeBlock::new(rig.pair(4).unwrap());
    let wake = block.queue().wake().try_clone_to_owned().unwrap();
    let mut sleeps = 0;
    for _ in 0..20 {
        sleeps += read_sleeping(&mut block, &rig, wake.as_fd());
    }
    println!("{way:?}: {sleeps} sleeps");
    assert!(sleeps > 0, "it never slept");
}

#[test]
fn a_sleeper_is_woken_by_its_command_from_another_thread() {
    sleeps_and_wakes(Way::Threaded);
}

#[test]
fn a_sleeper_is_woken_by_its_command_from_another_process() {
    sleeps_and_wakes(Way::OtherProcess);
}
