//! The mailboxes between the MDT and the services of its node.

use sheen_types::Epoch;

use super::*;
use crate::mdt::gateway::{AttachSecret, ObjectAccess, SessionPrincipal};

const VERSION: ListVersion = ListVersion { server: Epoch(1), changes: 1 };

const fn dismiss(client: u64) -> OstJob {
    OstJob::Dismiss { version: VERSION, client: ClientId(client) }
}

const fn end(token: u64, done: bool) -> OstJobEnd {
    OstJobEnd { token, done, space: None, part: None }
}

fn list(changes: u64) -> OstJob {
    let version = ListVersion { changes, ..VERSION };
    let secret = AttachSecret::new([7; 4]);
    OstJob::Sessions(Arc::new(SessionList {
        version,
        highest: ClientId(9),
        sessions: Vec::new(),
        secret,
    }))
}

fn admit(changes: u64) -> OstJob {
    let session = AdmittedSession {
        client: ClientId(9),
        epoch: Epoch(1),
        principal: SessionPrincipal::Owner,
        connected: false,
        objects: ObjectAccess::NONE,
    };
    OstJob::Admit { version: ListVersion { changes, ..VERSION }, session }
}

fn told(osts: &[Vec<OstIndex>]) -> (LocalGateway, Desks) {
    let (mut gateway, mut desks) = local_gateway(osts).unwrap();
    gateway.submit(1, list(0)).unwrap();
    for (desk, _) in &mut desks {
        assert!(matches!(desk.take().unwrap().job, ServiceJob::Sessions(_)));
    }
    (gateway, desks)
}

fn two_services() -> (LocalGateway, Desks) {
    told(&[vec![OstIndex(0)], vec![OstIndex(1)]])
}

fn heard(gateway: &mut LocalGateway) -> Vec<OstJobEnd> {
    let mut ends = Vec::new();
    gateway.poll(&mut ends);
    ends
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

/// A reactor that stands still reads no mail.
#[test]
fn a_service_that_takes_no_mail_keeps_no_other_from_hearing_of_sessions() {
    let (mut gateway, mut desks) = two_services();
    let mut changes = 0;
    while changes < 3 * JOBS_MAX as u64 {
        changes += 1;
        gateway.submit(changes, admit(changes)).unwrap();
        assert!(matches!(desks[1].0.take().unwrap().job, ServiceJob::Admit { .. }));
    }
    assert!(gateway.take_list_wanted(), "by the one that is full");
    gateway.submit(5000, list(changes)).unwrap();
    assert!(desks[1].0.take().is_none(), "it has that list");
    let version = ListVersion { changes: changes + 1, ..VERSION };
    gateway.submit(7, OstJob::Dismiss { version, client: ClientId(7) }).unwrap();
    let dismissed = desks[1].0.take().unwrap();
    desks[1].0.end(dismissed.id, true, None, Some(OstIndex(1)));
    desks[1].0.end(dismissed.id, true, None, None);
    let part = Some(OstIndex(1));
    let ends = heard(&mut gateway);
    assert_eq!(ends, [OstJobEnd { token: 7, done: true, space: None, part }], "and one waits");
    // It goes on: what it was told, then the list, and what it is owed behind it.
    gateway.submit(8, OstJob::Space { ost: OstIndex(1), removed: Vec::new() }).unwrap();
    for _ in 0..JOBS_MAX {
        assert!(matches!(desks[0].0.take().unwrap().job, ServiceJob::Admit { .. }));
    }
    assert!(gateway.take_list_wanted());
    gateway.submit(5001, list(changes + 1)).unwrap();
    assert!(matches!(desks[0].0.take().unwrap().job, ServiceJob::Sessions(_)));
    let owed = desks[0].0.take().unwrap();
    assert_eq!(owed.job, ServiceJob::Dismiss { version, client: ClientId(7) });
    desks[0].0.end(owed.id, true, None, None);
    assert_eq!(heard(&mut gateway), [end(7, true)]);
    gateway.submit(9, admit(changes + 2)).unwrap();
    assert!(desks.iter_mut().all(|(desk, _)| {
        let mut jobs = std::iter::from_fn(|| desk.take());
        jobs.any(|request| matches!(request.job, ServiceJob::Admit { .. }))
    }));
    assert!(!gateway.take_list_wanted());
}

#[test]
fn a_service_that_missed_a_change_is_asked_again_behind_the_list_and_no_other_is() {
    let (mut gateway, mut desks) = two_services();
    gateway.submit(5, dismiss(7)).unwrap();
    let [done, missed] = [0, 1].map(|at: usize| desks[at].0.take().unwrap().id);
    desks[0].0.end(done, true, None, None);
    desks[1].0.end(missed, false, None, None);
    assert_eq!(heard(&mut gateway), []);
    assert!(gateway.take_list_wanted());
    gateway.submit(6, list(1)).unwrap();
    assert!(desks[0].0.take().is_none());
    assert!(matches!(desks[1].0.take().unwrap().job, ServiceJob::Sessions(_)));
    assert_eq!(desks[1].0.take().unwrap().id, missed);
    desks[1].0.end(missed, true, None, None);
    assert_eq!(heard(&mut gateway), [end(5, true)]);
    assert_eq!((gateway.pending.len(), gateway.drains), (0, 0));
}

#[test]
fn more_is_owed_than_a_mailbox_holds() {
    let (mut gateway, mut desks) = local_gateway(&[vec![OstIndex(0)]]).unwrap();
    let mut changes = 0;
    for token in 1..=JOBS_MAX as u64 {
        changes += 1;
        let version = ListVersion { changes, ..VERSION };
        gateway.submit(token, OstJob::Dismiss { version, client: ClientId(token) }).unwrap();
    }
    assert!(desks[0].0.take().is_none(), "it has no list");
    let mut ends = Vec::new();
    for _ in 0..3 {
        if gateway.take_list_wanted() {
            gateway.submit(1000, list(changes)).unwrap();
        }
        while let Some(request) = desks[0].0.take() {
            desks[0].0.end(request.id, true, None, None);
        }
        gateway.poll(&mut ends);
    }
    assert_eq!(ends.len(), JOBS_MAX);
    assert!(gateway.services[0].owed.is_empty() && !gateway.take_list_wanted());
}

#[test]
fn what_a_service_was_asked_and_did_not_do_is_asked_when_it_begins_anew() {
    let (mut gateway, mut desks) = two_services();
    assert!(!gateway.take_list_wanted());
    gateway.submit(5, dismiss(7)).unwrap();
    gateway.submit(6, OstJob::Space { ost: OstIndex(0), removed: Vec::new() }).unwrap();
    gateway.submit(7, OstJob::Space { ost: OstIndex(1), removed: Vec::new() }).unwrap();
    let taken = desks[1].0.take().unwrap().id;
    let mut fresh = gateway.restart_service(1).unwrap();
    assert!(gateway.take_list_wanted() && !gateway.take_list_wanted(), "told once");
    assert_eq!(heard(&mut gateway), [end(7, false)]);
    assert!(fresh.take().is_none(), "not before it has the list");
    gateway.submit(8, list(1)).unwrap();
    assert!(matches!(fresh.take().unwrap().job, ServiceJob::Sessions(_)));
    assert_eq!(fresh.take().unwrap().id, taken);
    assert!(desks[1].0.take().is_some() && desks[1].0.take().is_none(), "the rest of its mail");
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
    let (mut gateway, mut desks) = told(&[vec![OstIndex(0), OstIndex(1)]]);
    let mut ends = Vec::new();
    for token in 0..JOBS_MAX as u64 {
        let version = ListVersion { changes: token + 1, ..VERSION };
        gateway.submit(token, OstJob::Dismiss { version, client: ClientId(token) }).unwrap();
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
fn jobs_that_are_waited_for_are_bounded() {
    let (mut gateway, _desks) = local_gateway(&[vec![OstIndex(0)]]).unwrap();
    for token in 0..JOBS_MAX as u64 {
        gateway.submit(token, dismiss(7)).unwrap();
    }
    assert_eq!(gateway.submit(0, dismiss(7)), Err(dismiss(7)));
    let space = || OstJob::Space { ost: OstIndex(0), removed: Vec::new() };
    for token in 0..JOBS_MAX as u64 {
        gateway.submit(token, space()).unwrap();
    }
    assert_eq!(gateway.submit(0, space()), Err(space()));
    gateway.submit(0, list(2)).unwrap();
    assert!(gateway.take_list_wanted(), "its mailbox is full");
}
