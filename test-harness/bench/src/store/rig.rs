//! The shipped OST service on a device of the caller's choice, and the loop that drives whatever serves a [`Peer`].

use anyhow::{Result, anyhow, ensure};
use sheen_dma::{Arena, Buffer};
use sheen_node::ost::{OstConfig, OstService, ScrubConfig};
use sheen_ports::{Block, BlockCommand, BlockOperation, Clock};
use sheen_reactor::{Service, SystemClock};
use sheen_store::{Limits, Zone};
use sheen_types::Lba;

use super::peer::{Ask, OST, Operation, Peer};
use crate::admitted;

/// Bytes of a block.
pub const BLOCK_BYTES: usize = 4096;
/// Commands a device takes at a time.
pub const QUEUE_DEPTH: usize = 256;
/// Turns without work after which nothing goes on by itself.
const REST_TURNS: u32 = 1000;
/// Idle turns after which a request counts as lost.
const IDLE_TURNS_MAX: u32 = 100_000;
/// Largest request.
const FILL_BYTES: u32 = 1 << 20;

/// Something that serves a peer.
pub trait Subject: Service {
    /// Who asks it.
    fn peer(&mut self) -> &mut Peer;
}

/// The service.
pub type Store<B> = OstService<B, Peer, SystemClock>;

impl<B: Block> Subject for Store<B> {
    fn peer(&mut self) -> &mut Peer {
        self.fabric_mut()
    }
}

/// Formats the device and opens the store on it. It discards nothing: a device in memory gives memory back then and takes it
/// again page by page, which no disk does.
///
/// # Errors
/// When there is no memory, or the store does not open.
pub fn open<B: Block>(format_by: B, block: B, peer: Peer) -> Result<Store<B>> {
    let limits = Limits { discard: false, ..Limits::default() };
    open_with(format_by, block, peer, (limits, ScrubConfig::OFF, false))
}

/// As [`open`], with these bounds and this scrub, and tidying or not.
///
/// # Errors
/// As [`open`].
pub fn open_with<B: Block>(
    mut format_by: B,
    block: B,
    peer: Peer,
    (limits, scrub, tidy): (Limits, ScrubConfig, bool),
) -> Result<Store<B>> {
    let zone = Zone { first: Lba(0), blocks: block.geometry().blocks };
    for (lba, bytes) in sheen_store::format(zone, 77)? {
        let mut buffer = Buffer::standalone(bytes.len());
        buffer.as_mut_slice()[..bytes.len()].copy_from_slice(&bytes);
        carry_out(&mut format_by, BlockOperation::Write { lba, buffer, durable: true })?;
    }
    let arena = Arena::anonymous(256 << 20).map_err(|error| anyhow!("arena: {error:?}"))?;
    let config =
        OstConfig { arena, operations_max: 256, store: limits, scrub, tidy, incarnation: 1 };
    let (peer, desk) = (peer.attached(), Some(admitted::desk(OST)?));
    let mut store = OstService::new(config, vec![(OST, block)], peer, SystemClock, desk)
        .map_err(|error| anyhow!("service: {error:?}"))?;
    for _ in 0..1_000_000 {
        if store.is_ready() {
            break;
        }
        store.turn(SystemClock.now());
    }
    ensure!(store.is_ready(), "the store does not recover");
    Ok(store)
}

/// Carries out one command.
///
/// # Errors
/// When it fails.
pub fn carry_out(block: &mut impl Block, operation: BlockOperation) -> Result<()> {
    let refused = block.submit(BlockCommand { token: 1, operation });
    ensure!(refused.is_ok(), "the device refuses a command");
    block.ring();
    let mut completions = Vec::new();
    while block.poll(&mut completions) == 0 {}
    Ok(completions.into_iter().try_for_each(|completion| completion.result)?)
}

/// Writes the first `bytes` bytes of an object, in large requests.
///
/// # Errors
/// As [`drive`].
pub fn fill(subject: &mut impl Subject, object: u32, bytes: u64) -> Result<()> {
    let whole = u64::from(FILL_BYTES);
    let asks = (0..bytes / whole).map(|number| Ask {
        operation: Operation::Write,
        object,
        offset: number * whole,
        bytes: FILL_BYTES,
    });
    subject.peer().prepare(asks);
    drive_uncounted(subject)
}

/// Has all that was prepared carried out, as a reactor would: turn after turn, with a look at the clock for each. This is
/// what is measured.
///
/// # Errors
/// When a request failed or is not answered.
pub fn drive(subject: &mut (impl Subject + ?Sized)) -> Result<()> {
    measured_section(|| turn_until_answered(subject));
    subject.peer().check()
}

/// As [`drive`], for what goes before.
///
/// # Errors
/// As [`drive`].
pub fn drive_uncounted(subject: &mut (impl Subject + ?Sized)) -> Result<()> {
    turn_until_answered(subject);
    subject.peer().check()
}

/// Turns until what goes on without being asked for has ended.
pub fn settle(subject: &mut impl Subject) {
    let mut idle = 0;
    while idle < REST_TURNS {
        idle = if subject.turn(SystemClock.now()) == 0 { idle + 1 } else { 0 };
    }
}

fn turn_until_answered(subject: &mut (impl Subject + ?Sized)) {
    let mut idle = 0;
    while idle < IDLE_TURNS_MAX && !subject.peer().is_done() {
        let now = SystemClock.now();
        idle = if subject.turn(now) == 0 { idle + 1 } else { 0 };
    }
}

/// Where instructions are counted: the counting tool is told this name, so it must stay a function of its own.
#[inline(never)]
pub fn measured_section<T>(work: impl FnOnce() -> T) -> T {
    work()
}
