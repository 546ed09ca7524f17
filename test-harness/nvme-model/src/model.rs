//! A controller that runs: stepped by its host's accesses, or on a thread of its own.
//!
//! The thread holds the controller's lock while it polls and lets go when somebody else wants it, so that a register
//! access waits for one turn at most and a turn costs no lock.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use nix::errno::Errno;

use crate::{config::Config, controller::Controller};

/// Who makes the controller go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Every doorbell and register access of the host: a command is complete when its doorbell was rung.
    OnAccess,
    /// [`Model::step`] alone, but for the admin queue, which goes on with every access. Doorbells of I/O queues are
    /// plain memory.
    ByHand,
    /// A thread that polls, and rests when there is nothing to do for a while.
    Thread,
    /// A thread that polls and never rests: for measurements.
    Spin,
}

/// Turns without work before the thread yields, and before it sleeps.
const TURNS_BEFORE_YIELD: u32 = 256;
const TURNS_BEFORE_SLEEP: u32 = 2048;
const NAP: Duration = Duration::from_micros(50);
/// Turns between two looks at the clock of a thread that never rests.
const TURNS_PER_LOOK: u32 = 64;

#[derive(Debug)]
pub(crate) struct Shared {
    controller: Mutex<Controller>,
    /// Others that want the controller.
    waiting: AtomicUsize,
    is_stopping: AtomicBool,
    pub(crate) pace: Pace,
    begun: Instant,
    /// Time added by hand, in nanoseconds.
    added: AtomicU64,
}

impl Shared {
    pub(crate) fn now(&self) -> Duration {
        self.begun.elapsed() + Duration::from_nanos(self.added.load(Ordering::Relaxed))
    }

    fn lock(&self) -> MutexGuard<'_, Controller> {
        self.controller.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Uses the controller; its thread lets go after its turn.
    pub(crate) fn with<R>(&self, action: impl FnOnce(&mut Controller, Duration) -> R) -> R {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let mut controller = self.lock();
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        let now = self.now();
        action(&mut controller, now)
    }

    /// After a register access: what a controller stepped by accesses does then.
    pub(crate) fn after_access(&self, controller: &mut Controller, now: Duration) {
        match self.pace {
            Pace::OnAccess => while controller.poll(now) > 0 {},
            Pace::ByHand => controller.poll_admin(now),
            Pace::Thread | Pace::Spin => {}
        }
    }

    fn run(&self) {
        let mut idle = 0_u32;
        while !self.is_stopping.load(Ordering::Relaxed) {
            while self.waiting.load(Ordering::Relaxed) > 0 {
                std::thread::yield_now();
            }
            let mut controller = self.lock();
            let mut turns = 0;
            while self.waiting.load(Ordering::Relaxed) == 0 && turns < TURNS_PER_LOOK {
                let now = self.now();
                let is_busy = (0..16).fold(0, |work, _| work + controller.poll(now)) > 0;
                idle = if is_busy { 0 } else { idle.saturating_add(1) };
                turns += 1;
                if idle > TURNS_BEFORE_YIELD && self.pace == Pace::Thread {
                    break;
                }
            }
            drop(controller);
            if self.pace == Pace::Thread && idle > TURNS_BEFORE_SLEEP {
                std::thread::sleep(NAP);
            } else if self.pace == Pace::Thread && idle > TURNS_BEFORE_YIELD {
                std::thread::yield_now();
            }
        }
    }
}

/// A running controller. Dropping it stops its thread.
#[derive(Debug)]
pub struct Model {
    pub(crate) shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Model {
    /// Runs a controller for a host in this process.
    ///
    /// # Errors
    /// When the system has no memory for it or no thread.
    pub fn new(config: Config, pace: Pace) -> Result<Self, Errno> {
        Self::run(Controller::new(config)?, pace)
    }

    /// Runs a controller on a thread that never rests and stays on one core: for measurements.
    ///
    /// # Errors
    /// When the system has no memory for it, no thread, or no such core.
    #[cfg(not(miri))]
    pub fn spinning_on(config: Config, core: usize) -> Result<Self, Errno> {
        use nix::{
            sched::{CpuSet, sched_getaffinity, sched_setaffinity},
            unistd::Pid,
        };
        // A thread inherits the cores of the one that starts it.
        let before = sched_getaffinity(Pid::from_raw(0))?;
        let mut alone = CpuSet::new();
        alone.set(core)?;
        sched_setaffinity(Pid::from_raw(0), &alone)?;
        let model = Self::new(config, Pace::Spin);
        sched_setaffinity(Pid::from_raw(0), &before)?;
        model
    }

    /// Runs this controller.
    ///
    /// # Errors
    /// When the system has no thread.
    pub fn run(controller: Controller, pace: Pace) -> Result<Self, Errno> {
        let shared = Arc::new(Shared {
            controller: Mutex::new(controller),
            waiting: AtomicUsize::new(0),
            is_stopping: AtomicBool::new(false),
            pace,
            begun: Instant::now(),
            added: AtomicU64::new(0),
        });
        let thread = match pace {
            Pace::OnAccess | Pace::ByHand => None,
            Pace::Thread | Pace::Spin => {
                let shared = shared.clone();
                let builder = std::thread::Builder::new().name("nvme-model".to_owned());
                Some(builder.spawn(move || shared.run()).map_err(|_| Errno::EAGAIN)?)
            }
        };
        Ok(Self { shared, thread })
    }

    /// Uses the controller between two of its turns.
    pub fn with<R>(&self, action: impl FnOnce(&mut Controller, Duration) -> R) -> R {
        self.shared.with(action)
    }

    /// One turn, at the present time. Returns the work done.
    #[must_use]
    pub fn step(&self) -> usize {
        self.with(Controller::poll)
    }

    /// Turns until there is nothing to do. Returns the work done.
    pub fn settle(&self) -> usize {
        let mut sum = 0;
        loop {
            match self.step() {
                0 => return sum,
                work => sum += work,
            }
        }
    }

    /// Lets the controller's time run ahead of the clock.
    pub fn advance(&self, time: Duration) {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.shared.added.fetch_add(nanoseconds, Ordering::Relaxed);
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        self.shared.is_stopping.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was told by the thread.
            let _ = thread.join();
        }
    }
}
