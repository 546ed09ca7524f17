//! When inodes were last read: noted here by the rules of the mount, shown by `stat` of this client at once, and told to the
//! MDT some time later, many in one request, as Linux does with `lazytime`. One change of metadata for each file read would cost
//! more than reading it.
//!
//! Times are the server's: its clock is followed by the answers to pings, so that a clock set wrong here does not matter. A
//! read is told as no later than it was and as later than all that is known to have come before it: so a time that is set by
//! hand after it, at whatever client, stays (`atime_set`), and one set before it does not.
//!
//! What is not told when the client ends without a good-bye is lost. Reads out of the kernel's pages are not seen.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use sheen_ports::Cancel;
use sheen_types::{FileKind, Tick, Timespec};
use sheen_wire::{
    Field, Opcode,
    fields::List,
    metadata::{ACCESSES_MAX, Access, TellAccesses},
};

use crate::{
    client::Client,
    inode::{Inode, InodeState},
    request::Request,
};

/// Which reads count.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum AccessTimes {
    /// None (`noatime`).
    Never,
    /// The first after a change of the inode, or after a day (`relatime`).
    #[default]
    Relative,
    /// Every one (`strictatime`).
    Always,
}

/// How long after it was noted the MDT is told. Chosen by eye: the time after which Linux writes dirty pages.
const DELAY: Duration = Duration::from_secs(30);
/// Most inodes that wait to be told of. Further accesses are not noted until there is room.
const PENDING_MAX: usize = 16 * ACCESSES_MAX;
/// After so long an answer counts however long it took.
const SAMPLE_AGE: Duration = Duration::from_secs(60);
/// Clocks run apart by 10 µs a second at worst.
const DRIFT: u32 = 100_000;
/// `FS_NOATIME_FL`.
const NOATIME: u32 = 0x80;
const DAY_SECONDS: i64 = 86_400;

/// The server's clock, as far as it can be told from here.
#[derive(Debug, Default)]
pub(crate) struct ServerClock(Mutex<Option<Sample>>);

#[derive(Clone, Copy, Debug)]
struct Sample {
    time: Timespec,
    /// When the answer was there: it was that time before.
    at: Tick,
    round_trip: Duration,
}

impl ServerClock {
    /// The server said `time` in an answer to what was `sent`.
    pub(crate) fn note(&self, time: Timespec, sent: Tick, received: Tick) {
        let round_trip = received.since(sent);
        let sample = Sample { time, at: received, round_trip };
        let mut last = self.0.lock().expect("no panic while locked");
        let worse = |last: &Sample| {
            round_trip > last.round_trip * 2 && received.since(last.at) < SAMPLE_AGE
        };
        if !last.as_ref().is_some_and(worse) {
            *last = Some(sample);
        }
    }

    /// Its time `now`, or earlier by as long as an answer took; None: it was never told.
    fn at(&self, now: Tick) -> Option<Timespec> {
        let last = *self.0.lock().expect("no panic while locked");
        let passed = |last: &Sample| now.since(last.at);
        last.map(|last| last.time.after(passed(&last) - passed(&last) / DRIFT))
    }
}

/// Inodes whose access the MDT has not heard of.
#[derive(Debug, Default)]
pub(crate) struct Accesses(Mutex<Pending>);

#[derive(Debug, Default)]
struct Pending {
    /// In the order in which they were read. Held, so that none is dropped before it is told of.
    inodes: Vec<Arc<Inode>>,
    /// When the first was read.
    since: Tick,
    /// Somebody is about to tell.
    telling: bool,
}

impl Accesses {
    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.0.lock().expect("no panic while locked")
    }

    /// Enters an inode that was not entered; whether there was room.
    fn enter(&self, inode: &Arc<Inode>, now: Tick) -> bool {
        let mut pending = self.lock();
        if pending.inodes.len() >= PENDING_MAX {
            return false;
        }
        if pending.inodes.is_empty() {
            pending.since = now;
        }
        pending.inodes.push(inode.clone());
        true
    }

    /// Whether it is time to tell; if so, whoever asked must.
    fn is_due(&self, now: Tick) -> bool {
        let mut pending = self.lock();
        let due = !pending.telling && pending.is_due(now);
        pending.telling |= due;
        due
    }

    /// The next to be told of, as one request has room for; none: that was all.
    fn take(&self) -> Vec<Arc<Inode>> {
        self.lock().take()
    }

    /// The next to be told of, if it is time; none: the rest can wait.
    fn take_due(&self, now: Tick) -> Vec<Arc<Inode>> {
        let mut pending = self.lock();
        if pending.is_due(now) {
            return pending.take();
        }
        pending.telling = false;
        Vec::new()
    }
}

impl Pending {
    fn is_due(&self, now: Tick) -> bool {
        let waited = !self.inodes.is_empty() && now.since(self.since) >= DELAY;
        waited || self.inodes.len() >= ACCESSES_MAX
    }

    fn take(&mut self) -> Vec<Arc<Inode>> {
        let count = self.inodes.len().min(ACCESSES_MAX);
        self.telling = count > 0;
        self.inodes.drain(..count).collect()
    }
}

impl Client {
    /// Notes that content, entries or target of an inode were just read, if that counts on this mount.
    pub fn note_access(&self, inode: &Arc<Inode>) {
        let policy = self.config.access_times;
        if policy == AccessTimes::Never {
            return;
        }
        let now = self.clock.now();
        let Some(time) = self.server_clock.at(now) else { return };
        let mut state = inode.lock();
        if state.kind == Some(FileKind::Directory) && self.config.no_directory_access_times {
            return;
        }
        let Some(time) = state.access_due(policy, time) else { return };
        if state.accessed.is_some() || self.accesses.enter(inode, now) {
            state.accessed = Some(time);
        }
    }

    /// Tells the MDT of accesses some time after they were noted. To be called now and then.
    pub(crate) fn tell_due_accesses(&self) {
        if self.accesses.is_due(self.clock.now()) {
            self.janitor.favour(|client| {
                let due = || client.accesses.take_due(client.clock.now());
                client.tell_each(due, &Cancel::new());
            });
        }
    }

    /// Tells the MDT of all accesses it has not heard of. Failure is of no consequence.
    pub(crate) fn tell_accesses(self: &Arc<Self>, cancel: &Cancel) {
        self.tell_each(|| self.accesses.take(), cancel);
    }

    fn tell_each(self: &Arc<Self>, take: impl Fn() -> Vec<Arc<Inode>>, cancel: &Cancel) {
        loop {
            let inodes = take();
            if inodes.is_empty() {
                return;
            }
            let told: Vec<(&Arc<Inode>, Timespec)> =
                inodes.iter().filter_map(|inode| Some((inode, inode.lock().accessed?))).collect();
            if !told.is_empty() {
                self.tell_these(&told, cancel);
            }
        }
    }

    fn tell_these(self: &Arc<Self>, told: &[(&Arc<Inode>, Timespec)], cancel: &Cancel) {
        let access = |&(inode, atime): &(&Arc<Inode>, Timespec)| Access { fid: inode.fid, atime };
        let payload = TellAccesses { accesses: List(told.iter().map(access).collect()) }.to_vec();
        let mut request = Request::bare(Opcode::TellAccesses);
        let asked = self.payload_of(&payload, cancel).and_then(|payload| {
            request.payload = Some(payload);
            self.ask(request, cancel).map(drop)
        });
        if let Err(errno) = asked {
            tracing::debug!(%errno, inodes = told.len(), "telling access times");
        }
        let now = self.clock.now();
        for &(inode, atime) in told {
            let mut state = inode.lock();
            if let (Ok(()), Some(attributes)) = (asked, &mut state.attributes) {
                attributes.atime = attributes.read_at(Some(atime));
                attributes.atime_set = attributes.atime_set.max(atime);
            }
            // Read again meanwhile: that is told next time.
            let newer = state.accessed.is_some_and(|accessed| accessed > atime);
            if !newer || !self.accesses.enter(inode, now) {
                state.accessed = None;
            }
        }
    }
}

impl InodeState {
    /// The access time to note for a read at `now`, if one is due.
    fn access_due(&self, policy: AccessTimes, now: Timespec) -> Option<Timespec> {
        let attributes = self.attributes.filter(|attributes| attributes.flags & NOATIME == 0)?;
        let written = self.known.map_or(Timespec::ZERO, |known| known.mtime);
        let mtime = if written > attributes.mtime_set { written } else { attributes.mtime };
        let ctime = attributes.ctime.max(written);
        let before = attributes.read_at(self.accessed);
        // A read comes after the changes it was told of, however well the server's clock is known.
        let now = now.max(ctime.just_after());
        let due = policy == AccessTimes::Always
            || before <= mtime
            || before <= ctime
            || now.seconds.saturating_sub(before.seconds) >= DAY_SECONDS;
        (due && self.accessed.is_none_or(|accessed| now > accessed)).then_some(now)
    }
}

#[cfg(test)]
mod test {
    use sheen_types::{Attributes, Fid};
    use sheen_wire::lease::{LeaseCancel, bits};

    use super::*;
    use crate::{
        ClientConfig,
        fake::{FILE, Fake},
        glimpse::test::attributes,
        inode::Known,
        scenarios::{READ, connect_with, note_once_known, read, write},
    };

    fn at(seconds: i64) -> Timespec {
        Timespec { seconds, nanoseconds: 0 }
    }

    fn told(fake: &Fake) -> Vec<Vec<Access>> {
        let sent = fake.sent(Opcode::TellAccesses);
        let told = sent.iter().map(|sent| TellAccesses::from_bytes(&sent.payload).unwrap());
        told.map(|told| told.accesses.0).collect()
    }

    fn state_of(attributes: Attributes) -> InodeState {
        let mut state = InodeState::default();
        state.attributes = Some(attributes);
        state
    }

    #[test]
    fn a_read_counts_after_a_change_or_a_day_and_not_again() {
        let due = |attributes: Attributes, now: i64| {
            state_of(attributes).access_due(AccessTimes::Relative, at(now)).map(|at| at.seconds)
        };
        let read = Attributes { atime: at(40), ..attributes() };
        assert_eq!(due(read, 50), None);
        assert_eq!(due(Attributes { mtime: at(41), ..read }, 50), Some(50));
        assert_eq!(due(Attributes { ctime: at(40), ..read }, 50), Some(50));
        assert_eq!(due(read, 40 + DAY_SECONDS), Some(40 + DAY_SECONDS));
        assert_eq!(due(Attributes { flags: NOATIME, ..attributes() }, 50), None);
        let mut state = state_of(read);
        assert_eq!(state.access_due(AccessTimes::Always, at(41)), Some(at(41)));
        state.accessed = Some(at(45));
        assert_eq!(state.access_due(AccessTimes::Always, at(44)), None, "never back");
        let hand_set = Attributes { atime: at(5), atime_set: at(46), ctime: at(46), ..read };
        state.attributes = Some(hand_set);
        let found = state.access_due(AccessTimes::Relative, at(44));
        assert_eq!(found, Some(at(46).just_after()), "later than what it was told of");
        let tomorrow = Attributes { atime: at(1 << 20), ..hand_set };
        state.attributes = Some(tomorrow);
        assert_eq!(state.access_due(AccessTimes::Relative, at(47)), None);
        assert_eq!(state.access_due(AccessTimes::Always, at(47)), Some(at(47)));
        state.attributes = Some(read);
        state.known = Some(Known { mtime: at(60), ..Known::default() });
        let found = state.access_due(AccessTimes::Relative, at(59));
        assert_eq!(found, Some(at(60).just_after()), "later than the write it follows");
    }

    #[test]
    fn the_quickest_answer_of_a_minute_tells_the_time() {
        let clock = ServerClock::default();
        let tick = |milliseconds| Tick(0).after(Duration::from_millis(milliseconds));
        assert_eq!(clock.at(tick(5)), None);
        clock.note(at(100), tick(990), tick(1000));
        let second = Duration::from_secs(1) - Duration::from_micros(10);
        let later = Some(at(100).after(second));
        assert_eq!(clock.at(tick(2000)), later, "never ahead");
        clock.note(at(500), tick(2000), tick(3000));
        assert_eq!(clock.at(tick(2000)), later, "a hundred times slower");
        clock.note(at(200), tick(70_000), tick(71_000));
        assert_eq!(clock.at(tick(72_000)), Some(at(200).after(second)));
    }

    fn start(change: impl FnOnce(&mut ClientConfig)) -> (Fake, Arc<Client>, Arc<Inode>) {
        let fake = Fake::new();
        let client = connect_with(&fake, change);
        let file = client.inode(FILE);
        client.open(&file, READ, &Cancel::new()).unwrap();
        (fake, client, file)
    }

    #[test]
    fn many_files_are_told_of_in_one_request_that_nobody_waits_for() {
        let (fake, client, file) = start(|_| {});
        note_once_known(&client, &file);
        let others: Vec<Arc<Inode>> =
            (100..110).map(|oid| client.inode(Fid::new(Fid::NORMAL_SEQUENCE_FIRST, oid))).collect();
        for other in &others {
            other.lock().attributes = file.lock().attributes;
            client.note_access(other);
            client.note_access(other);
            client.forget(other.fid);
        }
        client.tell_due_accesses();
        assert!(told(&fake).is_empty(), "they can wait");
        let shown = client.attributes(&file, &Cancel::new()).unwrap().attributes.atime;
        assert_eq!(Some(shown), file.lock().accessed);
        client.tell_accesses(&Cancel::new());
        let fids = told(&fake).iter().map(|told| told.len()).collect::<Vec<_>>();
        assert_eq!(fids, [11]);
        assert_eq!(file.lock().accessed, None);
        assert_eq!(client.attributes(&file, &Cancel::new()).unwrap().attributes.atime, shown);
        client.note_access(&file);
        client.disconnect();
        assert_eq!(told(&fake).len(), 1, "nothing is due any more");
    }

    #[test]
    fn an_access_time_set_at_another_client_since_is_shown() {
        let (fake, client, file) = start(|_| {});
        let never = Cancel::new();
        note_once_known(&client, &file);
        let accessed = file.lock().accessed.unwrap();
        let after_a_change_by_another = |atime, atime_set| {
            fake.change(|state| state.accessed = Some((atime, atime_set)));
            let asked = fake.revoke(FILE, bits::METADATA, false);
            fake.wait_until("it is given back", |state| {
                state.log.iter().any(|sent| {
                    sent.opcode == Opcode::LeaseCancel
                        && LeaseCancel::from_bytes(&sent.body).unwrap().sequence == asked
                })
            });
            client.attributes(&file, &never).unwrap().attributes.atime
        };
        let shown = after_a_change_by_another(at(1), at(2));
        assert_eq!(shown, accessed, "of another kind");
        let shown = after_a_change_by_another(at(3), accessed.just_after());
        assert_eq!(shown, at(3), "set by hand");
        client.tell_accesses(&never);
        assert_eq!(client.attributes(&file, &never).unwrap().attributes.atime, at(3));
        client.disconnect();
    }

    #[test]
    fn a_full_request_is_told_at_once() {
        let (fake, client, file) = start(|_| {});
        note_once_known(&client, &file);
        for oid in 1..=u32::try_from(ACCESSES_MAX).unwrap() {
            let other = client.inode(Fid::new(Fid::NORMAL_SEQUENCE_FIRST + 1, oid));
            other.lock().attributes = file.lock().attributes;
            client.note_access(&other);
        }
        client.tell_due_accesses();
        fake.wait_until("it is told", |state| {
            state.log.iter().any(|sent| sent.opcode == Opcode::TellAccesses)
        });
        assert_eq!(told(&fake)[0].len(), ACCESSES_MAX);
        client.disconnect();
        let counts: Vec<usize> = told(&fake).iter().map(Vec::len).collect();
        assert_eq!(counts, [ACCESSES_MAX, 1], "the rest when it ends");
    }

    #[test]
    fn a_mount_without_access_times_tells_none() {
        let (fake, client, file) = start(|config| config.access_times = AccessTimes::Never);
        write(&fake, &client, &file, 0, b"content");
        assert_eq!(read(&fake, &client, &file, 0, 7), b"content");
        client.server_clock.note(at(1 << 33), Tick(0), Tick(0));
        client.note_access(&file);
        assert_eq!(file.lock().accessed, None);
        client.disconnect();
        assert!(told(&fake).is_empty());
    }
}
