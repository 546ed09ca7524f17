//! Decoders of bytes that others made: whatever the bytes, an answer or an error, never a panic.
//!
//! Structured fuzzing: bytes that are right, as the model makes them, then damaged in the ways that find bugs in decoders
//! (bits flipped, extreme numbers in place of numbers, parts cut, repeated, moved). Every case is a seed; a failure prints
//! it. `SHEEN_FUZZ_CASES` sets how many cases each decoder gets, `SHEEN_FUZZ_SEED` the first.
#![forbid(unsafe_code)]

#[cfg(test)]
mod damage;
#[cfg(test)]
mod samples;
#[cfg(test)]
mod spec;
#[cfg(test)]
mod vfio_user;
