//! The seams: everything above them runs unchanged on hardware and in the simulator.
//!
//! [`Block`]: a device. [`Fabric`]: the server's side of message exchange. [`Link`]: the client's side.
//! [`Clock`] and [`Entropy`]: time and chance. Nothing here does anything; implementations are in `nvme`, `rdma`
//! and, for simulation, in `test-harness/sim`.
#![forbid(unsafe_code)]

pub mod block;
pub mod fabric;
pub mod link;
pub mod clock;

pub use block::{Block, BlockCommand, BlockCompletion, BlockError, BlockGeometry, BlockOperation};
pub use clock::{Clock, Entropy};
pub use fabric::{
    CloseReason, ConnectionId, Fabric, FabricEvent, NotifyError, Peer, Principal, RequestId,
};
pub use link::{Call, CallResult, Cancel, Kept, LeftCall, Link, LinkError, Watch};
