//! The model is right: driven by hand, entry by entry, without the driver.
#![forbid(unsafe_code)]

#[cfg(test)]
mod by_hand;
#[cfg(test)]
mod bring_up;
#[cfg(test)]
mod queues;
#[cfg(test)]
mod data;
#[cfg(test)]
mod admin;
#[cfg(test)]
mod faults;
#[cfg(test)]
#[cfg(not(miri))]
mod other_process;
