//! `moto`, a server that speaks the API of AWS: its KMS does real encryption, and it checks signatures and policies when asked to.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};

use crate::interruption::{self, Guard};
use crate::process::{self, pid_of};
use crate::programs;
use crate::report::line;

/// The packages of PyPI it is made of: `moto[kms,iam]` with what its server needs of `moto[server]`, and their dependencies.
pub const PACKAGES: &str = include_str!("../scripts/moto.txt");
/// The version of `moto` among them.
pub const VERSION: &str = "5.2.5";
const INSTALL_DEADLINE: Duration = Duration::from_secs(600);
const START_DEADLINE: Duration = Duration::from_secs(60);
const ANSWER_DEADLINE: Duration = Duration::from_secs(20);
/// The region everything is in.
pub const REGION: &str = "us-east-1";

/// The program, installed into an environment of its own below `cache` on first use.
///
/// # Errors
/// When it cannot be installed.
pub fn installed(cache: &Path) -> anyhow::Result<PathBuf> {
    let home = cache.join(format!("moto-{VERSION}"));
    let program = home.join("bin/moto_server");
    let complete = home.join("complete");
    if fs::read_to_string(&complete).is_ok_and(|text| text == PACKAGES) {
        return Ok(program);
    }
    programs::require(&[programs::PYTHON])?;
    if process::run(Command::new("python3").args(["-c", "import ensurepip"]), ANSWER_DEADLINE)
        .is_err()
    {
        programs::require(&[programs::VENV])?;
    }
    if home.exists() {
        fs::remove_dir_all(&home)?;
    }
    line(format_args!("installing moto {VERSION}"));
    let mut make = Command::new("python3");
    process::run(make.args(["-m", "venv"]).arg(&home), INSTALL_DEADLINE)?;
    let mut install = Command::new(home.join("bin/pip"));
    install.args(["install", "--quiet", "--disable-pip-version-check"]);
    let packages = home.join("packages.txt");
    fs::write(&packages, PACKAGES)?;
    install.arg("-r").arg(packages);
    process::run(&mut install, INSTALL_DEADLINE)?;
    ensure!(program.exists(), "{} is absent after the installation", program.display());
    fs::write(complete, PACKAGES)?;
    Ok(program)
}

/// A running server; ends with the value.
#[derive(Debug)]
pub struct Moto {
    process: Child,
    address: SocketAddr,
    _guard: Guard,
}

/// A user's access key.
#[derive(Debug, Clone)]
pub struct AccessKey {
    /// Its name.
    pub id: String,
    /// What signs.
    pub secret: String,
}

impl Moto {
    /// Starts the server; its output goes to a file in `scratch`.
    ///
    /// # Errors
    /// When it does not serve in time.
    pub fn start(cache: &Path, scratch: &Path) -> anyhow::Result<Self> {
        let program = installed(cache)?;
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let log = scratch.join("moto.log");
        let output = fs::File::create(&log)?;
        let mut command = Command::new(program);
        command.args(["-H", "127.0.0.1", "-p", &address.port().to_string()]);
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let mut process = interruption::spawn(&mut command).context("starting moto")?;
        let guard = Guard::of_process(pid_of(&process));
        let mut ended = None;
        let waited = process::wait_for("moto", START_DEADLINE, || {
            ended = process.try_wait().ok().flatten();
            ended.is_some() || TcpStream::connect(address).is_ok()
        });
        let moto = Self { process, address, _guard: guard };
        if let Some(status) = ended {
            let said = fs::read_to_string(&log).unwrap_or_default();
            bail!("moto ended ({status}): {}", process::tail(&said, 800));
        }
        waited?;
        Ok(moto)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Calls an operation of KMS, such as `CreateKey`; for use while signatures are not checked.
    ///
    /// # Errors
    /// When it fails.
    pub fn kms(&self, operation: &str, arguments: &Value) -> anyhow::Result<Value> {
        let target = format!(
            "Content-Type: application/x-amz-json-1.1\r\nX-Amz-Target: TrentService.{operation}\r\n"
        );
        let text = self.post("/", "kms", &target, &arguments.to_string())?;
        serde_json::from_str(&text).with_context(|| format!("{operation}: {text}"))
    }

    /// A new key's ARN.
    ///
    /// # Errors
    /// When there is none.
    pub fn create_key(&self) -> anyhow::Result<String> {
        let made = self.kms("CreateKey", &json!({}))?;
        let arn = made["KeyMetadata"]["Arn"].as_str();
        Ok(arn.context("CreateKey gives no ARN")?.to_owned())
    }

    /// A new user with a policy of its own.
    ///
    /// # Errors
    /// When there is none.
    pub fn create_user(&self, name: &str, policy: &Value) -> anyhow::Result<AccessKey> {
        self.iam(&format!("Action=CreateUser&UserName={name}"))?;
        let document = percent_encoded(&policy.to_string());
        self.iam(&format!(
            "Action=PutUserPolicy&UserName={name}&PolicyName=p&PolicyDocument={document}"
        ))?;
        let made = self.iam(&format!("Action=CreateAccessKey&UserName={name}"))?;
        let id = between(&made, "<AccessKeyId>", "</AccessKeyId>")?;
        Ok(AccessKey { id, secret: between(&made, "<SecretAccessKey>", "</SecretAccessKey>")? })
    }

    /// From now on every call needs a user's signature and right.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn check_signatures(&self) -> anyhow::Result<()> {
        self.post("/moto-api/reset-auth", "kms", "", "0").map(drop)
    }

    /// From now on everything is allowed again.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn believe_signatures(&self) -> anyhow::Result<()> {
        self.post("/moto-api/reset-auth", "kms", "", "inf").map(drop)
    }

    fn iam(&self, form: &str) -> anyhow::Result<String> {
        let media = "Content-Type: application/x-www-form-urlencoded\r\n";
        self.post("/", "iam", media, &format!("{form}&Version=2010-05-08"))
    }

    fn post(&self, path: &str, service: &str, headers: &str, body: &str) -> anyhow::Result<String> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(ANSWER_DEADLINE))?;
        write!(
            stream,
            "POST {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\
             Authorization: AWS4-HMAC-SHA256 Credential=none/20260101/{REGION}/{service}/aws4_request, \
             SignedHeaders=host, Signature=none\r\n\r\n{body}",
            self.address,
            body.len()
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
        ensure!(head.starts_with("HTTP/1.1 200"), "{path}: {}", process::tail(&answer, 600));
        Ok(body.to_owned())
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = process::kill_nine(&mut self.process);
    }
}

fn between(text: &str, begin: &str, end: &str) -> anyhow::Result<String> {
    let inner = text.split_once(begin).and_then(|(_, rest)| rest.split_once(end));
    Ok(inner.with_context(|| format!("no {begin} in {text}"))?.0.to_owned())
}

fn percent_encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| {
            if byte.is_ascii_alphanumeric() {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect()
}
