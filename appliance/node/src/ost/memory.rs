//! Memory of a service beside that for payloads: what must be at hand whatever payloads wait for.

use sheen_dma::{Arena, ArenaError};

use super::{device::RESERVE_BYTES, service::small_images_bytes};

/// Memory a service takes at its start. Clones are the same memory, so one that ended can leave it to the next.
#[derive(Clone, Debug)]
pub struct OstMemory {
    /// For images of changes without payload, when there is no other buffer left.
    pub(crate) small_images: Arena,
    /// For each OST: journal records and checkpoints on their way, and reads that must not be refused.
    pub(crate) reserves: Vec<Arena>,
}

impl OstMemory {
    /// Takes memory for `osts` OSTs and [`super::OstConfig::operations_max`] operations at a time.
    ///
    /// # Errors
    /// When the system has none.
    pub fn new(operations_max: usize, osts: usize) -> Result<Self, ArenaError> {
        let reserves = (0..osts).map(|_| Arena::shared(RESERVE_BYTES)).collect::<Result<_, _>>()?;
        Ok(Self { small_images: Arena::shared(small_images_bytes(operations_max))?, reserves })
    }
}
