//! The driver attached to a controller, as tests and measurements want it: one arena, one namespace.

use std::{fmt, time::Duration};

use sheen_dma::{Arena, ArenaError};
use sheen_nvme::{
    Transport,
    driver::{AttachError, Controller, Options, QueueError, QueuePair},
};

/// Why there is no rig.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RigError {
    /// No memory.
    Arena(ArenaError),
    /// The controller did not come up.
    Attach(AttachError),
}

impl fmt::Display for RigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Arena(error) => error.fmt(f),
            Self::Attach(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for RigError {}

/// A driver at work.
#[derive(Debug)]
pub struct Rig {
    /// The controller's handle.
    pub controller: Controller,
    /// What rings and buffers are cut from.
    pub arena: Arena,
}

/// Options for tests: commands are late after 200 ms, time passes every 10 ms.
#[must_use]
pub fn impatient() -> Options {
    Options {
        command_wait: Duration::from_millis(200),
        tick: Duration::from_millis(10),
        ..Options::default()
    }
}

impl Rig {
    /// Attaches with the driver's own options.
    ///
    /// # Errors
    /// [`RigError`].
    pub fn attach(transport: Box<dyn Transport>, arena_bytes: usize) -> Result<Self, RigError> {
        Self::attach_with(transport, arena_bytes, Options::default())
    }

    /// Attaches with these options.
    ///
    /// # Errors
    /// [`RigError`].
    pub fn attach_with(
        transport: Box<dyn Transport>,
        arena_bytes: usize,
        options: Options,
    ) -> Result<Self, RigError> {
        // Miri has no shared files, and needs none in one process.
        #[cfg(not(miri))]
        let arena = Arena::shared(arena_bytes);
        #[cfg(miri)]
        let arena = Arena::anonymous(arena_bytes);
        let arena = arena.map_err(RigError::Arena)?;
        let controller =
            Controller::attach(transport, &arena, options).map_err(RigError::Attach)?;
        Ok(Self { controller, arena })
    }

    /// A queue pair on the first namespace.
    ///
    /// # Errors
    /// [`QueueError`].
    pub fn pair(&self, depth: u32) -> Result<QueuePair, QueueError> {
        self.controller.queue_pair(1, depth)
    }

    /// Detaches; waits until the controller is shut down. Queue pairs must be gone.
    #[must_use]
    pub fn detach(self) -> Arena {
        self.controller.close();
        self.arena
    }
}
