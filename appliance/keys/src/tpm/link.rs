//! The connection to a TPM: one command, one answer.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::command::{Answer, Code, Command, HEADER_BYTES, MESSAGE_BYTES_MAX, Writer};
use super::place::Place;
use super::refusal::TpmError;
use crate::Secret;

/// An emulator that says nothing for so long is gone. The kernel has limits of its own for chips.
const PATIENCE: Duration = Duration::from_secs(60);
/// Tries of a command that the TPM puts off, and the pause between them. Self-tests of chips take up to two seconds.
const ATTEMPTS: u32 = 40;
const PAUSE: Duration = Duration::from_millis(100);

/// An open TPM.
#[derive(Debug)]
pub(super) enum Link {
    Device(File),
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Link {
    /// Opens the TPM at `place`.
    ///
    /// # Errors
    /// [`TpmError::Open`].
    pub(super) fn open(place: &Place) -> Result<Self, TpmError> {
        Self::connect(place).map_err(TpmError::Open)
    }

    fn connect(place: &Place) -> io::Result<Self> {
        match place {
            Place::Device(path) => {
                Ok(Self::Device(File::options().read(true).write(true).open(path)?))
            }
            Place::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                Ok(Self::Unix(stream))
            }
            Place::Tcp(address) => {
                let stream = TcpStream::connect(address)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                Ok(Self::Tcp(stream))
            }
        }
    }

    /// Runs a command to its success, again if the TPM puts it off.
    ///
    /// # Errors
    /// [`TpmError`].
    pub(super) fn run(&mut self, command: &Command) -> Result<Answer, TpmError> {
        let mut attempt = 1;
        loop {
            let answer = self.exchange(command.bytes())?;
            if answer.code() == 0 {
                return Ok(answer);
            }
            let error = TpmError::Refused { command: command.code(), code: answer.code() };
            if attempt == ATTEMPTS || !error.may_pass() {
                return Err(error);
            }
            std::thread::sleep(PAUSE);
            attempt += 1;
        }
    }

    /// Forgets what `handle` names. A failure is none: the kernel's resource manager forgets when the device is closed.
    pub(super) fn flush(&mut self, handle: u32) {
        let command = Writer::new().and_then(|mut parameters| {
            parameters.u32(handle);
            Command::plain(Code::FlushContext, &[], &parameters)
        });
        if let Ok(command) = command {
            let _ = self.run(&command);
        }
    }

    fn exchange(&mut self, command: &[u8]) -> Result<Answer, TpmError> {
        let mut bytes = Secret::zeroed(MESSAGE_BYTES_MAX)?;
        let room = bytes.expose_mut();
        let length = match self {
            // The device takes a command in one write and gives its answer in one read.
            Self::Device(file) => file
                .write_all(command)
                .and_then(|()| file.read(room))
                .map_err(TpmError::Exchange)?,
            Self::Unix(stream) => through(stream, command, room).map_err(TpmError::Exchange)?,
            Self::Tcp(stream) => through(stream, command, room).map_err(TpmError::Exchange)?,
        };
        Answer::new(bytes, length).map_err(TpmError::Answer)
    }
}

/// A stream does not keep messages apart: the header says how long one is.
fn through(stream: &mut (impl Read + Write), command: &[u8], room: &mut [u8]) -> io::Result<usize> {
    stream.write_all(command)?;
    stream.read_exact(&mut room[..HEADER_BYTES])?;
    let size = u32::from_be_bytes([room[2], room[3], room[4], room[5]]);
    let length = usize::try_from(size).unwrap_or(usize::MAX);
    if !(HEADER_BYTES..=room.len()).contains(&length) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("an answer of {size} bytes"),
        ));
    }
    stream.read_exact(&mut room[HEADER_BYTES..length])?;
    Ok(length)
}
