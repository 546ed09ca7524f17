//! What went wrong, as people and programs are told: a kind, a message, and what to do.
//!
//! An error keeps its own type on its way up; what is told of it is read off its chain here. A command that knows what to do
//! says it with a [`Failure`].

use std::{fmt, io};

use serde::{Deserialize, Serialize};
use sheen_client::ConnectError as SessionError;
use sheen_fuse::{
    kernel::mountpoint::{AttachError, DetachError, OptionError},
    mount::MountError,
};
use sheen_node::{check::CheckError, config::ConfigError, device::DeviceError, server::NodeError};
use sheen_rdma::ConnectError;
use sheen_types::Errno;

/// Kinds of failures, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FailureKind {
    /// The command line is wrong.
    Usage,
    /// The configuration is wrong.
    Configuration,
    /// What was named is not there.
    NotFound,
    /// What was to be made is there.
    Exists,
    /// The user may not.
    Permission,
    /// Somebody uses it.
    InUse,
    /// Nobody answers.
    Unreachable,
    /// It was refused, because something would be lost.
    Refused,
    /// The system is out of something: memory, processes, /dev/fuse.
    System,
    /// Anything else.
    Failed,
}

/// An error with what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    /// What a program may branch on.
    pub kind: FailureKind,
    /// What is wrong.
    pub message: String,
    /// What to do, if that is known.
    pub hint: Option<String>,
}

impl Failure {
    /// Makes one without a hint.
    pub(crate) fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None }
    }

    /// Adds what to do.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Reads kind, message and hint off an error's chain.
    pub(crate) fn of(error: &anyhow::Error) -> Self {
        let ours = error.chain().find_map(|cause| cause.downcast_ref::<Self>());
        let kind = ours.map(|failure| failure.kind);
        Self {
            kind: kind.or_else(|| error.chain().find_map(kind_of)).unwrap_or(FailureKind::Failed),
            message: message_of(error),
            hint: ours.and_then(|failure| failure.hint.clone()),
        }
    }

    /// The line for people.
    pub(crate) fn text(&self) -> String {
        match &self.hint {
            Some(hint) => format!("{}; {hint}", self.message),
            None => self.message.clone(),
        }
    }

    /// `{"error": {"kind": …, "message": …, "hint": …}}` on one line.
    pub(crate) fn json(&self) -> String {
        serde_json::json!({ "error": self }).to_string()
    }

    /// The exit code of mount(8)'s helpers.
    pub(crate) fn mount_code(&self) -> u8 {
        match self.kind {
            FailureKind::Usage | FailureKind::Permission => 1,
            FailureKind::System => 2,
            FailureKind::Configuration
            | FailureKind::NotFound
            | FailureKind::Exists
            | FailureKind::InUse
            | FailureKind::Unreachable
            | FailureKind::Refused
            | FailureKind::Failed => 32,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// The texts of a chain, from the outermost; one that the text before it ends with is not said again.
fn message_of(error: &anyhow::Error) -> String {
    let mut message = String::new();
    for cause in error.chain() {
        let text = cause.to_string();
        if message.is_empty() {
            message = text;
        } else if !message.ends_with(&text) {
            message.push_str(": ");
            message.push_str(&text);
        }
    }
    message
}

fn kind_of(cause: &(dyn std::error::Error + 'static)) -> Option<FailureKind> {
    let device = |error: &DeviceError| match error {
        DeviceError::InUse(_) => Some(FailureKind::InUse),
        DeviceError::NoRoom { .. } => Some(FailureKind::System),
        DeviceError::Io { source, .. } => kind_of_io(source),
        _ => None,
    };
    if let Some(error) = cause.downcast_ref::<io::Error>() {
        kind_of_io(error)
    } else if let Some(errno) = cause.downcast_ref::<nix::errno::Errno>() {
        kind_of_io(&(*errno).into())
    } else if let Some(error) = cause.downcast_ref::<NodeError>() {
        match error {
            NodeError::Device(error) => device(error),
            NodeError::Listen { source, .. } => kind_of_io(source),
            _ => None,
        }
    } else if let Some(CheckError::Device(error)) = cause.downcast_ref::<CheckError>() {
        device(error)
    } else if let Some(error) = cause.downcast_ref::<DeviceError>() {
        device(error)
    } else if let Some(error) = cause.downcast_ref::<ConnectError>() {
        match error {
            ConnectError::Address => Some(FailureKind::Usage),
            ConnectError::System(_) => Some(FailureKind::Unreachable),
            ConnectError::Refused(_)
            | ConnectError::Protocol(_)
            | ConnectError::Handshake(_)
            | ConnectError::InClear => Some(FailureKind::Refused),
        }
    } else if let Some(error) = cause.downcast_ref::<ConfigError>() {
        match error {
            ConfigError::Read { source, .. } => kind_of_io(source),
            ConfigError::Syntax { .. } | ConfigError::Value { .. } => {
                Some(FailureKind::Configuration)
            }
        }
    } else if cause.is::<OptionError>() {
        Some(FailureKind::Usage)
    } else if let Some(error) = cause.downcast_ref::<DetachError>() {
        match error {
            DetachError::NotMounted(_) => Some(FailureKind::NotFound),
            DetachError::Busy(_) => Some(FailureKind::InUse),
            DetachError::NotOurs { .. } => Some(FailureKind::Permission),
            DetachError::Helper(..) => Some(FailureKind::System),
            DetachError::Stuck(_) | DetachError::Table(_) | DetachError::System { .. } => None,
        }
    } else if let Some(error) = cause.downcast_ref::<MountError>() {
        match error {
            MountError::Arena(_) => Some(FailureKind::System),
            MountError::Connect(SessionError::Refused(Errno::ENOENT)) => {
                Some(FailureKind::NotFound)
            }
            MountError::Connect(SessionError::Refused(Errno::EACCES)) => {
                Some(FailureKind::Permission)
            }
            MountError::Connect(SessionError::Refused(_)) => Some(FailureKind::Refused),
            MountError::Connect(SessionError::Unreachable(_) | SessionError::Lost) => {
                Some(FailureKind::Unreachable)
            }
            MountError::Connect(SessionError::Thread(_)) => Some(FailureKind::System),
            MountError::Attach(error) => kind_of_attach(error),
            MountError::Session(_) | MountError::Silent(_) => None,
        }
    } else {
        kind_of_attach(cause.downcast_ref::<AttachError>()?)
    }
}

fn kind_of_attach(error: &AttachError) -> Option<FailureKind> {
    match error {
        AttachError::Missing(_) | AttachError::NotMounted(_) => Some(FailureKind::NotFound),
        AttachError::NotADirectory(_) | AttachError::NotEmpty(_) => Some(FailureKind::Usage),
        AttachError::Mounted { .. } | AttachError::Dead(_) => Some(FailureKind::InUse),
        AttachError::Device(_) | AttachError::Helper(_) => Some(FailureKind::System),
        AttachError::Look(..)
        | AttachError::Table(_)
        | AttachError::System { .. }
        | AttachError::HelperRefused(_) => None,
    }
}

fn kind_of_io(error: &io::Error) -> Option<FailureKind> {
    use io::ErrorKind as Io;
    match error.kind() {
        Io::NotFound | Io::NotADirectory => Some(FailureKind::NotFound),
        Io::AlreadyExists => Some(FailureKind::Exists),
        Io::PermissionDenied => Some(FailureKind::Permission),
        Io::AddrInUse | Io::ResourceBusy | Io::WouldBlock => Some(FailureKind::InUse),
        Io::ConnectionRefused | Io::ConnectionReset | Io::TimedOut | Io::HostUnreachable => {
            Some(FailureKind::Unreachable)
        }
        Io::OutOfMemory => Some(FailureKind::System),
        _ => None,
    }
}

#[cfg(test)]
mod test {
    use anyhow::Context;

    use super::*;

    #[test]
    fn kind_and_hint_are_found_below_what_was_said_since() {
        let failure = Failure::new(FailureKind::InUse, "it is taken").hint("take another");
        let error = Err::<(), _>(failure).context("not mounted").unwrap_err();
        let told = Failure::of(&error);
        assert_eq!(told.text(), "not mounted: it is taken; take another");
        let busy = NodeError::Listen {
            key: "listen",
            place: "x".to_owned(),
            source: io::Error::new(io::ErrorKind::AddrInUse, "taken"),
        };
        let busy = Failure::of(&busy.into());
        assert_eq!((busy.kind, busy.text()), (FailureKind::InUse, "listen x: taken".to_owned()));
        let json: serde_json::Value = serde_json::from_str(&told.json()).unwrap();
        let expected = serde_json::json!({ "error": {
            "kind": "in_use", "message": "not mounted: it is taken", "hint": "take another",
        }});
        assert_eq!(json, expected);
        assert_eq!(told.json().lines().count(), 1);
    }

    #[test]
    fn errors_of_the_system_have_the_kind_their_number_says() {
        let of = |kind: io::ErrorKind| {
            Failure::of(&Err::<(), _>(io::Error::from(kind)).context("x").unwrap_err()).kind
        };
        assert_eq!(of(io::ErrorKind::NotFound), FailureKind::NotFound);
        assert_eq!(of(io::ErrorKind::PermissionDenied), FailureKind::Permission);
        assert_eq!(of(io::ErrorKind::ConnectionRefused), FailureKind::Unreachable);
        assert_eq!(of(io::ErrorKind::InvalidData), FailureKind::Failed);
        let taken = AttachError::Dead("/mnt".into());
        assert_eq!(Failure::of(&taken.into()).kind, FailureKind::InUse);
    }

    #[test]
    fn a_helper_of_mount_8_ends_with_its_codes() {
        for (kind, code) in [
            (FailureKind::Usage, 1),
            (FailureKind::Permission, 1),
            (FailureKind::System, 2),
            (FailureKind::Unreachable, 32),
            (FailureKind::Failed, 32),
        ] {
            assert_eq!(Failure::new(kind, "").mount_code(), code, "{kind:?}");
        }
    }
}
