//! The client: its parts, its threads, its start and its end.

use std::{
    fmt,
    ops::Range,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicU64},
    },
    thread::JoinHandle,
    time::Duration,
};

use sheen_ports::{Call, Cancel, Clock};
use sheen_types::{Errno, Fid};
use sheen_wire::{Frame, Opcode};

use crate::{
    accesses::{Accesses, ServerClock},
    config::ClientConfig,
    connector::Connector,
    finisher::Finisher,
    gate::Gate,
    identifiers::Identifiers,
    inode::Inode,
    janitor::{JANITORS, Janitor},
    late_releases::LateReleases,
    lease_crew::{LeaseCrew, THREADS_MIN},
    lock_order::LockOrder,
    locks::LockWaits,
    losses::Losses,
    nameless::Nameless,
    pool::Pool,
    prompt::SlowTargets,
    request::{NEEDED_MAX, ORDINARY_MAX},
    revoke::RevokeQueue,
    session::Session,
    slots::Slots,
    space::Space,
    statistics::{Counters, Snapshot},
    table::InodeTable,
    targets::Targets,
    unstable::Unstable,
    volume::VolumeStatistics,
};

/// How long a client may take to say good-bye, what it has left to tell included.
const FAREWELL: Duration = Duration::from_secs(1);
/// How long before that it may take to make durable what it would have to send again after a loss of power.
const FLUSH: Duration = Duration::from_secs(10);
/// How long the end waits for threads. One may be making a connection to a node that does not answer; it ends by itself.
const THREADS_MAX: Duration = Duration::from_millis(500);

/// Who must drop what it cached (the mount, for the kernel). Called from threads of the client that hold no lock.
pub trait CacheSink: Send + Sync {
    /// Content (of a directory: its listing) in `range` and attributes are not true any more. Returns when they are gone;
    /// dirty pages are written back meanwhile.
    fn invalidate_data(&self, fid: Fid, range: Range<u64>);

    /// Attributes, ACLs included, are not true any more.
    fn invalidate_attributes(&self, fid: Fid);

    /// Names and absences of names are to be looked up anew, all of them.
    fn invalidate_entries(&self);

    /// Whether the end of a file is to be told before pages of it are handed out: `losses` is what the inode had lost when it
    /// was asked for, None while more is being asked back.
    fn lacks_size(&self, _fid: Fid, _losses: Option<u64>) -> bool {
        false
    }

    /// The file does not end before this, as long as the caller works under the lease; if `losses` are given it ends here.
    ///
    /// # Errors
    /// EIO: it could not be told.
    fn tell_size(&self, _fid: Fid, _size: u64, _losses: Option<u64>) -> Result<(), Errno> {
        Ok(())
    }

    /// Whether it was given the inode and has not forgotten it.
    fn uses(&self, _: Fid) -> bool {
        false
    }

    /// Is to forget those of these inodes that it only caches. Returns whether it can.
    fn drop_unused(&self, _: &[Fid]) -> bool {
        false
    }

    /// Is to forget the name of a directory that was removed, and what it knows below it, so that it forgets the directory too
    /// unless a program uses it. Does not wait for that. Returns whether it will try.
    fn drop_removed_directory(&self, _: Fid) -> bool {
        false
    }
}

struct NothingCached;

impl CacheSink for NothingCached {
    fn invalidate_data(&self, _: Fid, _: Range<u64>) {}
    fn invalidate_attributes(&self, _: Fid) {}
    fn invalidate_entries(&self) {}
}

/// Why a client could not be started.
#[derive(Debug)]
pub enum ConnectError {
    /// The node does not answer.
    Unreachable(std::io::Error),
    /// The connection was lost before the session began.
    Lost,
    /// The MDT refuses: ENOENT, there is no such file system.
    Refused(Errno),
    /// A thread could not be started.
    Thread(std::io::Error),
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // Who answers no has answered.
            Self::Unreachable(error) if is_answer(error) => write!(f, "{error}"),
            Self::Unreachable(error) => write!(f, "the node does not answer: {error}"),
            Self::Lost => f.write_str("the connection was lost before the session began"),
            Self::Refused(Errno::ENOENT) => f.write_str("there is no such file system"),
            Self::Refused(Errno::EACCES) => f.write_str("the node does not serve this user"),
            Self::Refused(errno) => write!(f, "the node refuses the session: {errno}"),
            Self::Thread(error) => write!(f, "starting a thread: {error}"),
        }
    }
}

impl std::error::Error for ConnectError {}

/// Whether somebody answered, who refuses or is not believed.
fn is_answer(error: &std::io::Error) -> bool {
    use sheen_rdma::ConnectError as Link;
    let link = error.get_ref().and_then(|inner| inner.downcast_ref());
    matches!(link, Some(Link::Refused(_) | Link::Handshake(_) | Link::InClear))
}

/// A client of one file system. Shared by all threads as an `Arc`; ends with [`Client::disconnect`].
pub struct Client {
    pub(crate) config: ClientConfig,
    pub(crate) connector: Arc<dyn Connector>,
    pub(crate) clock: Arc<dyn Clock + Send + Sync>,
    pub(crate) session: Session,
    pub(crate) slots: Arc<Slots>,
    pub(crate) gate: Arc<Gate>,
    /// Behind it, for what others wait for.
    pub(crate) reserve: Arc<Gate>,
    pub(crate) targets: Targets,
    pub(crate) space: Space,
    pub(crate) unstable: Arc<Unstable>,
    pub(crate) losses: Losses,
    /// Lost changes `sync` told of.
    pub(crate) losses_told: AtomicU64,
    pub(crate) inodes: InodeTable,
    pub(crate) identifiers: Identifiers,
    pub(crate) pool: Pool,
    pub(crate) revokes: RevokeQueue,
    pub(crate) lease_crew: LeaseCrew,
    pub(crate) nameless: Nameless,
    pub(crate) janitor: Janitor,
    pub(crate) finisher: Finisher,
    pub(crate) slow_targets: SlowTargets,
    pub(crate) lock_waits: LockWaits,
    pub(crate) late_releases: LateReleases,
    pub(crate) lock_order: LockOrder,
    pub(crate) counters: Counters,
    pub(crate) names_total: crate::known_names::NamesTotal,
    pub(crate) server_clock: ServerClock,
    pub(crate) accesses: Accesses,
    pub(crate) last_volume: Mutex<VolumeStatistics>,
    /// See [`crate::lease`].
    pub(crate) stamps: AtomicU64,
    /// Steps of cleaning what is being revoked.
    pub(crate) cleaned: AtomicU64,
    /// The MDT restarted and does not know all that is held yet.
    pub(crate) reassert_due: AtomicBool,
    sink: OnceLock<Arc<dyn CacheSink>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Client {
    /// Opens a session and starts the client's threads.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub fn connect(
        config: ClientConfig,
        connector: Arc<dyn Connector>,
        clock: Arc<dyn Clock + Send + Sync>,
    ) -> Result<Arc<Self>, ConnectError> {
        let session = Session::new(&config, clock.clone());
        let link = connector.connect(&config.address, 0).map_err(ConnectError::Unreachable)?;
        let sent = clock.now();
        let reply = session.shake_hands(&*link, &Cancel::new()).map_err(|errno| match errno {
            Some(errno) => ConnectError::Refused(errno),
            None => ConnectError::Lost,
        })?;
        session.check_home(&reply).map_err(ConnectError::Refused)?;
        session.learn(&reply);
        let (revokes, quick) = RevokeQueue::new();
        let client = Arc::new(Self {
            slots: Slots::new(reply.slots.min(config.slots)),
            pool: Pool::new(config.transfer_threads),
            cleaned: AtomicU64::new(0),
            losses_told: AtomicU64::new(0),
            losses: Losses::default(),
            unstable: Unstable::new(config.unstable_bytes_max, config.unstable_changes_max),
            config,
            connector,
            clock,
            session,
            gate: Gate::new(ORDINARY_MAX),
            reserve: Gate::new(NEEDED_MAX),
            finisher: Finisher::default(),
            slow_targets: SlowTargets::default(),
            targets: Targets::default(),
            space: Space::default(),
            inodes: InodeTable::default(),
            identifiers: Identifiers::default(),
            revokes,
            lease_crew: LeaseCrew::default(),
            nameless: Nameless::default(),
            janitor: Janitor::default(),
            lock_waits: LockWaits::default(),
            late_releases: LateReleases::default(),
            lock_order: LockOrder::default(),
            counters: Counters::default(),
            names_total: crate::known_names::NamesTotal::default(),
            server_clock: ServerClock::default(),
            accesses: Accesses::default(),
            last_volume: Mutex::default(),
            stamps: AtomicU64::new(1),
            reassert_due: AtomicBool::new(false),
            sink: OnceLock::new(),
            threads: Mutex::new(Vec::new()),
        });
        client.session.publish(link, sent);
        client.start("keeper", Self::keep)?;
        client.start("ping", Self::ping)?;
        client.start("lease-clock", Self::watch_lease)?;
        client.start("callbacks", Self::receive)?;
        for _ in 0..JANITORS {
            client.start("janitor", |client| client.janitor.work(&client))?;
        }
        client.start("nameless", Self::keep_nameless)?;
        client.start("finisher", |client| client.finisher.work(&client))?;
        client.start("flush", Self::flush_unstable)?;
        client.start("losses", Self::drop_lost)?;
        client.start("revoke", move |client| client.answer_revokes(&quick))?;
        for _ in 0..THREADS_MIN {
            client.start("lease", Self::give_leases_back)?;
        }
        Ok(client)
    }

    fn start(
        self: &Arc<Self>,
        name: &str,
        run: impl FnOnce(Arc<Self>) + Send + 'static,
    ) -> Result<(), ConnectError> {
        let client = self.clone();
        let spawned = std::thread::Builder::new()
            .name(format!("sheen-{name}"))
            .spawn(move || run(client))
            .map_err(ConnectError::Thread);
        match spawned {
            Ok(thread) => {
                self.threads.lock().expect("no panic while locked").push(thread);
                Ok(())
            }
            Err(error) => {
                self.end_threads();
                Err(error)
            }
        }
    }

    /// Says who caches; once, before anything is cached.
    pub fn set_sink(&self, sink: Arc<dyn CacheSink>) {
        // A second one would be a bug of the caller; the first stays.
        drop(self.sink.set(sink));
    }

    pub(crate) fn sink(&self) -> &dyn CacheSink {
        static NOTHING: NothingCached = NothingCached;
        self.sink.get().map_or(&NOTHING, |sink| &**sink)
    }

    /// The root directory of the file system.
    #[must_use]
    pub fn root(&self) -> Fid {
        self.session.lock().root
    }

    /// What the client knows of an inode.
    #[must_use]
    pub fn inode(&self, fid: Fid) -> Arc<Inode> {
        self.inodes.get(fid, || self.session.identity().server)
    }

    /// Counters.
    #[must_use]
    pub fn statistics(&self) -> Snapshot {
        self.counters.snapshot()
    }

    /// Says good-bye to the MDT if it answers within a moment, and ends all threads. Calls in progress end with ENOTCONN.
    pub fn disconnect(self: &Arc<Self>) {
        self.flush_kept(FLUSH);
        let (said, late) = (Cancel::new(), Cancel::new());
        let (patience, give_up) = (said.clone(), late.clone());
        // A server that is away will find out by itself.
        let timer =
            std::thread::Builder::new().name("sheen-farewell".to_owned()).spawn(move || {
                if !patience.sleep(FAREWELL) {
                    give_up.cancel();
                }
            });
        // Without a thread to watch over it nothing is said.
        if let Ok(timer) = timer {
            // A connection that is lost would be waited for.
            if self.session.lock().lane.is_some() {
                self.tell_accesses(&late);
            }
            self.say_farewell(&late);
            said.cancel();
            drop(timer.join());
        }
        self.end_threads();
    }

    fn say_farewell(&self, late: &Cancel) {
        let lane = self.session.lock().lane.clone();
        let Some(lane) = lane else { return };
        let mut frame = Frame::request(Opcode::Disconnect, self.session.next_xid());
        lane.identity.sign(&mut frame);
        let call = Call { frame, body: Vec::new(), payload: None, room: None };
        drop(lane.link.call(call, late));
    }

    fn end_threads(&self) {
        self.session.end();
        self.unstable.close();
        self.losses.close();
        self.targets.close();
        self.revokes.close();
        self.lease_crew.close();
        self.nameless.close();
        self.janitor.close();
        self.finisher.close();
        self.pool.close();
        let threads = std::mem::take(&mut *self.threads.lock().expect("no panic while locked"));
        let this = std::thread::current().id();
        let start = self.clock.now();
        for thread in threads.into_iter().filter(|thread| thread.thread().id() != this) {
            while !thread.is_finished() && self.clock.now().since(start) < THREADS_MAX {
                std::thread::sleep(Duration::from_millis(1));
            }
            if thread.is_finished() {
                drop(thread.join());
            }
        }
    }

    /// Nobody but the client uses the inode any more (the kernel forgot it). Its leases are kept for a while.
    pub fn forget(&self, fid: Fid) {
        if let Some(inode) = self.inodes.find(fid) {
            self.let_go(&inode);
        }
        let gone = self.inodes.idle(fid, self.config.idle_inodes_max);
        for inode in gone {
            self.give_back_unasked(&inode);
        }
    }

    /// Drops inodes nobody uses beyond the bound.
    pub(crate) fn trim(&self) {
        for inode in self.inodes.trim(self.config.idle_inodes_max.saturating_mul(2)) {
            self.give_back_unasked(&inode);
        }
    }

    fn give_back_unasked(&self, inode: &Arc<Inode>) {
        let (read_bits, write_bits) = inode.lock().held_bits();
        if read_bits | write_bits == 0 {
            return;
        }
        let inode = inode.clone();
        self.janitor.owe(move |client| {
            client.make_durable(&inode);
            let mut state = inode.lock();
            let cancel = sheen_wire::lease::LeaseCancel {
                fid: inode.fid,
                bits: read_bits | write_bits,
                to_read: false,
                sequence: state.sequence,
                learned: state.learned(inode.fid),
            };
            let server = state.server;
            drop(state);
            client.send_cancel(&cancel, Some(server));
        });
    }

    /// Requests whose callers were killed and that have not ended.
    #[must_use]
    pub fn requests_left(&self) -> usize {
        self.finisher.left()
    }

    /// Whether the session is over.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.session.is_ended()
    }
}
