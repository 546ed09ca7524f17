//! The last wait of a caller that was killed: for the answer to a change that is on its way.
//!
//! Whoever waits for the end of a program believes that what it did is done. A change that the server carries out after its
//! caller left would come later than that. So the caller stays while the answer may be about to come, and leaves when the
//! server takes its time. What was not sent is withdrawn at once, and what changes nothing is not waited for.

use std::time::Duration;

use sheen_ports::{CallResult, LeftCall};

use crate::client::Client;

/// Longest such wait. A server under load answers sooner (on a machine with four times the load it has processors for, one
/// answer in 400 took more than 50 ms); one that is stuck does not keep a killed program for longer.
const LAST_WAIT: Duration = Duration::from_millis(200);
/// First and longest pause between two looks.
const LOOK: (Duration, Duration) = (Duration::from_micros(100), Duration::from_millis(2));

impl Client {
    /// Waits up to [`LAST_WAIT`] for a call that changes something and whose caller was killed; None: it goes on.
    pub(crate) fn last_answer(&self, call: &mut dyn LeftCall) -> Option<CallResult> {
        let began = self.clock.now();
        let mut pause = LOOK.0;
        loop {
            if let Some(ended) = call.poll() {
                return Some(ended);
            }
            if self.clock.now().since(began) >= LAST_WAIT {
                return None;
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(LOOK.1);
        }
    }
}

#[cfg(test)]
mod test {
    use std::sync::{Arc, atomic::Ordering, mpsc::RecvTimeoutError};

    use sheen_ports::Cancel;
    use sheen_types::Errno;
    use sheen_wire::Opcode;

    use super::*;
    use crate::{
        Changes, ClientConfig,
        fake::{FILE, Fake},
        kills::{Outcome, all_ended, make, stuck, write},
        lease_scenarios::TestClock,
        scenarios::READ,
    };

    const SOON: Duration = Duration::from_secs(1);

    fn start() -> (Fake, Arc<Client>, Arc<TestClock>) {
        let (fake, clock) = (Fake::new(), Arc::new(TestClock::default()));
        let config = ClientConfig::new("fake", "fs", "test").unwrap();
        let client = Client::connect(config, Arc::new(fake.clone()), clock.clone()).unwrap();
        fake.change(|state| state.instantiated = true);
        (fake, client, clock)
    }

    fn begin(fake: &Fake, client: &Arc<Client>, opcode: Opcode) -> (Outcome, Cancel) {
        let other = fake.clone();
        stuck(fake, client, opcode, move |client, cancel| match opcode {
            Opcode::Create => make(&client, b"x", cancel),
            Opcode::ObjectWrite => write(&client, &client.inode(FILE), &other, cancel),
            Opcode::SetAttributes => {
                let changes = Changes { permissions: Some(0o600), ..Changes::default() };
                client.set_attributes(&client.inode(FILE), &changes, cancel).map(drop)
            }
            _ => client.open(&client.inode(FILE), READ, cancel).map(drop),
        })
    }

    fn stays(outcome: &Outcome, why: &str) {
        let early = outcome.recv_timeout(Duration::from_millis(30));
        assert_eq!(early, Err(RecvTimeoutError::Timeout), "{why}");
    }

    #[test]
    fn a_killed_program_ends_when_what_it_had_sent_is_done() {
        for opcode in [Opcode::Create, Opcode::SetAttributes, Opcode::ObjectWrite] {
            let (fake, client, _clock) = start();
            let (outcome, cancel) = begin(&fake, &client, opcode);
            cancel.cancel();
            stays(&outcome, &format!("{opcode:?} may still be carried out"));
            fake.change(|state| state.hold = None);
            let ended = outcome.recv_timeout(SOON);
            // Attributes of a file are not looked for without a caller.
            let told = ended == Ok(Ok(())) || opcode == Opcode::SetAttributes;
            assert!(told && ended.is_ok(), "{opcode:?}: {ended:?}");
            assert_eq!(client.requests_left(), 0, "{opcode:?}");
            client.disconnect();
        }
    }

    #[test]
    fn of_a_server_that_is_stuck_it_waits_for_a_moment() {
        for opcode in [Opcode::Create, Opcode::ObjectWrite] {
            let (fake, client, clock) = start();
            let (outcome, cancel) = begin(&fake, &client, opcode);
            cancel.cancel();
            stays(&outcome, &format!("{opcode:?} was sent"));
            clock.0.fetch_add(199_000_000, Ordering::SeqCst);
            stays(&outcome, &format!("{opcode:?} may be answered"));
            clock.0.fetch_add(1_000_000, Ordering::SeqCst);
            assert_eq!(outcome.recv_timeout(SOON), Ok(Err(Errno::EINTR)), "{opcode:?}");
            assert_eq!(client.requests_left(), 1, "{opcode:?} goes on");
            fake.change(|state| state.hold = None);
            all_ended(&client);
            client.disconnect();
        }
    }

    #[test]
    fn the_kernel_is_told_of_a_name_though_nobody_asks_for_the_size_of_what_it_leads_to() {
        let (fake, client, _clock) = start();
        let (sender, found) = std::sync::mpsc::channel();
        let (outcome, cancel) = stuck(&fake, &client, Opcode::Link, move |client, cancel| {
            let (file, root) = (client.inode(FILE), client.inode(client.root()));
            let linked = client.link(&file, &root, b"new", cancel);
            linked.map(|found| drop(sender.send(found)))
        });
        cancel.cancel();
        stays(&outcome, "it may still be carried out");
        fake.change(|state| state.hold = None);
        assert_eq!(outcome.recv_timeout(SOON), Ok(Ok(())));
        assert!(!found.recv().unwrap().observed.is_complete);
        client.disconnect();
    }

    #[test]
    fn what_changes_nothing_is_not_waited_for() {
        let (fake, client, _clock) = start();
        let (outcome, cancel) = begin(&fake, &client, Opcode::Open);
        cancel.cancel();
        assert_eq!(outcome.recv_timeout(SOON), Ok(Err(Errno::EINTR)));
        fake.change(|state| state.hold = None);
        client.disconnect();
    }
}
