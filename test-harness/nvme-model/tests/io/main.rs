//! The I/O suite: the driver reads back what it wrote, over every way to the model.
//!
//! The same checks run in process and stepped by the driver's accesses, in process with the controller on its own
//! thread, and over vfio-user with the controller in another process. Every run prints its seed;
//! `SHEEN_IO_SEED` repeats one, `SHEEN_IO_COMMANDS` sets the commands of a queue pair.
#![forbid(unsafe_code)]

#[cfg(test)]
mod bed;
#[cfg(test)]
mod checks;
#[cfg(test)]
mod power;
#[cfg(test)]
mod sleep;
