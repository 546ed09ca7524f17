//! Fabrics: messages and payloads between processes, over shared memory and TCP.
//!
//! The server's side is [`ServerFabric`] (port `Fabric`), which holds the connections of one service thread; the
//! [`Acceptor`] makes them. The client's side is [`connect`], which gives a `Link`. What travels is the wire crate's frame
//! and body, and the payload beside it: where memory is shared by way of a window that the client shares with that server, of
//! which both sides look at copies only; in the stream behind the message on TCP.
//!
//! `unsafe` is in `region` (memory another process writes), `futex`, `descriptors` and `apart` (system calls). Deliberately absent:
//! what messages mean, reconnecting, retries.

mod futex;
mod region;
mod window;
mod area;
mod hello;
pub mod budget;
pub mod seal;
pub mod handshake;
mod descriptors;
mod apart;
mod places;
mod peer_socket;
mod greeting;
mod local_peers;
mod tcp_options;
mod slots;
mod spin;
mod stream;
pub mod connect;
mod shared_link;
mod outbox;
mod tcp_link;
pub mod pages;
pub mod acceptor;
pub mod fabric;
mod open;
mod shared_connection;
mod tcp_connection;
mod tcp_output;
#[cfg(test)]
mod hostile_server_test;
#[cfg(test)]
mod sealed_stream_test;

pub use acceptor::{
    Acceptor, AcceptorConfig, Gate, NewConnection, REFUSALS_TOLD_MAX, RefusalReason,
    RefusedConnection,
};
pub use budget::{AcceptorCounters, ConnectionLimits, REFUSAL_LABELS};
pub use connect::{ClientIdentity, ConnectError, connect, connect_as};
pub use fabric::{CONNECTIONS_MAX, FabricCounters, PayloadCheck, ServerFabric};
pub use hello::Refusal;
pub use pages::{PageRequest, PageSink, Socket};
