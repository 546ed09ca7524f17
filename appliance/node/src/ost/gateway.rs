//! The MDT's way to the OST services of its own node: a bounded mailbox to each, one for the answers.
//!
//! [`LocalGateway`] is the MDT's end, [`ServiceDesk`] a service's. A destroy goes to the service that owns the OST, the list of
//! sessions and its changes to all. Jobs are idempotent: one that is swallowed by a full mailbox or reported as not done is simply
//! given again. A job of which one service says that it is not done has ended: the others' answers are of no interest.

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
    /// Not the end: nothing of the session is under way at this OST, at others of the service there may be.
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

/// The MDT's end.
#[derive(Debug)]
pub struct LocalGateway {
    services: Vec<Postman<ServiceRequest>>,
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
    drains: bool,
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
        gateway.services.push(postman.clone());
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

    /// Makes the desk of a service that begins anew. What its predecessor was asked and did not answer has ended undone.
    ///
    /// # Errors
    /// The system's number when there is no eventfd to be had.
    pub fn restart_service(&mut self, service: usize) -> Result<ServiceDesk, Errno> {
        let (desk, postman) = self.desk(service)?;
        self.services[service] = postman;
        let asked = self.pending.iter().filter(|(_, job)| job.waits_for.contains(&service));
        let asked: Vec<u64> = asked.map(|(&id, _)| id).collect();
        for id in asked {
            let failed = self.end(id, false, None);
            self.failed.extend(failed);
        }
        self.list_wanted = true;
        Ok(desk)
    }

    fn end(&mut self, id: u64, done: bool, space: Option<OstSpace>) -> Option<OstJobEnd> {
        let Pending { token, drains, .. } = self.pending.remove(&id)?;
        self.drains -= usize::from(drains);
        Some(OstJobEnd { token, done, space, part: None })
    }

    /// What a service says of a job.
    fn hear(&mut self, end: ServiceEnd) -> Option<OstJobEnd> {
        let ServiceEnd { id, service, done, space, part } = end;
        let pending = self.pending.get_mut(&id)?;
        if part.is_some() {
            return Some(OstJobEnd { token: pending.token, done: true, space: None, part });
        }
        pending.waits_for.remove(&service);
        if done && !pending.waits_for.is_empty() {
            return None;
        }
        self.end(id, done, space)
    }
}

impl OstGateway for LocalGateway {
    fn submit(&mut self, token: u64, job: OstJob) -> Result<(), OstJob> {
        let drains = matches!(job, OstJob::Drain { .. } | OstJob::Dismiss { .. });
        let others = self.pending.len() - self.drains;
        if (if drains { self.drains } else { others }) >= JOBS_MAX {
            return Err(job);
        }
        let (service_job, range) = match &job {
            OstJob::Destroy { ost, objects } => {
                let Some(&owner) = self.owners.get(ost) else { return Err(job) };
                (ServiceJob::Destroy { ost: *ost, objects: objects.clone() }, owner..owner + 1)
            }
            OstJob::Space { ost, removed } => {
                let Some(&owner) = self.owners.get(ost) else { return Err(job) };
                (ServiceJob::Space { ost: *ost, removed: removed.clone() }, owner..owner + 1)
            }
            OstJob::Sessions(list) => (ServiceJob::Sessions(list.clone()), 0..self.services.len()),
            &OstJob::Drain { version } => (ServiceJob::Drain { version }, 0..self.services.len()),
            &OstJob::Admit { version, session } => {
                (ServiceJob::Admit { version, session }, 0..self.services.len())
            }
            &OstJob::Dismiss { version, client } => {
                (ServiceJob::Dismiss { version, client }, 0..self.services.len())
            }
        };
        let id = next_job_id();
        for service in range.clone() {
            let request = ServiceRequest { id, job: service_job.clone() };
            // Services that took it already will report an id that is not pending: nobody minds.
            if self.services[service].post(request).is_err() {
                return Err(job);
            }
        }
        self.drains += usize::from(drains);
        self.pending.insert(id, Pending { token, waits_for: range.collect(), drains });
        Ok(())
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
mod test {
    use sheen_types::Epoch;

    use super::*;

    const VERSION: ListVersion = ListVersion { server: Epoch(1), changes: 1 };

    const fn dismiss(client: u64) -> OstJob {
        OstJob::Dismiss { version: VERSION, client: ClientId(client) }
    }

    const fn end(token: u64, done: bool) -> OstJobEnd {
        OstJobEnd { token, done, space: None, part: None }
    }

    fn two_services() -> (LocalGateway, Desks) {
        local_gateway(&[vec![OstIndex(0)], vec![OstIndex(1)]]).unwrap()
    }

    #[test]
    fn a_session_is_dismissed_when_every_service_did_it() {
        let (mut gateway, mut desks) = two_services();
        gateway.submit(5, dismiss(7)).unwrap();
        let mut ends = Vec::new();
        for (number, (desk, _)) in desks.iter_mut().enumerate() {
            let request = desk.take().unwrap();
            let asked = ServiceJob::Dismiss { version: VERSION, client: ClientId(7) };
            assert_eq!(request.job, asked);
            desk.end(request.id, true, None, None);
            gateway.poll(&mut ends);
            assert_eq!(ends.len(), number, "not before the last");
        }
        assert_eq!(ends, [end(5, true)]);
    }

    #[test]
    fn one_service_that_missed_a_change_is_heard_before_the_others_are_done() {
        let (mut gateway, mut desks) = two_services();
        gateway.submit(5, dismiss(7)).unwrap();
        let [stuck, missed] = [0, 1].map(|at: usize| desks[at].0.take().unwrap().id);
        desks[1].0.end(missed, false, None, None);
        let mut ends = Vec::new();
        gateway.poll(&mut ends);
        assert_eq!(ends, [end(5, false)]);
        desks[0].0.end(stuck, true, None, None);
        gateway.poll(&mut ends);
        assert_eq!(ends.len(), 1, "nobody waits for it any more");
        assert_eq!((gateway.pending.len(), gateway.drains), (0, 0));
    }

    #[test]
    fn what_a_service_was_asked_ends_undone_when_it_begins_anew() {
        let (mut gateway, mut desks) = two_services();
        assert!(!gateway.take_list_wanted());
        gateway.submit(5, dismiss(7)).unwrap();
        gateway.submit(6, OstJob::Space { ost: OstIndex(0), removed: Vec::new() }).unwrap();
        gateway.submit(7, OstJob::Space { ost: OstIndex(1), removed: Vec::new() }).unwrap();
        let taken = desks[1].0.take().unwrap().id;
        let mut fresh = gateway.restart_service(1).unwrap();
        assert!(gateway.take_list_wanted() && !gateway.take_list_wanted(), "told once");
        let mut ends = Vec::new();
        gateway.poll(&mut ends);
        assert_eq!(ends, [end(5, false), end(7, false)]);
        desks[1].0.end(taken, true, None, None);
        gateway.poll(&mut ends);
        assert_eq!(ends.len(), 2, "the one before is not heard");
        assert!(fresh.take().is_none(), "nor does its successor get what it was asked");
        gateway.submit(8, dismiss(8)).unwrap();
        assert!(fresh.take().is_some() && desks[1].0.take().is_some(), "the rest of its mail");
    }

    #[test]
    fn a_destroy_goes_to_the_owner_and_nowhere_else() {
        let (mut gateway, mut desks) =
            local_gateway(&[vec![OstIndex(0)], vec![OstIndex(1), OstIndex(2)]]).unwrap();
        let objects = vec![Fid::NONE];
        let destroy = |ost| OstJob::Destroy { ost: OstIndex(ost), objects: objects.clone() };
        gateway.submit(1, destroy(2)).unwrap();
        assert!(desks[0].0.take().is_none());
        let request = desks[1].0.take().unwrap();
        desks[1].0.end(request.id, false, None, None);
        let mut ends = Vec::new();
        gateway.poll(&mut ends);
        assert_eq!(ends, [end(1, false)]);
        assert!(gateway.submit(2, destroy(9)).is_err(), "no such OST");
    }

    #[test]
    fn what_waits_for_a_stuck_ost_keeps_nothing_else_out() {
        let (mut gateway, mut desks) = local_gateway(&[vec![OstIndex(0), OstIndex(1)]]).unwrap();
        let mut ends = Vec::new();
        for token in 0..JOBS_MAX as u64 {
            gateway.submit(token, dismiss(token)).unwrap();
            let id = desks[0].0.take().unwrap().id;
            let part = Some(OstIndex(1));
            desks[0].0.end(id, true, None, part);
            gateway.poll(&mut ends);
            assert_eq!(ends.pop(), Some(OstJobEnd { token, done: true, space: None, part }));
        }
        gateway.submit(1000, OstJob::Space { ost: OstIndex(1), removed: Vec::new() }).unwrap();
        assert!(desks[0].0.take().is_some());
    }

    #[test]
    fn full_mailboxes_give_the_job_back() {
        let (mut gateway, _desks) = local_gateway(&[vec![OstIndex(0)]]).unwrap();
        for token in 0..JOBS_MAX as u64 {
            gateway.submit(token, dismiss(7)).unwrap();
        }
        assert_eq!(gateway.submit(0, dismiss(7)), Err(dismiss(7)));
    }
}
