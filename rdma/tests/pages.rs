//! A peer that begins with `GET /` is handed to who answers pages, over either kind of socket.

#![allow(clippy::unwrap_used, reason = "tests stop where they fail")]

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::net::{UnixListener, UnixStream},
    sync::mpsc,
    thread,
    time::Duration,
};

use sheen_rdma::{Acceptor, AcceptorConfig, ConnectionLimits, PageRequest, Socket};

const ANSWER_BYTES: usize = 300_000;

/// Answers with the request's length and many bytes.
fn answer(mut socket: impl Read + Write, begun: Vec<u8>) {
    let mut request = begun;
    while !request.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        socket.read_exact(&mut byte).unwrap();
        request.push(byte[0]);
    }
    socket.write_all(&u32::try_from(request.len()).unwrap().to_le_bytes()).unwrap();
    socket.write_all(&vec![7; ANSWER_BYTES]).unwrap();
}

fn ask(mut stream: impl Read + Write) {
    let request = b"GET /status HTTP/1.1\r\nHost: node\r\n\r\n";
    for piece in request.chunks(7) {
        stream.write_all(piece).unwrap();
        thread::sleep(Duration::from_millis(1));
    }
    let mut got = Vec::new();
    stream.read_to_end(&mut got).unwrap();
    assert_eq!(got.len(), 4 + ANSWER_BYTES);
    assert_eq!(got[..4], u32::try_from(request.len()).unwrap().to_le_bytes());
}

#[test]
fn a_page_is_answered_over_either_kind_of_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let unix = UnixListener::bind(&path).unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = tcp.local_addr().unwrap();
    let limits = ConnectionLimits::default();
    let config = AcceptorConfig { unix: Some(unix), tcp: Some(tcp), services: 1, limits };
    let (sender, requests) = mpsc::channel();
    let sink = Box::new(move |request: PageRequest| sender.send(request).unwrap());
    let acceptor = Acceptor::start(config, drop, Some(sink)).unwrap();
    let answering = thread::spawn(move || {
        for PageRequest { socket, begun } in requests {
            match socket {
                Socket::Unix(socket) => {
                    socket.set_nonblocking(false).unwrap();
                    answer(socket, begun);
                }
                Socket::Tcp(socket) => {
                    socket.set_nonblocking(false).unwrap();
                    answer(socket, begun);
                }
            }
        }
    });
    for _ in 0..5 {
        ask(UnixStream::connect(&path).unwrap());
        ask(TcpStream::connect(address).unwrap());
    }
    drop(acceptor);
    answering.join().unwrap();
}
