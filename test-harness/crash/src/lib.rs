//! Crash states of the object store: an explorer, planted bugs it must find, property tests, and a corruption sweep.
//!
//! The store under test is the one that ships. A device is a model ([`medium`]) that knows what a loss of power may
//! leave; a [`history`] drives a store on it; [`explore`] restarts the store on every state a crash could leave, and
//! [`promise`] says whether what it then holds is right. Does not know the store's formats: only [`adapter`] and
//! [`reading`] name its interface.
#![forbid(unsafe_code)]

pub mod chance;
pub mod reference;
pub mod promise;
pub mod image;
pub mod medium;
pub mod packing;
mod content;
pub mod reading;
pub mod adapter;
pub mod restart;
pub mod history;
mod requests;
pub mod states;
pub mod explore;
pub mod properties;
pub mod live;
pub mod sweep;
