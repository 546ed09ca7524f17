//! The 4 KiB workload: a random block of a 384 MiB object (or of as much of the device), again and again.

use anyhow::{Result, bail};
use sheen_conformance::random::Random;
use sheen_nvme::{RamDevice, RamMedium};

use super::device::{DeviceLoop, touch};
use super::peer::{Ask, Operation, Peer};
use super::raw::Raw;
use super::rig::{self, BLOCK_BYTES, QUEUE_DEPTH, Store, Subject, drive, drive_uncounted};

/// Requests under way at a time.
pub const DEPTH: usize = 32;
/// Blocks of the object that is read and written.
const OBJECT_BLOCKS: u64 = 96 << 10;
/// Not much more, so that the store's blocks lie no farther apart than those of what it is compared with.
const DEVICE_BLOCKS: u64 = 128 << 10;
const OBJECT: u32 = 1;

/// What is measured, or what it is compared with.
#[derive(Debug)]
pub enum Path {
    /// The shipped service.
    Store(Box<Store<RamDevice>>, Random),
    /// The device behind the same fabric.
    Raw(Box<Raw<RamDevice>>, Random),
    /// The device alone.
    Device(Box<DeviceLoop>),
}

impl Path {
    /// By its word on a command line: `store`, `raw` or `device`.
    ///
    /// # Errors
    /// When there is no such path, or no memory.
    pub fn new(word: &str) -> Result<Self> {
        Ok(match word {
            "store" => Self::Store(Box::new(store()?), Random::new(9)),
            "raw" => {
                let mut device = RamMedium::new(OBJECT_BLOCKS).open(QUEUE_DEPTH);
                touch(&mut device)?;
                let raw = Raw::new(device, Peer::new(DEPTH, BLOCK_BYTES), DEPTH)?;
                Self::Raw(Box::new(raw), Random::new(9))
            }
            "device" => Self::Device(Box::new(DeviceLoop::new(OBJECT_BLOCKS, DEPTH)?)),
            _ => bail!("no path {word}"),
        })
    }

    /// Encodes `count` requests and takes them along without measuring, so that all memory there is to take is taken.
    ///
    /// # Errors
    /// When a request fails.
    pub fn warm_up(&mut self, operation: Operation, count: u64) -> Result<()> {
        match self {
            Self::Store(store, random) => {
                prepare(&mut **store, random, operation, count);
                drive_uncounted(&mut **store)
            }
            Self::Raw(raw, random) => {
                prepare(&mut **raw, random, operation, count);
                drive_uncounted(&mut **raw)
            }
            Self::Device(_) => Ok(()),
        }
    }

    /// Has `count` requests carried out; `measure` is given what is measured.
    ///
    /// # Errors
    /// When a request fails.
    pub fn measure<T>(
        &mut self,
        operation: Operation,
        count: u64,
        measure: impl FnOnce(&mut dyn FnMut() -> Result<()>) -> T,
    ) -> T {
        match self {
            Self::Store(store, random) => {
                prepare(&mut **store, random, operation, count);
                measure(&mut || drive(&mut **store))
            }
            Self::Raw(raw, random) => {
                prepare(&mut **raw, random, operation, count);
                measure(&mut || drive(&mut **raw))
            }
            Self::Device(device) => measure(&mut || device.drive(operation, count)),
        }
    }
}

fn store() -> Result<Store<RamDevice>> {
    let medium = RamMedium::new(DEVICE_BLOCKS);
    let mut device = medium.open(QUEUE_DEPTH);
    touch(&mut device)?;
    let peer = Peer::new(DEPTH, 1 << 20);
    let mut store = rig::open(device, medium.open(QUEUE_DEPTH), peer)?;
    rig::fill(&mut store, OBJECT, OBJECT_BLOCKS * BLOCK_BYTES as u64)?;
    // Every block is written once more, at random: the state in which a store spends its life.
    let mut random = Random::new(3);
    prepare(&mut store, &mut random, Operation::Write, OBJECT_BLOCKS);
    drive_uncounted(&mut store)?;
    *store.peer() = Peer::new(DEPTH, BLOCK_BYTES);
    Ok(store)
}

fn prepare(subject: &mut impl Subject, random: &mut Random, operation: Operation, count: u64) {
    let bytes = 4096;
    let asks = (0..count).map(|_| {
        let offset = random.below(OBJECT_BLOCKS) * u64::from(bytes);
        Ask { operation, object: OBJECT, offset, bytes }
    });
    subject.peer().prepare(asks);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_answers_every_request() {
        for word in ["store", "raw", "device"] {
            let mut path = Path::new(word).unwrap();
            for operation in [Operation::Write, Operation::Read] {
                path.warm_up(operation, 100).unwrap();
                path.measure(operation, 500, |drive| drive()).unwrap();
            }
        }
    }
}
