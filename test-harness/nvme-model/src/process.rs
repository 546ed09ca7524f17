//! Starting and ending a model that is another process.

use std::{
    io::{BufRead as _, BufReader, Error, ErrorKind},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// A running `sheen-nvme-model`. Dropping it ends the process.
#[derive(Debug)]
pub struct ModelProcess {
    child: Child,
    socket: PathBuf,
}

impl ModelProcess {
    /// Starts `program` listening at `socket`, and waits until it does.
    ///
    /// # Errors
    /// When it cannot be started or ends before it listens.
    pub fn start(program: &Path, socket: &Path, options: &[&str]) -> Result<Self, Error> {
        let mut child = Command::new(program)
            .arg("--socket")
            .arg(socket)
            .args(options)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        if let Some(output) = child.stdout.take() {
            BufReader::new(output).read_line(&mut line)?;
        }
        let process = Self { child, socket: socket.to_owned() };
        if line.starts_with("listening") {
            Ok(process)
        } else {
            Err(Error::new(ErrorKind::BrokenPipe, "the model ended before it listened"))
        }
    }

    /// Where it listens.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Its process identifier.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Ends it at once, as a crash does.
    ///
    /// # Errors
    /// What the system says.
    pub fn kill(&mut self) -> Result<(), Error> {
        self.child.kill()?;
        self.child.wait().map(drop)
    }
}

impl Drop for ModelProcess {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.kill();
        let _ = std::fs::remove_file(&self.socket);
    }
}
