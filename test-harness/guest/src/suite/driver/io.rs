//! Reads, writes and everything else that moves or names data.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use sheen_conformance::report::Report;
use sheen_dma::Buffer;
use sheen_nvme::driver::{Completion, Durability, IoError, Options, QueuePair};
use sheen_types::{BLOCK_BYTES, Lba};

use super::drive::{Drive, Load, run_on_threads};

const CHECK: &str = "io";
/// The whole of the great run.
const COMMANDS: u64 = 1_000_000;
const QUEUE_PAIRS: u32 = 4;
const DEADLINE: Duration = Duration::from_secs(20);

/// Runs the item.
pub(crate) fn run(report: &mut Report, address: &str) {
    let mut drive = None;
    report.case(CHECK, "attach through vfio, identify", || {
        let attached = Drive::attach(address, Options::default())?;
        let text = identified(&attached)?;
        drive = Some(attached);
        Ok(text)
    });
    let Some(drive) = drive else { return };
    let name = "1,000,000 random verified reads and writes across 4 queue pairs";
    report.case(CHECK, name, || million(&drive));
    report.case(CHECK, "the same on blocks of 512 bytes", || small_blocks(&drive));
    report.case(CHECK, "transfers of up to what one command carries", || large(&drive));
    report.case(CHECK, "flush, FUA, discard, write zeroes, compare, verify", || rest(&drive));
    report.case(CHECK, "health, error log and firmware slots", || logs(&drive));
    report.case(CHECK, "detach and attach again, the content is there", || again(drive, address));
}

fn identified(drive: &Drive) -> Result<String> {
    let namespaces = drive.controller.namespaces()?;
    ensure!(namespaces == [1, 2], "namespaces {namespaces:?}");
    let mut sizes = Vec::new();
    for nsid in namespaces {
        let namespace = drive.controller.namespace(nsid)?.map_err(anyhow::Error::from)?;
        sizes.push(format!(
            "{nsid}: {} blocks of {}",
            namespace.blocks,
            4096 >> namespace.block_shift
        ));
    }
    let (model, serial) = (drive.controller.model(), drive.controller.serial());
    ensure!(serial == "sheen0", "serial {serial}");
    Ok(format!("{model}, serial {serial}, {}", sizes.join(", ")))
}

fn million(drive: &Drive) -> Result<String> {
    let load = Load {
        nsid: 1,
        queue_pairs: QUEUE_PAIRS,
        depth: 32,
        blocks: 16_384,
        commands: COMMANDS / u64::from(QUEUE_PAIRS),
    };
    let begun = Instant::now();
    let mut workers = drive.workers(load)?;
    // Two processors: two threads, each with two queue pairs.
    let half = workers.split_off(workers.len() / 2);
    let (counts, _) = run_on_threads(vec![workers, half])?;
    ensure!(counts.reads + counts.writes == COMMANDS, "{counts:?}");
    let seconds = begun.elapsed().as_secs_f64();
    Ok(format!(
        "{} reads verified, {} writes, in {seconds:.1} s: {:.0} a second",
        counts.reads,
        counts.writes,
        1e6 / seconds
    ))
}

fn small_blocks(drive: &Drive) -> Result<String> {
    let load = Load { nsid: 2, queue_pairs: 1, depth: 32, blocks: 4096, commands: 50_000 };
    let (counts, _) = run_on_threads(vec![drive.workers(load)?])?;
    ensure!(counts.reads + counts.writes == load.commands, "{counts:?}");
    Ok(format!("{} reads verified, {} writes", counts.reads, counts.writes))
}

/// Runs one command to its end.
pub(super) fn one(
    queue: &mut QueuePair,
    submit: impl FnOnce(&mut QueuePair) -> Option<()>,
) -> Result<Completion> {
    submit(queue).context("the queue is full")?;
    queue.ring();
    let deadline = Instant::now() + DEADLINE;
    let mut completions = Vec::new();
    while queue.poll(&mut completions) == 0 {
        ensure!(Instant::now() < deadline, "a command does not complete");
        std::thread::yield_now();
    }
    completions.pop().context("a completion that is none")
}

/// Writes and gives the buffer back.
pub(super) fn write(
    queue: &mut QueuePair,
    lba: Lba,
    buffer: Buffer,
    durability: Durability,
) -> Result<Buffer> {
    let done = one(queue, |queue| queue.write(lba, buffer, durability, 1).ok())?;
    done.result?;
    done.buffer.context("a write without its buffer")
}

/// Reads into the buffer and gives it back.
pub(super) fn read(queue: &mut QueuePair, lba: Lba, buffer: Buffer) -> Result<Buffer> {
    let done = one(queue, |queue| queue.read(lba, buffer, 2).ok())?;
    done.result?;
    done.buffer.context("a read without its buffer")
}

fn pattern(bytes: &mut [u8], seed: u64) {
    for (place, chunk) in (0..).zip(bytes.chunks_exact_mut(8)) {
        let word: u64 = (place + seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        chunk.copy_from_slice(&word.to_le_bytes());
    }
}

fn large(drive: &Drive) -> Result<String> {
    let mut count = 0;
    for nsid in [1, 2] {
        let mut queue = drive.queue(nsid, 8)?;
        let most = queue.namespace().transfer_blocks_max as usize;
        for blocks in [1, 2, 3, 17, most / 2 + 1, most - 1, most] {
            let bytes = blocks * BLOCK_BYTES;
            let mut buffer = drive.arena.allocate(bytes).context("no memory")?;
            pattern(buffer.as_mut_slice(), blocks as u64);
            let expected = buffer.as_slice().to_vec();
            let lba = Lba(3 + blocks as u64);
            let mut buffer = write(&mut queue, lba, buffer, Durability::Cached)?;
            buffer.as_mut_slice().fill(0);
            let buffer = read(&mut queue, lba, buffer)?;
            ensure!(buffer.as_slice() == expected, "{blocks} blocks are not what was written");
            count += 2;
        }
    }
    Ok(format!("{count} commands of 1 to the most blocks, verified"))
}

fn rest(drive: &Drive) -> Result<String> {
    let mut queue = drive.queue(1, 8)?;
    let offers = queue.namespace().offers;
    let lba = Lba(1000);
    let mut buffer = drive.arena.allocate(BLOCK_BYTES).context("no memory")?;
    pattern(buffer.as_mut_slice(), 9);
    let buffer = write(&mut queue, lba, buffer, Durability::Durable)?;
    one(&mut queue, |queue| queue.flush(3).ok())?.result?;
    let mut done = vec!["FUA write", "flush"];
    let mut buffer = buffer;
    if offers.compare {
        let same = one(&mut queue, |queue| queue.compare(lba, buffer, 4).ok())?;
        same.result?;
        let mut other = same.buffer.context("no buffer")?;
        other.as_mut_slice()[77] ^= 1;
        let differs = one(&mut queue, |queue| queue.compare(lba, other, 5).ok())?;
        ensure!(differs.result == Err(IoError::Mismatch), "{:?}", differs.result);
        buffer = differs.buffer.context("no buffer")?;
        done.extend(["compare of equals", "compare of others"]);
    }
    if offers.verify {
        one(&mut queue, |queue| queue.verify(lba, 1, 6).ok())?.result?;
        done.push("verify");
    }
    if offers.write_zeroes {
        one(&mut queue, |queue| queue.write_zeroes(lba, 8, 7).ok())?.result?;
        buffer = read(&mut queue, lba, buffer)?;
        ensure!(buffer.as_slice().iter().all(|byte| *byte == 0), "not zero");
        done.push("write zeroes");
    }
    ensure!(offers.discard, "QEMU's controller offers discard");
    pattern(buffer.as_mut_slice(), 10);
    let buffer = write(&mut queue, lba, buffer, Durability::Cached)?;
    one(&mut queue, |queue| queue.discard(lba, 8, 8).ok())?.result?;
    let whole = queue.namespace().blocks;
    one(&mut queue, |queue| queue.discard(Lba(0), whole, 9).ok())?.result?;
    let buffer = read(&mut queue, lba, buffer)?;
    ensure!(buffer.as_slice().iter().all(|byte| *byte == 0), "a sparse file reads as zero");
    done.extend(["discard of 8 blocks", "discard of all blocks"]);
    let beyond = one(&mut queue, |queue| queue.read(Lba(whole), buffer, 10).ok())?;
    ensure!(matches!(beyond.result, Err(IoError::Refused(_))), "{:?}", beyond.result);
    Ok(done.join(", "))
}

fn logs(drive: &Drive) -> Result<String> {
    let smart = drive.controller.health()?;
    ensure!(smart.host_reads > 0 && smart.host_writes > 0, "nothing was counted");
    let errors = drive.controller.errors()?.len();
    let firmware = drive.controller.firmware_slots()?;
    Ok(format!(
        "{} reads, {} writes, {} K, {errors} errors, firmware slot {}",
        smart.host_reads,
        smart.host_writes,
        smart.temperature,
        firmware.afi.active()
    ))
}

fn again(drive: Drive, address: &str) -> Result<String> {
    let mut queue = drive.queue(1, 8)?;
    let mut buffer = drive.arena.allocate(BLOCK_BYTES).context("no memory")?;
    pattern(buffer.as_mut_slice(), 11);
    let expected = buffer.as_slice().to_vec();
    drop(write(&mut queue, Lba(5), buffer, Durability::Durable)?);
    drop(queue);
    let Drive { controller, arena } = drive;
    controller.close();
    drop(arena);
    let drive = Drive::attach(address, Options::default())?;
    let mut queue = drive.queue(1, 8)?;
    let buffer = drive.arena.allocate(BLOCK_BYTES).context("no memory")?;
    let buffer = read(&mut queue, Lba(5), buffer)?;
    ensure!(buffer.as_slice() == expected, "the block is not what was written before");
    drop(queue);
    drive.controller.close();
    Ok("1 block".to_owned())
}
