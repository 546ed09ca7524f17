//! The loop of a pinned thread: poll, work, sleep when idle.
//!
//! A [`Reactor`] drives [`Service`]s; it knows nothing of what they do. While there is work it polls; then for a spin
//! budget, giving the core away between polls; then it sleeps in epoll on the descriptors the services name, until
//! one of them is readable or the nearest deadline comes. A [`mailbox`] hands things to the thread from others.
//! [`SystemClock`] and [`SystemEntropy`] are the ports' time and chance on Linux.
#![forbid(unsafe_code)]

pub mod service;
pub mod reactor;
mod sleep;
mod spin;
pub mod mailbox;
pub mod load;
pub mod thread;
pub mod system;

pub use load::{Load, LoadSnapshot};
pub use mailbox::{Mailbox, Postman, mailbox};
pub use reactor::Reactor;
pub use service::Service;
pub use spin::SPIN_DEFAULT;
pub use system::{SystemClock, SystemEntropy};
