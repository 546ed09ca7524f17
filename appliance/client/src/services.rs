//! Connections to the services of object storage targets.
//!
//! A connection is made when it is first needed, and made anew by a thread of its own when one is found lost: nobody waits
//! in a call that cannot be cancelled.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use sheen_ports::{Call, Cancel, Link};
use sheen_types::Errno;
use sheen_wire::{Field, Frame, Opcode, metadata::Attach};

use crate::{client::Client, slots::CANCEL_POLL, turns::Speaker};

/// First and longest pause before a service is connected again.
const PAUSE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_secs(1));

/// A connection to a service, and what it says it is.
#[derive(Clone)]
pub(crate) struct TargetLink {
    pub(crate) link: Arc<dyn Link>,
    pub(crate) speaker: Speaker,
}

#[derive(Default)]
struct ServiceState {
    link: Option<TargetLink>,
    /// A connection that is being introduced.
    coming: Option<Arc<dyn Link>>,
    generation: u64,
    connecting: bool,
}

/// A service of object storage targets: the connection to it.
#[derive(Default)]
pub(crate) struct Service {
    state: Mutex<ServiceState>,
    changed: Condvar,
}

/// Connections by service number.
#[derive(Default)]
pub(crate) struct Services {
    services: Mutex<BTreeMap<u16, Arc<Service>>>,
    /// Connections made to any service: an OST may be found at another one after a restart.
    generations: AtomicU64,
}

impl Services {
    /// The service of a number.
    pub(crate) fn get(&self, number: u16) -> Arc<Service> {
        let mut services = self.services.lock().expect("no panic while locked");
        services.entry(number).or_default().clone()
    }

    /// Closes every connection.
    pub(crate) fn close(&self) {
        let services = self.services.lock().expect("no panic while locked");
        for service in services.values() {
            let mut state = service.state.lock().expect("no panic while locked");
            let links = [state.link.take().map(|link| link.link), state.coming.take()];
            drop(state);
            for link in links.into_iter().flatten() {
                link.close();
            }
        }
    }
}

impl Service {
    /// Connection number `generation` is of no use any more.
    pub(crate) fn report_lost(&self, generation: u64) {
        let mut state = self.state.lock().expect("no panic while locked");
        if state.generation == generation
            && let Some(link) = state.link.take()
        {
            drop(state);
            link.link.close();
        }
    }
}

impl Client {
    /// The connection to service `number`, waiting until there is one.
    ///
    /// # Errors
    /// EINTR when cancelled, ENOTCONN when the session ended for good, EIO while another node answers.
    pub(crate) fn object_link(
        self: &Arc<Self>,
        number: u16,
        service: &Arc<Service>,
        cancel: &Cancel,
    ) -> Result<TargetLink, Errno> {
        let mut state = service.state.lock().expect("no panic while locked");
        loop {
            if let Some(link) = &state.link {
                return Ok(link.clone());
            }
            if self.session.is_ended() {
                return Err(Errno::ENOTCONN);
            }
            if self.session.is_astray() {
                return Err(Errno::EIO);
            }
            if cancel.is_cancelled() {
                return Err(Errno::EINTR);
            }
            if !state.connecting {
                state.connecting = self.start_attaching(number, service);
            }
            let waited = service.changed.wait_timeout(state, CANCEL_POLL);
            state = waited.expect("no panic while locked").0;
        }
    }

    /// Whether what was sent to a service over its connection number `generation`, which is lost, is certainly not carried out any
    /// more: another one was introduced since, or the session has ended. Has it connected anew if not.
    pub(crate) fn is_replaced(self: &Arc<Self>, number: u16, generation: u64) -> bool {
        let service = self.targets.services.get(number);
        let mut state = service.state.lock().expect("no panic while locked");
        if state.generation > generation || self.session.is_ended() {
            return true;
        }
        if state.link.is_none() && !state.connecting {
            state.connecting = self.start_attaching(number, &service);
        }
        false
    }

    /// Connects in another thread, one for each service at most.
    fn start_attaching(self: &Arc<Self>, number: u16, service: &Arc<Service>) -> bool {
        let (client, service) = (self.clone(), service.clone());
        let spawned = std::thread::Builder::new()
            .name("sheen-attach".to_owned())
            .spawn(move || client.keep_attaching(number, &service));
        if let Err(error) = &spawned {
            tracing::warn!(%error, "no thread to connect to a service of objects");
        }
        spawned.is_ok()
    }

    /// Tries until there is a connection or the session ends.
    fn keep_attaching(&self, number: u16, service: &Service) {
        let mut pause = PAUSE.0;
        while !self.session.is_ended() {
            let link = self.attach(number, service);
            let mut state = service.state.lock().expect("no panic while locked");
            state.coming = None;
            if let Ok((link, incarnation)) = link
                && !self.session.is_ended()
            {
                state.connecting = false;
                state.generation =
                    self.targets.services.generations.fetch_add(1, Ordering::Relaxed) + 1;
                let speaker = Speaker { generation: state.generation, incarnation };
                state.link = Some(TargetLink { link, speaker });
                drop(state);
                return service.changed.notify_all();
            }
            drop(state);
            self.session.wait_change(pause);
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    /// Connects; returns the incarnation of what is there, too. Whether the session still stands is asked after that: a node
    /// that restarted knows only then which sessions ended before.
    fn attach(&self, number: u16, service: &Service) -> Result<(Arc<dyn Link>, u64), Errno> {
        let link = self.connector.connect(self.session.address(), number).map_err(|error| {
            tracing::debug!(%error, number, "connecting to a service of objects");
            Errno::ENOTCONN
        })?;
        service.state.lock().expect("no panic while locked").coming = Some(link.clone());
        if self.session.is_ended() {
            return Err(Errno::ENOTCONN);
        }
        let introduced = self.introduce(&*link);
        let incarnation = introduced.and_then(|told| self.confirm_node().map(|()| told));
        match incarnation {
            Ok(incarnation) => Ok((link, incarnation)),
            Err(errno) => {
                link.close();
                Err(errno)
            }
        }
    }

    /// Shows a service whose session this is; returns the incarnation it tells. Waits while it was not told of the session yet.
    ///
    /// # Errors
    /// ENOTCONN: the connection is lost, or the service knows that the session has ended. EACCES: the session is not ours there.
    fn introduce(&self, link: &dyn Link) -> Result<u64, Errno> {
        let mut pause = PAUSE.0;
        loop {
            let identity = self.session.identity();
            let mut frame = Frame::request(Opcode::Attach, self.session.next_xid());
            identity.sign(&mut frame);
            let body = Attach { key: identity.attach_key }.to_vec();
            let call = Call { frame, body, payload: None, room: None };
            let (reply, _) = link.call(call, &Cancel::new()).reply.map_err(|_| Errno::ENOTCONN)?;
            match Errno(-reply.status) {
                Errno(0) => return Ok(reply.incarnation),
                Errno::EAGAIN if !self.session.is_ended() => self.session.wait_change(pause),
                errno => {
                    tracing::debug!(%errno, "a service of objects does not know the session");
                    self.doubt_session(identity.epoch);
                    return Err(errno);
                }
            }
            pause = (pause * 2).min(PAUSE.1);
        }
    }
}
