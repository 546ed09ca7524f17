//! Metrics and the admin endpoint of a node.
//!
//! [`server`] speaks HTTP, [`metrics`] turns a node's counters into Prometheus families, [`node_pages`] joins both to a
//! running node. Deliberately absent: anything that changes a node, and any look into a data thread but through counters.
#![forbid(unsafe_code)]

pub mod server;
pub mod pages;
pub mod metrics;
pub mod node_pages;

pub use node_pages::NodePages;
pub use server::{listen, serve};
