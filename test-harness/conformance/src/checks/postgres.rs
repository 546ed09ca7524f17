//! PostgreSQL: the whole server is killed under load; after its recovery every acknowledged commit is there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, chown};

use super::Context;
use crate::interruption::Guard;
use crate::random::Random;
use crate::{process, programs};

const CHECK: &str = "postgres";
const DEADLINE: Duration = Duration::from_secs(240);
const USER: &str = "postgres";
const CLIENTS: u32 = 2;
const SETTINGS: &str = "listen_addresses = ''\nfsync = on\nfull_page_writes = on\nshared_buffers = 32MB\n\
                        max_wal_size = 64MB\ncheckpoint_timeout = 30s\n";
/// What pgbench keeps equal at every moment.
const BALANCES: &str = "SELECT (SELECT sum(abalance) FROM pgbench_accounts), \
                        (SELECT sum(tbalance) FROM pgbench_tellers), \
                        (SELECT sum(bbalance) FROM pgbench_branches), \
                        (SELECT coalesce(sum(delta), 0) FROM pgbench_history)";

/// Runs the check.
pub fn run(context: &mut Context<'_>) {
    let Some((work, scratch)) = context.prepared(CHECK) else { return };
    let rounds = context.rounds.unwrap_or(context.effort.pick(2, 6));
    let mut random = Random::new(context.seed);
    let report = &mut *context.report;
    let mut server = None;
    let begun = report.case(CHECK, "initdb, start, pgbench -i", || {
        programs::require(&[programs::POSTGRES])?;
        server = Some(Server::create(&work, &scratch)?);
        Ok(String::new())
    });
    if let (true, Some(mut server)) = (begun, server) {
        report.case(CHECK, &format!("{rounds} kills under load lose no commit"), || {
            let mut last = String::new();
            for round in 1..=rounds {
                last = server.round(&mut random).with_context(|| format!("round {round}"))?;
            }
            Ok(last)
        });
        report.case(CHECK, "pg_amcheck, all indexes against their tables", || server.amcheck());
        report.case(CHECK, "pg_checksums after a clean stop", || server.checksums());
    }
    context.remove(CHECK, &work);
}

/// A server and its data directory; killed when dropped.
struct Server {
    data: PathBuf,
    scratch: PathBuf,
    process: Option<(Child, Guard)>,
}

impl Server {
    fn create(work: &Path, scratch: &Path) -> anyhow::Result<Self> {
        let user = User::from_name(USER)?.context("there is no user postgres")?;
        for directory in [work, scratch] {
            chown(directory, Some(user.uid), Some(user.gid))?;
        }
        let mut server =
            Self { data: work.join("data"), scratch: scratch.to_path_buf(), process: None };
        let mut create = server.program("initdb");
        create.args(["--data-checksums", "--auth=trust", "--no-locale", "-D"]).arg(&server.data);
        process::run(&mut create, DEADLINE)?;
        fs::write(server.data.join("postgresql.auto.conf"), SETTINGS)?;
        server.start()?;
        let mut fill = server.client("pgbench");
        process::run(fill.args(["-i", "-q", "-s", "2", "postgres"]), DEADLINE)?;
        server.query(
            "CREATE TABLE acknowledged (client INT, number INT, PRIMARY KEY (client, number))",
        )?;
        server.query("CREATE EXTENSION amcheck")?;
        Ok(server)
    }

    /// A program of PostgreSQL, run as its user.
    fn program(&self, name: &str) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--init-groups", "--"]);
        command.arg(programs::postgres_program(name)).current_dir(&self.scratch);
        command.env("LC_ALL", "C").env("HOME", &self.scratch);
        command
    }

    fn client(&self, name: &str) -> Command {
        let mut command = self.program(name);
        command.arg("-h").arg(&self.scratch).args(["-U", USER]);
        command
    }

    fn query(&self, text: &str) -> anyhow::Result<String> {
        let mut command = self.client("psql");
        command.args(["-qAtX", "-v", "ON_ERROR_STOP=1", "-c", text, "postgres"]);
        Ok(process::run(&mut command, DEADLINE)?.trim().to_owned())
    }

    fn start(&mut self) -> anyhow::Result<()> {
        let log =
            fs::File::options().create(true).append(true).open(self.scratch.join("server.log"))?;
        let mut command = self.program("postgres");
        command.arg("-D").arg(&self.data).arg("-k").arg(&self.scratch);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let process = command.spawn()?;
        let guard = Guard::of_process(process::pid_of(&process));
        self.process = Some((process, guard));
        process::wait_for("the server accepts queries", DEADLINE, || {
            self.query("SELECT 1").is_ok()
        })
        .with_context(|| self.last_words())?;
        Ok(())
    }

    fn last_words(&self) -> String {
        let log = fs::read_to_string(self.scratch.join("server.log")).unwrap_or_default();
        process::tail(&log, 600)
    }

    /// Kills the postmaster and all it started, at once as far as signals allow.
    fn kill(&mut self) -> anyhow::Result<usize> {
        let Some((mut postmaster, _guard)) = self.process.take() else { bail!("no server runs") };
        // The postmaster goes first: it must not clean up after its children.
        let children = children_of(postmaster.id())?;
        process::kill_nine(&mut postmaster)?;
        for child in &children {
            kill(*child, Signal::SIGKILL).ok();
        }
        process::wait_for("the server's processes end", DEADLINE, || {
            children.iter().all(|child| kill(*child, None).is_err())
        })?;
        // The new postmaster refuses to start while it believes that the old one lives.
        fs::remove_file(self.data.join("postmaster.pid")).ok();
        Ok(children.len() + 1)
    }

    fn round(&mut self, random: &mut Random) -> anyhow::Result<String> {
        let mut load = self.client("pgbench");
        load.args(["-n", "-c", "3", "-j", "1", "-T", "120", "postgres"]);
        let mut load =
            Client(load.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
        let before = self.acknowledged().len();
        let mut clients = Vec::new();
        for client in 0..CLIENTS {
            clients.push(self.acknowledging_client(client)?);
        }
        process::wait_for("200 commits", DEADLINE, || self.acknowledged().len() > before + 200)?;
        std::thread::sleep(Duration::from_millis(200 + random.below(1500)));
        let killed = self.kill()?;
        load.end();
        drop(clients);
        self.start()?;
        let found = self.check()?;
        Ok(format!("{killed} processes killed, {found}"))
    }

    /// A session that inserts rows for ever; what the server answered is appended to a file on another file system.
    fn acknowledging_client(&self, client: u32) -> anyhow::Result<Client> {
        let begin = self.query(&format!(
            "SELECT coalesce(max(number), 0) + 1 FROM acknowledged WHERE client = {client}"
        ))?;
        let begin: u32 = begin.parse()?;
        let statements = self.scratch.join(format!("statements-{client}.sql"));
        let mut text = String::new();
        for number in begin..begin + 200_000 {
            text.push_str(&format!(
                "INSERT INTO acknowledged VALUES ({client}, {number}) RETURNING client, number;\n"
            ));
        }
        fs::write(&statements, text)?;
        let output = fs::File::options()
            .create(true)
            .append(true)
            .open(self.scratch.join(format!("acknowledged-{client}.log")))?;
        let mut command = self.client("psql");
        command
            .args(["-qAtX", "-F", " ", "-v", "ON_ERROR_STOP=1", "-f"])
            .arg(&statements)
            .arg("postgres");
        command.stdin(Stdio::null()).stdout(output).stderr(Stdio::null());
        Ok(Client(command.spawn()?))
    }

    fn acknowledged(&self) -> Vec<String> {
        let mut all = Vec::new();
        for client in 0..CLIENTS {
            let path = self.scratch.join(format!("acknowledged-{client}.log"));
            let text = fs::read_to_string(path).unwrap_or_default();
            // The last line may be cut when the client was killed while it wrote it.
            let whole = text.rfind('\n').map_or("", |end| &text[..end]);
            all.extend(whole.lines().map(str::to_owned));
        }
        all
    }

    fn check(&self) -> anyhow::Result<String> {
        let rows = self.query("SELECT client || ' ' || number FROM acknowledged")?;
        let found: std::collections::HashSet<&str> = rows.lines().collect();
        let wanted = self.acknowledged();
        let lost: Vec<&String> =
            wanted.iter().filter(|row| !found.contains(row.as_str())).collect();
        ensure!(
            lost.is_empty(),
            "{} acknowledged commits are lost, first {:?}",
            lost.len(),
            lost[0]
        );
        let balances = self.query(BALANCES)?;
        let mut sums = balances.split('|');
        let first = sums.next().unwrap_or("");
        ensure!(!first.is_empty() && sums.all(|sum| sum == first), "balances differ: {balances}");
        let transactions = self.query("SELECT count(*) FROM pgbench_history")?;
        Ok(format!("{} acknowledged commits found, {transactions} of pgbench", wanted.len()))
    }

    fn amcheck(&self) -> anyhow::Result<String> {
        let mut command = self.client("pg_amcheck");
        command.args(["--all", "--heapallindexed", "--parent-check"]);
        let said = process::run(&mut command, DEADLINE)?;
        Ok(process::tail(&said, 200))
    }

    fn checksums(&mut self) -> anyhow::Result<String> {
        let Some((mut server, _guard)) = self.process.take() else { bail!("no server runs") };
        // SIGINT asks for a fast shutdown.
        kill(process::pid_of(&server), Signal::SIGINT).ok();
        let end = std::time::Instant::now() + DEADLINE;
        if process::wait_until(&mut server, end)?.is_none() {
            process::kill_nine(&mut server)?;
            bail!("the server does not stop: {}", self.last_words());
        }
        let mut command = self.program("pg_checksums");
        let said = process::run(command.arg("--check").arg("-D").arg(&self.data), DEADLINE)?;
        Ok(process::tail(&said, 200))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.process.is_some() {
            let _ = self.kill();
        }
    }
}

/// A client process, killed when dropped.
struct Client(Child);

impl Client {
    fn end(&mut self) {
        let _ = process::kill_nine(&mut self.0);
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.end();
    }
}

fn children_of(parent: u32) -> anyhow::Result<Vec<Pid>> {
    let list = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"))?;
    list.split_whitespace().map(|pid| Ok(Pid::from_raw(pid.parse()?))).collect()
}
