//! The client against OSTs that lose their power: what was acknowledged comes back or is told to be lost.

use std::{
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

use sheen_ports::Cancel;
use sheen_types::{ClientId, Errno, Fid, OstIndex, Timespec};
use sheen_wire::{
    Field, Opcode,
    lease::bits,
    metadata::Reassert,
    object::{ObjectTruncate, ObjectWrite},
};

use crate::{
    Access, CacheSink, Changes, Client, ClientConfig, Inode, SystemClock, WriteOptions,
    fake::{FILE, Fake, object},
    scenarios::{WRITE, buffer_with, read, write},
};

pub(crate) const STRIPE: u64 = 64 << 10;

pub(crate) fn start_with(change: impl FnOnce(&mut ClientConfig)) -> (Fake, Arc<Client>) {
    let fake = Fake::new();
    fake.change(|state| state.power.volatile = true);
    let mut config = ClientConfig::new("fake", "fs", "test").unwrap();
    // No flush but those a test provokes.
    config.unstable_age = Duration::from_secs(3600);
    change(&mut config);
    let clock = Arc::new(SystemClock::default());
    let client = Client::connect(config, Arc::new(fake.clone()), clock).unwrap();
    (fake, client)
}

pub(crate) fn open(client: &Arc<Client>) -> Arc<Inode> {
    let file = client.inode(FILE);
    client.open(&file, WRITE, &Cancel::new()).unwrap();
    file
}

fn truncate(client: &Arc<Client>, file: &Arc<Inode>, size: u64) {
    let changes = Changes { size: Some(size), ..Changes::default() };
    client.set_attributes(file, &changes, &Cancel::new()).unwrap();
}

/// Changes of objects in the order they were sent: object, and where a write begins or else the size.
fn changes(fake: &Fake, since: usize) -> Vec<(Opcode, Fid, u64)> {
    let log = fake.lock().log[since..].to_vec();
    let change = |sent: &crate::fake::Sent| match sent.opcode {
        Opcode::ObjectWrite => {
            let body = ObjectWrite::from_bytes(&sent.body).unwrap();
            Some((sent.opcode, body.object, body.offset))
        }
        Opcode::ObjectTruncate => {
            let body = ObjectTruncate::from_bytes(&sent.body).unwrap();
            Some((sent.opcode, body.object, body.size))
        }
        Opcode::ObjectRead | Opcode::ObjectSync | Opcode::ObjectGlimpse => {
            Some((sent.opcode, Fid::NONE, 0))
        }
        _ => None,
    };
    log.iter().filter_map(change).collect()
}

/// Writes `content`, waits until `is`, and leaves.
fn kill_a_writer(
    fake: &Fake,
    client: &Arc<Client>,
    content: &[u8],
    is: impl Fn(&crate::fake::State) -> bool,
) {
    let cancel = Cancel::new();
    let payload = buffer_with(fake, content);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let options = WriteOptions { append: false, durable: false, access: Access::Direct };
            client.write(&client.inode(FILE), 0, payload, &options, &cancel).map(|done| done.0)
        });
        fake.wait_until("it is on its way", is);
        cancel.cancel();
        assert_eq!(writer.join().unwrap(), Err(Errno::EINTR));
    });
    assert_eq!(client.requests_left(), 1);
}

fn wait_ended(client: &Client) {
    while client.requests_left() > 0 {
        std::thread::yield_now();
    }
}

fn count(fake: &Fake, opcode: Opcode) -> usize {
    fake.sent(opcode).len()
}

/// Notes what the kernel would have been told to drop.
#[derive(Default)]
struct Dropped(Mutex<Vec<Fid>>);

impl CacheSink for Dropped {
    fn invalidate_data(&self, fid: Fid, _: std::ops::Range<u64>) {
        self.0.lock().unwrap().push(fid);
    }

    fn invalidate_attributes(&self, _: Fid) {}

    fn invalidate_entries(&self) {}
}

#[test]
fn what_an_ost_forgot_is_there_again_when_fsync_says_so() {
    let (fake, client) = start_with(|_| {});
    let file = open(&client);
    let errors = file.error_cursor();
    write(&fake, &client, &file, 0, b"acknowledged");
    write(&fake, &client, &file, STRIPE, b"on the other one");
    let times = |fake: &Fake| -> Vec<Timespec> {
        fake.lock().objects.values().map(|(_, mtime)| *mtime).collect()
    };
    let before = times(&fake);
    fake.lose_power();
    assert!(fake.lock().objects.is_empty());
    client.sync(&file, &errors, &Cancel::new()).unwrap();
    assert_eq!(times(&fake), before, "at the times of then");
    assert_eq!(fake.lock().durable(0), b"acknowledged");
    assert_eq!(fake.lock().durable(1), b"on the other one");
    assert_eq!(client.statistics().changes_resent, 2);
    assert_eq!(client.unstable.counted(), (0, 0));
    client.disconnect();
}

/// The MDT has the objects of such a file destroyed after DATA was given back: nothing can make them anew then.
#[test]
fn whoever_removes_a_file_says_whether_changes_of_it_may_be_sent_again() {
    for replace in [false, true] {
        let (fake, client) = start_with(|_| {});
        let opcode = if replace { Opcode::Rename } else { Opcode::Unlink };
        let root = client.inode(client.root());
        let remove = || {
            let never = Cancel::new();
            match replace {
                true => {
                    let (from, to): (_, (_, &[u8])) = ((&root, &b"new"[..]), (&root, b"file"));
                    client.rename(from, to, 0, (0, 0), &never).map(drop)
                }
                false => client.unlink(&root, b"file", false, (0, 0), &never),
            }
        };
        remove().unwrap();
        let file = open(&client);
        write(&fake, &client, &file, 0, b"soon gone");
        client.close(&file, true, &Cancel::new());
        // The power goes before the answer comes.
        fake.change(|state| state.lose_after = Some(opcode));
        remove().unwrap();
        fake.lose_power();
        fake.revoke(FILE, bits::DATA, false);
        fake.wait_until("the revoke is answered", |state| {
            state.log.iter().any(|sent| sent.opcode == Opcode::LeaseCancel)
        });
        assert_eq!(client.unstable.counted(), (0, 0), "nothing can be sent again");
        remove().unwrap();
        let keeps: Vec<bool> = fake.sent(opcode).iter().map(|sent| sent.keeps).collect();
        assert_eq!(keeps, [false, true, true, false], "the second was sent twice");
        client.disconnect();
    }
}

#[test]
fn power_lost_between_fsyncs_answer_and_the_next_is_no_matter() {
    let (fake, client) = start_with(|_| {});
    let file = open(&client);
    let errors = file.error_cursor();
    write(&fake, &client, &file, 0, b"first");
    fake.change(|state| state.lose_after = Some(Opcode::ObjectSync));
    client.sync(&file, &errors, &Cancel::new()).unwrap();
    write(&fake, &client, &file, 0, b"other");
    // The flush is on its way when the power goes.
    fake.change(|state| state.hold = Some(Opcode::ObjectSync));
    let (syncer, other) = (client.clone(), file.clone());
    let synced = std::thread::spawn(move || syncer.sync(&other, &errors, &Cancel::new()));
    fake.wait_until("the flush is asked for", |state| state.held == 1);
    fake.lose_power();
    fake.change(|state| state.hold = None);
    assert_eq!(synced.join().unwrap(), Ok(()));
    assert_eq!(fake.lock().durable(0), b"other");
    client.disconnect();
}

#[test]
fn everything_is_sent_again_in_order_before_anything_else() {
    let (fake, client) = start_with(|_| {});
    let file = open(&client);
    write(&fake, &client, &file, 0, b"a long beginning");
    truncate(&client, &file, 3);
    write(&fake, &client, &file, 5, b"end");
    let since = fake.lock().log.len();
    fake.lose_power();
    assert_eq!(read(&fake, &client, &file, 0, 100), b"a l\0\0end");
    let sent = changes(&fake, since);
    let first = object(0);
    let expected = [
        (Opcode::ObjectWrite, first, 0),
        (Opcode::ObjectTruncate, first, 3),
        (Opcode::ObjectWrite, first, 5),
        (Opcode::ObjectRead, Fid::NONE, 0),
    ];
    assert_eq!(sent[..4], expected, "{sent:?}");
    // It loses its power again, with some of it flushed.
    let since = fake.lock().log.len();
    fake.lose_power();
    assert_eq!(read(&fake, &client, &file, 0, 100), b"a l\0\0end");
    assert_eq!(changes(&fake, since)[..4], expected);
    client.disconnect();
}

#[test]
fn what_cannot_be_sent_again_is_told_once_to_each_open_file_and_dropped_from_caches() {
    let (fake, client) = start_with(|_| {});
    let dropped = Arc::new(Dropped::default());
    client.set_sink(dropped.clone());
    let file = open(&client);
    let never = Cancel::new();
    let (one, other) = (file.error_cursor(), file.error_cursor());
    write(&fake, &client, &file, 0, b"lost");
    write(&fake, &client, &file, 100, b"kept");
    fake.lose_power();
    fake.change(|state| state.refuse_next.push_back((Opcode::ObjectWrite, Errno::ENOSPC.0)));
    assert_eq!(client.sync(&file, &one, &never), Err(Errno::EIO));
    assert_eq!(client.sync(&file, &one, &never), Ok(()), "once");
    assert_eq!(file.untold_write_errors(&other), Err(Errno::EIO), "as close asks");
    assert_eq!(file.check_write_errors(&other), Err(Errno::EIO), "and fsync still tells");
    assert_eq!(file.check_write_errors(&file.error_cursor()), Ok(()), "they know");
    assert_eq!(dropped.0.lock().unwrap()[..], [FILE], "before fsync came back");
    let content = read(&fake, &client, &file, 0, 200);
    assert_eq!((&content[..4], &content[100..]), (&[0; 4][..], &b"kept"[..]));
    assert_eq!(client.sync_all(&never), Err(Errno::EIO), "sync tells of it, too");
    assert_eq!(client.sync_all(&never), Ok(()));
    let counted = client.statistics();
    assert_eq!((counted.changes_lost, counted.changes_resent), (1, 1));
    client.disconnect();
}

#[test]
fn a_write_back_that_is_not_whole_fails_and_its_pages_are_dropped() {
    let (fake, client) = start_with(|_| {});
    let dropped = Arc::new(Dropped::default());
    client.set_sink(dropped.clone());
    let file = open(&client);
    let both = usize::try_from(2 * STRIPE).unwrap();
    let write_back = || {
        let options = WriteOptions { append: false, durable: false, access: Access::Writeback };
        let payload = buffer_with(&fake, &vec![7; both]);
        client.write(&file, 0, payload, &options, &Cancel::new()).map(|done| done.0)
    };
    write(&fake, &client, &file, 0, b"before");
    assert_eq!(write_back(), Ok(both));
    let refuse = |ost| {
        fake.change(|state| {
            state.refuse = Some((Opcode::ObjectWrite, Errno::EDQUOT));
            state.refuse_ost = Some(OstIndex(ost));
        });
    };
    for ost in [0, 1] {
        refuse(ost);
        // The kernel takes a short answer for a whole one.
        assert_eq!(write_back(), Err(Errno::EDQUOT), "OST {ost}");
        client.wait_dropped(&file, &Cancel::new()).unwrap();
    }
    assert_eq!(
        dropped.0.lock().unwrap()[..],
        [FILE, FILE],
        "its pages are not what the file holds"
    );
    client.disconnect();
}

#[test]
fn at_the_bound_a_writer_waits_for_a_flush_and_can_be_killed() {
    let (fake, client) = start_with(|config| config.unstable_bytes_max = 20_000);
    let file = open(&client);
    fake.change(|state| state.hold = Some(Opcode::ObjectSync));
    write(&fake, &client, &file, 0, &[1; 4000]);
    assert_eq!(count(&fake, Opcode::ObjectSync), 0);
    write(&fake, &client, &file, 4000, &[2; 4000]);
    fake.wait_until("from a quarter on it flushes", |state| state.held == 1);
    let cancel = Cancel::new();
    let (writer, other, killed) = (client.clone(), file.clone(), cancel.clone());
    let payload = buffer_with(&fake, &[3; 4000]);
    let (done, ended) = mpsc::channel();
    let waiting = std::thread::spawn(move || {
        let options = WriteOptions { append: false, durable: false, access: Access::Direct };
        let result = writer.write(&other, 8000, payload, &options, &killed);
        done.send(result.map(|written| written.0)).unwrap();
    });
    assert!(ended.recv_timeout(Duration::from_millis(100)).is_err(), "there is no room");
    cancel.cancel();
    assert_eq!(ended.recv().unwrap(), Err(Errno::EINTR));
    waiting.join().unwrap();
    assert_eq!(count(&fake, Opcode::ObjectWrite), 2, "it was never sent");
    fake.change(|state| state.hold = None);
    write(&fake, &client, &file, 8000, &[3; 4000]);
    assert!(client.unstable.counted().0 <= 10_000, "half of it for one");
    client.disconnect();
}

#[test]
fn a_change_acknowledged_after_its_caller_was_killed_is_kept() {
    let (fake, client) = start_with(|_| {});
    let file = open(&client);
    let errors = file.error_cursor();
    write(&fake, &client, &file, 0, b"first");
    fake.change(|state| state.hold = Some(Opcode::ObjectWrite));
    kill_a_writer(&fake, &client, b"other", |state| {
        state.log.iter().filter(|sent| sent.opcode == Opcode::ObjectWrite).count() == 2
    });
    fake.change(|state| state.hold = None);
    wait_ended(&client);
    assert_eq!(read(&fake, &client, &file, 0, 100), b"other");
    fake.lose_power();
    assert_eq!(client.sync(&file, &errors, &Cancel::new()), Ok(()));
    assert_eq!(fake.lock().durable(0), b"other", "as it was read");
    assert_eq!(client.unstable.counted(), (0, 0));
    client.disconnect();
}

/// The answer was on its way when the power went.
#[test]
fn a_change_its_killed_caller_never_heard_of_and_its_target_forgot_is_told_to_be_lost() {
    let (fake, client) = start_with(|_| {});
    let file = open(&client);
    let errors = file.error_cursor();
    write(&fake, &client, &file, 0, b"first");
    assert_eq!(client.sync(&file, &errors, &Cancel::new()), Ok(()));
    fake.change(|state| state.delay = Some(Opcode::ObjectWrite));
    kill_a_writer(&fake, &client, b"other", |state| {
        state.objects.get(&object(0)).is_some_and(|content| content.0 == b"other")
    });
    assert_eq!(read(&fake, &client, &file, 0, 100), b"other");
    fake.lose_power();
    assert_eq!(read(&fake, &client, &file, 0, 100), b"first");
    fake.change(|state| state.delay = None);
    wait_ended(&client);
    assert_eq!(client.sync(&file, &errors, &Cancel::new()), Err(Errno::EIO));
    assert_eq!(client.sync(&file, &errors, &Cancel::new()), Ok(()));
    client.disconnect();
}

#[test]
fn what_was_written_is_durable_before_the_lease_on_it_goes_to_others() {
    for to_read in [false, true] {
        let (fake, client) = start_with(|_| {});
        let file = client.inode(FILE);
        write(&fake, &client, &file, 0, b"seen by others");
        fake.lose_power();
        fake.revoke(FILE, bits::DATA, to_read);
        fake.wait_until("the revoke is answered", |state| {
            state.log.iter().any(|sent| sent.opcode == Opcode::LeaseCancel)
        });
        assert_eq!(fake.lock().durable(0), b"seen by others");
        let log: Vec<Opcode> = fake.lock().log.iter().map(|sent| sent.opcode).collect();
        let at = |opcode| log.iter().rposition(|sent| *sent == opcode).unwrap();
        assert!(at(Opcode::ObjectSync) < at(Opcode::LeaseCancel), "{log:?}");
        // Nothing is left that could overwrite what others write.
        fake.change(|state| state.write_as_another(0, b"theirs"));
        assert_eq!(read(&fake, &client, &file, 0, 100), b"theirs");
        client.disconnect();
    }
}

/// Giving the lease back waits for the target, the target for the MDT, and that for nobody.
#[test]
fn a_restarted_node_is_told_what_is_held_while_a_lease_is_being_given_back() {
    let (fake, client) = start_with(|_| {});
    let file = client.inode(FILE);
    write(&fake, &client, &file, 0, b"seen by others");
    fake.change(|state| state.hold = Some(Opcode::ObjectSync));
    fake.revoke(FILE, bits::DATA, false);
    fake.wait_until("it is made durable first", |state| state.held == 1);
    let begun = std::time::Instant::now();
    fake.change(|state| state.server_epoch += 1);
    fake.lose_power();
    fake.lose_all();
    fake.change(|state| state.hold = None);
    fake.wait_until("it is durable", |state| state.durable(0) == b"seen by others");
    let waited = begun.elapsed();
    assert!(waited < Duration::from_secs(3), "after {waited:?}");
    let told = fake.sent(Opcode::Reassert);
    let told = Reassert::from_bytes(&told.last().unwrap().payload).unwrap();
    assert_eq!(told.leases.0[0].write_bits, bits::DATA, "held until it is given back");
    client.disconnect();
}

#[test]
fn nothing_is_sent_again_for_a_session_that_ended() {
    let (fake, client) = start_with(|_| {});
    let file = open(&client);
    let errors = file.error_cursor();
    write(&fake, &client, &file, 0, b"of the old session");
    let opens = count(&fake, Opcode::Open);
    fake.change(|state| state.unknown_session = true);
    fake.lose_mdt();
    fake.wait_until("it is opened again", |state| {
        state.log.iter().filter(|sent| sent.opcode == Opcode::Open).count() > opens
    });
    let since = fake.lock().log.len();
    fake.lose_power();
    assert_eq!(client.sync(&file, &errors, &Cancel::new()), Err(Errno::EIO));
    let sent = changes(&fake, since);
    assert!(sent.iter().all(|(opcode, ..)| *opcode != Opcode::ObjectWrite), "{sent:?}");
    assert_eq!(client.sync(&file, &errors, &Cancel::new()), Ok(()));
    client.disconnect();
}

#[test]
fn a_piece_that_was_queued_when_the_session_ended_is_never_sent_for_the_next_one() {
    let (fake, client) = start_with(|config| config.transfer_threads = 1);
    let file = open(&client);
    let bytes = usize::try_from(STRIPE).unwrap() * 2;
    write(&fake, &client, &file, 0, &vec![0; bytes]);
    fake.change(|state| state.hold = Some(Opcode::ObjectWrite));
    // Each has two pieces: one for the only thread of the pool, where that of the second write has to wait.
    let writers: Vec<_> = (0..2)
        .map(|number: u8| {
            let (writer, other) = (client.clone(), file.clone());
            let payload = buffer_with(&fake, &vec![number; bytes]);
            std::thread::spawn(move || {
                let options =
                    WriteOptions { append: false, durable: false, access: Access::Direct };
                writer.write(&other, 0, payload, &options, &Cancel::new()).map(|done| done.0)
            })
        })
        .collect();
    fake.wait_until("all but the queued one are sent", |state| state.held == 3);
    fake.change(|state| state.unknown_session = true);
    let opens = count(&fake, Opcode::Open);
    fake.lose_mdt();
    fake.wait_until("there is a new session", |state| {
        state.log.iter().filter(|sent| sent.opcode == Opcode::Open).count() > opens
    });
    fake.change(|state| state.hold = None);
    let ended: Vec<_> = writers.into_iter().map(|writer| writer.join().unwrap()).collect();
    let under_new = |sent: &&crate::fake::Sent| sent.client == ClientId(2);
    let sent = fake.sent(Opcode::ObjectWrite);
    assert_eq!(sent.iter().filter(under_new).count(), 0, "{ended:?}");
    assert!(ended.iter().any(|result| *result != Ok(bytes)), "one could not be sent");
    client.disconnect();
}

#[test]
fn the_end_of_the_client_leaves_nothing_that_can_be_lost() {
    let (fake, client) = start_with(|_| {});
    let file = open(&client);
    write(&fake, &client, &file, 0, b"the last");
    client.disconnect();
    assert_eq!(fake.lock().durable(0), b"the last");
}

#[test]
fn without_a_volatile_cache_nothing_is_kept_and_nothing_flushed() {
    let (fake, client) = start_with(|_| {});
    fake.change(|state| state.power.volatile = false);
    let file = open(&client);
    write(&fake, &client, &file, 0, b"durable at once");
    assert_eq!(client.unstable.counted(), (0, 0));
    client.disconnect();
    assert_eq!(count(&fake, Opcode::ObjectSync), 0);
}
