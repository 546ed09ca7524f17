//! Sending again what a target of a new incarnation may have forgotten, and what becomes of it if that cannot be.
//!
//! Order: the changes of a target go one after the other in the order in which they took effect, before any other
//! request of this client to that target. Whatever part of them the target still has, the bytes, holes and sizes are those
//! of the last one then. Nobody else can have changed them meanwhile: before the lease they were made under is given
//! away, they are durable ([`crate::stabilize`]) or, if it was taken away, the fence of the ended session keeps them
//! from being sent; so it is asked before whether the session still stands.

use std::{sync::Arc, time::Duration};

use sheen_dma::Buffer;
use sheen_ports::{Call, Cancel, Link, LinkError};
use sheen_types::{Errno, OstIndex};
use sheen_wire::{Frame, Opcode};

use crate::{
    client::Client,
    inode::Inode,
    slots::CANCEL_POLL,
    statistics::count,
    turns::{Speaker, Turn},
    unstable::KeptChange,
};

/// First and longest pause before a busy target is sent a change again.
const PAUSE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_secs(1));

/// The connection is lost, or of no use any more.
struct Lost;

/// How one change ended.
enum Outcome {
    /// It took effect again: its number, and up to which the target is durable.
    Done(u64, u64),
    /// It cannot be done again.
    Refused(Errno),
}

impl Client {
    /// Waits until `ost` may be asked something on a connection: until all it may have forgotten is sent again. That is
    /// done by a thread of its own, so that whoever waits can leave. False: the connection is of no use any more.
    pub(crate) fn await_turn(
        self: &Arc<Self>,
        ost: OstIndex,
        link: &Arc<dyn Link>,
        speaker: Speaker,
        cancel: &Cancel,
    ) -> Result<bool, Errno> {
        loop {
            match self.unstable.turn(ost, speaker) {
                Turn::Open => return Ok(true),
                Turn::Over => return Ok(false),
                Turn::Wait => self.unstable.wait_turn(ost, CANCEL_POLL),
                Turn::Resend => self.start_resend(ost, link, speaker),
            }
            if cancel.is_cancelled() {
                return Err(Errno::EINTR);
            }
            if self.session.is_ended() {
                return Err(Errno::ENOTCONN);
            }
        }
    }

    fn start_resend(self: &Arc<Self>, ost: OstIndex, link: &Arc<dyn Link>, speaker: Speaker) {
        let (client, link) = (self.clone(), link.clone());
        let spawned =
            std::thread::Builder::new().name("sheen-resend".to_owned()).spawn(move || {
                let lost = client.resend(ost, &link, speaker).is_err();
                client.unstable.end_resend(ost, lost.then_some(speaker));
            });
        if let Err(error) = spawned {
            tracing::warn!(%error, "no thread to send changes again");
            self.session.wait_change(PAUSE.1);
            self.unstable.end_resend(ost, None);
        }
    }

    fn resend(
        self: &Arc<Self>,
        ost: OstIndex,
        link: &Arc<dyn Link>,
        speaker: Speaker,
    ) -> Result<(), Lost> {
        tracing::warn!(
            ost = ost.0,
            "a target came back and may have forgotten changes: they are sent again"
        );
        let mut resent = 0_u64;
        while let Some(change) = self.unstable.next_old(ost, speaker) {
            match self.resend_one(ost, &change, link, speaker)? {
                Outcome::Done(number, committed) => {
                    count(&self.counters.changes_resent);
                    resent += 1;
                    self.unstable.resent(ost, speaker, number, committed);
                }
                Outcome::Refused(errno) => {
                    if let Some(change) = self.unstable.drop_old(ost, speaker) {
                        self.note_lost(&change.inode, change.opcode, errno);
                    }
                }
            }
        }
        tracing::info!(ost = ost.0, resent, "changes were sent again");
        Ok(())
    }

    fn resend_one(
        self: &Arc<Self>,
        ost: OstIndex,
        change: &KeptChange,
        link: &Arc<dyn Link>,
        speaker: Speaker,
    ) -> Result<Outcome, Lost> {
        let mut pause = PAUSE.0;
        let mut patience = None;
        loop {
            let before = self.space.came();
            let identity = self.session.identity();
            if !identity.covers(change.server) {
                return Ok(Outcome::Refused(Errno::EIO));
            }
            let mut call = call_for(change, link);
            identity.sign(&mut call.frame);
            call.frame.xid = self.session.next_xid();
            // As any other change it is not abandoned: the connection's end ends it.
            let (reply, _) = match link.call(call, &Cancel::new()).reply {
                Ok(reply) => reply,
                Err(LinkError::Lost | LinkError::Cancelled) => return Err(Lost),
            };
            if reply.incarnation != speaker.incarnation {
                return Err(Lost);
            }
            match Errno(-reply.status) {
                Errno(0) => return Ok(Outcome::Done(reply.transaction.0, reply.committed)),
                Errno::EAGAIN => {}
                Errno::ENOTCONN | Errno::ESTALE => self.doubt_session(identity.epoch),
                Errno::ENOSPC
                    if self.await_space(ost, before, &mut patience, &Cancel::new()) == Ok(true) => {
                }
                errno => return Ok(Outcome::Refused(errno)),
            }
            self.session.wait_change(pause);
            if self.session.is_ended() {
                return Err(Lost);
            }
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    /// A change that was acknowledged is gone: whoever has the file open is told, and caches that still show it are dropped.
    pub(crate) fn note_lost(&self, inode: &Inode, change: Opcode, errno: Errno) {
        count(&self.counters.changes_lost);
        let fid = inode.fid;
        tracing::error!(
            %fid, %errno, ?change,
            "an acknowledged change was lost with its target and cannot be made again: fsync and close say EIO"
        );
        {
            let mut state = inode.lock();
            state.write_errors.note();
            state.known = None;
            state.attributes = None;
            state.losses += 1;
        }
        inode.notify();
        self.losses.note(fid);
    }
}

fn call_for(change: &KeptChange, link: &Arc<dyn Link>) -> Call {
    let mut frame = Frame::request(change.opcode, sheen_types::Xid(0));
    let payload = change.payload.as_ref().map(|(bytes, checksum)| {
        // The sum of the time: a copy that changed meanwhile is found.
        frame.payload_checksum = *checksum;
        let mut buffer =
            link.buffer(bytes.len()).unwrap_or_else(|| Buffer::standalone(bytes.len()));
        buffer.as_mut_slice()[..bytes.len()].copy_from_slice(bytes);
        (buffer, bytes.len())
    });
    Call { frame, body: change.body.clone(), payload, room: None }
}
