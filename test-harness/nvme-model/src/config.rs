//! What kind of controller it is, and how it lies about it.

use std::time::Duration;

use crate::medium::MediumKind;

/// How long a controller takes to become ready or to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// With the register write.
    AtOnce,
    /// After this time.
    After(Duration),
    /// Never.
    Never,
}

/// How shadow doorbells are used. [NVMe-2.0c §5.8, annex B.5]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shadow {
    /// Not offered.
    Absent,
    /// Looked at all the time; a doorbell register need never be written.
    Polled,
    /// Looked at only after a doorbell register was written, so that a driver that forgets to write one hangs.
    Kicked,
}

/// Something the controller says that is not so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lie {
    /// The answer to Identify has these bytes at this place.
    Identify {
        /// Controller or Namespace Structure.
        cns: u8,
        /// Where.
        offset: usize,
        /// What.
        bytes: Vec<u8>,
    },
    /// Only this many bytes of a log page are transferred, whatever was asked for.
    ShortLog {
        /// Log Page Identifier.
        page: u8,
        /// Bytes.
        bytes: usize,
    },
    /// Only this many bytes of an answer to Identify are transferred.
    ShortIdentify {
        /// Controller or Namespace Structure.
        cns: u8,
        /// Bytes.
        bytes: usize,
    },
    /// CAP reads as this.
    Capabilities(u64),
    /// VS reads as this.
    Version(u32),
    /// Set Features grants this many queues of each kind, zero-based, whatever was asked for.
    QueuesGranted(u16),
}

/// A controller to build.
#[derive(Clone, Debug)]
pub struct Config {
    /// Size of namespace 1 in bytes.
    pub bytes: u64,
    /// Bytes of its blocks: 512 or 4096.
    pub block_bytes: usize,
    /// What keeps the blocks.
    pub medium: MediumKind,
    /// Capacity left for more namespaces, in bytes.
    pub spare_bytes: u64,
    /// Entries of a queue at most: CAP.MQES + 1.
    pub queue_entries_max: u32,
    /// I/O queue pairs at most.
    pub queue_pairs_max: u16,
    /// Interrupt vectors.
    pub vectors: u16,
    /// MDTS: log2 of the pages of a transfer; 0: no limit.
    pub transfer_pages_log2: u8,
    /// Whether SGLs are taken.
    pub has_sgl: bool,
    /// Whether there is a volatile write cache.
    pub has_cache: bool,
    /// Shadow doorbells.
    pub shadow: Shadow,
    /// CAP.DSTRD: log2 of the distance of doorbells in 4-byte units.
    pub doorbell_stride: u8,
    /// CAP.TO: the promised time for a reset, in units of 500 ms.
    pub timeout_units: u8,
    /// From CC.EN set to CSTS.RDY set.
    pub enable: Readiness,
    /// From CC.EN cleared to CSTS.RDY cleared.
    pub disable: Readiness,
    /// How long a sanitize operation takes.
    pub sanitize_time: Duration,
    /// Asynchronous Event Requests at a time: AERL + 1.
    pub event_requests_max: usize,
    /// What is not so.
    pub lies: Vec<Lie>,
}

impl Default for Config {
    /// 64 MiB of 4 KiB blocks behind a write cache, everything offered, nothing wrong.
    fn default() -> Self {
        Self {
            bytes: 64 << 20,
            block_bytes: 4096,
            medium: MediumKind::PowerCut,
            spare_bytes: 64 << 20,
            queue_entries_max: 1024,
            queue_pairs_max: 16,
            vectors: 17,
            transfer_pages_log2: 8,
            has_sgl: true,
            has_cache: true,
            shadow: Shadow::Absent,
            doorbell_stride: 0,
            timeout_units: 2,
            enable: Readiness::AtOnce,
            disable: Readiness::AtOnce,
            sanitize_time: Duration::from_millis(20),
            event_requests_max: 4,
            lies: Vec::new(),
        }
    }
}

impl Config {
    /// The same with one more lie.
    #[must_use]
    pub fn lying(mut self, lie: Lie) -> Self {
        self.lies.push(lie);
        self
    }

    /// Bytes between a queue's tail doorbell and its head doorbell. [NVMe-2.0c §3.1.3.1]
    #[must_use]
    pub fn stride_bytes(&self) -> usize {
        4 << self.doorbell_stride
    }
}
