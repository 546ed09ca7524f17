//! Metrics and the admin endpoint of a node.
//!
//! [`server`] speaks HTTP, [`metrics`] turns a node's counters into Prometheus families, [`node_pages`] joins both to a
//! running node, [`operator`] takes orders on a socket of the node's own user. Deliberately absent: any look into a data thread but
//! through counters.
#![forbid(unsafe_code)]

pub mod server;
pub mod pages;
pub mod metrics;
pub mod node_pages;
pub mod operator;

pub use node_pages::NodePages;
pub use operator::{NodeOperator, operator_socket};
pub use server::{listen, serve, serve_handed};
