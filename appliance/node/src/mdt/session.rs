//! Sessions: connecting, coming back after a restart. How they end otherwise: [`super::eviction`].
//!
//! A session is replicated; its connection, and when it was last answered, are not.

use std::collections::BTreeSet;

use sheen_meta::{
    Operation, SessionPrincipal, SessionReply,
    operation::{Nothing, OstRegister},
};
use sheen_ports::{ConnectionId, Principal};
use sheen_types::{ClientId, Epoch, Errno, OstIndex, Tick, Xid};
use sheen_wire::{
    Field, Frame, Kind, Opcode,
    fields::List,
    metadata::{
        ClientInfo, ClientList, Connect, ConnectReply, FilesystemInfo, OSTS_PER_REPLY, OstAddress,
        OstList, OstListReply, Ping, PingReply,
    },
};

use super::{
    core::{Mdt, Phase},
    eviction::Eviction,
    mutation::Task,
    promise::milliseconds,
    request::{Answer, Incoming, Output},
};
use crate::principal;

/// What is known of a session beside the replicated part.
#[derive(Debug)]
pub(crate) struct Session {
    /// Where callbacks go.
    pub connection: Option<ConnectionId>,
    /// The client takes callbacks there: it has asked for more than its handshake.
    pub listens: bool,
    /// Number of the Connect that bound it there.
    pub connected_by: Xid,
    pub epoch: Epoch,
    /// Whose it is.
    pub principal: SessionPrincipal,
    /// It was opened or taken up again since this start.
    pub connected: bool,
    /// When a request of it was last answered: the client may cache for the time of a lease from before that.
    pub last_answered: Tick,
    /// Since when there is no connection.
    pub disconnected: Option<Tick>,
    /// The client ended its last connection itself, so it knows.
    pub hung_up: bool,
    /// Known from before the restart, and not yet back with everything asserted.
    pub recovering: bool,
    pub eviction: Eviction,
    /// The client said that it caches nothing under this session.
    pub caches_void: bool,
    /// How much of what it was asked to give back it had cleaned when it last said so.
    pub cleaned: u64,
}

impl Session {
    pub(crate) fn new(epoch: Epoch, principal: SessionPrincipal, now: Tick) -> Self {
        Self {
            connection: None,
            listens: false,
            connected_by: Xid(0),
            epoch,
            principal,
            connected: false,
            last_answered: now,
            disconnected: None,
            hung_up: false,
            recovering: false,
            eviction: Eviction::None,
            caches_void: false,
            cleaned: 0,
        }
    }
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Connection {
    /// Who is at its other end.
    pub principal: SessionPrincipal,
    /// Whose it is, after Connect.
    pub client: Option<ClientId>,
    /// Requests of it without an answer.
    pub held: usize,
    /// Bytes of payload that are fetched for them, or held.
    pub held_bytes: usize,
}

impl Mdt {
    /// A peer connected. Returns false if it must be closed: there are too many.
    pub(crate) fn on_opened(&mut self, connection: ConnectionId, principal: Principal) -> bool {
        let principal = principal::of_connection(principal);
        let opened = Connection { principal, client: None, held: 0, held_bytes: 0 };
        self.connections.insert(connection, opened);
        self.add_stranger(connection);
        self.connections.len() <= self.limits.connections_max
    }

    /// A connection belongs to no session.
    fn add_stranger(&mut self, connection: ConnectionId) {
        if let Some(stranger) = self.strangers.add(connection, self.now) {
            self.outputs.push_back(Output::Close { connection: stranger });
        }
    }

    /// The session that used a connection has ended: its peer opens another one soon, or goes.
    pub(crate) fn estrange(&mut self, client: ClientId, connection: ConnectionId) {
        let Some(found) = self.connections.get_mut(&connection) else { return };
        if found.client == Some(client) {
            found.client = None;
            self.add_stranger(connection);
        }
    }

    /// A connection ended; `hung_up`: by the client, not by us or the network.
    pub(crate) fn on_closed(&mut self, connection: ConnectionId, hung_up: bool) {
        let Some(Connection { client, .. }) = self.connections.remove(&connection) else { return };
        self.strangers.forget(connection);
        if let Some(session) = client.and_then(|client| self.sessions.get_mut(&client))
            && session.connection == Some(connection)
        {
            session.connection = None;
            session.disconnected = Some(self.now);
            session.hung_up = hung_up;
        }
        self.forget_requests_of(connection, client);
        self.settle();
    }

    /// Closes connections whose peers opened no session in time.
    pub(crate) fn close_strangers(&mut self) {
        while let Some(connection) = self.strangers.pop_overdue(self.now) {
            self.outputs.push_back(Output::Close { connection });
        }
    }

    /// Requests of an ended connection that were not begun: nobody would hear their answer, and whoever still wants it
    /// sends them again.
    fn forget_requests_of(&mut self, connection: ConnectionId, client: Option<ClientId>) {
        let of = |incoming: &Incoming| incoming.request.connection == connection;
        let mut forgotten = self.early.take_of(connection);
        forgotten.extend(self.background.room.take_where(of));
        if let Some(client) = client {
            // What waits behind changes of others waits for the log alone and ends by itself.
            for id in self.parked_changes_of(client) {
                if let Some(waiting) = self.behind.get_mut(&id) {
                    forgotten.extend(waiting.extract_if(.., |waiting| of(waiting)));
                }
            }
            for (fid, incoming) in self.lease_queue.take_of(client, of) {
                self.woken.push_back(fid);
                forgotten.push(incoming);
            }
        }
        for incoming in forgotten {
            self.answer(&incoming, Answer::error(Errno::ENOTCONN));
        }
    }

    /// Whether the request came over the connection the session it names uses now, or is a Connect that may be carried out.
    /// What an earlier connection still delivers was sent again over the later one, and may be older than what that one
    /// delivered: carried out now, it would undo it.
    ///
    /// # Errors
    /// ENOTCONN; of [`Mdt::check_connect`].
    pub(crate) fn check_session(&mut self, incoming: &Incoming) -> Result<(), Errno> {
        if incoming.frame.opcode == Opcode::Connect {
            let connect = incoming.body().map_err(|_| Errno::EPROTO)?;
            return self.check_connect(incoming.request.connection, &connect);
        }
        self.check_connection(incoming.frame.client, incoming.request.connection)
    }

    /// Whether a client has a session and uses it over this connection now.
    ///
    /// # Errors
    /// ENOTCONN.
    pub(crate) fn check_connection(
        &self,
        client: ClientId,
        connection: ConnectionId,
    ) -> Result<(), Errno> {
        let current = self.sessions.get(&client).and_then(|session| session.connection);
        let known = current == Some(connection) && self.is_alive(client);
        if known { Ok(()) } else { Err(Errno::ENOTCONN) }
    }

    /// This replica leads: everything committed before is applied.
    pub(crate) fn on_leading(&mut self) {
        assert_eq!(self.phase, Phase::Recovering, "leading begins once");
        self.phase = Phase::Starting;
        self.last_transaction = self.state.last_transaction().0;
        self.promise_lease();
        self.submit_own(Operation::ServerStart(Nothing {}), Task::ServerStart);
    }

    /// The entry that starts the server epoch is applied.
    pub(crate) fn on_started(&mut self, epoch: Epoch) {
        self.server_epoch = epoch;
        self.last_transaction = self.last_transaction.max(u64::from(epoch.0) << 32);
        self.leases = sheen_meta::Leases::new(epoch, self.limits.leases_max);
        for info in self.state.sessions() {
            let session = Session {
                disconnected: Some(self.now),
                // An administrative session holds nothing.
                recovering: !info.root.is_none(),
                ..Session::new(info.epoch, info.principal, self.now)
            };
            self.sessions.insert(info.client, session);
        }
        let grace = self.times.grace.max(self.silence());
        self.phase = Phase::Grace { until: self.now.after(grace) };
        self.publish_identities();
        self.register_osts();
        // The OSTs may carry out requests of sessions that ended before: content there is given on when they are done with them.
        self.begin_admitting();
        self.release_early();
    }

    fn register_osts(&mut self) {
        let known: BTreeSet<_> = self.state.osts().into_iter().map(|(ost, _)| ost).collect();
        let osts: Vec<_> = self.osts.iter().map(|address| address.ost).collect();
        for ost in osts {
            if !known.contains(&ost) {
                let register = OstRegister { ost, accepts_objects: true };
                self.submit_own(Operation::OstRegister(register), Task::Forget);
            }
        }
    }

    /// Serves everything once no known session is waited for. What OSTs may still change for sessions that did not come back is kept
    /// from others by itself ([`super::unsettled`]).
    pub(crate) fn end_grace_if_all_back(&mut self) {
        let in_grace = matches!(self.phase, Phase::Grace { .. });
        if !in_grace || self.sessions.values().any(|session| session.recovering) {
            return;
        }
        let unsettled = self.unsettled.osts();
        if !unsettled.is_empty() {
            tracing::info!(osts = ?unsettled, "serving, but for content on OSTs that may still change it for sessions that are gone");
        }
        self.phase = Phase::Serving;
        self.stats.serving.set(1);
        self.begin_background();
        self.release_early();
    }

    /// Whether there is a place for a session of this uuid. One that ended keeps its place until every OST knows: so what the
    /// OSTs have to be told is bounded too.
    pub(crate) fn may_connect(&self, uuid: &[u8; 16]) -> bool {
        let taken = self.state.sessions_held() + self.background.fences;
        taken < self.state.limits().sessions_max as usize || self.state.session_of(uuid).is_some()
    }

    /// Whether a Connect may be carried out. A session that is being evicted is not taken up again: its client first drops
    /// what it cached, and says so by naming no session.
    ///
    /// # Errors
    /// ENOTCONN: the connection has ended. EACCES: the session is another principal's. ESTALE: the session it names is being evicted.
    /// EAGAIN: it said that nothing is cached, the old session is about to end.
    pub(crate) fn check_connect(
        &mut self,
        connection: ConnectionId,
        connect: &Connect,
    ) -> Result<(), Errno> {
        let comes = self.connections.get(&connection).ok_or(Errno::ENOTCONN)?.principal;
        let Some(client) = self.state.session_of(&connect.uuid) else { return Ok(()) };
        let Some(session) = self.sessions.get_mut(&client) else { return Ok(()) };
        // Asked again when it is applied: two may ask while there is none yet.
        if session.principal != comes {
            return Err(Errno::EACCES);
        }
        if session.eviction == Eviction::None {
            return Ok(());
        }
        if connect.client == client {
            return Err(Errno::ESTALE);
        }
        session.caches_void = true;
        self.end_if_harmless(client);
        Err(Errno::EAGAIN)
    }

    /// Connect was applied.
    pub(crate) fn connected(&mut self, incoming: &Incoming, reply: SessionReply) -> Answer {
        let SessionReply { client, epoch, root, slots, resumed } = reply;
        let connection = incoming.request.connection;
        let now = self.now;
        let Some(access) = self.state.session_access(client) else {
            return Answer::error(Errno::ESTALE);
        };
        let session = self.sessions.entry(client);
        let session = session.or_insert_with(|| Session::new(epoch, access.principal, now));
        if session.eviction != Eviction::None {
            return Answer::error(Errno::ESTALE);
        }
        if session.connection.is_some() && incoming.frame.xid < session.connected_by {
            // The client gave up waiting for this one and is served over a later connection.
            return Answer::error(Errno::ENOTCONN);
        }
        let found = self.connections.get_mut(&connection);
        let open = found.is_some();
        if let Some(found) = found {
            found.client = Some(client);
            self.strangers.forget(connection);
        }
        session.connected = true;
        session.connected_by = incoming.frame.xid;
        session.listens = false;
        session.epoch = epoch;
        session.last_answered = now;
        let before = std::mem::replace(&mut session.connection, open.then_some(connection));
        session.disconnected = (!open).then_some(now);
        session.hung_up = false;
        if let Some(before) = before.filter(|&before| before != connection) {
            self.replace_connection(before, client);
        }
        let attach_key = self.admit_session(client, epoch, access.principal);
        let (osts, more_osts) = self.osts_from(OstIndex(0));
        let connect = ConnectReply {
            client,
            epoch,
            server_epoch: self.server_epoch,
            resumed,
            root,
            slots,
            lease_milliseconds: milliseconds(self.times.lease),
            reconnect_milliseconds: milliseconds(self.times.reconnect),
            node: self.node,
            filesystem: self.state.filesystem(root).map(|info| info.id).unwrap_or_default(),
            osts: List(osts.to_vec()),
            more_osts,
            attach_key,
        };
        Answer::body(&connect)
    }

    /// A request of a session is about to be carried out. The first one behind a handshake tells that the client takes callbacks
    /// over this connection: what it was asked while it did not is sent now. During the handshake it waits for the next answer and
    /// for nothing else, and answers would stand behind the callbacks it has no room for.
    pub(crate) fn note_listening(&mut self, frame: &Frame) {
        if matches!(frame.opcode, Opcode::Connect | Opcode::OstList | Opcode::Reassert) {
            return;
        }
        let Some(session) = self.sessions.get_mut(&frame.client) else { return };
        if !std::mem::replace(&mut session.listens, true) {
            self.send_revokes_again(frame.client);
        }
    }

    /// A session got another connection than `before`: that one serves nobody any more, and what came over it and was
    /// not begun is not carried out.
    fn replace_connection(&mut self, before: ConnectionId, client: ClientId) {
        if let Some(found) = self.connections.get_mut(&before) {
            found.client = None;
        }
        self.forget_requests_of(before, Some(client));
        self.outputs.push_back(Output::Close { connection: before });
    }

    /// OSTs from this index on, as many as fit a reply, and whether more follow.
    fn osts_from(&self, from: OstIndex) -> (&[OstAddress], bool) {
        let (_, behind) = self.osts.split_at(self.osts.partition_point(|at| at.ost < from));
        let page = &behind[..behind.len().min(OSTS_PER_REPLY)];
        (page, page.len() < behind.len())
    }

    pub(crate) fn ost_list(&mut self, incoming: &Incoming) {
        let Some(OstList { from }) = self.body_of(incoming) else { return };
        let (osts, more) = self.osts_from(from);
        let reply = OstListReply { osts: List(osts.to_vec()), more };
        self.answer(incoming, Answer::body(&reply));
    }

    /// A client says that it lives, and how far it is with what it was asked to give back.
    pub(crate) fn ping(&mut self, incoming: &Incoming) {
        let client = incoming.frame.client;
        if let Ok(Ping { cleaned }) = incoming.body()
            && let Some(session) = self.sessions.get_mut(&client)
            && cleaned > session.cleaned
        {
            session.cleaned = cleaned;
            self.note_progress(client);
        }
        self.answer(incoming, Answer::body(&PingReply { now: self.wall }));
    }

    /// Whether any client has a file system mounted, here or lost and not yet given up.
    pub(crate) fn is_mounted(&self) -> bool {
        self.state.sessions().iter().any(|session| !session.root.is_none())
    }

    /// Answers who has a file system mounted.
    pub(crate) fn client_list(&mut self, incoming: &Incoming) {
        let Some(ClientList { filesystem }) = self.body_of(incoming) else { return };
        let Some(root) = self.state.filesystem_root(&filesystem) else {
            return self.answer(incoming, Answer::error(Errno::ENOENT));
        };
        let sessions = self.state.sessions().into_iter().filter(|session| session.root == root);
        let list: List<ClientInfo> = List(
            sessions
                .map(|session| ClientInfo { client: session.client, label: session.label })
                .collect(),
        );
        self.answer_list(incoming, &list.to_vec());
    }

    pub(crate) fn filesystem_list(&mut self, incoming: &Incoming) {
        let list: List<FilesystemInfo> = List(self.state.filesystems());
        self.answer_list(incoming, &list.to_vec());
    }

    /// Answers with a list as payload; ERANGE if the client has no room for it.
    fn answer_list(&mut self, incoming: &Incoming, list: &[u8]) {
        let answer = Answer::empty().with_payload(list, incoming.frame.reply_room());
        let too_long = answer.payload.is_empty();
        self.answer(incoming, if too_long { Answer::error(Errno::ERANGE) } else { answer });
    }
}

/// The bytes of a callback.
pub(crate) fn callback(
    client: ClientId,
    epoch: Epoch,
    opcode: Opcode,
    number: u64,
    body: &[u8],
) -> Vec<u8> {
    let mut frame = Frame::request(opcode, Xid(number));
    frame.kind = Kind::Callback;
    frame.client = client;
    frame.epoch = epoch;
    let mut message = Vec::new();
    frame.encode_with(body, &mut message);
    message
}
