//! vfio-user: a controller in another process, reached over a UNIX socket.
//!
//! The codec serves both ends. [`message`], [`version`], [`region`], [`interrupts`]: layouts. [`Socket`]: whole messages with
//! their descriptors. [`request`]: the server's side, decode and answer. The client: `connection` (calls and the server's own
//! commands), `calls` (what is asked and what of the answer is checked), [`VfioUser`] (the [`super::Transport`]).
//!
//! Deliberately absent: migration, and ioeventfds for regions, which serve a hypervisor.

mod layout;
pub mod message;
pub mod version;
pub mod region;
pub mod interrupts;
pub mod socket;
pub mod request;
mod shared;
mod negotiation;
mod connection;
mod calls;
mod doorbells;
mod device;
mod error;

pub use device::{Doorbells, Options, VfioUser};
pub use error::{CallError, OpenError, OpenReason, Violation};
pub use request::{IrqData, IrqSet, Reply, Request};
pub use socket::{Message, Socket, SocketError};
