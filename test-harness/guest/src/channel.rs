//! What guest and runner say to each other: lines on a virtual serial port.
//!
//! The guest asks (`device_del ID`, `device_gone ID`, `device_add ID`, `throttle ID N`), the runner does it and answers `ok` or
//! `error REASON`. `exit CODE` is the last thing a guest says.

use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};

use anyhow::{Context, Result, bail};

/// Name of the port that carries the command's output.
pub const OUTPUT: &str = "sheen.output";
/// Name of the port that carries requests and answers.
pub const CONTROL: &str = "sheen.control";

/// What a guest may ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Begin to pull the device; the guest's kernel is told and has to let go of it.
    Delete(String),
    /// Wait until the device is gone.
    AwaitGone(String),
    /// Plug the device in again.
    Add(String),
    /// Let the device carry out so many commands a second; 0: as many as it can.
    Throttle(String, u32),
    /// The command has ended.
    Exit(i32),
}

impl Request {
    /// Reads a line.
    ///
    /// # Errors
    /// When it is no request.
    pub fn parse(line: &str) -> Result<Self> {
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            ["device_del", id] => Ok(Self::Delete(id.into())),
            ["device_gone", id] => Ok(Self::AwaitGone(id.into())),
            ["device_add", id] => Ok(Self::Add(id.into())),
            ["throttle", id, commands] => Ok(Self::Throttle(id.into(), commands.parse()?)),
            ["exit", code] => Ok(Self::Exit(code.parse()?)),
            _ => bail!("the guest says `{}`, which is no request", line.trim()),
        }
    }
}

impl fmt::Display for Request {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Delete(id) => write!(formatter, "device_del {id}"),
            Self::AwaitGone(id) => write!(formatter, "device_gone {id}"),
            Self::Add(id) => write!(formatter, "device_add {id}"),
            Self::Throttle(id, commands) => write!(formatter, "throttle {id} {commands}"),
            Self::Exit(code) => write!(formatter, "exit {code}"),
        }
    }
}

/// The guest's end.
#[derive(Debug)]
pub struct GuestEnd {
    reader: BufReader<File>,
    writer: File,
}

impl GuestEnd {
    /// Opens the port.
    ///
    /// # Errors
    /// When this is no guest of ours.
    pub fn open() -> Result<Self> {
        let path = format!("/run/{CONTROL}");
        let port = File::options().read(true).write(true).open(&path);
        let port = port.with_context(|| format!("{path}: this runs inside the guest only"))?;
        Ok(Self { reader: BufReader::new(port.try_clone()?), writer: port })
    }

    /// Has the runner do something, and waits until it is done.
    ///
    /// # Errors
    /// What the runner says.
    pub fn ask(&mut self, request: &Request) -> Result<()> {
        self.writer.write_all(format!("{request}\n").as_bytes())?;
        let mut answer = String::new();
        self.reader.read_line(&mut answer)?;
        match answer.trim() {
            "ok" => Ok(()),
            other => bail!("{request}: {other}"),
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn what_is_said_is_understood() {
        for request in [
            Request::Delete("a".into()),
            Request::AwaitGone("b".into()),
            Request::Add("c".into()),
            Request::Throttle("d".into(), 7),
            Request::Exit(-3),
        ] {
            assert_eq!(Request::parse(&format!("{request}\n")).unwrap(), request);
        }
        assert!(Request::parse("device_del").is_err());
    }
}
