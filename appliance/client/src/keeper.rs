//! The threads that keep the session: one makes connections, one pings, one takes callbacks.
//!
//! A new connection is published only after what the MDT forgot was re-asserted, or, if it had ended the session, after
//! everything cached was voided.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use sheen_ports::{Call, Cancel, Link};
use sheen_types::Errno;
use sheen_wire::{Field, Frame, Opcode, lease::LeaseRevoke, metadata::ConnectReply};

use crate::{client::Client, session::Lane, statistics::count};

/// First and longest pause between attempts to connect.
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));
/// How long a new connection waits for revokes in progress to end before it re-asserts what is left.
const REVOKES_WAIT: Duration = Duration::from_secs(5);

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

    /// Closes a connection on which nothing was heard for as long as it takes to be evicted.
    fn watch(&self, lane: &Lane) {
        let lease = self.session.lock().lease;
        if !self.session.rest(lane.generation, lease / 3) {
            return;
        }
        let heard = sheen_types::Tick(self.heard.load(Ordering::Acquire));
        if self.clock.now().since(heard) > lease {
            tracing::warn!("the server is silent");
            self.session.report_lost(lane.generation);
        }
    }

    fn reconnect(self: &Arc<Self>) -> Result<(), Errno> {
        let link = self.connector.connect(self.session.address(), 0).map_err(|error| {
            tracing::debug!(%error, "connecting");
            Errno::ENOTCONN
        })?;
        self.session.expect(&link)?;
        let resumed = self.greet(&link);
        match resumed {
            Ok(()) => self.session.publish(link),
            Err(_) => self.session.give_up(),
        }
        resumed
    }

    fn greet(self: &Arc<Self>, link: &Arc<dyn Link>) -> Result<(), Errno> {
        let reply =
            self.session.shake_hands(&**link).map_err(|errno| errno.unwrap_or(Errno::ENOTCONN))?;
        self.heard.store(self.clock.now().0, Ordering::Release);
        self.resume(link, &reply)
    }

    fn resume(self: &Arc<Self>, link: &Arc<dyn Link>, reply: &ConnectReply) -> Result<(), Errno> {
        let before = self.session.identity();
        let restarted = self.session.lock().server_epoch != reply.server_epoch;
        if !reply.resumed {
            count(&self.counters.evictions);
            tracing::warn!("the session was ended by the server: everything cached is void");
            let identity = self.session.learn(reply);
            self.void_everything(identity);
        } else if restarted || self.reassert_due.load(Ordering::Acquire) {
            // Set until done: should this connection break in the middle, the next one starts over.
            self.reassert_due.store(true, Ordering::Release);
            self.settle_revokes(REVOKES_WAIT);
            let identity = self.session.learn(reply);
            self.reassert(link, identity)?;
            self.reassert_due.store(false, Ordering::Release);
        } else {
            let identity = self.session.learn(reply);
            debug_assert_eq!(before.server, identity.server, "nothing was forgotten");
        }
        Ok(())
    }

    /// Keeps the session alive: a ping every third of the lease time.
    pub(crate) fn ping(self: Arc<Self>) {
        while let Ok(lane) = self.session.lane(&Cancel::new()) {
            let mut frame = Frame::request(Opcode::Ping, self.session.next_xid());
            lane.identity.sign(&mut frame);
            let call = Call { frame, body: Vec::new(), payload: None, room: None };
            match lane.link.call(call, &Cancel::new()).reply {
                Ok((reply, _)) if reply.status == 0 => {
                    self.heard.store(self.clock.now().0, Ordering::Release);
                }
                Ok((reply, _)) => {
                    tracing::info!(status = reply.status, "the server does not know the session");
                    self.session.report_lost(lane.generation);
                }
                Err(_) => self.session.report_lost(lane.generation),
            }
            self.trim();
            let lease = self.session.lock().lease;
            self.session.rest(lane.generation, lease / 3);
        }
    }

    /// Takes callbacks and hands them to the threads that answer them.
    pub(crate) fn receive(self: Arc<Self>) {
        while let Ok(lane) = self.session.lane(&Cancel::new()) {
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
