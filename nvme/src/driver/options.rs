//! How a controller is driven.

use std::time::Duration;

/// Options of a controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Queue pairs to ask for. Default 16.
    pub queue_pairs_max: u16,
    /// After this long a command is aborted; after as long again the controller is reset. Default 8 s: above what a
    /// drive takes for its own recovery of a bad block, below what a client waits.
    pub command_wait: Duration,
    /// How often the supervisor wakes to let time pass. Default 250 ms.
    pub tick: Duration,
    /// Use shadow doorbells where the controller offers them. Default yes.
    pub use_shadow_doorbells: bool,
    /// Use an SGL descriptor instead of a PRP list where the controller offers it. Default yes.
    pub use_sgl: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            queue_pairs_max: 16,
            command_wait: Duration::from_secs(8),
            tick: Duration::from_millis(250),
            use_shadow_doorbells: true,
            use_sgl: true,
        }
    }
}
