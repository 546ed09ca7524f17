//! A server of shared memory that writes wherever it can, whenever it likes: what a call was given and what it returned is the
//! caller's alone.

use std::{
    fs::File,
    io::Read,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixListener,
    },
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{Receiver, Sender, channel},
    },
    thread::{self, JoinHandle},
};

use sheen_dma::{Arena, Buffer};
use sheen_ports::{Call, Cancel, Link, LinkError};
use sheen_types::{Xid, checksum::crc32c};
use sheen_wire::{Frame, Opcode};

use crate::{
    ConnectError,
    area::{Area, state},
    connect, descriptors, futex,
    hello::{HELLO_BYTES, Hello, answer},
    region::Region,
};

const BYTES: usize = 300_000;

/// Answers one call with `content`, and then, when told, fills all it can reach with other bytes.
struct Hostile {
    spoil: Sender<()>,
    spoilt: Receiver<()>,
    thread: JoinHandle<Vec<u8>>,
}

fn reply(area: &Area, payload: &Region, content: &[u8]) -> Vec<u8> {
    let slot = loop {
        let rung = |word: u32| area.doorbell(word as usize).load(Ordering::SeqCst);
        if let Some(word) = (0..4).find(|&word| rung(word) != 0) {
            break word * 64 + rung(word).trailing_zeros();
        }
        thread::yield_now();
    };
    let message = area.read_request(slot).unwrap();
    let (frame, _) = Frame::decode_with(&message).unwrap();
    let mut sent = vec![0; frame.payload_bytes as usize];
    let at = |offset: u64| usize::try_from(offset).unwrap();
    payload.read(at(area.payload_offset(slot).load(Ordering::SeqCst)), &mut sent);
    payload.write(at(area.room_offset(slot).load(Ordering::SeqCst)), content);
    let payload_bytes = u32::try_from(content.len()).unwrap();
    let reply = Frame { payload_bytes, payload_checksum: crc32c(content), ..frame.reply(0) };
    let mut message = Vec::new();
    reply.encode_with(&[], &mut message);
    area.write_reply(slot, &message);
    let word = area.state(slot);
    if word.swap(state::REPLIED, Ordering::SeqCst) == state::SLEEPING {
        futex::wake(word);
    }
    sent
}

impl Hostile {
    fn start(listener: UnixListener, content: Vec<u8>) -> Self {
        let ((spoil, told), (done, spoilt)) = (channel(), channel());
        let thread = thread::spawn(move || {
            let (socket, _) = listener.accept().unwrap();
            let mut hello = [0; HELLO_BYTES];
            let shared = descriptors::receive(&socket, &mut hello).unwrap().descriptors;
            let bytes = usize::try_from(Hello::from_bytes(&hello).unwrap().arena_bytes).unwrap();
            let (area, payload) =
                (Area::map(&shared[0]).unwrap(), Region::map(&shared[1], bytes).unwrap());
            let event = nix::sys::eventfd::EventFd::new().unwrap();
            descriptors::send(&socket, &answer(None), &[event.as_fd()]).unwrap();
            let sent = reply(&area, &payload, &content);
            while told.recv().is_ok() {
                payload.write(0, &vec![0xee; bytes]);
                done.send(()).unwrap();
            }
            sent
        });
        Self { spoil, spoilt, thread }
    }

    fn spoil(&self) {
        self.spoil.send(()).unwrap();
        self.spoilt.recv().unwrap();
    }
}

#[test]
fn what_a_call_was_given_and_returned_is_out_of_the_servers_reach() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let content: Vec<u8> = (0..BYTES).map(|at| u8::try_from(at % 251).unwrap()).collect();
    let server = Hostile::start(UnixListener::bind(&path).unwrap(), content.clone());
    // Whatever the arena is: a shared one would be the nearest to reach.
    let arena = Arena::shared(4 << 20).unwrap();
    let link = connect(&format!("unix:{}", path.display()), 0, &arena).unwrap();
    let buffer = |byte: u8| -> Buffer {
        let mut buffer = link.buffer(BYTES).unwrap();
        buffer.as_mut_slice().fill(byte);
        buffer
    };
    let bystander = buffer(5);
    let frame = Frame::request(Opcode::ObjectWrite, Xid(1));
    let payload = Some((buffer(3), BYTES));
    let call = Call { frame, body: Vec::new(), payload, room: Some(buffer(0)) };
    let result = link.call(call, &Cancel::new());
    assert_eq!(result.reply.unwrap().0.payload_bytes as usize, BYTES);
    let (room, payload) = (result.room.unwrap(), result.payload.unwrap());
    assert!(room.as_slice() == content);

    server.spoil();
    assert!(room.as_slice() == content, "what was checked is what is used");
    assert!(payload.as_slice().iter().all(|&byte| byte == 3), "it may be sent again");
    assert!(bystander.as_slice().iter().all(|&byte| byte == 5));
    drop(server.spoil);
    assert_eq!(server.thread.join().unwrap(), vec![3; BYTES], "it was sent");
}

/// Connects to a server that answers with what `pass` gives, and `behind` its answer.
fn connect_to(pass: &[BorrowedFd<'_>], behind: &[u8]) -> Result<Arc<dyn Link>, ConnectError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            let (socket, _) = listener.accept().unwrap();
            let mut hello = [0; HELLO_BYTES];
            drop(descriptors::receive(&socket, &mut hello).unwrap());
            descriptors::send(&socket, &answer(None), pass).unwrap();
            // A client may be gone.
            let _sent = descriptors::send(&socket, behind, &[]);
            let _end = descriptors::receive(&socket, &mut hello);
        });
        let link =
            connect(&format!("unix:{}", path.display()), 0, &Arena::anonymous(1 << 16).unwrap());
        if let Ok(link) = &link {
            assert!(matches!(link.next_callback(), Err(LinkError::Lost)));
        }
        link
    })
}

#[test]
fn nothing_but_one_eventfd_is_taken_of_a_server_and_all_else_is_closed() {
    let event = nix::sys::eventfd::EventFd::new().unwrap();
    let (reader, writer) = nix::unistd::pipe().unwrap();
    let (one, two) = ([writer.as_fd()], [event.as_fd(), event.as_fd()]);
    for pass in [&[][..], &one, &two, &[writer.as_fd(); 253]] {
        let refused = connect_to(pass, b"").err();
        assert!(matches!(refused, Some(ConnectError::Protocol(_))), "{refused:?}");
    }
    drop(writer);
    assert_eq!(File::from(reader).read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_server_that_says_more_than_its_answer_has_lost_the_client() {
    let event = nix::sys::eventfd::EventFd::new().unwrap();
    assert!(connect_to(&[event.as_fd()], b"more").is_ok(), "and is lost then");
}
