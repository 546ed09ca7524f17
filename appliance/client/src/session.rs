//! The session with the MDT: who we are to it, on which connection, and waiting for one.
//!
//! Callers take a [`Lane`] (connection and identity), call on it and report when it was lost; the keeper thread
//! ([`crate::keeper`]) makes the next. Three numbers tell what changed between two lanes: `generation` rises with every
//! connection, `server` when the MDT had forgotten leases, opens and locks (they were re-asserted), `incarnation`
//! when it had ended our session (everything cached is void).
//!
//! What is cached may be used until the lease of the session ends by our own clock ([`crate::validity`]).

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Condvar, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use sheen_ports::{Call, Cancel, Clock, Link};
use sheen_types::{ClientId, Epoch, Errno, Fid, OstIndex, Tick, Xid};
use sheen_wire::{
    Field, Frame, Opcode,
    fields::AttachKey,
    metadata::{Connect, ConnectReply, OstList, OstListReply},
};

use crate::{
    config::ClientConfig,
    home::Home,
    slots::CANCEL_POLL,
    validity::{Validity, after_hang_up},
};

/// A connection to the MDT and who we are on it.
#[derive(Clone)]
pub(crate) struct Lane {
    pub(crate) link: Arc<dyn Link>,
    pub(crate) generation: u64,
    pub(crate) identity: Identity,
}

/// Who we are to servers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Identity {
    pub(crate) client: ClientId,
    pub(crate) epoch: Epoch,
    pub(crate) server: u64,
    pub(crate) incarnation: u64,
    /// The first of the numbers `server` of this incarnation.
    pub(crate) since: u64,
    /// Shown to services of objects.
    pub(crate) attach_key: AttachKey,
}

impl Identity {
    /// Whether a lease taken when the MDT's memory had number `server` is of this session: not of one it ended since.
    pub(crate) fn covers(&self, server: u64) -> bool {
        server >= self.since
    }

    /// Marks a frame as ours.
    pub(crate) fn sign(&self, frame: &mut Frame) {
        frame.client = self.client;
        frame.epoch = self.epoch;
    }
}

pub(crate) struct SessionState {
    pub(crate) lane: Option<Lane>,
    /// A connection on which hands are being shaken.
    coming: Option<Arc<dyn Link>>,
    pub(crate) identity: Identity,
    pub(crate) server_epoch: Epoch,
    pub(crate) root: Fid,
    pub(crate) services: Arc<BTreeMap<OstIndex, u16>>,
    pub(crate) lease: Duration,
    /// How long what is cached may be used after a connection ended.
    reconnect: Duration,
    /// None: never connected.
    home: Option<Home>,
    /// Another node or file system answers where ours was, a node without ours, or one that does not let us in.
    astray: bool,
    pub(crate) ended: bool,
    pub(crate) generation: u64,
}

/// The session.
pub(crate) struct Session {
    state: Mutex<SessionState>,
    changed: Condvar,
    pub(crate) validity: Validity,
    clock: Arc<dyn Clock + Send + Sync>,
    xid: AtomicU64,
    address: String,
    connect: Connect,
}

impl Session {
    /// A session that never connected.
    pub(crate) fn new(config: &ClientConfig, clock: Arc<dyn Clock + Send + Sync>) -> Self {
        let identity = Identity {
            client: ClientId(0),
            epoch: Epoch(0),
            server: 0,
            incarnation: 0,
            since: 0,
            attach_key: AttachKey::NONE,
        };
        Self {
            state: Mutex::new(SessionState {
                lane: None,
                coming: None,
                identity,
                server_epoch: Epoch(0),
                root: Fid::NONE,
                services: Arc::default(),
                lease: Duration::from_secs(30),
                reconnect: Duration::from_secs(1),
                home: None,
                astray: false,
                ended: false,
                generation: 0,
            }),
            changed: Condvar::new(),
            validity: Validity::default(),
            clock,
            xid: AtomicU64::new(1),
            address: config.address.clone(),
            connect: Connect {
                uuid: config.uuid,
                client: ClientId(0),
                filesystem: cut(&config.filesystem),
                label: cut(&config.label),
                slots: config.slots,
            },
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, SessionState> {
        self.state.lock().expect("no panic while locked")
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// The next request number.
    pub(crate) fn next_xid(&self) -> Xid {
        Xid(self.xid.fetch_add(1, Ordering::Relaxed))
    }

    /// Sends Connect on a new link. `Err(Some(errno))`: the MDT refuses; `Err(None)`: the link is lost, or `patience` was
    /// cancelled before there was an answer.
    pub(crate) fn shake_hands(
        &self,
        link: &dyn Link,
        patience: &Cancel,
    ) -> Result<ConnectReply, Option<Errno>> {
        let client = self.lock().identity.client;
        let body = Connect { client, ..self.connect.clone() };
        let mut frame = Frame::request(Opcode::Connect, self.next_xid());
        frame.client = client;
        let call = Call { frame, body: body.to_vec(), payload: None, room: None };
        let (frame, body) = link.call(call, patience).reply.map_err(|_| None)?;
        if frame.status != 0 {
            return Err(Some(Errno(-frame.status)));
        }
        let mut reply = ConnectReply::from_bytes(&body).map_err(|_| Some(Errno::EPROTO))?;
        while std::mem::take(&mut reply.more_osts) {
            let page = self.ask_osts(link, &reply, patience)?;
            reply.more_osts = page.more && !page.osts.0.is_empty();
            reply.osts.0.extend(page.osts.0);
        }
        Ok(reply)
    }

    /// Asks for the OSTs behind those known so far. Errors as [`Session::shake_hands`].
    fn ask_osts(
        &self,
        link: &dyn Link,
        known: &ConnectReply,
        patience: &Cancel,
    ) -> Result<OstListReply, Option<Errno>> {
        let from = known.osts.0.last().map_or(0, |last| last.ost.0.saturating_add(1));
        let mut frame = Frame::request(Opcode::OstList, self.next_xid());
        (frame.client, frame.epoch) = (known.client, known.epoch);
        let body = OstList { from: OstIndex(from) }.to_vec();
        let call = Call { frame, body, payload: None, room: None };
        let (frame, body) = link.call(call, patience).reply.map_err(|_| None)?;
        if frame.status != 0 {
            return Err(Some(Errno(-frame.status)));
        }
        OstListReply::from_bytes(&body).map_err(|_| Some(Errno::EPROTO))
    }

    /// Whether a handshake takes up the session there was.
    pub(crate) fn is_resumed(&self, reply: &ConnectReply) -> bool {
        // One of ours that we never heard of may be taken up there: nothing is cached under it.
        reply.resumed && reply.client == self.lock().identity.client
    }

    /// Checks that the node and file system are those of the first connection.
    ///
    /// # Errors
    /// EIO: another one answers. Until ours does again, whoever waits for it gets EIO.
    pub(crate) fn check_home(&self, reply: &ConnectReply) -> Result<(), Errno> {
        let found = Home::of(reply);
        let mut state = self.lock();
        let home = state.home.get_or_insert_with(|| found.clone());
        let astray = *home != found;
        if astray && !state.astray {
            let home = state.home.as_ref().map(Home::to_string);
            tracing::error!(
                address = self.address, ours = home, %found,
                "another file system answers where ours was: it is not used; unmount, or bring ours back"
            );
        }
        state.astray = astray;
        drop(state);
        self.changed.notify_all();
        if astray { Err(Errno::EIO) } else { Ok(()) }
    }

    /// The node has no file system for us, because of `why`: whoever waits for it gets EIO until it has ours again.
    pub(crate) fn lose_home(&self, why: &str) {
        let mut state = self.lock();
        if !std::mem::replace(&mut state.astray, true) {
            tracing::error!(address = &self.address, "{why}");
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Whether another node or file system answers where ours was, or none.
    pub(crate) fn is_astray(&self) -> bool {
        self.lock().astray
    }

    /// Enters what a handshake said, without letting callers in. Returns the new identity.
    pub(crate) fn learn(&self, reply: &ConnectReply) -> Identity {
        let resumed = self.is_resumed(reply);
        let mut state = self.lock();
        if state.identity.client != ClientId(0) && !resumed {
            state.identity.incarnation += 1;
        }
        if !resumed || state.server_epoch != reply.server_epoch {
            state.identity.server += 1;
        }
        if !resumed {
            state.identity.since = state.identity.server;
        }
        state.identity.client = reply.client;
        state.identity.epoch = reply.epoch;
        state.identity.attach_key = reply.attach_key;
        state.server_epoch = reply.server_epoch;
        state.root = reply.root;
        state.lease = Duration::from_millis(u64::from(reply.lease_milliseconds.max(100)));
        state.reconnect = Duration::from_millis(u64::from(reply.reconnect_milliseconds));
        state.services = Arc::new(reply.osts.0.iter().map(|o| (o.ost, o.service)).collect());
        state.identity
    }

    /// The MDT ends the session: there is none until the next handshake. Returns the identity nothing is held under.
    pub(crate) fn abandon(&self) -> Identity {
        let mut state = self.lock();
        state.identity.client = ClientId(0);
        state.identity.incarnation += 1;
        state.identity.server += 1;
        state.identity.since = state.identity.server;
        state.identity
    }

    /// `link` is about to be the connection: should the session end before, what is asked on it ends too.
    ///
    /// # Errors
    /// ENOTCONN when the session ended.
    pub(crate) fn expect(&self, link: &Arc<dyn Link>) -> Result<(), Errno> {
        let mut state = self.lock();
        if state.ended {
            return Err(Errno::ENOTCONN);
        }
        state.coming = Some(link.clone());
        Ok(())
    }

    /// Nothing came of the connection that was expected.
    pub(crate) fn give_up(&self) {
        let coming = self.lock().coming.take();
        drop(coming);
    }

    /// Lets callers use `link`, unless the session ended meanwhile. What is cached may be used for the time of a lease from
    /// `sent`, when the Connect was sent.
    pub(crate) fn publish(&self, link: Arc<dyn Link>, sent: Tick) {
        let mut state = self.lock();
        state.coming = None;
        if state.ended {
            drop(state);
            return link.close();
        }
        state.generation += 1;
        self.validity.extend(sent, state.lease);
        state.lane = Some(Lane { link, generation: state.generation, identity: state.identity });
        drop(state);
        self.changed.notify_all();
    }

    /// The connection to use, waiting until there is one.
    ///
    /// # Errors
    /// EINTR when cancelled, ENOTCONN when the session ended for good, EIO while another node answers.
    pub(crate) fn lane(&self, cancel: &Cancel) -> Result<Lane, Errno> {
        let mut state = self.lock();
        loop {
            if state.ended {
                return Err(Errno::ENOTCONN);
            }
            if let Some(lane) = &state.lane {
                return Ok(lane.clone());
            }
            if state.astray {
                return Err(Errno::EIO);
            }
            if cancel.is_cancelled() {
                return Err(Errno::EINTR);
            }
            state = self.changed.wait_timeout(state, CANCEL_POLL).expect("no panic while locked").0;
        }
    }

    /// As [`Session::lane`], whoever answers meanwhile; None when the session ended for good.
    pub(crate) fn next_lane(&self) -> Option<Lane> {
        let mut state = self.lock();
        while !state.ended {
            if let Some(lane) = &state.lane {
                return Some(lane.clone());
            }
            state = self.changed.wait(state).expect("no panic while locked");
        }
        None
    }

    /// Whether it is of use to wait for what is cached to become usable again.
    ///
    /// # Errors
    /// ENOTCONN when the session ended for good, EIO while another node answers.
    pub(crate) fn check_wait(&self) -> Result<(), Errno> {
        let state = self.lock();
        match (state.ended, state.astray) {
            (true, _) => Err(Errno::ENOTCONN),
            (false, true) => Err(Errno::EIO),
            (false, false) => Ok(()),
        }
    }

    /// How long what is cached may be used after the connection ended.
    pub(crate) fn after_hang_up(&self) -> Duration {
        after_hang_up(self.lock().reconnect)
    }

    /// The identity object requests carry.
    pub(crate) fn identity(&self) -> Identity {
        self.lock().identity
    }

    /// A request sent at `sent` over connection number `generation` was answered: what is cached may be used for the
    /// time of a lease from then.
    pub(crate) fn confirm(&self, generation: u64, sent: Tick) {
        let state = self.lock();
        if state.lane.as_ref().is_some_and(|lane| lane.generation == generation) {
            self.validity.extend(sent, state.lease);
            drop(state);
            self.changed.notify_all();
        }
    }

    /// Waits until what is cached may be used.
    ///
    /// # Errors
    /// As [`Session::lane`].
    pub(crate) fn wait_valid(&self, cancel: &Cancel) -> Result<(), Errno> {
        if !self.validity.is_over(self.clock.now()) {
            return Ok(());
        }
        let mut state = self.lock();
        loop {
            if state.ended {
                return Err(Errno::ENOTCONN);
            }
            if !self.validity.is_over(self.clock.now()) {
                return Ok(());
            }
            if state.astray {
                return Err(Errno::EIO);
            }
            if cancel.is_cancelled() {
                return Err(Errno::EINTR);
            }
            state = self.changed.wait_timeout(state, CANCEL_POLL).expect("no panic while locked").0;
        }
    }

    /// Connection number `generation` is of no use any more: callers wait for the next.
    pub(crate) fn report_lost(&self, generation: u64) {
        let mut state = self.lock();
        if state.lane.as_ref().is_some_and(|lane| lane.generation == generation) {
            let lane = state.lane.take();
            // Before it closes: the MDT waits for us only so long from when it hears of that.
            self.validity.shorten(self.clock.now(), state.reconnect);
            drop(state);
            if let Some(lane) = lane {
                lane.link.close();
            }
            self.changed.notify_all();
        }
    }

    /// Ends the session on this side: every wait ends with ENOTCONN.
    pub(crate) fn end(&self) {
        let mut state = self.lock();
        state.ended = true;
        let links = [state.lane.take().map(|lane| lane.link), state.coming.take()];
        drop(state);
        for link in links.into_iter().flatten() {
            link.close();
        }
        self.changed.notify_all();
    }

    pub(crate) fn is_ended(&self) -> bool {
        self.lock().ended
    }

    /// Lets those look again who wait for what only the clock changes.
    #[cfg(test)]
    pub(crate) fn poke(&self) {
        self.changed.notify_all();
    }

    /// Sleeps until something changes or `duration` passed.
    pub(crate) fn wait_change(&self, duration: Duration) {
        let state = self.lock();
        if !state.ended {
            drop(self.changed.wait_timeout(state, duration));
        }
    }

    /// Sleeps while connection number `generation` is in use, at most `duration`; whether it still is.
    pub(crate) fn rest(&self, generation: u64, duration: Duration) -> bool {
        let in_use = |state: &mut SessionState| {
            state.lane.as_ref().is_some_and(|lane| lane.generation == generation)
        };
        let state = self.lock();
        let (mut state, _) = self
            .changed
            .wait_timeout_while(state, duration, in_use)
            .expect("no panic while locked");
        in_use(&mut state)
    }
}

/// What a message takes of a text. No file system has so long a name, so a name that is cut is not found.
fn cut(text: &str) -> Vec<u8> {
    text.bytes().take(255).collect()
}
