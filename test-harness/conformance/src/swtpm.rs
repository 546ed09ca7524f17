//! `swtpm`, a TPM 2.0 in software, with its state in a directory: what a chip keeps over power cycles.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};

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

/// Does at the TPM at `address` what a careful administrator does: makes a storage key persistent at `handle`, then gives the owner
/// hierarchy a password.
///
/// # Errors
/// When the TPM refuses.
pub fn administer(address: SocketAddr, handle: u32) -> anyhow::Result<()> {
    const OWNER: u32 = 0x4000_0001;
    let mut stream = TcpStream::connect(address)?;
    let answer = owner_command(&mut stream, 0x131, &[OWNER], STORAGE_KEY)?;
    let made = answer.get(10..14).and_then(|bytes| bytes.try_into().ok());
    let made = u32::from_be_bytes(made.context("no handle")?);
    owner_command(&mut stream, 0x120, &[OWNER, made], &handle.to_be_bytes())?;
    owner_command(&mut stream, 0x129, &[OWNER], &[0, 3, b'p', b'w', b'd'])?;
    Ok(())
}

/// Parameters of CreatePrimary for a storage key: nothing sensitive, ECC P-256 with AES-128-CFB, no outside information, no PCRs.
const STORAGE_KEY: &[u8] = &[
    0, 4, 0, 0, 0, 0, // sensitive
    0, 26, 0, 0x23, 0, 0x0b, 0, 3, 4, 0x72, 0, 0, // ECC, SHA-256, attributes, no policy
    0, 6, 0, 128, 0, 0x43, 0, 0x10, 0, 3, 0, 0x10, 0, 0, 0, 0, // AES-128-CFB, P-256, no point
    0, 0, 0, 0, 0, 0,
];

/// A command whose first handle is authorized by an empty password.
fn owner_command(
    stream: &mut TcpStream,
    code: u32,
    handles: &[u32],
    parameters: &[u8],
) -> anyhow::Result<Vec<u8>> {
    let authorization = [0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0];
    let handles: Vec<u8> = handles.iter().flat_map(|handle| handle.to_be_bytes()).collect();
    let size = u32::try_from(10 + handles.len() + authorization.len() + parameters.len())?;
    let (size, code) = (size.to_be_bytes(), code.to_be_bytes());
    stream.write_all(
        &[&[0x80, 2], &size[..], &code, &handles, &authorization, parameters].concat(),
    )?;
    let mut answer = vec![0; 4096];
    let length = stream.read(&mut answer)?;
    answer.truncate(length);
    ensure!(answer.get(6..10) == Some(&[0; 4]), "the TPM refuses: {answer:x?}");
    Ok(answer)
}

impl Drop for Swtpm {
    fn drop(&mut self) {
        let _ = process::kill_nine(&mut self.process);
    }
}
