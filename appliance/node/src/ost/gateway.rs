//! The MDT's way to the OST services of its own node: a bounded mailbox to each, one for the answers.
//!
//! [`LocalGateway`] is the MDT's end, [`ServiceDesk`] a service's. A destroy goes to the service that owns the OST, the list of
//! sessions and its changes to all: each service is told as far as its own mailbox has room, whatever the others' have. One that was
//! not told of a change is behind: it is told none before it got the whole list, and what it is to be done with waits for that.
//! Jobs are idempotent: one that is swallowed by a full mailbox or reported as not done is simply given again.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    os::fd::RawFd,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use nix::errno::Errno;
use sheen_reactor::{Mailbox, Postman, mailbox};
use sheen_types::{ClientId, Fid, OstIndex};

use crate::mdt::gateway::{
    AdmittedSession, ListVersion, OstGateway, OstJob, OstJobEnd, OstSpace, SessionList,
};

/// Jobs a mailbox holds.
const JOBS_MAX: usize = 256;

/// What a service is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceJob {
    /// Destroy objects, durably.
    Destroy {
        /// Where they lie.
        ost: OstIndex,
        /// Which.
        objects: Vec<Fid>,
    },
    /// Serve these sessions and no other.
    Sessions(Arc<SessionList>),
    /// Done when nothing of a session that is not on the list is under way.
    Drain {
        /// Of the list.
        version: ListVersion,
    },
    /// Serve this session too.
    Admit {
        /// Of the list with it.
        version: ListVersion,
        /// The session.
        session: AdmittedSession,
    },
    /// Refuse this session; done when nothing of it is under way.
    Dismiss {
        /// Of the list without it.
        version: ListVersion,
        /// The session.
        client: ClientId,
    },
    /// Tell the space of an OST.
    Space {
        /// Which.
        ost: OstIndex,
        /// Objects whose space is told too.
        removed: Vec<Fid>,
    },
    /// Finish what is under way, make it durable, and end.
    Stop,
}

/// A job on its way to a service.
#[derive(Debug)]
pub struct ServiceRequest {
    /// Comes back with the end.
    pub id: u64,
    /// The job.
    pub job: ServiceJob,
}

/// A job that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceEnd {
    /// The request's.
    pub id: u64,
    /// Who answers.
    pub service: usize,
    /// Whether it was done.
    pub done: bool,
    /// The answer to [`ServiceJob::Space`].
    pub space: Option<OstSpace>,
    /// Not the end: nothing of the session, or of those that are not on the list, is under way at this OST, at others of the service there may be.
    pub part: Option<OstIndex>,
}

/// A service's end of its mailbox.
#[derive(Debug)]
pub struct ServiceDesk {
    /// Number of the service among those of its gateway.
    service: usize,
    requests: Mailbox<ServiceRequest>,
    ends: Postman<ServiceEnd>,
    /// Ends the gateway's mailbox had no room for.
    unsent: VecDeque<ServiceEnd>,
}

impl ServiceDesk {
    pub(crate) fn take(&mut self) -> Option<ServiceRequest> {
        self.requests.take()
    }

    /// Answers a request; `space` as [`ServiceEnd::space`], `part` as [`ServiceEnd::part`].
    pub(crate) fn end(
        &mut self,
        id: u64,
        done: bool,
        space: Option<OstSpace>,
        part: Option<OstIndex>,
    ) {
        self.unsent.push_back(ServiceEnd { id, service: self.service, done, space, part });
        self.send();
    }

    /// Tries to send what could not be sent; whether all is sent.
    pub(crate) fn send(&mut self) -> bool {
        while let Some(end) = self.unsent.pop_front() {
            if let Err(end) = self.ends.post(end) {
                self.unsent.push_front(end);
                return false;
            }
        }
        true
    }

    pub(crate) fn prepare_sleep(&mut self) -> bool {
        self.requests.prepare_sleep()
    }

    pub(crate) fn end_sleep(&mut self) {
        self.requests.end_sleep();
    }

    pub(crate) fn wake_descriptor(&self) -> RawFd {
        self.requests.wake_descriptor()
    }
}

/// The number of what is told and never waited for.
const TOLD: u64 = 0;

/// The MDT's way to one service.
#[derive(Debug)]
struct Way {
    postman: Postman<ServiceRequest>,
    /// The list as the service has it once its mailbox is read. None: it is behind.
    told: Option<ListVersion>,
    /// Dismissals and drains it is to be asked for behind the list.
    owed: BTreeSet<u64>,
}

/// The MDT's end.
#[derive(Debug)]
pub struct LocalGateway {
    services: Vec<Way>,
    /// Which service owns an OST.
    owners: BTreeMap<OstIndex, usize>,
    ends: Mailbox<ServiceEnd>,
    /// Where the services post to `ends`.
    ends_to: Postman<ServiceEnd>,
    pending: BTreeMap<u64, Pending>,
    /// Of them, those that wait for what is under way. They may wait long for an OST that is stuck, so they have a bound of their own.
    drains: usize,
    /// Ends nobody has asked for yet.
    failed: Vec<OstJobEnd>,
    list_wanted: bool,
}

/// A job whose end has not come from every service.
#[derive(Debug)]
struct Pending {
    token: u64,
    /// Services that did not answer.
    waits_for: BTreeSet<usize>,
    /// What a service that is behind, or could not, is asked again. None: the job ends with the first service that did not do it.
    again: Option<ServiceJob>,
}

/// Numbers of jobs are of one gateway, so that none takes the answer to another's.
fn next_job_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Per service its desk, and a way to post to it from elsewhere.
pub type Desks = Vec<(ServiceDesk, Postman<ServiceRequest>)>;

/// Connects the MDT with services that own these OSTs. Per service its desk, and a way to post to it (to stop it).
///
/// # Errors
/// The system's number when there is no eventfd to be had.
pub fn local_gateway(osts: &[Vec<OstIndex>]) -> Result<(LocalGateway, Desks), Errno> {
    let (ends_to, ends) = mailbox(JOBS_MAX)?;
    let mut gateway = LocalGateway {
        services: Vec::new(),
        owners: BTreeMap::new(),
        ends,
        ends_to,
        pending: BTreeMap::new(),
        drains: 0,
        failed: Vec::new(),
        list_wanted: false,
    };
    let mut desks = Vec::new();
    for (service, indices) in osts.iter().enumerate() {
        let (desk, postman) = gateway.desk(service)?;
        gateway.owners.extend(indices.iter().map(|&index| (index, service)));
        let way = Way { postman: postman.clone(), told: None, owed: BTreeSet::new() };
        gateway.services.push(way);
        desks.push((desk, postman));
    }
    Ok((gateway, desks))
}

impl LocalGateway {
    fn desk(&self, service: usize) -> Result<(ServiceDesk, Postman<ServiceRequest>), Errno> {
        let (postman, requests) = mailbox(JOBS_MAX)?;
        let ends = self.ends_to.clone();
        Ok((ServiceDesk { service, requests, ends, unsent: VecDeque::new() }, postman))
    }

    /// Makes the desk of a service that begins anew. What its predecessor was asked and did not answer has ended undone; what it was to
    /// be done with, it is asked for behind the list.
    ///
    /// # Errors
    /// The system's number when there is no eventfd to be had.
    pub fn restart_service(&mut self, service: usize) -> Result<ServiceDesk, Errno> {
        let (desk, postman) = self.desk(service)?;
        self.services[service].postman = postman;
        let asked = self.pending.iter().filter(|(_, job)| job.waits_for.contains(&service));
        let asked: Vec<u64> = asked.map(|(&id, _)| id).collect();
        for id in asked {
            let failed = self.not_done(id, service);
            self.failed.extend(failed);
        }
        self.fall_behind(service);
        Ok(desk)
    }

    /// The service was not told of a change.
    fn fall_behind(&mut self, service: usize) {
        self.services[service].told = None;
        self.list_wanted = true;
    }

    /// Posts to a service; false if its mailbox is full.
    fn post(&self, service: usize, id: u64, job: ServiceJob) -> bool {
        self.services[service].postman.post(ServiceRequest { id, job }).is_ok()
    }

    /// Tells the whole list to each service that does not have it, and behind it asks for what is owed.
    fn tell_list(&mut self, list: &Arc<SessionList>) {
        for service in 0..self.services.len() {
            if self.services[service].told == Some(list.version) {
                continue;
            }
            if !self.post(service, TOLD, ServiceJob::Sessions(list.clone())) {
                self.fall_behind(service);
                continue;
            }
            self.services[service].told = Some(list.version);
            while let Some(id) = self.services[service].owed.pop_first() {
                let Some(job) = self.pending.get(&id).and_then(|job| job.again.clone()) else {
                    continue;
                };
                if !self.post(service, id, job) {
                    self.services[service].owed.insert(id);
                    self.fall_behind(service);
                    break;
                }
            }
        }
    }

    /// Tells every service that is not behind of a change. Returns those that were not told.
    fn tell_change(&mut self, version: ListVersion, id: u64, job: &ServiceJob) -> Vec<usize> {
        let mut behind = Vec::new();
        for service in 0..self.services.len() {
            let is_next = self.services[service].told.is_some_and(|told| told.next() == version);
            if is_next && self.post(service, id, job.clone()) {
                self.services[service].told = Some(version);
            } else {
                self.fall_behind(service);
                behind.push(service);
            }
        }
        behind
    }

    /// Asks every service for a job that is waited for; those that are behind, later.
    fn ask_all(&mut self, token: u64, (id, job): (u64, ServiceJob), behind: &[usize]) {
        for &service in behind {
            self.services[service].owed.insert(id);
        }
        self.drains += 1;
        let waits_for = (0..self.services.len()).collect();
        self.pending.insert(id, Pending { token, waits_for, again: Some(job) });
    }

    /// Asks the service that owns an OST. False: there is none, or it takes no more.
    fn ask_owner(&mut self, token: u64, ost: OstIndex, job: ServiceJob) -> bool {
        let owner = self.owners.get(&ost).copied();
        owner.is_some_and(|owner| self.ask_one(token, owner, job))
    }

    /// Asks one service. False: it takes no more.
    pub(crate) fn ask_one(&mut self, token: u64, service: usize, job: ServiceJob) -> bool {
        let id = next_job_id();
        if self.pending.len() - self.drains >= JOBS_MAX || !self.post(service, id, job) {
            return false;
        }
        self.pending.insert(id, Pending { token, waits_for: [service].into(), again: None });
        true
    }

    fn end(&mut self, id: u64, done: bool, space: Option<OstSpace>) -> Option<OstJobEnd> {
        let Pending { token, again, .. } = self.pending.remove(&id)?;
        self.drains -= usize::from(again.is_some());
        Some(OstJobEnd { token, done, space, part: None })
    }

    /// A service did not do a job.
    fn not_done(&mut self, id: u64, service: usize) -> Option<OstJobEnd> {
        if id == TOLD || self.pending.get(&id)?.again.is_some() {
            if id != TOLD {
                self.services[service].owed.insert(id);
            }
            self.fall_behind(service);
            return None;
        }
        self.end(id, false, None)
    }

    /// What a service says of a job.
    fn hear(&mut self, end: ServiceEnd) -> Option<OstJobEnd> {
        let ServiceEnd { id, service, done, space, part } = end;
        if !done {
            return self.not_done(id, service);
        }
        let pending = self.pending.get_mut(&id)?;
        if part.is_some() {
            return Some(OstJobEnd { token: pending.token, done: true, space: None, part });
        }
        pending.waits_for.remove(&service);
        if !pending.waits_for.is_empty() {
            return None;
        }
        self.end(id, done, space)
    }
}

impl OstGateway for LocalGateway {
    fn submit(&mut self, token: u64, job: OstJob) -> Result<(), OstJob> {
        let taken = match &job {
            OstJob::Destroy { ost, objects } => {
                let destroy = ServiceJob::Destroy { ost: *ost, objects: objects.clone() };
                self.ask_owner(token, *ost, destroy)
            }
            OstJob::Space { ost, removed } => {
                let space = ServiceJob::Space { ost: *ost, removed: removed.clone() };
                self.ask_owner(token, *ost, space)
            }
            OstJob::Sessions(list) => {
                self.tell_list(list);
                true
            }
            &OstJob::Admit { version, session } => {
                self.tell_change(version, TOLD, &ServiceJob::Admit { version, session });
                true
            }
            OstJob::Drain { .. } | OstJob::Dismiss { .. } if self.drains >= JOBS_MAX => {
                self.list_wanted = true;
                false
            }
            &OstJob::Drain { version } => {
                let (id, drain) = (next_job_id(), ServiceJob::Drain { version });
                let is_there = |way: &Way| way.told.is_some_and(|told| told >= version);
                let (there, mut behind): (Vec<usize>, Vec<usize>) =
                    (0..self.services.len()).partition(|&at| is_there(&self.services[at]));
                behind.extend(there.into_iter().filter(|&at| !self.post(at, id, drain.clone())));
                behind.iter().for_each(|&service| self.fall_behind(service));
                self.ask_all(token, (id, drain), &behind);
                true
            }
            &OstJob::Dismiss { version, client } => {
                let (id, dismiss) = (next_job_id(), ServiceJob::Dismiss { version, client });
                let behind = self.tell_change(version, id, &dismiss);
                self.ask_all(token, (id, dismiss), &behind);
                true
            }
        };
        if taken { Ok(()) } else { Err(job) }
    }

    fn poll(&mut self, ends: &mut Vec<OstJobEnd>) {
        ends.append(&mut self.failed);
        while let Some(end) = self.ends.take() {
            let heard = self.hear(end);
            ends.extend(heard);
        }
    }

    fn take_list_wanted(&mut self) -> bool {
        std::mem::take(&mut self.list_wanted)
    }

    fn prepare_sleep(&mut self) -> bool {
        self.ends.prepare_sleep()
    }

    fn end_sleep(&mut self) {
        self.ends.end_sleep();
    }

    fn wake_descriptor(&self) -> Option<RawFd> {
        Some(self.ends.wake_descriptor())
    }
}

#[cfg(test)]
#[path = "gateway_test.rs"]
mod test;
