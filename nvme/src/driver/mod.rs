//! The driver: a controller, its supervisor, its queue pairs.
//!
//! [`Controller::attach`] brings a controller up and starts its supervisor thread. [`Controller::queue_pair`] makes a [`QueuePair`],
//! which goes to the thread that will use it; [`NvmeBlock`] is one behind [`sheen_ports::Block`]. Data threads never wait: what
//! takes time (aborts, resets, removal, admin commands) is the supervisor's.
//!
//! Reading order: `limits` and `bringup` (a controller comes up), `queue` over `rings`, `slots` and `pointer` (a command's way),
//! `recovery` and `reset` (when it goes wrong, on either side), `supervisor`.

pub mod options;
pub mod attach;
mod limits;
pub mod bringup;
pub mod admin;
pub mod namespace;
mod device;
mod controller;
mod health;
mod maintenance;
mod formats;
mod supervisor;
mod opening;
mod waiting;
mod reset;
pub mod notice;
pub mod error;
mod shared;
mod slots;
mod rings;
mod pointer;
mod queue;
mod recovery;
#[cfg(test)]
mod queue_test;
mod sleep;
mod block;

pub use admin::AdminError;
pub use attach::{AttachError, QueueError};
pub use block::NvmeBlock;
pub use controller::Controller;
pub use error::{IoError, QueueFault, Refusal};
pub use formats::Format;
pub use health::ErrorLog;
pub use limits::Impossible;
pub use maintenance::{Confirmation, Erase, FirmwareOutcome, NamespacePlan, Sanitize};
pub use namespace::{Namespace, NamespaceError, Offers};
pub use notice::{ControllerCounts, ControllerState, Notice};
pub use options::Options;
pub use queue::{Completion, Durability, Full, QueuePair};
