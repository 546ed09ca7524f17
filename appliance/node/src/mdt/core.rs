//! The MDT without its ports: requests, commits and time go in, [`Output`]s and proposals come out. Path: M2–M8.
//!
//! Owns the replicated state and the volatile tables beside it. Invariants:
//! - Reads show applied state only; an answer that grants a lease is formed in the same step as what it shows.
//! - A change is proposed only when no other client holds a lease on what it touches, and from then until it is
//!   applied nobody else gets one (the leases table is told by `park`).
//! - Changes whose touched set depends on one another (same name, same inode) are never ready or proposed together.
//! - What waits for a lease is in nobody's way (see `mutation::keeps_others_out`).
//! - Outputs leave in the order they were made.
//!
//! Deliberately absent: sockets, devices, clocks, Raft (see `service`).

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use sheen_meta::flocks::LockLimits;
use sheen_meta::{FileLocks, Leases, Opens, Shares, State};
use sheen_ports::{ConnectionId, RequestId};
use sheen_types::{ClientId, Epoch, Errno, Fid, OstIndex, Tag, Tick, Timespec, Xid};
use sheen_wire::{BODY_BYTES_MAX, Frame, Opcode};

use super::{
    admission::Admission,
    admitting::Admitting,
    config::{MdtLimits, MdtTimes},
    destroys::DestroyWindow,
    eviction::Eviction,
    identities::PublishedIdentities,
    intake::served_in_grace,
    keys::Key,
    mutation::{Change, ChangeId},
    placement::served,
    request::{Answer, Incoming, Output},
    session::{Connection, Session},
    stats::MdtStats,
    unsettled::Unsettled,
    waiting::{ChangeWaits, EarlyRequests, LeaseQueues, Woken},
};
use sheen_wire::metadata::OstAddress;

use crate::{attach_secret::AttachSecret, buffer_shares::BufferShares, strangers::Strangers};

/// Where the service stands. `Recovering` → `Starting` → (`Grace` →) `Serving`; `Failed` from anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Log and snapshot are being read, or there is no leader.
    Recovering,
    /// Leading; the entry that starts this server epoch is on its way.
    Starting,
    /// Known clients come back and assert what they held.
    Grace {
        /// When those that did not are evicted.
        until: Tick,
    },
    /// Everything is served.
    Serving,
    /// The log failed: every request is refused.
    Failed,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Mdt {
    pub(crate) limits: MdtLimits,
    pub(crate) times: MdtTimes,
    /// Identity of the node.
    pub(crate) node: [u8; 16],
    pub(crate) osts: Vec<OstAddress>,
    pub(crate) stats: Arc<MdtStats>,
    pub(crate) phase: Phase,
    pub(crate) now: Tick,
    pub(crate) wall: Timespec,
    pub(crate) state: State,
    pub(crate) leases: Leases,
    pub(crate) opens: Opens,
    /// Changes under way that will register an open: places kept for them.
    pub(crate) opening: Shares,
    pub(crate) locks: FileLocks,
    /// The longest lease a client may count on: of this start, or of one before.
    pub(crate) promised: Duration,
    /// When what was promised before this start has passed, if it was more.
    pub(crate) promised_until: Option<Tick>,
    pub(crate) server_epoch: Epoch,
    /// Number given to the last proposed change.
    pub(crate) last_transaction: u64,
    pub(crate) sessions: BTreeMap<ClientId, Session>,
    pub(crate) connections: BTreeMap<ConnectionId, Connection>,
    /// Those without a session.
    pub(crate) strangers: Strangers,
    /// Requests that are answered when the phase allows.
    pub(crate) early: EarlyRequests,
    /// Requests held anywhere.
    pub(crate) held: usize,
    /// Bytes of their payloads.
    pub(crate) held_bytes: usize,
    /// Payload of replies that peers have not taken.
    pub(crate) replying: BufferShares,
    pub(crate) changes: BTreeMap<ChangeId, Change>,
    pub(crate) next_change: u64,
    /// Changes that may be proposed, in order.
    pub(crate) ready: VecDeque<ChangeId>,
    /// Which change keeps others from a name or an inode.
    pub(crate) keys: BTreeMap<Key, ChangeId>,
    /// Changes by who asked for them.
    pub(crate) changes_of: BTreeSet<(ClientId, ChangeId)>,
    /// What clients tell of files they wrote, on its way through the log: the latest of each.
    pub(crate) telling: BTreeMap<(ClientId, Fid), ChangeId>,
    /// Changes that wait behind another for a key.
    pub(crate) blocked: BTreeMap<ChangeId, BTreeSet<ChangeId>>,
    /// Changes that waited behind one that ended.
    pub(crate) unblocked: VecDeque<ChangeId>,
    /// Requests with a reply slot that are under way.
    pub(crate) slots: BTreeMap<(ClientId, Tag), ChangeId>,
    /// Requests that begin again when a change ended.
    pub(crate) behind: BTreeMap<ChangeId, Vec<Incoming>>,
    /// Changes that wait for leases on an inode, or for an OST.
    pub(crate) waiting: ChangeWaits,
    /// Lease requests that wait, first come first served.
    pub(crate) lease_queue: LeaseQueues,
    /// File lock requests that wait.
    pub(crate) lock_waits: BTreeMap<(ClientId, Xid), Incoming>,
    /// Revokes not answered.
    pub(crate) revokes: BTreeMap<(ClientId, Fid), super::lease::Revoking>,
    /// Inodes whose waiters are to be looked at again.
    pub(crate) woken: Woken,
    /// Waiting changes that may be planned again in this turn yet.
    pub(crate) plans_left: usize,
    /// Requests that begin again: what they waited behind has ended.
    pub(crate) again: VecDeque<Incoming>,
    pub(crate) outputs: VecDeque<Output>,
    pub(crate) background: super::background::Background,
    /// What the OSTs know of the sessions.
    pub(crate) admitting: Admitting,
    /// Identities and authorities, for other threads to see.
    pub(crate) published: Arc<PublishedIdentities>,
    /// OSTs that may carry out what sessions sent of which nobody knows what they held.
    pub(crate) unsettled: Unsettled,
    /// What there is room for.
    pub(crate) admission: Admission,
    /// What each OST is destroying.
    pub(crate) destroying: BTreeMap<OstIndex, DestroyWindow>,
    pub(crate) placement: super::placement::Placement,
    /// Random bits for the id of the next file system; None: used up.
    pub(crate) random: Option<[u64; 2]>,
}

impl Mdt {
    pub(crate) fn new(
        limits: MdtLimits,
        times: MdtTimes,
        (node, osts): ([u8; 16], Vec<OstAddress>),
        (state, secret): (State, AttachSecret),
        stats: Arc<MdtStats>,
        reply_bytes_max: usize,
    ) -> Self {
        let clients_max = state.limits().sessions_max as usize;
        Self {
            leases: Leases::new(Epoch(0), limits.leases_max),
            opens: Opens::new(limits.opens_max, clients_max),
            // Counts only: what may be taken is up to `opens`.
            opening: Shares::new(limits.opens_max, 0),
            locks: FileLocks::new(LockLimits { clients_max, ..limits.locks }),
            promised: times.lease,
            promised_until: None,
            limits,
            times,
            node,
            osts: served(osts),
            stats,
            phase: Phase::Recovering,
            now: Tick(0),
            wall: Timespec::ZERO,
            state,
            server_epoch: Epoch(0),
            last_transaction: 0,
            sessions: BTreeMap::new(),
            connections: BTreeMap::new(),
            strangers: Strangers::default(),
            early: EarlyRequests::default(),
            held: 0,
            held_bytes: 0,
            replying: BufferShares::new(reply_bytes_max),
            changes: BTreeMap::new(),
            next_change: 0,
            ready: VecDeque::new(),
            keys: BTreeMap::new(),
            changes_of: BTreeSet::new(),
            telling: BTreeMap::new(),
            blocked: BTreeMap::new(),
            unblocked: VecDeque::new(),
            slots: BTreeMap::new(),
            behind: BTreeMap::new(),
            waiting: ChangeWaits::default(),
            lease_queue: LeaseQueues::default(),
            lock_waits: BTreeMap::new(),
            revokes: BTreeMap::new(),
            woken: Woken::default(),
            plans_left: 0,
            again: VecDeque::new(),
            outputs: VecDeque::new(),
            background: super::background::Background::default(),
            admitting: Admitting::new(secret),
            published: Arc::default(),
            unsettled: Unsettled::default(),
            admission: Admission::new(),
            destroying: BTreeMap::new(),
            placement: super::placement::Placement::default(),
            random: None,
        }
    }

    /// Time went on. What passed while nobody looked (the process was stopped, the machine slept) is not counted
    /// against clients: they may have spoken all the time.
    pub(crate) fn on_time(&mut self, now: Tick, wall: Timespec) {
        let gap = now.since(self.now);
        self.now = now;
        self.wall = self.wall.going_on(wall);
        if gap <= self.times.tick * 10 {
            return;
        }
        for session in self.sessions.values_mut() {
            session.last_answered = session.last_answered.after(gap);
            session.disconnected = session.disconnected.map(|since| since.after(gap));
        }
        for revoking in self.revokes.values_mut() {
            revoking.since = revoking.since.after(gap);
            revoking.progress = revoking.progress.after(gap);
        }
        if let Phase::Grace { until } = &mut self.phase {
            *until = until.after(gap);
        }
    }

    /// A request came, its payload fetched. Path: M2.
    pub(crate) fn on_request(
        &mut self,
        request: RequestId,
        frame: Frame,
        body: Vec<u8>,
        payload: Vec<u8>,
    ) {
        let incoming = Incoming { request, frame, body, payload, arrived: self.now };
        if let Err(errno) = self.let_in(&incoming) {
            self.answer(&incoming, Answer::error(errno));
            return;
        }
        self.dispatch(incoming);
        self.settle();
    }

    /// Carries a request out, or puts it where it waits.
    pub(crate) fn dispatch(&mut self, incoming: Incoming) {
        match self.phase {
            Phase::Failed => return self.answer(&incoming, Answer::error(Errno::EIO)),
            Phase::Recovering | Phase::Starting => return self.early.push(incoming),
            Phase::Grace { .. } if !served_in_grace(incoming.frame.opcode) => {
                return self.early.push(incoming);
            }
            Phase::Grace { .. } | Phase::Serving => {}
        }
        let checked = self.check_session(&incoming).and_then(|()| self.authorize(&incoming));
        if let Err(errno) = checked.and_then(|()| self.check_reply(&incoming)) {
            return self.answer(&incoming, Answer::error(errno));
        }
        self.note_listening(&incoming.frame);
        match incoming.frame.opcode {
            Opcode::Ping => self.ping(&incoming),
            Opcode::Reassert => self.reassert(&incoming),
            Opcode::OstList => self.ost_list(&incoming),
            Opcode::FilesystemList => self.filesystem_list(&incoming),
            Opcode::ClientList => self.client_list(&incoming),
            Opcode::Lookup => self.lookup(incoming),
            Opcode::GetAttributes => self.get_attributes(&incoming),
            Opcode::ReadDirectory => self.read_directory(&incoming),
            Opcode::ReadLink => self.read_link(&incoming),
            Opcode::GetXattr => self.get_xattr(&incoming),
            Opcode::ListXattr => self.list_xattr(&incoming),
            Opcode::FilesystemStatistics => self.filesystem_statistics(&incoming),
            Opcode::Open => self.open(incoming),
            Opcode::Close => self.close(&incoming),
            Opcode::LeaseRequest => self.lease_request(incoming),
            Opcode::LeaseCancel => self.lease_cancel(incoming),
            Opcode::UpdateSize => self.update_size(incoming),
            Opcode::TellAccesses => self.tell_accesses(incoming),
            Opcode::MakeRoom => self.make_room(incoming),
            Opcode::LockSet => self.lock_set(incoming),
            Opcode::LockTest => self.lock_test(&incoming),
            Opcode::LockCancel => self.lock_cancel(&incoming),
            Opcode::LockRelease => self.lock_release(&incoming),
            Opcode::Connect
            | Opcode::Disconnect
            | Opcode::SequenceGrant
            | Opcode::FilesystemCreate
            | Opcode::FilesystemDelete
            | Opcode::SetAttributes
            | Opcode::Create
            | Opcode::Link
            | Opcode::Unlink
            | Opcode::Rename
            | Opcode::SetXattr
            | Opcode::RemoveXattr
            | Opcode::InstantiateLayout => self.change(incoming),
            Opcode::Attach
            | Opcode::ObjectWrite
            | Opcode::ObjectRead
            | Opcode::ObjectPunch
            | Opcode::ObjectTruncate
            | Opcode::ObjectGlimpse
            | Opcode::ObjectSync
            | Opcode::ObjectDestroy
            | Opcode::ObjectSeek
            | Opcode::ObjectAllocate
            | Opcode::ObjectStatistics
            | Opcode::ObjectFence
            | Opcode::ObjectRepack
            | Opcode::LeaseRevoke
            | Opcode::Evicted => self.answer(&incoming, Answer::error(Errno::EOPNOTSUPP)),
        }
    }

    /// Answers a request.
    pub(crate) fn answer(&mut self, incoming: &Incoming, answer: Answer) {
        let Incoming { request, frame, arrived, .. } = incoming;
        self.held = self.held.saturating_sub(1);
        self.forget_payload(incoming.request.connection, incoming.payload.len());
        if let Some(connection) = self.connections.get_mut(&request.connection) {
            connection.held = connection.held.saturating_sub(1);
        }
        let mut reply = frame.reply(answer.status);
        reply.transaction = sheen_types::TransactionNumber(answer.transaction);
        reply.committed = self.state.last_transaction().0;
        reply.incarnation = u64::from(self.server_epoch.0);
        let Answer { body, payload, .. } = answer;
        let (request, arrived) = (*request, *arrived);
        let (body, payload) = if body.len() <= BODY_BYTES_MAX {
            (body, payload)
        } else {
            // Every reply is made to fit; one that is not must not end the service of all the others.
            tracing::error!(opcode = ?frame.opcode, bytes = body.len(), "a reply is too long");
            reply.status = -Errno::EOVERFLOW.0;
            (Vec::new(), Vec::new())
        };
        if !payload.is_empty() {
            self.replying.take(request.connection, payload.len());
        }
        self.note_answer(&request, &reply);
        let bytes_in = frame.payload_bytes;
        self.outputs.push_back(Output::Reply {
            request,
            frame: reply,
            body,
            payload,
            bytes_in,
            arrived,
        });
    }

    /// The client learns by an answer that it may go on to cache, unless that says that it is not known.
    fn note_answer(&mut self, request: &RequestId, reply: &Frame) {
        if reply.status != -Errno::ENOTCONN.0
            && let Some(session) = self.sessions.get_mut(&reply.client)
            && session.connection == Some(request.connection)
            && session.eviction == Eviction::None
        {
            session.last_answered = self.now;
        }
    }

    /// Answers with an error, or the value.
    pub(crate) fn answer_result(&mut self, incoming: &Incoming, result: Result<Answer, Errno>) {
        self.answer(incoming, result.unwrap_or_else(Answer::error));
    }

    /// The body of a request; a malformed one is answered with -EPROTO and gives None.
    pub(crate) fn body_of<T: sheen_wire::Field>(&mut self, incoming: &Incoming) -> Option<T> {
        match incoming.body() {
            Ok(body) => Some(body),
            Err(_) => {
                self.answer(incoming, Answer::error(Errno::EPROTO));
                None
            }
        }
    }

    /// Requests that waited for the phase begin.
    pub(crate) fn release_early(&mut self) {
        for incoming in std::mem::take(&mut self.early).into_requests() {
            self.dispatch(incoming);
        }
        self.settle();
    }

    /// The log failed: nothing is served any more.
    pub(crate) fn fail(&mut self) {
        self.phase = Phase::Failed;
        self.stats.serving.set(0);
        self.release_early();
        let mut held: Vec<Incoming> = Vec::new();
        held.extend(
            std::mem::take(&mut self.changes).into_values().filter_map(Change::into_request),
        );
        held.extend(std::mem::take(&mut self.behind).into_values().flatten());
        held.extend(std::mem::take(&mut self.lease_queue).into_requests());
        held.extend(std::mem::take(&mut self.lock_waits).into_values());
        held.extend(self.background.room.take_all());
        for incoming in held {
            self.answer(&incoming, Answer::error(Errno::EIO));
        }
        self.ready.clear();
        self.slots.clear();
        self.keys.clear();
        self.changes_of.clear();
        self.telling.clear();
        self.blocked.clear();
        self.unblocked.clear();
        self.waiting = ChangeWaits::default();
        self.woken = Woken::default();
    }
}
