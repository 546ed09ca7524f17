//! Every way a server can break the protocol, at every command: a clear error, no hang, no descriptor left open.
//!
//! One test, so that the process's descriptors can be counted.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod vfio_user_server;

use std::{
    os::fd::AsFd,
    time::{Duration, Instant},
};

use nix::{errno::Errno, sys::eventfd::EventFd};
use sheen_dma::Arena;
use sheen_nvme::transport::{
    Transport, TransportError,
    vfio_user::{CallError, OpenReason, Options, Violation, message::Command},
};
use vfio_user_server::{Script, Server, Wrong};

/// With a server that stays silent: it is waited for in vain.
const PATIENCE: Duration = Duration::from_millis(300);
/// With all others: however busy the machine, they answer.
const PATIENCE_LONG: Duration = Duration::from_secs(20);

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Uses everything once; the first failure, and whether the connection lives afterwards.
fn use_it(wrong: (Command, Wrong)) -> (Option<Failure>, bool) {
    let patience = if matches!(wrong.1, Wrong::Silence) { PATIENCE } else { PATIENCE_LONG };
    let options = Options { patience, reset_patience: patience, ..Options::default() };
    let (_server, client) =
        Server::start(Script { wrong: Some(wrong), ..Script::default() }, options);
    let mut client = match client {
        Ok(client) => client,
        Err(error) => return (Some(Failure::Open(error.reason)), false),
    };
    let arena = Arena::shared(4096).unwrap();
    let event = EventFd::new().unwrap();
    let used = client
        .map(&arena)
        .and_then(|()| client.arm(0, Some(event.as_fd())))
        .and_then(|()| client.reset())
        .and_then(|()| client.write32(0x14, 1))
        .and_then(|()| client.read32(0x14).map(drop))
        .and_then(|()| client.unmap(&arena));
    let lives = client.read32(0x14).is_ok();
    (used.err().map(Failure::Use), lives)
}

#[derive(Debug)]
enum Failure {
    Open(OpenReason),
    Use(TransportError),
}

impl Failure {
    fn is_protocol(&self) -> bool {
        match self {
            Self::Open(OpenReason::Call(error)) => matches!(error, CallError::Protocol(_)),
            Self::Open(OpenReason::Device(error)) | Self::Use(error) => {
                matches!(error, TransportError::Protocol { .. })
            }
            Self::Open(OpenReason::Connect(_)) => false,
        }
    }

    fn is_gone(&self) -> bool {
        match self {
            Self::Open(OpenReason::Call(error)) => *error == CallError::Gone,
            Self::Open(OpenReason::Device(error)) | Self::Use(error) => {
                *error == TransportError::Gone
            }
            Self::Open(OpenReason::Connect(_)) => false,
        }
    }

    fn errno(&self) -> Option<Errno> {
        match self {
            Self::Open(OpenReason::Call(CallError::Refused(_, errno))) => Some(*errno),
            Self::Open(OpenReason::Call(CallError::TimedOut(_))) => Some(Errno::ETIMEDOUT),
            Self::Open(OpenReason::Device(TransportError::System { errno, .. }))
            | Self::Use(TransportError::System { errno, .. }) => Some(*errno),
            Self::Open(_) | Self::Use(_) => None,
        }
    }
}

#[test]
fn every_wrong_reply_to_every_command_is_an_error_and_leaves_nothing_behind() {
    let commands = [
        Command::Version,
        Command::DeviceGetInfo,
        Command::DeviceGetRegionInfo,
        Command::DeviceGetIrqInfo,
        Command::RegionRead,
        Command::RegionWrite,
        Command::DmaMap,
        Command::DeviceSetIrqs,
        Command::DeviceReset,
        Command::DmaUnmap,
    ];
    let violations = [
        Wrong::Id,
        Wrong::Command,
        Wrong::Oversize,
        Wrong::Undersize,
        Wrong::Type,
        Wrong::TornHeader,
        Wrong::TornPayload,
        Wrong::Descriptors(2),
        Wrong::TooManyDescriptors,
    ];
    let before = open_descriptors();
    for command in commands {
        for wrong in violations {
            let (failure, lives) = use_it((command, wrong));
            let failure = failure.unwrap_or_else(|| panic!("{command:?} {wrong:?}: no error"));
            assert!(failure.is_protocol(), "{command:?} {wrong:?}: {failure:?}");
            assert!(!lives, "{command:?} {wrong:?}: the connection is not to be used any more");
        }
        let has_payload =
            !matches!(command, Command::DmaMap | Command::DeviceSetIrqs | Command::DeviceReset);
        // JSON with a byte more or less is told by its NUL.
        if has_payload {
            let failure = use_it((command, Wrong::Short)).0;
            assert!(failure.is_some_and(|failure| failure.is_protocol()), "{command:?} short");
            let failure = use_it((command, Wrong::Ones)).0;
            let is_error = failure.as_ref().is_some_and(Failure::is_protocol);
            assert!(is_error, "{command:?} ones: {failure:?}");
        }
        // A region's reply may hold what we do not know behind what we do.
        if command != Command::DeviceGetRegionInfo {
            let failure = use_it((command, Wrong::Long)).0;
            assert!(failure.is_some_and(|failure| failure.is_protocol()), "{command:?} long");
        }
        let (failure, lives) = use_it((command, Wrong::Close));
        assert!(failure.is_some_and(|failure| failure.is_gone()) && !lives, "{command:?} close");
        check_refusals(command);
        let began = Instant::now();
        let (failure, lives) = use_it((command, Wrong::Silence));
        let errno = failure.as_ref().and_then(Failure::errno);
        assert_eq!(errno, Some(Errno::ETIMEDOUT), "{command:?} silence: {failure:?}");
        assert!(!lives && began.elapsed() < PATIENCE_LONG, "{command:?} silence");
    }
    twice();
    let settled = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        open_descriptors() <= before
    });
    assert!(settled, "{} descriptors before, {} after", before, open_descriptors());
}

fn check_refusals(command: Command) {
    let (failure, lives) = use_it((command, Wrong::Errno(Errno::EACCES)));
    match command {
        // The first SET_IRQS asks for the removal event, which a server need not have.
        Command::DeviceSetIrqs => assert!(failure.is_none() && lives),
        _ => {
            let errno = failure.as_ref().and_then(Failure::errno);
            assert_eq!(errno, Some(Errno::EACCES), "{command:?}: {failure:?}");
            let is_opening = matches!(failure, Some(Failure::Open(_)));
            assert!(lives || is_opening, "{command:?}: a refusal does not end the connection");
        }
    }
    if command != Command::DeviceSetIrqs {
        let errno = use_it((command, Wrong::ErrorWithoutErrno)).0.and_then(|f| f.errno());
        assert_eq!(errno, Some(Errno::EIO), "{command:?}: no errno");
    }
}

/// A second reply is found at the latest by the next call.
fn twice() {
    let (failure, lives) = use_it((Command::RegionRead, Wrong::Twice));
    let failure = failure.unwrap();
    assert!(failure.is_protocol() && !lives, "{failure:?}");
    let text = CallError::Protocol(Violation::Id { sent: 5, got: 4 }).to_string();
    assert_eq!(text, "the server broke the protocol: id of a reply: expected 0x5, found 0x4");
}
