//! Sending on a stream that many threads share, without waiting longer than a caller wants.
//!
//! One message goes out at a time. A peer that does not read stops the stream in the middle of a message; who is cancelled
//! then leaves the rest of the message behind, and whoever sends next sends that first. Nothing else can be done: a peer
//! that got half a message must get the other half.

use std::{
    io::{self, IoSlice, Write},
    net::TcpStream,
    sync::{Condvar, Mutex, PoisonError},
    time::Duration,
};

use crate::slots::lock;

/// How often a blocked sender looks whether it was cancelled.
const LOOK: Duration = Duration::from_millis(20);

/// How sending ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Sending {
    /// The peer gets it, or the stream breaks.
    Sent,
    /// Cancelled before anything of it was sent.
    Unsent,
}

/// The way out.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    state: Mutex<State>,
    free: Condvar,
}

#[derive(Debug, Default)]
struct State {
    busy: bool,
    /// Of a message whose sender was cancelled.
    rest: Vec<u8>,
}

/// Makes a stream fit for an [`Outbox`].
pub(crate) fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_write_timeout(Some(LOOK))
}

impl Outbox {
    /// Sends `head` and `payload`, as one message.
    pub(crate) fn send(
        &self,
        stream: &TcpStream,
        parts: [&[u8]; 2],
        cancelled: impl Fn() -> bool,
    ) -> io::Result<Sending> {
        let mut state = lock(&self.state);
        while state.busy {
            if cancelled() {
                return Ok(Sending::Unsent);
            }
            let woken = self.free.wait_timeout(state, LOOK);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.busy = true;
        let mut rest = std::mem::take(&mut state.rest);
        drop(state);
        let sent = send_all(stream, &mut rest, parts, cancelled);
        let mut state = lock(&self.state);
        state.busy = false;
        state.rest = rest;
        drop(state);
        self.free.notify_one();
        sent
    }

    /// Sends what was left behind, as far as it goes at once.
    pub(crate) fn flush(&self, stream: &TcpStream) {
        if lock(&self.state).rest.is_empty() {
            return;
        }
        // An error shows at the receiving end, too.
        drop(self.send(stream, [&[], &[]], || true));
    }
}

/// Sends `rest` and then `parts`; what must follow later is in `rest` afterwards.
fn send_all(
    stream: &TcpStream,
    rest: &mut Vec<u8>,
    parts: [&[u8]; 2],
    cancelled: impl Fn() -> bool,
) -> io::Result<Sending> {
    while !rest.is_empty() {
        match write_some(stream, &[IoSlice::new(rest)])? {
            Some(count) => drop(rest.drain(..count)),
            None if cancelled() => return Ok(Sending::Unsent),
            None => {}
        }
    }
    let mut pieces = parts.map(IoSlice::new);
    let mut unsent = &mut pieces[..];
    IoSlice::advance_slices(&mut unsent, 0);
    let mut begun = false;
    while !unsent.is_empty() {
        match write_some(stream, unsent)? {
            Some(count) => {
                begun = true;
                IoSlice::advance_slices(&mut unsent, count);
            }
            None if cancelled() && !begun => return Ok(Sending::Unsent),
            None if cancelled() => {
                rest.extend(unsent.iter().flat_map(|piece| piece.iter().copied()));
                return Ok(Sending::Sent);
            }
            None => {}
        }
    }
    Ok(Sending::Sent)
}

/// None: the peer does not read just now.
fn write_some(mut stream: &TcpStream, pieces: &[IoSlice<'_>]) -> io::Result<Option<usize>> {
    match stream.write_vectored(pieces) {
        Ok(0) => Err(io::ErrorKind::WriteZero.into()),
        Ok(count) => Ok(Some(count)),
        Err(error) => match error.kind() {
            io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                Ok(None)
            }
            _ => Err(error),
        },
    }
}

#[cfg(test)]
mod test {
    use std::{io::Read, net::TcpListener};

    use super::*;

    #[test]
    fn a_message_left_in_the_middle_arrives_whole_before_the_next() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut theirs, _) = listener.accept().unwrap();
        prepare(&ours).unwrap();
        let outbox = Outbox::default();
        // More than the buffers between hold: nobody reads yet.
        let large: Vec<u8> = (0..16_u32 << 20).flat_map(u32::to_le_bytes).collect();
        assert_eq!(outbox.send(&ours, [b"head", &large], || true).unwrap(), Sending::Sent);
        assert_eq!(outbox.send(&ours, [b"never", b""], || true).unwrap(), Sending::Unsent);
        let reader = std::thread::spawn(move || {
            let mut all = vec![0; 4 + (64 << 20) + 4];
            theirs.read_exact(&mut all).unwrap();
            all
        });
        assert_eq!(outbox.send(&ours, [b"tail", b""], || false).unwrap(), Sending::Sent);
        let all = reader.join().unwrap();
        assert_eq!((&all[..4], &all[all.len() - 4..]), (&b"head"[..], &b"tail"[..]));
        assert!(all[4..all.len() - 4] == large);
    }
}
