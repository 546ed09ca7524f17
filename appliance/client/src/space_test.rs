//! An OST has no space: what was removed gives some before a program hears of it, and a full one is told at once.

use std::{
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use sheen_ports::Cancel;
use sheen_types::Errno;
use sheen_wire::{Field, Opcode, metadata::MakeRoom};

use crate::{
    Access, Client, WriteOptions,
    fake::{FILE, Fake},
    scenarios::{WRITE, buffer_with, read, start},
};

fn write(client: &Arc<Client>, fake: &Fake, cancel: &Cancel) -> Result<usize, Errno> {
    let options = WriteOptions { append: false, durable: false, access: Access::Direct };
    let payload = buffer_with(fake, b"content");
    client.write(&client.inode(FILE), 0, payload, &options, cancel).map(|(bytes, _)| bytes)
}

fn refuse(fake: &Fake, opcode: Opcode, lingers: bool) {
    fake.change(|state| {
        state.refuse = Some((opcode, Errno::ENOSPC));
        state.lingers = lingers;
    });
}

fn asked(fake: &Fake) -> usize {
    fake.sent(Opcode::MakeRoom).len()
}

#[test]
fn what_was_removed_gives_space_before_a_program_is_told_that_there_is_none() {
    let (fake, client) = start();
    let never = Cancel::new();
    client.open(&client.inode(FILE), WRITE, &never).unwrap();
    refuse(&fake, Opcode::ObjectWrite, true);
    assert_eq!(write(&client, &fake, &never), Ok(7));
    assert_eq!(read(&fake, &client, &client.inode(FILE), 0, 7), b"content");
    let sent = fake.sent(Opcode::MakeRoom);
    assert_eq!(sent.len(), 1);
    assert_eq!(MakeRoom::from_bytes(&sent[0].body).unwrap().ost.0, 0);
    refuse(&fake, Opcode::ObjectAllocate, true);
    assert_eq!(client.allocate(&client.inode(FILE), 0..4096, 0, &never), Ok(()));
    assert_eq!((asked(&fake), client.statistics().room_requests), (2, 2));
    client.disconnect();
}

#[test]
fn a_full_target_is_told_at_once_and_asked_no_more_than_once_for_each_refusal() {
    let (fake, client) = start();
    let never = Cancel::new();
    client.open(&client.inode(FILE), WRITE, &never).unwrap();
    refuse(&fake, Opcode::ObjectWrite, false);
    // Others destroyed something before: that is no space of now.
    fake.change(|state| state.destroyed = 7);
    let begun = Instant::now();
    for _ in 0..10 {
        assert_eq!(write(&client, &fake, &never), Err(Errno::ENOSPC));
    }
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    let writes = fake.sent(Opcode::ObjectWrite).len();
    assert!(asked(&fake) <= 12 && writes <= 12, "{} {writes}", asked(&fake));
    client.disconnect();
}

#[test]
fn who_is_refused_together_asks_together_and_is_killed_alone() {
    let (fake, client) = start();
    client.open(&client.inode(FILE), WRITE, &Cancel::new()).unwrap();
    refuse(&fake, Opcode::ObjectWrite, true);
    fake.change(|state| state.hold = Some(Opcode::MakeRoom));
    let (done, ended) = mpsc::channel();
    let cancels: Vec<Cancel> = (0..8).map(|_| Cancel::new()).collect();
    for (number, cancel) in cancels.iter().cloned().enumerate() {
        let (client, fake, done) = (client.clone(), fake.clone(), done.clone());
        std::thread::spawn(move || done.send((number, write(&client, &fake, &cancel))));
    }
    fake.wait_until("the request", |state| state.held == 1);
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(asked(&fake), 1, "one is under way");
    cancels[3].cancel();
    cancels[5].cancel();
    for _ in 0..2 {
        let (number, result) = ended.recv_timeout(Duration::from_secs(1)).expect("killed");
        assert!([3, 5].contains(&number), "{number}");
        assert_eq!(result, Err(Errno::EINTR));
    }
    fake.change(|state| state.hold = None);
    for _ in 0..6 {
        let (_, result) = ended.recv_timeout(Duration::from_secs(2)).expect("served");
        assert_eq!(result, Ok(7));
    }
    assert!(asked(&fake) <= 3, "{}", asked(&fake));
    client.disconnect();
}

#[test]
fn an_mdt_that_does_not_answer_is_waited_for_a_moment() {
    let (fake, client) = start();
    client.open(&client.inode(FILE), WRITE, &Cancel::new()).unwrap();
    refuse(&fake, Opcode::ObjectWrite, true);
    fake.change(|state| state.hold = Some(Opcode::MakeRoom));
    let begun = Instant::now();
    assert_eq!(write(&client, &fake, &Cancel::new()), Err(Errno::ENOSPC));
    let waited = begun.elapsed();
    assert!(waited >= Duration::from_secs(2) && waited < Duration::from_secs(6), "{waited:?}");
    fake.change(|state| state.hold = None);
    client.disconnect();
}

#[test]
fn what_a_restarted_mdt_destroyed_is_no_old_news() {
    let (fake, client) = start();
    let never = Cancel::new();
    client.open(&client.inode(FILE), WRITE, &never).unwrap();
    for life in 0..3 {
        // One object in each life: the number it tells is the same each time.
        fake.change(|state| {
            state.destroyed = 0;
            state.server_epoch += 1;
        });
        fake.lose_all();
        refuse(&fake, Opcode::ObjectWrite, true);
        assert_eq!(write(&client, &fake, &never), Ok(7), "life {life}");
    }
    client.disconnect();
}

#[test]
fn an_mdt_whose_clients_are_coming_back_is_asked_until_they_are() {
    let (fake, client) = start();
    client.open(&client.inode(FILE), WRITE, &Cancel::new()).unwrap();
    refuse(&fake, Opcode::ObjectWrite, true);
    let asked_in_vain = (Opcode::MakeRoom, Errno::EBUSY.0);
    // Longer than an MDT that says nothing is waited for.
    fake.change(|state| state.refuse_next.extend([asked_in_vain; 40]));
    assert_eq!(write(&client, &fake, &Cancel::new()), Ok(7));
    refuse(&fake, Opcode::ObjectWrite, true);
    fake.change(|state| state.refuse_next.extend([asked_in_vain; 1000]));
    let cancel = Cancel::new();
    let killed = cancel.clone();
    let (writer, server) = (client.clone(), fake.clone());
    let writing = std::thread::spawn(move || write(&writer, &server, &killed));
    fake.wait_until("it asks", |state| state.refuse_next.len() < 999);
    cancel.cancel();
    assert_eq!(writing.join().unwrap(), Err(Errno::EINTR));
    client.disconnect();
}
