//! Releases of file locks that the MDT does not answer: how long the callers wait for them, all together.
//!
//! A process that exits closes its files one after the other, and each close releases a lock and waits for the answer, so that
//! the lock is free when `exit` returns. While the MDT does not answer, the mount ends that wait after a while; waiting as long
//! for each file of the process would make its end take as long as it has files. So after one wait that was in vain, releases
//! are sent and not waited for, until the MDT answers a request about locks. What was sent is carried out in any case
//! ([`crate::finisher`]), and what is asked for later waits for it ([`crate::lock_order`]).

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use sheen_ports::Cancel;
use sheen_types::Errno;
use sheen_wire::Opcode;

use crate::{client::Client, request::Request};

/// A caller that leaves earlier was killed: that says nothing of the MDT. The mount lets one wait longer
/// (`fuse::kernel::in_flight`).
const IN_VAIN: Duration = Duration::from_millis(500);

/// See the module.
#[derive(Debug)]
pub(crate) struct LateReleases {
    /// Requests about locks that were answered.
    answers: AtomicU64,
    /// What `answers` was when a caller began to wait for a release in vain; `u64::MAX`: none did.
    in_vain: AtomicU64,
}

impl Default for LateReleases {
    fn default() -> Self {
        Self { answers: AtomicU64::new(0), in_vain: AtomicU64::new(u64::MAX) }
    }
}

impl LateReleases {
    /// Notes that the MDT answered.
    pub(crate) fn note_answer(&self, opcode: Opcode) {
        if matches!(opcode, Opcode::LockSet | Opcode::LockTest | Opcode::LockRelease) {
            self.answers.fetch_add(1, Ordering::AcqRel);
        }
    }
}

impl Client {
    /// Sends a release of locks and waits for the answer, unless that is known to be in vain. It is carried out in any case.
    pub(crate) fn release(self: &Arc<Self>, request: Request, cancel: &Cancel) {
        let late = &self.late_releases;
        let answers = late.answers.load(Ordering::Acquire);
        if late.in_vain.load(Ordering::Acquire) == answers {
            return self.send(request);
        }
        let began = self.clock.now();
        match self.ask(request, cancel) {
            Ok(_) => {}
            Err(Errno::EINTR) if self.clock.now().since(began) >= IN_VAIN => {
                late.in_vain.store(answers, Ordering::Release);
            }
            Err(errno) => tracing::debug!(%errno, "releasing locks"),
        }
    }
}

#[cfg(test)]
mod test {
    use std::sync::mpsc::RecvTimeoutError;

    use sheen_wire::flock::{LockFamily, LockType};

    use super::*;
    use crate::{
        ClientConfig, LockWanted,
        fake::{FILE, Fake},
        kills::{Outcome, all_ended, stuck},
        lease_scenarios::TestClock,
        scenarios,
    };

    const SOON: Duration = Duration::from_secs(1);

    fn lock(owner: u64) -> LockWanted {
        LockWanted {
            family: LockFamily::Posix,
            kind: LockType::Write,
            owner,
            pid: 1,
            start: 0,
            end: 9,
            wait: false,
        }
    }

    fn take(client: &Arc<Client>, owner: u64) {
        let never = Cancel::new();
        client.set_lock(&client.inode(FILE), &lock(owner), &never, &never).unwrap();
    }

    /// A client with a clock of the test, of whose programs each of `owners` has a lock.
    fn start(owners: u64) -> (Fake, Arc<Client>, Arc<TestClock>) {
        let (fake, clock) = (Fake::new(), Arc::new(TestClock::default()));
        let config = ClientConfig::new("fake", "fs", "test").unwrap();
        let client = Client::connect(config, Arc::new(fake.clone()), clock.clone()).unwrap();
        (0..owners).for_each(|owner| take(&client, owner));
        (fake, client, clock)
    }

    fn close(fake: &Fake, client: &Arc<Client>, owner: u64) -> (Outcome, Cancel) {
        stuck(fake, client, Opcode::LockRelease, move |client, cancel| {
            client.release_locks(&client.inode(FILE), LockFamily::Posix, owner, cancel);
            Ok(())
        })
    }

    /// The mount ends the wait for the release.
    fn end(clock: &TestClock, (outcome, cancel): &(Outcome, Cancel)) {
        assert_eq!(outcome.recv_timeout(SOON / 20), Err(RecvTimeoutError::Timeout), "it waits");
        clock.0.fetch_add(1_000_000_000, Ordering::SeqCst);
        cancel.cancel();
        assert_eq!(outcome.recv_timeout(SOON), Ok(Ok(())));
    }

    #[test]
    fn of_the_locks_of_a_process_that_exits_one_is_waited_for_while_nobody_answers() {
        let (fake, client, clock) = start(40);
        end(&clock, &close(&fake, &client, 0));
        for owner in 1..39 {
            let (outcome, _) = close(&fake, &client, owner);
            assert_eq!(outcome.recv_timeout(SOON), Ok(Ok(())), "lock {owner} is waited for");
        }
        fake.change(|state| state.hold = None);
        all_ended(&client);
        assert_eq!(fake.sent(Opcode::LockRelease).len(), 39);
        // The server has answered.
        end(&clock, &close(&fake, &client, 39));
        fake.change(|state| state.hold = None);
        all_ended(&client);
        client.disconnect();
    }

    #[test]
    fn a_program_that_was_killed_says_nothing_of_the_server() {
        let (fake, client, _clock) = start(2);
        let (outcome, killed) = close(&fake, &client, 0);
        killed.cancel();
        assert_eq!(outcome.recv_timeout(SOON), Ok(Ok(())));
        let (outcome, _) = close(&fake, &client, 1);
        assert_eq!(outcome.recv_timeout(SOON / 20), Err(RecvTimeoutError::Timeout), "it waits");
        fake.change(|state| state.hold = None);
        assert_eq!(outcome.recv_timeout(SOON), Ok(Ok(())));
        client.disconnect();
    }

    #[test]
    fn a_lock_is_asked_for_behind_the_releases_that_nobody_waits_for() {
        let (fake, client) = scenarios::start();
        take(&client, 7);
        fake.change(|state| state.gone = true);
        fake.lose_all();
        let killed = Cancel::new();
        killed.cancel();
        client.release_locks(&client.inode(FILE), LockFamily::Posix, 7, &killed);
        std::thread::scope(|scope| {
            // Another process whose owner has the same number.
            let next = scope.spawn(|| take(&client, 7));
            std::thread::sleep(SOON / 20);
            fake.change(|state| state.gone = false);
            next.join().unwrap();
        });
        let about_locks = |opcode: &Opcode| matches!(opcode, Opcode::LockSet | Opcode::LockRelease);
        let sent: Vec<Opcode> =
            fake.lock().log.iter().map(|sent| sent.opcode).filter(about_locks).collect();
        assert_eq!(sent, [Opcode::LockSet, Opcode::LockRelease, Opcode::LockSet]);
        client.disconnect();
    }

    /// Requests about locks, in the order the server saw them.
    fn about_locks(fake: &Fake) -> Vec<Opcode> {
        let about_locks = |opcode: &Opcode| matches!(opcode, Opcode::LockSet | Opcode::LockRelease);
        fake.lock().log.iter().map(|sent| sent.opcode).filter(about_locks).collect()
    }

    /// `owner` asks for its lock: in another thread, until the outcome is taken.
    fn ask(client: &Arc<Client>, owner: u64) -> Outcome {
        let (client, (sender, outcome)) = (client.clone(), std::sync::mpsc::channel());
        let never = Cancel::new();
        std::thread::spawn(move || {
            sender.send(client.set_lock(&client.inode(FILE), &lock(owner), &never, &never))
        });
        outcome
    }

    #[test]
    fn a_lock_is_asked_for_when_the_earlier_release_of_its_owner_is_answered() {
        let (fake, client, clock) = start(1);
        end(&clock, &close(&fake, &client, 0));
        let next = ask(&client, 0);
        std::thread::sleep(SOON / 20);
        assert_eq!(about_locks(&fake), [Opcode::LockSet, Opcode::LockRelease], "it waits");
        fake.lose_mdt();
        fake.change(|state| state.hold = None);
        assert_eq!(next.recv_timeout(SOON), Ok(Ok(())));
        all_ended(&client);
        let release = Opcode::LockRelease;
        assert_eq!(about_locks(&fake), [Opcode::LockSet, release, release, Opcode::LockSet]);
        client.disconnect();
    }

    #[test]
    fn so_is_one_that_is_asked_for_again_after_a_lost_connection() {
        let (fake, client, _clock) = start(1);
        let (outcome, _) = stuck(&fake, &client, Opcode::LockSet, |client, cancel| {
            client.set_lock(&client.inode(FILE), &lock(0), cancel, cancel)
        });
        fake.change(|state| state.gone = true);
        fake.lose_mdt();
        let killed = Cancel::new();
        killed.cancel();
        client.release_locks(&client.inode(FILE), LockFamily::Posix, 0, &killed);
        fake.change(|state| (state.gone, state.hold) = (false, None));
        assert_eq!(outcome.recv_timeout(SOON), Ok(Ok(())));
        let set = Opcode::LockSet;
        assert_eq!(about_locks(&fake), [set, set, Opcode::LockRelease, set]);
        client.disconnect();
    }

    #[test]
    fn a_lock_is_asked_for_when_those_are_answered_that_its_owner_asked_for_and_left() {
        let (fake, client, _clock) = start(0);
        let (outcome, killed) = stuck(&fake, &client, Opcode::LockSet, |client, cancel| {
            client.set_lock(&client.inode(FILE), &lock(0), cancel, cancel)
        });
        killed.cancel();
        assert_eq!(outcome.recv_timeout(SOON), Ok(Err(Errno::EINTR)));
        client.release_locks(&client.inode(FILE), LockFamily::Posix, 0, &Cancel::new());
        let next = ask(&client, 0);
        std::thread::sleep(SOON / 20);
        let (set, release) = (Opcode::LockSet, Opcode::LockRelease);
        assert_eq!(about_locks(&fake), [set, release], "it waits");
        // Granted to nobody, and given back.
        fake.change(|state| state.hold = None);
        assert_eq!(next.recv_timeout(SOON), Ok(Ok(())));
        assert_eq!(about_locks(&fake), [set, release, release, set]);
        client.disconnect();
    }

    #[test]
    fn the_wait_for_a_release_ends_when_its_program_is_killed() {
        let (fake, client, clock) = start(1);
        end(&clock, &close(&fake, &client, 0));
        let (asking, killed) = (client.clone(), Cancel::new());
        let (cancel, (sender, outcome)) = (killed.clone(), std::sync::mpsc::channel());
        std::thread::spawn(move || {
            let wanted = LockWanted { wait: true, ..lock(0) };
            sender.send(asking.set_lock(&asking.inode(FILE), &wanted, &cancel, &cancel))
        });
        assert_eq!(outcome.recv_timeout(SOON / 20), Err(RecvTimeoutError::Timeout), "it waits");
        killed.cancel();
        assert_eq!(outcome.recv_timeout(SOON), Ok(Err(Errno::EINTR)));
        assert_eq!(about_locks(&fake), [Opcode::LockSet, Opcode::LockRelease]);
        fake.change(|state| state.hold = None);
        all_ended(&client);
        take(&client, 0);
        client.disconnect();
    }
}
