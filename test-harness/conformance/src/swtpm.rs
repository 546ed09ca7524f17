//! `swtpm`, a TPM 2.0 in software, with its state in a directory: what a chip keeps over power cycles.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};

use crate::interruption::{self, Guard};
use crate::process::{self, pid_of};
use crate::programs;

const START_DEADLINE: Duration = Duration::from_secs(20);

/// A TPM that is powered; loses power with the value.
#[derive(Debug)]
pub struct Swtpm {
    process: Child,
    _guard: Guard,
}

impl Swtpm {
    /// Powers on a TPM with the state in `state` (made when absent), listening for commands on TCP.
    ///
    /// # Errors
    /// When it does not serve in time.
    pub fn on_tcp(state: &Path) -> anyhow::Result<(Self, SocketAddr)> {
        // Both are held until both are known, so that they differ.
        let (one, two) = (TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?);
        let (address, control) = (one.local_addr()?, two.local_addr()?);
        drop((one, two));
        let server = format!("type=tcp,port={}", address.port());
        let control = format!("type=tcp,port={}", control.port());
        let arguments =
            ["--server", &server, "--ctrl", &control, "--flags", "not-need-init,startup-clear"];
        let tpm = Self::start(state, &arguments, || TcpStream::connect(address).is_ok())?;
        Ok((tpm, address))
    }

    /// Powers on a TPM for an emulator, which connects to the control socket at `socket`.
    ///
    /// # Errors
    /// When it does not serve in time.
    pub fn for_emulator(state: &Path, socket: &Path) -> anyhow::Result<Self> {
        let control = format!("type=unixio,path={}", socket.display());
        Self::start(state, &["--ctrl", &control], || socket.exists())
    }

    fn start(
        state: &Path,
        arguments: &[&str],
        is_ready: impl Fn() -> bool,
    ) -> anyhow::Result<Self> {
        programs::require(&[programs::SWTPM])?;
        fs::create_dir_all(state)?;
        let log = state.join("swtpm.log");
        let output = fs::File::create(&log)?;
        let mut command = Command::new("swtpm");
        command.args(["socket", "--tpm2", "--tpmstate"]);
        command.arg(format!("dir={}", state.display())).args(arguments);
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let mut process = interruption::spawn(&mut command).context("starting swtpm")?;
        let guard = Guard::of_process(pid_of(&process));
        let mut ended = None;
        let waited = process::wait_for("swtpm", START_DEADLINE, || {
            ended = process.try_wait().ok().flatten();
            ended.is_some() || is_ready()
        });
        let tpm = Self { process, _guard: guard };
        if let Some(status) = ended {
            let said = fs::read_to_string(&log).unwrap_or_default();
            bail!("swtpm ended ({status}): {}", process::tail(&said, 800));
        }
        waited?;
        Ok(tpm)
    }
}

impl Drop for Swtpm {
    fn drop(&mut self) {
        let _ = process::kill_nine(&mut self.process);
    }
}
