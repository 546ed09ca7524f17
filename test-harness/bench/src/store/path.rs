//! The 4 KiB workload: a random block of a 384 MiB object (or of as much of the device), again and again.

use anyhow::{Result, bail};
use sheen_conformance::random::Random;
use sheen_keys::{BlockCipher, EncryptedBlock, Secret};
use sheen_nvme::{RamDevice, RamMedium};
use sheen_ports::Block;

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
pub enum Path {
    /// A service.
    Served(Box<dyn Subject>, Random),
    /// The device alone.
    Device(Box<DeviceLoop>),
}

impl std::fmt::Debug for Path {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Served(_, random) => f.debug_tuple("Served").field(random).finish(),
            Self::Device(device) => f.debug_tuple("Device").field(device).finish(),
        }
    }
}

impl Path {
    /// By its word on a command line: `store` is the shipped service, `encrypted` the same with an encrypted device, `raw` the
    /// device behind the same fabric, `device` the device alone.
    ///
    /// # Errors
    /// When there is no such path, or no memory.
    pub fn new(word: &str) -> Result<Self> {
        let subject: Box<dyn Subject> = match word {
            "store" => Box::new(store(Ok)?),
            "encrypted" => Box::new(store(encrypted)?),
            "raw" => {
                let mut device = RamMedium::new(OBJECT_BLOCKS).open(QUEUE_DEPTH);
                touch(&mut device)?;
                Box::new(Raw::new(device, Peer::new(DEPTH, BLOCK_BYTES), DEPTH)?)
            }
            "device" => return Ok(Self::Device(Box::new(DeviceLoop::new(OBJECT_BLOCKS, DEPTH)?))),
            _ => bail!("no path {word}"),
        };
        Ok(Self::Served(subject, Random::new(9)))
    }

    /// Encodes `count` requests and takes them along without measuring, so that all memory there is to take is taken.
    ///
    /// # Errors
    /// When a request fails.
    pub fn warm_up(&mut self, operation: Operation, count: u64) -> Result<()> {
        let Self::Served(subject, random) = self else { return Ok(()) };
        prepare(&mut **subject, random, operation, count);
        drive_uncounted(&mut **subject)
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
            Self::Served(subject, random) => {
                prepare(&mut **subject, random, operation, count);
                measure(&mut || drive(&mut **subject))
            }
            Self::Device(device) => measure(&mut || device.drive(operation, count)),
        }
    }
}

fn store<B: Block + 'static>(over: impl Fn(RamDevice) -> Result<B>) -> Result<Store<B>> {
    let medium = RamMedium::new(DEVICE_BLOCKS);
    touch(&mut medium.open(QUEUE_DEPTH))?;
    let (format_by, block) = (over(medium.open(QUEUE_DEPTH))?, over(medium.open(QUEUE_DEPTH))?);
    let mut store = rig::open(format_by, block, Peer::new(DEPTH, 1 << 20))?;
    rig::fill(&mut store, OBJECT, OBJECT_BLOCKS * BLOCK_BYTES as u64)?;
    // Every block is written once more, at random: the state in which a store spends its life.
    let mut random = Random::new(3);
    prepare(&mut store, &mut random, Operation::Write, OBJECT_BLOCKS);
    drive_uncounted(&mut store)?;
    *store.peer() = Peer::new(DEPTH, BLOCK_BYTES);
    Ok(store)
}

fn encrypted(device: RamDevice) -> Result<EncryptedBlock<RamDevice>> {
    let mut key = Secret::zeroed(BlockCipher::KEY_BYTES)?;
    for (byte, value) in key.expose_mut().iter_mut().zip(1..) {
        *byte = value;
    }
    Ok(EncryptedBlock::new(device, BlockCipher::new(&key)?))
}

fn prepare(subject: &mut dyn Subject, random: &mut Random, operation: Operation, count: u64) {
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
        for word in ["store", "encrypted", "raw", "device"] {
            let mut path = Path::new(word).unwrap();
            for operation in [Operation::Write, Operation::Read] {
                path.warm_up(operation, 100).unwrap();
                path.measure(operation, 500, |drive| drive()).unwrap();
            }
        }
    }
}
