//! Boots the guest and runs one command in it.
//!
//! Owns the emulator process, its TPM's process, its sockets and a scratch directory with the namespaces. All of it ends with the value,
//! on success, failure, deadline and signal.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, BufWriter, ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use sheen_conformance::interruption::{self, Guard};
use sheen_conformance::process::{self, pid_of};
use sheen_conformance::report::line;
use sheen_conformance::swtpm::Swtpm;
use tempfile::TempDir;

use crate::channel::{CONTROL, OUTPUT, Request};
use crate::cpio::Archive;
use crate::hardware::{self, Hardware};
use crate::image::Image;
use crate::qmp::Qmp;

const EMULATOR: &str = "qemu-system-x86_64";
const CONNECT_DEADLINE: Duration = Duration::from_secs(15);
const POWER_OFF_DEADLINE: Duration = Duration::from_secs(20);
const UNPLUG_DEADLINE: Duration = Duration::from_secs(60);
/// What a crashed emulator takes to end.
const CRASH_WAIT: Duration = Duration::from_secs(3);
/// Lines of the console shown when something went wrong.
const CONSOLE_SHOWN: usize = 40;
/// `no_timer_check`: the kernel's test that timer interrupts arrive within milliseconds fails, and stops it, when the host is busy.
const KERNEL_ARGUMENTS: &str = "no_timer_check console=ttyS0 quiet loglevel=4 panic=-1 intel_iommu=on iommu=pt mitigations=off \
                                nokaslr hugepages=192 tsc=reliable random.trust_cpu=on";

/// A file of the host that the guest finds below its root.
#[derive(Debug, Clone)]
pub struct Added {
    /// On the host.
    pub from: PathBuf,
    /// In the guest.
    pub to: String,
}

/// What to run.
#[derive(Debug)]
pub struct Run {
    /// A shell script.
    pub script: String,
    /// Programs it needs.
    pub added: Vec<Added>,
    /// The whole run, from power-on, takes no longer.
    pub deadline: Duration,
    /// The machine.
    pub hardware: Hardware,
    /// Further arguments for the kernel.
    pub kernel_arguments: String,
}

/// How a run went.
#[derive(Debug)]
pub struct Ran {
    /// The script's exit code.
    pub code: i32,
    /// From power-on to the first output.
    pub boot: Duration,
    /// From power-on to power-off.
    pub whole: Duration,
}

/// A guest that runs.
#[derive(Debug)]
pub struct Machine {
    emulator: Child,
    qmp: Qmp,
    control: BufReader<UnixStream>,
    output: Option<JoinHandle<Option<Duration>>>,
    console: Arc<Mutex<Vec<String>>>,
    begun: Instant,
    deadline: Instant,
    /// Controllers plugged in since power-on.
    plugged: u32,
    directory: TempDir,
    _tpm: Swtpm,
    _guards: [Guard; 2],
}

impl Machine {
    /// Powers a guest on, with a scratch directory in `work`.
    ///
    /// # Errors
    /// When the emulator is missing or does not start.
    pub fn start(image: &Image, run: &Run, work: &Path) -> Result<Self> {
        let home = hardware::media_home(work);
        fs::create_dir_all(&home)?;
        let directory = tempfile::Builder::new().prefix("sheen-guest-").tempdir_in(home)?;
        let directory_guard = Guard::of_directory(directory.path());
        let home = directory.path();
        hardware::make_media(home)?;
        write_root(image, run, &home.join("root.cpio"))?;
        let sockets = Sockets::listen(home)?;
        let tpm = Swtpm::for_emulator(&home.join("tpm"), &hardware::tpm_socket(home))?;
        let begun = Instant::now();
        let mut emulator = spawn(image, run, home)?;
        let guards = [directory_guard, Guard::of_process(pid_of(&emulator))];
        let console = collect_console(emulator.stdout.take());
        let connected = sockets.accept(&mut emulator);
        let (qmp, output, control) = match connected {
            Ok(connected) => connected,
            Err(error) => {
                process::kill_nine(&mut emulator)?;
                let said = errors_of(&mut emulator);
                return Err(error.context(format!("{EMULATOR}: {}", process::tail(&said, 800))));
            }
        };
        let output = std::thread::spawn(move || stream(output, begun));
        Ok(Self {
            emulator,
            qmp: Qmp::greet(qmp)?,
            control: BufReader::new(control),
            output: Some(output),
            console,
            begun,
            deadline: begun + run.deadline,
            plugged: 0,
            directory,
            _tpm: tpm,
            _guards: guards,
        })
    }

    /// Serves the guest until its command has ended and it has powered off.
    ///
    /// # Errors
    /// When the guest dies, hangs, or asks for what there is not. The end of its console is in the error.
    pub fn finish(mut self) -> Result<Ran> {
        let served = self.serve();
        let code = match served {
            Ok(code) => code,
            Err(error) => return Err(error.context(self.last_words())),
        };
        let patience = Instant::now() + POWER_OFF_DEADLINE;
        if process::wait_until(&mut self.emulator, patience)?.is_none() {
            bail!("the guest does not power off: {}", self.last_words());
        }
        let first = self.output.take().and_then(|output| output.join().ok()).flatten();
        Ok(Ran { code, boot: first.unwrap_or_default(), whole: self.begun.elapsed() })
    }

    fn serve(&mut self) -> Result<i32> {
        let mut text = String::new();
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            ensure!(!left.is_zero(), "not finished by the deadline");
            self.control.get_ref().set_read_timeout(Some(left))?;
            match self.control.read_line(&mut text) {
                Ok(0) => bail!("the guest died"),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error).context("listening to the guest"),
            }
            let request = Request::parse(&text)?;
            text.clear();
            if let Request::Exit(code) = request {
                return Ok(code);
            }
            let answer = match self.carry_out(&request) {
                Ok(()) => "ok\n".to_owned(),
                Err(error) => format!("error {error:#}\n"),
            };
            line(format_args!("{} host: {request}: {}", stamp(self.begun), answer.trim()));
            self.control.get_mut().write_all(answer.as_bytes())?;
        }
    }

    fn carry_out(&mut self, request: &Request) -> Result<()> {
        match request {
            Request::Delete(id) => {
                self.qmp.call("device_del", serde_json::json!({ "id": id })).map(drop)
            }
            Request::AwaitGone(id) => self.qmp.wait_deleted(id, UNPLUG_DEADLINE),
            Request::Throttle(id, commands) => self.qmp.throttle(id, *commands),
            Request::Add(id) => {
                self.plugged += 1;
                let (medium, device) = hardware::plugged(self.directory.path(), id, self.plugged)?;
                self.qmp.add_drive(&medium.node, &medium.file)?;
                self.qmp.add_device(&device)
            }
            Request::Exit(_) => Ok(()),
        }
    }

    /// What kernel and emulator said last. Ends the emulator, which otherwise would go on saying things.
    fn last_words(&mut self) -> String {
        // One that crashed closes its sockets before it can be reaped.
        let ended = match process::wait_until(&mut self.emulator, Instant::now() + CRASH_WAIT) {
            Ok(Some(status)) => format!("the emulator ended by itself: {status}"),
            _ => "the emulator still ran".to_owned(),
        };
        let _ = process::kill_nine(&mut self.emulator);
        let said = errors_of(&mut self.emulator);
        let console = self.console.lock().unwrap_or_else(PoisonError::into_inner);
        let from = console.len().saturating_sub(CONSOLE_SHOWN);
        format!(
            "{ended}; it said: {}\nthe end of the guest's console:\n  {}\n",
            process::tail(&said, 1200),
            console[from..].join("\n  ")
        )
    }

    /// Where the namespaces' files are.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Ended already: nothing to kill.
        if !matches!(self.emulator.try_wait(), Ok(Some(_))) {
            let _ = process::kill_nine(&mut self.emulator);
        }
        if let Some(output) = self.output.take() {
            let _ = output.join();
        }
    }
}

/// The image's root, and behind it an archive with the run's own files.
fn write_root(image: &Image, run: &Run, path: &Path) -> Result<()> {
    let mut output = File::create(path)?;
    std::io::copy(&mut File::open(&image.root)?, &mut output)?;
    let mut archive = Archive::new(BufWriter::new(output));
    archive.file("/run.sh", 0o755, run.script.as_bytes())?;
    for added in &run.added {
        let content = fs::read(&added.from)
            .with_context(|| format!("{} is missing", added.from.display()))?;
        archive.file(&added.to, 0o755, &content)?;
    }
    archive.finish()?;
    Ok(())
}

fn spawn(image: &Image, run: &Run, home: &Path) -> Result<Child> {
    let mut command = Command::new(EMULATOR);
    command.args(run.hardware.arguments());
    command.arg("-kernel").arg(&image.kernel).arg("-initrd").arg(home.join("root.cpio"));
    command.arg("-append").arg(format!("{KERNEL_ARGUMENTS} {}", run.kernel_arguments));
    command.args(hardware::controller_arguments(home));
    command.args(hardware::tpm_arguments(home));
    command.args(["-serial", "stdio", "-device", "virtio-serial-pci"]);
    let socket = |name: &str| home.join(name).display().to_string();
    command.arg("-qmp").arg(format!("unix:{}", socket("qmp")));
    for name in [OUTPUT, CONTROL] {
        command.arg("-chardev").arg(format!("socket,id={name},path={}", socket(name)));
        command.arg("-device").arg(format!("virtserialport,chardev={name},name={name}"));
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    interruption::spawn(&mut command)
        .with_context(|| format!("starting {EMULATOR} (package qemu-system-x86)"))
}

/// Sockets the emulator connects to, so that nothing has to be waited for before it runs.
struct Sockets {
    qmp: UnixListener,
    output: UnixListener,
    control: UnixListener,
}

impl Sockets {
    fn listen(home: &Path) -> Result<Self> {
        let listen = |name: &str| -> Result<UnixListener> {
            let listener = UnixListener::bind(home.join(name))?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        };
        Ok(Self { qmp: listen("qmp")?, output: listen(OUTPUT)?, control: listen(CONTROL)? })
    }

    fn accept(&self, emulator: &mut Child) -> Result<(UnixStream, UnixStream, UnixStream)> {
        let mut accept = |listener: &UnixListener| -> Result<UnixStream> {
            let deadline = Instant::now() + CONNECT_DEADLINE;
            loop {
                match listener.accept() {
                    Ok((stream, _)) => {
                        stream.set_nonblocking(false)?;
                        return Ok(stream);
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error.into()),
                }
                if let Some(status) = emulator.try_wait()? {
                    bail!("it ended: {status}");
                }
                ensure!(Instant::now() < deadline, "it does not connect");
                std::thread::sleep(Duration::from_millis(2));
            }
        };
        Ok((accept(&self.qmp)?, accept(&self.output)?, accept(&self.control)?))
    }
}

fn errors_of(emulator: &mut Child) -> String {
    let mut text = String::new();
    if let Some(errors) = &mut emulator.stderr {
        // Whatever it said is what there is to show.
        let _ = errors.read_to_string(&mut text);
    }
    text
}

/// Keeps what the kernel says, for the case that it is needed.
fn collect_console(stream: Option<impl Read + Send + 'static>) -> Arc<Mutex<Vec<String>>> {
    let kept = Arc::new(Mutex::new(Vec::new()));
    let keeper = Arc::clone(&kept);
    std::thread::spawn(move || {
        let Some(stream) = stream else { return };
        let mut reader = BufReader::new(stream);
        let mut bytes = Vec::new();
        while reader.read_until(b'\n', &mut bytes).is_ok_and(|read| read > 0) {
            let text = String::from_utf8_lossy(&bytes).trim_end().to_owned();
            keeper.lock().unwrap_or_else(PoisonError::into_inner).push(text);
            bytes.clear();
        }
    });
    kept
}

/// Shows the command's output as it comes; tells when the first came.
fn stream(output: UnixStream, begun: Instant) -> Option<Duration> {
    let mut first = None;
    let mut reader = BufReader::new(output);
    let mut bytes = Vec::new();
    while reader.read_until(b'\n', &mut bytes).is_ok_and(|read| read > 0) {
        first.get_or_insert_with(|| begun.elapsed());
        line(format_args!("{} {}", stamp(begun), String::from_utf8_lossy(&bytes).trim_end()));
        bytes.clear();
    }
    first
}

fn stamp(begun: Instant) -> String {
    format!("[{:7.2}]", begun.elapsed().as_secs_f64())
}
