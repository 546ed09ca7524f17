//! What is refused has no effect: truncations, and changes of immutable and append-only files.

use sheen_ports::Cancel;
use sheen_types::{Errno, attributes::frozen};
use sheen_wire::Opcode;

use crate::{
    Access, Changes, NewOpen, WriteOptions,
    fake::FILE,
    scenarios::{WRITE, buffer_with, read, start, write},
};

#[test]
fn a_truncate_the_metadata_service_refuses_leaves_the_content() {
    let (fake, client) = start();
    let file = client.inode(FILE);
    write(&fake, &client, &file, 0, b"content");
    fake.change(|state| state.refuse = Some((Opcode::SetAttributes, Errno::EPERM)));
    let changes = Changes { size: Some(0), ..Changes::default() };
    assert_eq!(client.set_attributes(&file, &changes, &Cancel::new()).err(), Some(Errno::EPERM));
    assert_eq!(fake.sent(Opcode::ObjectTruncate), [], "nothing was cut");
    assert_eq!(read(&fake, &client, &file, 0, 7), b"content");
    client.disconnect();
}

#[test]
fn an_immutable_file_is_not_written_through_what_was_open_before() {
    let (fake, client) = start();
    let file = client.inode(FILE);
    client.open(&file, WRITE, &Cancel::new()).unwrap();
    write(&fake, &client, &file, 0, b"content");
    let writes = fake.sent(Opcode::ObjectWrite).len();
    fake.change(|state| state.flags = frozen::IMMUTABLE);
    let changes = Changes { flags: Some(frozen::IMMUTABLE), ..Changes::default() };
    client.set_attributes(&file, &changes, &Cancel::new()).unwrap();
    let options = WriteOptions { append: false, durable: false, access: Access::Direct };
    let payload = buffer_with(&fake, b"changed");
    let written = client.write(&file, 0, payload, &options, &Cancel::new());
    assert_eq!(written.err(), Some(Errno::EPERM));
    for mode in [0, 3, 16] {
        let allocated = client.allocate(&file, 0..4096, mode, &Cancel::new());
        assert_eq!(allocated, Err(Errno::EPERM), "fallocate mode {mode}");
    }
    assert_eq!(fake.sent(Opcode::ObjectWrite).len(), writes, "nothing reached the object");
    assert_eq!(fake.sent(Opcode::ObjectPunch), []);
    assert_eq!(client.open(&file, WRITE, &Cancel::new()).err(), Some(Errno::EPERM));
    client.disconnect();
}

#[test]
fn an_append_only_file_is_opened_for_appending_and_keeps_what_it_has() {
    let (fake, client) = start();
    let file = client.inode(FILE);
    let append = NewOpen { read: false, write: true, append: true };
    fake.change(|state| state.flags = frozen::APPEND);
    client.open(&file, append, &Cancel::new()).unwrap();
    assert_eq!(client.open(&file, WRITE, &Cancel::new()).err(), Some(Errno::EPERM));
    client.open(&file, append, &Cancel::new()).unwrap();
    write(&fake, &client, &file, 0, b"line");
    for mode in [3, 16] {
        let allocated = client.allocate(&file, 0..4096, mode, &Cancel::new());
        assert_eq!(allocated, Err(Errno::EPERM), "fallocate mode {mode}");
    }
    client.allocate(&file, 0..4096, 0, &Cancel::new()).unwrap();
    client.disconnect();
}
