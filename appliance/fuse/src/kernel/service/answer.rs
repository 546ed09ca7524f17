//! Writing answers.

use std::io::IoSlice;

use nix::errno::Errno as SystemErrno;
use sheen_types::Errno;

use crate::kernel::{abi::reply, device::Channel, message::Message, worker::Hands};

/// Answers with what [`reply::begin`] and encoders put into `out`, or with the error.
pub(crate) fn finish(message: &Message, outcome: Result<(), Errno>, out: &mut [u8]) {
    match outcome {
        Ok(()) => {
            reply::finish(out, 0, message.header.unique);
            send(&message.channel, message.header.unique, &[IoSlice::new(out)]);
        }
        Err(errno) => error(message, errno),
    }
}

/// Answers with nothing.
pub(crate) fn empty(message: &Message, hands: &mut Hands) {
    reply::begin(&mut hands.reply);
    finish(message, Ok(()), &mut hands.reply);
}

/// Answers with an error.
pub(crate) fn error(message: &Message, errno: Errno) {
    error_to(&message.channel, message.header.unique, errno);
}

/// As [`error`], when the message is gone.
pub(crate) fn error_to(channel: &Channel, unique: u64, errno: Errno) {
    send_raw(channel, unique, &[IoSlice::new(&reply::error(errno, unique))]);
}

/// Sends a whole answer; one the kernel finds wrong becomes EIO, so that nobody waits for ever.
pub(crate) fn send(channel: &Channel, unique: u64, parts: &[IoSlice<'_>]) {
    if !send_raw(channel, unique, parts) {
        error_to(channel, unique, Errno::EIO);
    }
}

/// Returns false if the kernel found the answer wrong.
fn send_raw(channel: &Channel, unique: u64, parts: &[IoSlice<'_>]) -> bool {
    match channel.send(parts) {
        // ENOENT: nobody waits any more. ENODEV and EPERM: the mount is gone.
        Ok(()) | Err(SystemErrno::ENOENT | SystemErrno::ENODEV | SystemErrno::EPERM) => true,
        Err(error) => {
            tracing::warn!(unique, %error, "the kernel refused an answer");
            false
        }
    }
}
