//! The fault suite: whatever the controller does, every command ends with the right answer, every buffer comes back,
//! nothing hangs.
//!
//! The real driver against the model on its own thread, real time, commands late after half a second.
#![forbid(unsafe_code)]

#[cfg(test)]
mod scene;
#[cfg(test)]
mod completions;
#[cfg(test)]
mod commands;
#[cfg(test)]
mod controller;
#[cfg(test)]
mod removal;
#[cfg(test)]
mod lies;
