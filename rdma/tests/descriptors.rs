//! Descriptors that a peer of this host passes: none is left open, and none that cannot be closed stops the server.
//!
//! Needs root, for users and a mount, and `/dev/fuse`.

#![allow(clippy::unwrap_used, reason = "tests stop where they fail")]

mod attacker;
mod deaf;
mod server;

use std::{
    fs::{File, Permissions, read_dir, read_to_string, set_permissions},
    mem::ManuallyDrop,
    net::TcpListener,
    os::{
        fd::{AsRawFd, RawFd},
        unix::fs::PermissionsExt,
    },
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use attacker::{
    MESSAGE_DESCRIPTORS_MAX, PATIENCE, attack, hello, pass_lingering, peer, refusal, send, taken_in,
};
use deaf::DeafMount;
use nix::sys::socket::MsgFlags;
use server::Server;
use sheen_dma::Arena;
use sheen_ports::{Call, Cancel};
use sheen_rdma::connect;
use sheen_types::Xid;
use sheen_wire::{Frame, Opcode};

/// No user of a host.
const STRANGER: u32 = 4_000_000_001;
/// Refusals: malformed, and too busy.
const MALFORMED: u16 = 3;
const BUSY: u16 = 13;
/// Threads that one user may hold.
const USER_MAX: usize = 16;

/// One at a time: descriptors and threads of the process are counted.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A server that every user of this host may connect to.
fn open_server() -> Server {
    let server = Server::start();
    let socket = Path::new(server.unix.strip_prefix("unix:").unwrap());
    set_permissions(socket, Permissions::from_mode(0o777)).unwrap();
    set_permissions(socket.parent().unwrap(), Permissions::from_mode(0o755)).unwrap();
    server
}

fn assert_served(server: &Server) {
    let begun = Instant::now();
    let link = connect(&server.unix, 1, &Arena::anonymous(1 << 20).unwrap()).unwrap();
    let frame = Frame::request(Opcode::Ping, Xid(1));
    let call = Call { frame, body: Vec::new(), payload: None, room: None };
    assert!(link.call(call, &Cancel::new()).reply.is_ok());
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

fn descriptors() -> usize {
    read_dir("/proc/self/fd").unwrap().count()
}

/// Threads that deal with peers of this host.
fn threads_apart() -> usize {
    let names = read_dir("/proc/self/task")
        .unwrap()
        .filter_map(|entry| read_to_string(entry.unwrap().path().join("comm")).ok());
    names.filter(|name| name.trim_end() == "local-peer").count()
}

fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until this process, in which the server runs, has as many descriptors as `before`: ended connections are let go of by other
/// threads.
fn assert_descriptors(before: usize) {
    wait_for(&format!("back to {before} descriptors"), || descriptors() <= before);
}

#[test]
fn whatever_descriptors_a_hello_carries_none_is_left_open() {
    let _alone = alone();
    let server = Server::start();
    assert_served(&server);
    let before = descriptors();
    let address = server.unix.clone();
    let attacked = attack(None, move || {
        let file = File::open("/dev/null").unwrap();
        let many = vec![file.as_raw_fd(); MESSAGE_DESCRIPTORS_MAX];
        let groups: [&[&[RawFd]]; 10] = [
            &[&many[..1]],
            &[&many[..2]],
            &[&many[..3]],
            &[&many[..4]],
            &[&many[..5]],
            &[&many[..6]],
            &[&many[..17]],
            &[&many],
            &[&many[..2], &many[..2]],
            &[&many[..1], &many[..4], &many[..100]],
        ];
        for (round, groups) in (0..200).zip(groups.iter().cycle()) {
            let socket = peer(&address);
            send(&socket, &hello(), groups);
            assert_eq!(refusal(&socket), Some(MALFORMED), "round {round}");
        }
        // In pieces, each with descriptors of its own; and more behind the hello.
        for _ in 0..20 {
            let socket = peer(&address);
            for piece in hello().chunks(6) {
                send(&socket, piece, &[&many[..5]]);
            }
            send(&socket, b"more", &[&many]);
            assert_ne!(refusal(&socket), Some(0));
        }
        // Neither a hello nor its end.
        for _ in 0..20 {
            let socket = peer(&address);
            send(&socket, b"SHEEN", &[&many]);
        }
    });
    attacked.join().unwrap();
    assert_descriptors(before);
    assert_served(&server);
}

#[test]
fn a_descriptor_that_cannot_be_closed_holds_threads_of_its_user_alone() {
    let _alone = alone();
    let server = open_server();
    // Ends before the server, which could wait for it if this fails.
    let mount = DeafMount::new();
    assert_served(&server);
    let before = descriptors();
    let (address, path) = (server.unix.clone(), mount.path());
    let refusals = attack(Some(STRANGER), move || {
        // Goes with the thread: closing it waits.
        let file = ManuallyDrop::new(File::open(path).unwrap());
        let sockets: Vec<_> = (0..2 * USER_MAX)
            .map(|round| {
                let socket = peer(&address);
                let count = [2, 1, 3, MESSAGE_DESCRIPTORS_MAX][round % 4];
                send(&socket, &hello(), &[&vec![file.as_raw_fd(); count]]);
                socket
            })
            .collect();
        let refusals: Vec<_> = sockets.iter().map(refusal).collect();
        let of = |which| refusals.iter().filter(|refusal| **refusal == Some(which)).count();
        (of(MALFORMED), of(BUSY))
    });
    for _ in 0..100 {
        assert_served(&server);
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(refusals.join().unwrap(), (USER_MAX, USER_MAX));
    assert_eq!(threads_apart(), USER_MAX);
    assert_descriptors(before);
    assert_served(&server);
    // Once they are closed, the user is let in as before.
    drop(mount);
    wait_for("all threads end", || threads_apart() == 0);
    let address = server.unix.clone();
    let honest = attack(Some(STRANGER), move || drop(taken_in(&address)));
    honest.join().unwrap();
}

#[test]
fn what_waits_when_it_is_closed_stops_neither_acceptor_nor_service() {
    let _alone = alone();
    let server = open_server();
    assert_served(&server);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let before = descriptors();
    // With a hello, in front of it where a read passes over it, behind a refused one, instead of one, and (rounds, since the service may be
    // faster than the end of the thread that still has it) on a connection.
    for way in [0, 1, 2, 3].into_iter().chain([4; 20]) {
        let (address, far) = (server.unix.clone(), listener.local_addr().unwrap());
        let attacked = attack(Some(STRANGER), move || {
            let socket = if way == 4 { taken_in(&address) } else { peer(&address) };
            match way {
                0 => {
                    pass_lingering(&socket, &hello()[..10], MsgFlags::empty(), far);
                    send(&socket, &hello()[10..], &[]);
                }
                1 => {
                    pass_lingering(&socket, b"!", MsgFlags::MSG_OOB, far);
                    send(&socket, &hello(), &[]);
                }
                2 => {
                    send(&socket, &[0; 24], &[]);
                    pass_lingering(&socket, b"more", MsgFlags::empty(), far);
                }
                _ => pass_lingering(&socket, b"SHEEN", MsgFlags::empty(), far),
            }
            refusal(&socket)
        });
        // Takes nothing.
        let (far, _) = listener.accept().unwrap();
        assert_ne!(attacked.join().unwrap(), Some(0));
        assert_served(&server);
        assert_served(&server);
        drop(far);
        assert_descriptors(before);
    }
    wait_for("all threads end", || threads_apart() == 0);
}
