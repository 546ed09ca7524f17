//! The controller: a state machine over registers, doorbells and the host's memory.
//!
//! It does nothing on its own. [`Controller::poll`] looks at the doorbells and carries out what is there; register
//! accesses change its state at once; time is an argument. So a test steps it by hand and sees the same run each time,
//! and a thread that polls it is a controller of its own.
//!
//! The driver is not trusted: a wrong address, index or length is answered by the status the specification gives it, or
//! by Controller Fatal Status where there is none.

mod queues;
mod registers;
mod serve;
mod held;
mod shadow;
mod admin;
mod admin_queues;
mod identify;
mod features;
mod logs;
mod events;
mod management;
mod firmware;
mod io;
mod subsystem;

use std::{fs::File, io::Write as _, time::Duration};

use nix::errno::Errno;

pub use events::Event;
pub use io::Traffic;

use crate::{
    chance::Chance,
    command::Command,
    config::{Config, Shadow},
    data_pointer::{self, Rules, Run},
    doorbells::Doorbells,
    faults::FaultPlan,
    medium::PowerCut,
    memory::Memory,
    status::Status,
};
use events::Events;
use features::Features;
use held::Held;
use logs::ErrorLog;
use queues::{CompletionQueue, SubmissionQueue};
use registers::Registers;
use shadow::ShadowBuffers;
use subsystem::Subsystem;

/// Whether the device is still there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// It is.
    Present,
    /// It said it will go, and goes at this time.
    Announced(Duration),
    /// It is gone: reads give all ones, writes and doorbells go nowhere, no memory is touched.
    Gone,
}

/// Time between the announcement of a removal and the removal.
const REMOVAL_NOTICE: Duration = Duration::from_millis(20);

/// How a command goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// Completed with a status and dwords 0 and 1.
    Done(Status, u64),
    /// Completed later, by somebody else.
    Later,
}

impl Outcome {
    const SUCCESS: Self = Self::Done(Status::SUCCESS, 0);

    const fn refused(status: Status) -> Self {
        Self::Done(status, 0)
    }
}

impl From<Result<(), Status>> for Outcome {
    fn from(result: Result<(), Status>) -> Self {
        match result {
            Ok(()) => Self::SUCCESS,
            Err(status) => Self::refused(status),
        }
    }
}

/// An NVMe controller with its subsystem.
#[derive(Debug)]
pub struct Controller {
    config: Config,
    memory: Memory,
    doorbells: Doorbells,
    registers: Registers,
    removal: Removal,
    now: Duration,
    submission: Vec<Option<SubmissionQueue>>,
    completion: Vec<Option<CompletionQueue>>,
    subsystem: Subsystem,
    features: Features,
    events: Events,
    errors: ErrorLog,
    held: Held,
    plan: FaultPlan,
    shadow: Option<ShadowBuffers>,
    vectors: Vec<Option<File>>,
    removal_event: Option<File>,
    traffic: Traffic,
    /// Room for the walk of one command's data pointer.
    runs: Vec<Run>,
}

impl Controller {
    /// A controller for a host in this process: not enabled, with an empty medium.
    ///
    /// # Errors
    /// When the system has no memory for the doorbells.
    pub fn new(config: Config) -> Result<Self, Errno> {
        let doorbells = Doorbells::private(config.queue_pairs_max, config.stride_bytes())?;
        Ok(Self::with_doorbells(config, doorbells))
    }

    /// A controller whose host stores to these doorbells, which are as many as `config` says.
    #[must_use]
    pub fn with_doorbells(config: Config, doorbells: Doorbells) -> Self {
        let queues = usize::from(config.queue_pairs_max) + 1;
        let mut vectors = Vec::new();
        vectors.resize_with(usize::from(config.vectors), || None);
        Self {
            subsystem: Subsystem::new(&config),
            features: Features::new(config.has_cache),
            memory: Memory::default(),
            doorbells,
            registers: Registers::default(),
            removal: Removal::Present,
            now: Duration::ZERO,
            submission: std::iter::repeat_with(|| None).take(queues).collect(),
            completion: std::iter::repeat_with(|| None).take(queues).collect(),
            events: Events::default(),
            errors: ErrorLog::default(),
            held: Held::default(),
            plan: FaultPlan::none(),
            shadow: None,
            vectors,
            removal_event: None,
            traffic: Traffic::default(),
            runs: Vec::with_capacity(512),
            config,
        }
    }

    /// What it was built as.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The same, to change while it is disabled: how long resets take, what it lies about.
    pub fn config_mut(&mut self) -> &mut Config {
        &mut self.config
    }

    /// Doorbell registers.
    #[must_use]
    pub fn doorbells(&self) -> &Doorbells {
        &self.doorbells
    }

    /// Memory the host gave.
    pub fn memory(&mut self) -> &mut Memory {
        &mut self.memory
    }

    /// Faults to come.
    pub fn plan(&mut self) -> &mut FaultPlan {
        &mut self.plan
    }

    /// What was read and written since the start.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        self.traffic
    }

    /// Whether it is still there.
    #[must_use]
    pub fn removal(&self) -> Removal {
        self.removal
    }

    /// Sends the interrupts of `vector` to `event` (an eventfd), or nowhere. False: there is no such vector.
    pub fn arm(&mut self, vector: u16, event: Option<File>) -> bool {
        match self.vectors.get_mut(usize::from(vector)) {
            Some(slot) => {
                *slot = event;
                true
            }
            None => false,
        }
    }

    /// Announces a removal on `event` (an eventfd).
    pub fn announce_removal_on(&mut self, event: Option<File>) {
        self.removal_event = event;
    }

    /// Announces that the device goes, as an operator does who presses the button; it goes a moment later.
    pub fn remove_hot(&mut self) {
        if self.removal == Removal::Present {
            self.removal = Removal::Announced(self.now + REMOVAL_NOTICE);
            if let Some(event) = &mut self.removal_event {
                signal(event);
            }
        }
    }

    /// The device is pulled.
    pub fn remove_by_surprise(&mut self) {
        self.removal = Removal::Gone;
        self.drop_queues();
    }

    /// The device is there again, as after power-on.
    pub fn insert(&mut self) {
        self.reset();
        self.removal = Removal::Present;
    }

    /// The power goes and comes back: what was not durable may be lost or torn, the controller is as after power-on.
    pub fn cut_power(&mut self, seed: u64) -> PowerCut {
        self.reset();
        self.features = Features::new(self.config.has_cache);
        self.subsystem.cut_power(&mut Chance::new(seed))
    }

    /// Lets time pass: resets end, commands held back are carried out.
    fn pass(&mut self, now: Duration) {
        self.now = self.now.max(now);
        self.finish_change();
        if let Removal::Announced(at) = self.removal
            && self.now >= at
        {
            self.remove_by_surprise();
        }
    }

    /// Looks at every doorbell and carries out what is there, a bounded batch per queue. Returns commands fetched
    /// and completed; zero means there was nothing to do.
    #[inline]
    pub fn poll(&mut self, now: Duration) -> usize {
        self.pass(now);
        if !self.registers.is_running() || self.removal == Removal::Gone {
            return 0;
        }
        let mut work = 0;
        for id in 0..self.submission.len() {
            let Ok(id) = u16::try_from(id) else { break };
            work += self.serve(id);
        }
        if !self.held.is_empty() {
            work += self.release_held();
        }
        if self.subsystem.sanitize.is_running() {
            self.step_sanitize();
        }
        self.deliver_events();
        self.pay_owed();
        work
    }

    /// Carries out what the admin queue has, and nothing of the others.
    pub fn poll_admin(&mut self, now: Duration) {
        self.pass(now);
        while self.registers.is_running() && self.removal != Removal::Gone && self.serve(0) > 0 {}
        self.deliver_events();
        self.pay_owed();
    }

    fn rules(&self) -> Rules {
        Rules { page_bytes: self.registers.page_bytes(), has_sgl: self.config.has_sgl }
    }

    /// Copies an answer to the host, as much of it as the command has room for (`room`).
    fn answer(&mut self, command: &Command, room: usize, bytes: &[u8]) -> Result<(), Status> {
        let rules = self.rules();
        data_pointer::walk(&self.memory, command, room, rules, &mut self.runs)?;
        let mut left = &bytes[..bytes.len().min(room)];
        for run in &self.runs {
            let (now, later) = left.split_at(left.len().min(run.bytes));
            self.memory.write(run.address, now).map_err(|_| Status::DATA_TRANSFER)?;
            left = later;
        }
        Ok(())
    }

    /// Copies what the host sends with a command.
    fn question(&mut self, command: &Command, bytes: usize) -> Result<Vec<u8>, Status> {
        let rules = self.rules();
        data_pointer::walk(&self.memory, command, bytes, rules, &mut self.runs)?;
        let mut data = vec![0; bytes];
        let mut at = 0;
        for run in &self.runs {
            let room = &mut data[at..at + run.bytes];
            self.memory.read(run.address, room).map_err(|_| Status::DATA_TRANSFER)?;
            at += run.bytes;
        }
        Ok(data)
    }

    /// Every queue goes, with what was held back.
    fn drop_queues(&mut self) {
        self.submission.iter_mut().for_each(|queue| *queue = None);
        self.completion.iter_mut().for_each(|queue| *queue = None);
        self.held.clear();
        self.shadow = None;
        self.doorbells.clear();
    }

    /// What a controller reset forgets beside the queues.
    fn forget_session(&mut self) {
        self.events = Events::default();
        self.features.forget();
        self.subsystem.activate_firmware();
    }

    fn install_admin(&mut self, asq: u64, sq_entries: u32, acq: u64, cq_entries: u32) {
        self.doorbells.clear();
        self.submission[0] = Some(SubmissionQueue::new(asq, sq_entries, 0));
        self.completion[0] = Some(CompletionQueue::new(acq, cq_entries, Some(0)));
    }

    fn flush_all(&mut self) {
        self.subsystem.flush(None);
    }

    fn offers_shadow(&self) -> bool {
        self.config.shadow != Shadow::Absent
    }
}

/// Adds one to an eventfd. One that is full is readable anyway.
fn signal(event: &mut File) {
    let _ = event.write_all(&1_u64.to_le_bytes());
}
