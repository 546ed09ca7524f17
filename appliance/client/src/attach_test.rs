//! How a client introduces itself to a service of objects.

use std::time::{Duration, Instant};

use sheen_types::Errno;
use sheen_wire::Opcode;

use crate::{
    fake::FILE,
    scenarios::{read, start, write},
};

#[test]
fn a_service_that_was_not_told_of_the_session_yet_is_asked_again() {
    let (fake, client) = start();
    let file = client.inode(FILE);
    fake.change(|state| {
        state.instantiated = true;
        state.refuse_next = [(Opcode::Attach, Errno::EAGAIN.0); 3].into();
    });
    write(&fake, &client, &file, 0, b"content");
    assert_eq!(fake.sent(Opcode::Attach).len(), 4);
    assert_eq!(fake.sent(Opcode::Connect).len(), 1, "the session is none the worse for it");
    client.disconnect();
}

#[test]
fn a_session_the_service_says_has_ended_is_asked_for_at_the_mdt() {
    let (fake, client) = start();
    let file = client.inode(FILE);
    fake.change(|state| {
        state.instantiated = true;
        state.refuse_next = [(Opcode::Attach, Errno::ENOTCONN.0)].into();
    });
    write(&fake, &client, &file, 0, b"content");
    assert_eq!(fake.sent(Opcode::Connect).len(), 2);
    assert!(fake.sent(Opcode::Attach).len() > 1);
    client.disconnect();
}

#[test]
fn each_session_is_shown_with_its_own_key() {
    let (fake, client) = start();
    let file = client.inode(FILE);
    fake.change(|state| state.instantiated = true);
    write(&fake, &client, &file, 0, b"before");
    // The fake attaches nobody without the key of the session there is.
    fake.change(|state| state.unknown_session = true);
    fake.lose_mdt();
    fake.wait_until("another session", |state| state.ended_sessions == 1);
    // What is under way while the client learns of it ends with EIO.
    let serves = || client.session.lock().lane.as_ref().map(|lane| lane.identity.client.0);
    let begun = Instant::now();
    while serves() != Some(2) {
        assert!(begun.elapsed() < Duration::from_secs(10), "the client has another session");
        std::thread::yield_now();
    }
    fake.lose_osts();
    assert_eq!(read(&fake, &client, &file, 0, 6), b"before");
    assert_eq!(fake.sent(Opcode::Attach).last().unwrap().client.0, 2);
    client.disconnect();
}
