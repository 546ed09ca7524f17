//! The MDT's way to the OST services of its own node: a bounded mailbox to each, one for the answers.
//!
//! [`LocalGateway`] is the MDT's end, [`ServiceDesk`] a service's. A destroy goes to the service that owns the OST, a
//! fence to all. Jobs are idempotent: one that is swallowed by a full mailbox or reported as not done is simply given again.

use std::{
    collections::{BTreeMap, VecDeque},
    os::fd::RawFd,
};

use nix::errno::Errno;
use sheen_reactor::{Mailbox, Postman, mailbox};
use sheen_types::{ClientId, Epoch, Fid, OstIndex};

use crate::mdt::gateway::{OstGateway, OstJob, OstJobEnd, OstSpace};

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
    /// Refuse requests of `client` below `epoch`; done when none of them is under way.
    Fence {
        /// Session fenced.
        client: ClientId,
        /// First epoch still welcome.
        epoch: Epoch,
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
    /// Whether it was done.
    pub done: bool,
    /// The answer to [`ServiceJob::Space`].
    pub space: Option<OstSpace>,
    /// Not the end: this OST is done with a fence, others of the service may not be.
    pub part: Option<OstIndex>,
}

/// A service's end of its mailbox.
#[derive(Debug)]
pub struct ServiceDesk {
    requests: Mailbox<ServiceRequest>,
    ends: Postman<ServiceEnd>,
    /// Ends the gateway's mailbox had no room for.
    unsent: VecDeque<ServiceEnd>,
}

impl ServiceDesk {
    pub(crate) fn take(&mut self) -> Option<ServiceRequest> {
        self.requests.take()
    }

    pub(crate) fn end(&mut self, end: ServiceEnd) {
        self.unsent.push_back(end);
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
    pending: BTreeMap<u64, Pending>,
    /// Fences among them. They may wait long for an OST that is stuck, so they have a bound of their own.
    fences: usize,
    next_id: u64,
}

/// A job whose end has not come from every service.
#[derive(Debug)]
struct Pending {
    token: u64,
    remaining: usize,
    done: bool,
    is_fence: bool,
}

/// Per service its desk, and a way to post to it from elsewhere.
pub type Desks = Vec<(ServiceDesk, Postman<ServiceRequest>)>;

/// Connects the MDT with services that own these OSTs. Per service its desk, and a way to post to it (to stop it).
///
/// # Errors
/// The system's number when there is no eventfd to be had.
pub fn local_gateway(osts: &[Vec<OstIndex>]) -> Result<(LocalGateway, Desks), Errno> {
    let (end_postman, ends) = mailbox(JOBS_MAX)?;
    let mut services = Vec::new();
    let mut desks = Vec::new();
    let mut owners = BTreeMap::new();
    for (service, indices) in osts.iter().enumerate() {
        let (postman, requests) = mailbox(JOBS_MAX)?;
        owners.extend(indices.iter().map(|&index| (index, service)));
        services.push(postman.clone());
        let desk = ServiceDesk { requests, ends: end_postman.clone(), unsent: VecDeque::new() };
        desks.push((desk, postman));
    }
    Ok((
        LocalGateway { services, owners, ends, pending: BTreeMap::new(), fences: 0, next_id: 1 },
        desks,
    ))
}

impl OstGateway for LocalGateway {
    fn submit(&mut self, token: u64, job: OstJob) -> Result<(), OstJob> {
        let is_fence = matches!(job, OstJob::Fence { .. });
        let others = self.pending.len() - self.fences;
        if (if is_fence { self.fences } else { others }) >= JOBS_MAX {
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
            OstJob::Fence { client, epoch } => {
                (ServiceJob::Fence { client: *client, epoch: *epoch }, 0..self.services.len())
            }
        };
        let id = self.next_id;
        self.next_id += 1;
        let remaining = range.len();
        for service in range {
            let request = ServiceRequest { id, job: service_job.clone() };
            // Services that took it already will report an id that is not pending: nobody minds.
            if self.services[service].post(request).is_err() {
                return Err(job);
            }
        }
        self.fences += usize::from(is_fence);
        self.pending.insert(id, Pending { token, remaining, done: true, is_fence });
        Ok(())
    }

    fn poll(&mut self, ends: &mut Vec<OstJobEnd>) {
        while let Some(end) = self.ends.take() {
            let Some(pending) = self.pending.get_mut(&end.id) else { continue };
            if end.part.is_some() {
                let (token, part) = (pending.token, end.part);
                ends.push(OstJobEnd { token, done: true, space: None, part });
                continue;
            }
            pending.done &= end.done;
            pending.remaining -= 1;
            if pending.remaining == 0
                && let Some(Pending { token, done, is_fence, .. }) = self.pending.remove(&end.id)
            {
                self.fences -= usize::from(is_fence);
                ends.push(OstJobEnd { token, done, space: end.space, part: None });
            }
        }
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
    use super::*;

    #[test]
    fn a_fence_is_done_when_every_service_did_it() {
        let (mut gateway, mut desks) =
            local_gateway(&[vec![OstIndex(0)], vec![OstIndex(1)]]).unwrap();
        let fence = OstJob::Fence { client: ClientId(7), epoch: Epoch(2) };
        gateway.submit(5, fence).unwrap();
        let mut ends = Vec::new();
        for (number, (desk, _)) in desks.iter_mut().enumerate() {
            let request = desk.take().unwrap();
            assert_eq!(request.job, ServiceJob::Fence { client: ClientId(7), epoch: Epoch(2) });
            desk.end(ServiceEnd { id: request.id, done: true, space: None, part: None });
            gateway.poll(&mut ends);
            assert_eq!(ends.len(), number, "not before the last");
        }
        assert_eq!(ends, [OstJobEnd { token: 5, done: true, space: None, part: None }]);
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
        desks[1].0.end(ServiceEnd { id: request.id, done: false, space: None, part: None });
        let mut ends = Vec::new();
        gateway.poll(&mut ends);
        assert_eq!(ends, [OstJobEnd { token: 1, done: false, space: None, part: None }]);
        assert!(gateway.submit(2, destroy(9)).is_err(), "no such OST");
    }

    #[test]
    fn fences_that_wait_for_a_stuck_ost_keep_nothing_else_out() {
        let (mut gateway, mut desks) = local_gateway(&[vec![OstIndex(0), OstIndex(1)]]).unwrap();
        let mut ends = Vec::new();
        for token in 0..JOBS_MAX as u64 {
            let fence = OstJob::Fence { client: ClientId(token), epoch: Epoch(2) };
            gateway.submit(token, fence).unwrap();
            let id = desks[0].0.take().unwrap().id;
            let part = Some(OstIndex(1));
            desks[0].0.end(ServiceEnd { id, done: true, space: None, part });
            gateway.poll(&mut ends);
            assert_eq!(ends.pop(), Some(OstJobEnd { token, done: true, space: None, part }));
        }
        gateway.submit(1000, OstJob::Space { ost: OstIndex(1), removed: Vec::new() }).unwrap();
        assert!(desks[0].0.take().is_some());
    }

    #[test]
    fn full_mailboxes_give_the_job_back() {
        let (mut gateway, _desks) = local_gateway(&[vec![OstIndex(0)]]).unwrap();
        let fence = OstJob::Fence { client: ClientId(7), epoch: Epoch(2) };
        for token in 0..JOBS_MAX as u64 {
            gateway.submit(token, fence.clone()).unwrap();
        }
        assert_eq!(gateway.submit(0, fence.clone()), Err(fence));
    }
}
