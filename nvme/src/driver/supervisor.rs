//! The supervisor: a thread per controller that does all that data threads must not wait for.
//!
//! It sleeps on an eventfd (messages), the removal descriptor and the admin interrupt, and wakes four times a second to let time
//! pass for the queue pairs and to look at CSTS. Owns the way to the controller, the admin queue, and a hold on every
//! queue pair's rings. Ends when the handle and every queue pair are gone; then it shuts the controller down.
//!
//! Escalation: a command is late → abort; later still → reset (`reset`); a completion that breaks the rules, CSTS.CFS, a
//! fault of the admin queue → reset; a reset that fails → the controller is given up, and every command ends.

use std::{
    collections::VecDeque,
    os::fd::AsFd,
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, Sender, TryRecvError},
    },
    time::{Duration, Instant},
};

use nix::sys::eventfd::EventFd;
use sheen_dma::{Arena, Buffer, Hold, Iova};

use super::{
    admin::{ADMIN_WAIT, AdminError, AdminResult, Reply},
    attach::{AttachError, QueueError},
    bringup,
    device::{Device, QueuePlan},
    namespace::{Namespace, NamespaceError},
    notice::{ControllerState, Notice, Watch},
    options::Options,
    queue::QueuePair,
    rings::RingSizes,
    shared::{Broken, MappedArenas, Order, Postbox, QueueShared},
};
use crate::{
    spec::{
        AdminOpcode, Sqe,
        command::{ABORT_NOT_DONE, AbortDword10},
        feature::AsyncEvent,
    },
    transport::TransportError,
};

/// What the supervisor is told.
#[derive(Debug)]
pub(crate) enum Event {
    /// A queue pair's thread leaves its rings alone, as ordered.
    Parked { queue: u16 },
    /// A queue pair's thread leaves its rings alone, because the controller broke the rules.
    Broken(Broken),
    /// A command takes longer than it may, for the `reports`th time.
    Late { queue: u16, cid: u16, reports: u8 },
    /// A queue pair is gone; these were in its commands.
    Closed { queue: u16, parked: Vec<Buffer> },
    /// A queue pair's thread wants interrupts, or no more.
    Arm { queue: u16, on: bool },
    /// A queue pair is wanted.
    Open { nsid: u32, depth: u32, postbox: Postbox, reply: Sender<Result<QueuePair, QueueError>> },
    /// An admin command of a caller's. `idle`: only while no queue pair is open on this namespace (all ones: on any).
    Admin {
        sqe: Sqe,
        buffer: Option<Buffer>,
        wait: Duration,
        idle: Option<u32>,
        reply: Sender<AdminResult>,
    },
    /// A namespace is asked for.
    Namespace { nsid: u32, reply: Sender<Result<Result<Namespace, NamespaceError>, AdminError>> },
    /// The active namespaces are asked for.
    Namespaces { reply: Sender<Result<Vec<u32>, AdminError>> },
    /// An arena is to be reached by the controller.
    Map { arena: Arena, reply: Sender<Result<(), TransportError>> },
    /// A reset is wanted.
    Reset { reply: Sender<Result<(), AttachError>> },
}

/// How a queue pair stands, as the supervisor knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    /// The controller has its queues.
    Running,
    /// It was ordered to leave its rings alone and has not said so yet.
    Parking,
    /// It leaves its rings alone.
    Parked,
    /// It broke off; its queues are not made again.
    Broken,
    /// It got its last order.
    Ended,
}

/// A queue pair, as the supervisor knows it.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) shared: Arc<QueueShared>,
    pub(crate) life: Life,
    pub(crate) sizes: RingSizes,
    pub(crate) addresses: [Iova; 2],
    pub(crate) namespace: Namespace,
    /// The controller may use this memory until its queues are deleted.
    #[expect(dead_code, reason = "held, not looked at")]
    pub(crate) holds: Vec<Hold>,
}

impl Record {
    pub(crate) fn plan(&self) -> QueuePlan {
        let (id, vector) = (self.shared.id, self.shared.vector);
        QueuePlan { id, sizes: self.sizes, addresses: self.addresses, vector }
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Supervisor {
    pub(crate) device: Device,
    pub(crate) options: Options,
    pub(crate) records: Vec<Record>,
    pub(crate) watch: Arc<Watch>,
    pub(crate) receiver: Receiver<Event>,
    /// Messages that came while a reset waited for others.
    pub(crate) set_aside: VecDeque<Event>,
    pub(crate) event: Arc<EventFd>,
    pub(crate) mapped: MappedArenas,
    pub(crate) arenas: Vec<Arena>,
    pub(crate) tick: u32,
    /// Buffers of closed queue pairs whose queues could not be deleted yet.
    pub(crate) parked: Vec<Buffer>,
    aborts: u32,
    events: u32,
    pub(crate) admin_event: Option<EventFd>,
}

impl Supervisor {
    pub(crate) fn new(
        device: Device,
        options: Options,
        watch: Arc<Watch>,
        receiver: Receiver<Event>,
        event: Arc<EventFd>,
        mapped: MappedArenas,
    ) -> Self {
        let arenas = vec![device.arena.clone()];
        let mut supervisor = Self {
            device,
            options,
            records: Vec::new(),
            watch,
            receiver,
            set_aside: VecDeque::new(),
            event,
            mapped,
            arenas,
            tick: 0,
            parked: Vec::new(),
            aborts: 0,
            events: 0,
            admin_event: None,
        };
        supervisor.arm_admin();
        supervisor.request_events();
        supervisor
    }

    /// Lives until nobody needs the controller any more.
    pub(crate) fn run(mut self) {
        let mut next_tick = Instant::now() + self.options.tick;
        while self.take_messages() {
            self.look_at_admin();
            let now = Instant::now();
            if now >= next_tick {
                next_tick = now + self.options.tick;
                self.on_tick();
            }
            self.sleep(next_tick.saturating_duration_since(Instant::now()));
        }
        self.finish();
    }

    /// Whether anybody may still send something.
    fn take_messages(&mut self) -> bool {
        // Bounded by what was sent; each sender waits for answers or sends once per command.
        loop {
            let event = match self.set_aside.pop_front() {
                Some(event) => event,
                None => match self.receiver.try_recv() {
                    Ok(event) => event,
                    Err(TryRecvError::Empty) => return true,
                    Err(TryRecvError::Disconnected) => return false,
                },
            };
            self.on_event(event);
        }
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Parked { queue } => self.on_parked(queue),
            Event::Broken(broken) => self.on_broken(broken),
            Event::Late { queue, cid, reports } => self.on_late(queue, cid, reports),
            Event::Closed { queue, parked } => self.on_closed(queue, parked),
            Event::Arm { queue, on } => self.on_arm(queue, on),
            Event::Open { nsid, depth, postbox, reply } => {
                let result = self.open(nsid, depth, postbox);
                if let Err(back) = reply.send(result) {
                    // Nobody waits for it: dropping it closes it.
                    drop(back);
                }
            }
            Event::Admin { sqe, buffer, wait, idle, reply } => {
                self.on_admin(sqe, buffer, wait, idle, reply);
            }
            Event::Namespace { nsid, reply } => {
                let result = self.check_alive().and_then(|()| self.device.namespace(nsid));
                let _ = reply.send(result);
            }
            Event::Namespaces { reply } => {
                let result = self.check_alive().and_then(|()| self.device.namespaces());
                let _ = reply.send(result);
            }
            Event::Map { arena, reply } => {
                let _ = reply.send(self.map(&arena));
            }
            Event::Reset { reply } => {
                let result = match self.watch.state() {
                    ControllerState::Live => self.reset_in_order("a caller asked for it"),
                    ControllerState::GivenUp | ControllerState::Gone => Err(AttachError::Gone),
                };
                let _ = reply.send(result);
            }
        }
    }

    pub(crate) fn check_alive(&self) -> Result<(), AdminError> {
        match self.watch.state() {
            ControllerState::Live => Ok(()),
            ControllerState::GivenUp | ControllerState::Gone => Err(AdminError::Gone),
        }
    }

    pub(crate) fn record(&mut self, queue: u16) -> Option<&mut Record> {
        self.records.iter_mut().find(|record| record.shared.id == queue)
    }

    /// A queue pair that was late to park joins the controller after the reset.
    fn on_parked(&mut self, queue: u16) {
        let Some(record) = self.record(queue) else { return };
        if record.life != Life::Parking {
            return;
        }
        record.life = Life::Parked;
        if self.watch.state() == ControllerState::Live {
            self.revive(queue);
        }
    }

    fn on_broken(&mut self, Broken { queue, fault }: Broken) {
        let Some(record) = self.record(queue) else { return };
        if record.life == Life::Ended {
            return;
        }
        record.life = Life::Broken;
        self.watch.notify(Notice::QueueStopped { queue, fault });
        if self.watch.state() == ControllerState::Live {
            let _ = self.reset("a queue broke the rules");
        }
    }

    fn on_late(&mut self, queue: u16, cid: u16, reports: u8) {
        let is_running = self.record(queue).is_some_and(|record| record.life == Life::Running);
        if !is_running || self.watch.state() != ControllerState::Live {
            return;
        }
        if reports > 1 {
            let _ = self.reset("a command outlived its abort");
            return;
        }
        if self.aborts >= self.device.limits.aborts_max {
            return;
        }
        let dword10 = AbortDword10::default().with_sqid(queue).with_cid(cid);
        let sqe = Sqe::admin(AdminOpcode::ABORT, 0).with_dword(10, dword10.0);
        let reply = Reply::Abort { queue, cid };
        if self.device.admin.submit(sqe, None, Some(ADMIN_WAIT), reply).is_ok() {
            self.aborts += 1;
            self.watch.count_abort();
            tracing::warn!(queue, cid, "nvme: a command is late; it is aborted");
        }
    }

    fn on_arm(&mut self, queue: u16, on: bool) {
        let Some(record) = self.records.iter().find(|record| record.shared.id == queue) else {
            return;
        };
        let Some(vector) = record.shared.vector else { return };
        let event = on.then(|| record.shared.descriptor());
        let is_done = self.device.transport.arm(vector, event).is_ok();
        record.shared.set_armed(on && is_done);
    }

    fn on_admin(
        &mut self,
        sqe: Sqe,
        buffer: Option<Buffer>,
        wait: Duration,
        idle: Option<u32>,
        reply: Sender<AdminResult>,
    ) {
        let is_in_use = |nsid: u32| {
            let open = |record: &Record| nsid == u32::MAX || record.namespace.nsid == nsid;
            self.records.iter().any(open)
        };
        let refusal = match (self.check_alive(), idle) {
            (Err(error), _) => Some(error),
            (Ok(()), Some(nsid)) if is_in_use(nsid) => Some(AdminError::InUse { nsid }),
            (Ok(()), _) => None,
        };
        if let Some(error) = refusal {
            let _ = reply.send(Err(error));
            return;
        }
        let reply = Reply::To(reply);
        if let Err((error, Reply::To(reply))) =
            self.device.admin.submit(sqe, buffer, Some(wait), reply)
        {
            let _ = reply.send(Err(error));
        }
    }

    fn arm_admin(&mut self) {
        use nix::sys::eventfd::EfdFlags;
        if self.device.transport.vectors() == 0 {
            return;
        }
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        let Ok(event) = EventFd::from_flags(flags) else { return };
        // Without it the admin queue is looked at by ticks.
        if self.device.transport.arm(0, Some(event.as_fd())).is_ok() {
            self.admin_event = Some(event);
        }
    }

    /// Keeps as many event requests with the controller as make sense.
    pub(crate) fn request_events(&mut self) {
        const EVENTS_WANTED: u32 = 4;
        let wanted = self.device.limits.events_max.min(EVENTS_WANTED);
        while self.events < wanted {
            let sqe = Sqe::admin(AdminOpcode::ASYNC_EVENT_REQUEST, 0);
            if self.device.admin.submit(sqe, None, None, Reply::Event).is_err() {
                return;
            }
            self.events += 1;
        }
    }

    /// Completions of the admin queue, each to whom it is for.
    pub(crate) fn look_at_admin(&mut self) {
        if self.watch.state() != ControllerState::Live && !self.device.admin.is_waiting() {
            return;
        }
        if self.watch.state() == ControllerState::Live {
            self.device.admin.poll();
        }
        while let Some(done) = self.device.admin.take_done() {
            match done.reply {
                Reply::To(reply) => {
                    let _ = reply.send(done.result);
                }
                Reply::Abort { queue, cid } => {
                    self.aborts = self.aborts.saturating_sub(1);
                    let is_aborted =
                        done.result.is_ok_and(|reply| reply.dword0 & ABORT_NOT_DONE == 0);
                    tracing::debug!(queue, cid, is_aborted, "nvme: an abort ended");
                }
                Reply::Event => {
                    self.events = self.events.saturating_sub(1);
                    if let Ok(reply) = done.result {
                        self.on_controller_event(AsyncEvent(reply.dword0));
                        self.request_events();
                    }
                }
                Reply::Waiting(_) | Reply::Nobody => {}
            }
        }
        if let Some(fault) = self.device.admin.fault()
            && self.watch.state() == ControllerState::Live
        {
            self.watch.notify(Notice::QueueStopped { queue: 0, fault });
            let _ = self.reset("the admin queue broke the rules");
        }
    }

    fn on_tick(&mut self) {
        self.tick = self.tick.wrapping_add(1);
        for record in &self.records {
            record.shared.tick(self.tick);
        }
        if self.watch.state() != ControllerState::Live {
            return;
        }
        match bringup::status(&mut *self.device.transport) {
            Ok(status) if status.cfs() => {
                self.watch.notify(Notice::Fatal);
                let _ = self.reset("the controller reports a fatal error");
            }
            Ok(status) if !status.rdy() => {
                // Somebody reset it behind our back; it forgot its queues.
                let _ = self.reset("the controller is not ready");
            }
            Ok(_) => {}
            Err(AttachError::Gone) => self.on_gone(),
            Err(error) => tracing::warn!("nvme: reading the controller's status: {error}"),
        }
    }

    /// Nobody needs the controller any more.
    fn finish(mut self) {
        if self.watch.state() == ControllerState::Live {
            let entry = self.device.identify.rtd3e;
            let device = &mut self.device;
            let result = bringup::shut_down(&mut *device.transport, &device.capabilities, entry);
            if result.is_err() && device.disable().is_err() {
                self.give_up(ControllerState::GivenUp);
            }
        }
        if self.watch.is_lost() {
            self.device.admin.take_buffers().into_iter().for_each(std::mem::forget);
            self.device.admin.holds().into_iter().for_each(std::mem::forget);
            self.records.into_iter().for_each(std::mem::forget);
            self.arenas.into_iter().for_each(std::mem::forget);
            return;
        }
        for arena in std::mem::take(&mut self.arenas) {
            let _ = self.device.transport.unmap(&arena);
        }
    }

    /// The controller is about to be taken away, or was.
    pub(crate) fn on_removal(&mut self) {
        self.let_go_in_order();
        match self.device.disable() {
            Ok(()) | Err(AttachError::Gone) => self.on_gone(),
            Err(_) => self.give_up(ControllerState::Gone),
        }
    }

    /// The controller was taken away.
    pub(crate) fn on_gone(&mut self) {
        if self.watch.state() != ControllerState::Live {
            return;
        }
        tracing::error!(device = %self.device.transport.describe(), "nvme: the controller is gone");
        self.end_all(ControllerState::Gone, Order::Gone);
    }

    /// The last order for every queue pair.
    pub(crate) fn end_all(&mut self, state: ControllerState, order: Order) {
        self.watch.set_state(state);
        if order == Order::Lost {
            self.watch.set_lost();
            self.device.admin.take_buffers().into_iter().for_each(std::mem::forget);
        }
        self.device.admin.start_over(|_| AdminError::Gone);
        for record in &mut self.records {
            if record.life == Life::Ended {
                continue;
            }
            record.life = Life::Ended;
            record.shared.order(order);
        }
        self.look_at_admin();
    }

    /// Forgets aborts and event requests: the controller was disabled.
    pub(crate) const fn forget_requests(&mut self) {
        self.aborts = 0;
        self.events = 0;
    }
}

/// The list queue pairs look arenas up in, with the first one in it.
pub(crate) fn mapped_arenas(first: &Arena) -> MappedArenas {
    Arc::new(Mutex::new(vec![first.id()]))
}
