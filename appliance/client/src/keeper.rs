//! The threads that keep the session: one makes connections, one pings, one takes callbacks.
//!
//! A new connection is published only after what the MDT forgot was re-asserted, or, if it had ended the session, after
//! everything cached was voided. Re-asserting waits for no revoke in progress: what is being given back counts as held, and
//! giving it back may take this very connection (an OST that restarted is asked nothing before the MDT says that the session stands). While the MDT is ending the session (ESTALE) there is no new one: everything is voided
//! first, and the next Connect, which names no session, says so.

use std::{
    io,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use sheen_ports::{Call, Cancel, Link};
use sheen_types::{ClientId, Errno};
use sheen_wire::{
    Field, Frame, Opcode,
    lease::LeaseRevoke,
    metadata::{ConnectReply, Ping, PingReply},
};

use crate::{client::Client, session::Lane, statistics::count};

/// First and longest pause between attempts to connect.
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// A Connect without an answer for so long is given up, and sent over another connection: whatever became of it, the
/// mount does not wait for it for ever.
const GREETED: Duration = Duration::from_secs(15);

impl Client {
    /// Connects again whenever there is no connection, until the session ends.
    pub(crate) fn keep(self: Arc<Self>) {
        let mut pause = PAUSE.0;
        while !self.session.is_ended() {
            let lane = self.session.lock().lane.clone();
            if let Some(lane) = lane {
                self.watch(&lane);
                continue;
            }
            match self.reconnect() {
                Ok(()) => {
                    count(&self.counters.reconnects);
                    tracing::info!("connected again");
                    pause = PAUSE.0;
                }
                Err(errno) => {
                    tracing::debug!(%errno, "not connected yet");
                    self.session.wait_change(pause);
                    pause = (pause * 2).min(PAUSE.1);
                }
            }
        }
    }

    /// Waits for the end of a connection.
    fn watch(&self, lane: &Lane) {
        let lease = self.session.lock().lease;
        self.session.rest(lane.generation, lease / 3);
    }

    fn reconnect(self: &Arc<Self>) -> Result<(), Errno> {
        let link = self.connector.connect(self.session.address(), 0).map_err(|error| {
            tracing::debug!(%error, "connecting");
            if error.kind() != io::ErrorKind::PermissionDenied {
                return Errno::ENOTCONN;
            }
            self.session.lose_home(&format!("this client is not let in any more: {error}"));
            Errno::EACCES
        })?;
        self.session.expect(&link)?;
        let sent = self.clock.now();
        let resumed = self.greet(&link);
        match resumed {
            Ok(()) => self.session.publish(link, sent),
            Err(_) => self.session.give_up(),
        }
        resumed
    }

    fn greet(self: &Arc<Self>, link: &Arc<dyn Link>) -> Result<(), Errno> {
        let patience = Cancel::new();
        self.finisher.cancel_at(self.clock.now().after(GREETED), patience.clone());
        let reply = match self.session.shake_hands(&**link, &patience) {
            Ok(reply) => reply,
            Err(Some(Errno::ESTALE)) => {
                self.begin_void();
                self.void_everything(self.session.abandon());
                return Err(Errno::EAGAIN);
            }
            Err(errno) => {
                match errno {
                    Some(Errno::ENOENT) => {
                        self.session.lose_home("the file system is not there any more: unmount it");
                    }
                    Some(Errno::EACCES) => {
                        self.session.lose_home("this client may not use the file system any more");
                    }
                    _ => {}
                }
                return Err(errno.unwrap_or(Errno::ENOTCONN));
            }
        };
        self.session.check_home(&reply)?;
        self.resume(link, &reply)
    }

    fn begin_void(&self) {
        count(&self.counters.evictions);
        tracing::warn!("the session was ended by the server: everything cached is void");
        self.session.validity.end();
    }

    fn resume(self: &Arc<Self>, link: &Arc<dyn Link>, reply: &ConnectReply) -> Result<(), Errno> {
        let before = self.session.identity();
        let restarted = self.session.lock().server_epoch != reply.server_epoch;
        let resumed = self.session.is_resumed(reply);
        let is_void = !resumed && before.client != ClientId(0);
        // A session that is taken up there, and that we know nothing of, has nothing to assert. It says so all the same: a
        // restarted MDT waits for it.
        if (resumed && restarted) || (reply.resumed && !resumed) {
            // Set until done: should this connection break in the middle, the next one starts over.
            self.reassert_due.store(true, Ordering::Release);
        }
        if is_void {
            self.begin_void();
        }
        let identity = self.session.learn(reply);
        debug_assert!(
            !resumed || restarted || before.server == identity.server,
            "nothing forgotten"
        );
        if is_void {
            self.void_everything(identity);
        }
        if self.reassert_due() {
            self.reassert(link, identity)?;
            self.reassert_due.store(false, Ordering::Release);
        }
        Ok(())
    }

    fn reassert_due(&self) -> bool {
        self.reassert_due.load(Ordering::Acquire)
    }

    /// Keeps the session alive: a ping every third of the lease time.
    pub(crate) fn ping(self: Arc<Self>) {
        while let Some(lane) = self.session.next_lane() {
            self.ping_once(&lane);
            self.trim();
            let lease = self.session.lock().lease;
            self.session.rest(lane.generation, lease / 3);
        }
    }

    /// Whether the MDT of our session answers on this connection; if not, it is given up.
    pub(crate) fn ping_once(&self, lane: &Lane) -> bool {
        let mut frame = Frame::request(Opcode::Ping, self.session.next_xid());
        lane.identity.sign(&mut frame);
        let body = Ping { cleaned: self.cleaned.load(Ordering::Acquire) }.to_vec();
        let call = Call { frame, body, payload: None, room: None };
        let sent = self.clock.now();
        match lane.link.call(call, &Cancel::new()).reply {
            Ok((reply, body)) if reply.status == 0 => {
                self.session.confirm(lane.generation, sent);
                if let Ok(PingReply { now }) = PingReply::from_bytes(&body) {
                    self.server_clock.note(now, sent, self.clock.now());
                }
                return true;
            }
            Ok((reply, _)) => {
                tracing::info!(status = reply.status, "the server does not know the session");
            }
            Err(_) => {}
        }
        self.session.report_lost(lane.generation);
        false
    }

    /// Makes sure that what was just connected to at the node's address is the node of our session: that one still answers.
    /// A node that was formatted anew numbers clients from 1 again, and would take our requests for another's.
    pub(crate) fn confirm_node(&self) -> Result<(), Errno> {
        let lane = self.session.lock().lane.clone();
        let known = lane.is_some_and(|lane| self.ping_once(&lane));
        if known { Ok(()) } else { Err(Errno::ENOTCONN) }
    }

    /// Takes callbacks and hands them to the threads that answer them.
    pub(crate) fn receive(self: Arc<Self>) {
        while let Some(lane) = self.session.next_lane() {
            while let Ok((frame, body)) = lane.link.next_callback() {
                match frame.opcode {
                    Opcode::LeaseRevoke => match LeaseRevoke::from_bytes(&body) {
                        Ok(revoke) => self.enqueue_revoke(revoke, lane.identity.server),
                        Err(error) => tracing::error!(%error, "a revoke makes no sense"),
                    },
                    Opcode::Evicted => break,
                    other => tracing::warn!(?other, "unexpected callback"),
                }
            }
            self.session.report_lost(lane.generation);
        }
    }
}
