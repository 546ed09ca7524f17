//! Sleeping until an interrupt instead of polling.

use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollOp, EpollTimeout};
use sheen_conformance::report::Report;
use sheen_nvme::driver::{NvmeBlock, Options};
use sheen_ports::{Block, BlockCommand, BlockCompletion, BlockOperation};
use sheen_types::{BLOCK_BYTES, Lba};

use super::drive::Drive;

const CHECK: &str = "interrupts";
const COMMANDS: u64 = 2_000;
/// A sleeper that is not woken by then was forgotten.
const FORGOTTEN_MILLISECONDS: u16 = 5_000;
const DEADLINE: Duration = Duration::from_secs(40);

/// Runs the item.
pub(crate) fn run(report: &mut Report, address: &str) {
    report.case(CHECK, "an idle thread sleeps, an interrupt wakes it, and it polls again", || {
        let drive = Drive::attach(address, Options::default())?;
        let text = sleeps(&drive)?;
        drive.controller.close();
        Ok(text)
    });
}

fn sleeps(drive: &Drive) -> Result<String> {
    let mut block = NvmeBlock::new(drive.queue(1, 8)?);
    let mut buffer = drive.arena.allocate(BLOCK_BYTES);
    let mut completions: Vec<BlockCompletion> = Vec::new();
    let (mut sleeps, mut polled) = (0_u64, 0_u64);
    let sleeper = sleeper(block.wake_descriptor().context("it cannot sleep")?)?;
    let deadline = Instant::now() + DEADLINE;
    for number in 0..COMMANDS {
        let buffer_now = buffer.take().context("no buffer")?;
        let operation = BlockOperation::Read { lba: Lba(number % 100), buffer: buffer_now };
        let given = block.submit(BlockCommand { token: number, operation });
        ensure!(given.is_ok(), "the queue is full");
        block.ring();
        while block.poll(&mut completions) == 0 {
            ensure!(Instant::now() < deadline, "{number} of {COMMANDS} commands in time");
            if block.prepare_sleep() {
                wait(&sleeper)?;
                sleeps += 1;
                block.end_sleep();
            } else {
                polled += 1;
                std::thread::yield_now();
            }
        }
        let done = completions.pop().context("no completion")?;
        ensure!(done.token == number && done.result.is_ok(), "{done:?}");
        buffer = done.buffer;
    }
    ensure!(sleeps > COMMANDS / 4, "{sleeps} sleeps for {COMMANDS} commands");
    Ok(format!("{COMMANDS} reads, {sleeps} sleeps each ended by an interrupt, {polled} polls"))
}

/// An epoll instance on the device's descriptor.
fn sleeper(descriptor: RawFd) -> Result<Epoll> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let mut event = EpollEvent::new(EpollFlags::EPOLLIN, 0);
    #[expect(deprecated, reason = "the only safe function that takes descriptors by number")]
    nix::sys::epoll::epoll_ctl(epoll.0.as_raw_fd(), EpollOp::EpollCtlAdd, descriptor, &mut event)?;
    Ok(epoll)
}

/// Sleeps until the descriptor says that there is something.
fn wait(sleeper: &Epoll) -> Result<()> {
    let mut events = [EpollEvent::empty()];
    let woken = sleeper.wait(&mut events, EpollTimeout::from(FORGOTTEN_MILLISECONDS))?;
    ensure!(woken == 1, "no interrupt within {FORGOTTEN_MILLISECONDS} ms");
    Ok(())
}
