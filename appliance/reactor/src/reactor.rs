//! The loop.

use std::{os::fd::RawFd, sync::Arc, time::Duration};

use nix::{errno::Errno, sched::sched_yield};
use sheen_ports::Clock;
use sheen_types::Tick;

use crate::{load::Load, service::Service, sleep::Sleeper, spin::Spin};

/// Drives services on the calling thread. See the crate.
pub struct Reactor<C> {
    clock: C,
    services: Vec<Box<dyn Service>>,
    spin: Spin,
    load: Arc<Load>,
    sleeper: Sleeper,
    /// Sum of the services' wake generations when the sleeper's set was made.
    generation: Option<u64>,
    descriptors: Vec<RawFd>,
}

impl<C> std::fmt::Debug for Reactor<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut debug = f.debug_struct("Reactor");
        debug
            .field("services", &self.services.len())
            .field("spin", &self.spin)
            .finish_non_exhaustive()
    }
}

impl<C: Clock> Reactor<C> {
    /// A reactor that polls for `spin` without work before it sleeps, and counts into `load`.
    ///
    /// # Errors
    /// The system's number when there is no epoll instance to be had.
    pub fn new(clock: C, spin: Duration, load: Arc<Load>) -> Result<Self, Errno> {
        let sleeper = Sleeper::new()?;
        let (services, descriptors) = (Vec::new(), Vec::new());
        let spin = Spin::new(spin);
        Ok(Self { clock, services, spin, load, sleeper, generation: None, descriptors })
    }

    /// Adds a service; services have their turns in the order they were added.
    pub fn add(&mut self, service: Box<dyn Service>) {
        self.services.push(service);
        self.generation = None;
    }

    /// Runs until every service is finished. The one endless loop of the thread.
    ///
    /// # Panics
    /// When the system refuses to wait (it does not, short of our own bugs).
    pub fn run(&mut self) {
        let mut now = self.clock.now();
        loop {
            let mut work = 0;
            for service in &mut self.services {
                work += service.turn(now);
            }
            if self.services.iter().all(|service| service.is_finished()) {
                return;
            }
            let before = std::mem::replace(&mut now, self.clock.now());
            if work > 0 {
                self.load.count_busy_turn(now.since(before), work);
                self.spin.on_work();
                continue;
            }
            self.load.count_idle_turn(now.since(before));
            if self.spin.polls_again(now) {
                now = self.give_way(now);
            } else {
                now = self.sleep(now);
            }
        }
    }

    /// Lets others run on this core; the time when it is ours again.
    fn give_way(&mut self, now: Tick) -> Tick {
        let _ = sched_yield();
        let back = self.clock.now();
        self.spin.on_gave_way(back.since(now));
        back
    }

    /// Sleeps until an event or the nearest deadline, unless one is there already; the time after it.
    fn sleep(&mut self, now: Tick) -> Tick {
        let deadline = self.services.iter().filter_map(|service| service.next_deadline()).min();
        if deadline.is_some_and(|deadline| deadline <= now) {
            return now;
        }
        let mut ready = true;
        for service in &mut self.services {
            ready &= service.prepare_sleep();
        }
        let back = if ready {
            self.refresh_descriptors();
            self.load.begin_sleep(now);
            self.sleeper.wait(deadline.map(|deadline| deadline.since(now)));
            let back = self.clock.now();
            self.load.end_sleep(back.since(now));
            self.spin.on_slept();
            back
        } else {
            self.give_way(now)
        };
        for service in &mut self.services {
            service.end_sleep();
        }
        back
    }

    fn refresh_descriptors(&mut self) {
        // Each of them only rises, so that no change can hide in the sum.
        let generations = self.services.iter().map(|service| service.wake_generation());
        let generation = generations.fold(0, u64::wrapping_add);
        if self.generation == Some(generation) {
            return;
        }
        self.descriptors.clear();
        for service in &self.services {
            service.wake_descriptors(&mut self.descriptors);
        }
        self.sleeper.watch(&self.descriptors);
        self.generation = Some(generation);
    }
}

#[cfg(test)]
mod test {
    use std::{
        cell::Cell,
        rc::Rc,
        sync::atomic::{AtomicU64, Ordering},
    };

    use super::*;
    use crate::{
        mailbox::{Mailbox, mailbox},
        spin::SPIN_DEFAULT,
        system::SystemClock,
    };

    /// Adds up the numbers it is sent; 0 ends it.
    struct Adder {
        mailbox: Mailbox<u64>,
        sum: Arc<AtomicU64>,
        deadline: Option<Tick>,
        turns_after_deadline: Rc<Cell<u32>>,
        finished: bool,
    }

    impl Adder {
        fn new(mailbox: Mailbox<u64>, sum: Arc<AtomicU64>) -> Self {
            let turns_after_deadline = Rc::new(Cell::new(0));
            Self { mailbox, sum, deadline: None, turns_after_deadline, finished: false }
        }
    }

    impl Service for Adder {
        fn turn(&mut self, now: Tick) -> usize {
            if self.deadline.is_some_and(|deadline| deadline <= now) {
                self.turns_after_deadline.set(self.turns_after_deadline.get() + 1);
                self.deadline = None;
                self.finished = true;
            }
            let Some(number) = self.mailbox.take() else { return 0 };
            self.finished |= number == 0;
            self.sum.fetch_add(number, Ordering::Relaxed);
            1
        }

        fn prepare_sleep(&mut self) -> bool {
            self.mailbox.prepare_sleep()
        }

        fn end_sleep(&mut self) {
            self.mailbox.end_sleep();
        }

        fn wake_descriptors(&self, descriptors: &mut Vec<RawFd>) {
            descriptors.push(self.mailbox.wake_descriptor());
        }

        fn wake_generation(&self) -> u64 {
            0
        }

        fn next_deadline(&self) -> Option<Tick> {
            self.deadline
        }

        fn is_finished(&self) -> bool {
            self.finished
        }
    }

    #[test]
    fn no_message_is_slept_through() {
        let (postman, mailbox) = mailbox(4).unwrap();
        let sum = Arc::new(AtomicU64::new(0));
        let load = Arc::new(Load::default());
        let (theirs, their_load) = (sum.clone(), load.clone());
        let thread = std::thread::spawn(move || {
            let mut reactor = Reactor::new(SystemClock, Duration::ZERO, their_load).unwrap();
            reactor.add(Box::new(Adder::new(mailbox, theirs)));
            reactor.run();
        });
        // With no spin budget the reactor sleeps between most of these; each wait here ends only if it woke.
        let mut expected = 0;
        for number in 1..=2000_u64 {
            let mut message = number;
            while let Err(back) = postman.post(message) {
                message = back;
                std::thread::yield_now();
            }
            expected += number;
            while sum.load(Ordering::Relaxed) != expected {
                std::thread::yield_now();
            }
        }
        postman.post(0).unwrap();
        thread.join().unwrap();
        let load = load.snapshot();
        assert!(load.sleeps > 0, "{load:?}");
        assert!(load.work >= 2000, "{load:?}");
    }

    #[test]
    fn a_deadline_ends_a_sleep_and_an_idle_reactor_costs_nothing() {
        let (_postman, mailbox) = mailbox(4).unwrap();
        let load = Arc::new(Load::default());
        let mut reactor = Reactor::new(SystemClock, SPIN_DEFAULT, load.clone()).unwrap();
        let mut adder = Adder::new(mailbox, Arc::default());
        let start = SystemClock.now();
        adder.deadline = Some(start.after(Duration::from_millis(60)));
        let turns_after_deadline = adder.turns_after_deadline.clone();
        reactor.add(Box::new(adder));
        reactor.run();
        assert_eq!(turns_after_deadline.get(), 1);
        assert!(SystemClock.now().since(start) >= Duration::from_millis(60));
        let load = load.snapshot();
        assert!(load.sleep_nanoseconds > 40_000_000, "it slept nearly all the time: {load:?}");
        assert!(load.sleeps <= 3, "{load:?}");
    }
}
