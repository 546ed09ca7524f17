//! Requests that are being carried out.

use sheen_dma::Buffer;
use sheen_ports::RequestId;
use sheen_store::{Merge, MergeToken, ReadPin, ReadPlan};
use sheen_types::{ClientId, Errno, Fid, OstIndex, Tick};
use sheen_wire::{Frame, object::ObjectWrite};

use super::{image::Image, repacking::Wanted, unpacking::Round};

/// Who waits for the end.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Origin {
    /// A peer.
    Fabric {
        /// What to answer.
        request: RequestId,
        /// Its frame.
        frame: Frame,
        /// When it came.
        since: Tick,
        /// The OST it asks something of, whose counters it goes into.
        ost: Option<OstIndex>,
    },
    /// The MDT of this node.
    Gateway { id: u64 },
    /// Nobody: the flush before the service ends.
    Stop,
    /// Nobody: the flush before a fence is told.
    Fence,
    /// Nobody: scattered content is brought together.
    Tidying,
}

impl Origin {
    /// The session it is carried out for. None: the node itself, which is never fenced.
    pub(crate) fn client(&self) -> Option<ClientId> {
        match self {
            Self::Fabric { frame, .. } => Some(frame.client),
            Self::Gateway { .. } | Self::Stop | Self::Fence | Self::Tidying => None,
        }
    }
}

/// A request that takes more than its turn.
#[derive(Debug)]
pub(crate) struct Operation {
    pub(crate) origin: Origin,
    /// Which OST, by its place in the service.
    pub(crate) target: usize,
    pub(crate) work: Work,
    /// Bytes of the buffer it has for its peer, who may keep it waiting; see [`super::shares`].
    pub(crate) held_bytes: usize,
}

impl Operation {
    /// Whether it waits for its peer alone, who may take as long as it likes.
    pub(crate) fn waits_for_peer(&self) -> bool {
        matches!(self.work, Work::Pulling { .. })
    }
}

/// What it waits for. A write goes Pulling → Storing; a change begins at Storing; a read is Reading.
#[derive(Debug)]
pub(crate) enum Work {
    /// The payload, into the image from its first payload byte on; `head` is the image before that byte, if there is any.
    Pulling { write: ObjectWrite, head: Option<Buffer> },
    /// The store.
    Storing {
        image: Image,
        /// The object, if blocks of it are packed in the image.
        packed: Option<Fid>,
        /// What is to be stored anew, until its content is here.
        repack: Option<Wanted>,
    },
    /// The device.
    Reading(Reading),
}

/// A read whose blocks are on their way.
#[derive(Debug)]
pub(crate) struct Reading {
    /// None: the store itself keeps the blocks.
    pub(crate) pin: Option<ReadPin>,
    pub(crate) object: Fid,
    pub(crate) offset: u64,
    /// Goes back to the service's spares, so that its memory is used again.
    pub(crate) plan: ReadPlan,
    /// The image, while nothing of it is on its way.
    pub(crate) image: Option<Buffer>,
    /// The packed groups on their way.
    pub(crate) round: Round,
}

/// Old blocks on their way into an image.
#[derive(Debug)]
pub(crate) struct Merging {
    pub(crate) merge: MergeToken,
    pub(crate) operation: u64,
    pub(crate) merges: [Option<Merge>; 2],
    /// Checksums of merged blocks; the store is told when all are there.
    pub(crate) checksums: [Option<u32>; 2],
    pub(crate) remaining: usize,
    /// Why it fails, if a part of it did.
    pub(crate) failed: Option<Errno>,
}
