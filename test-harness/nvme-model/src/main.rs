//! `sheen-nvme-model`: the model in a process of its own.
#![forbid(unsafe_code)]

use std::{
    io::{Write as _, stdout},
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use sheen_nvme_model::{Config, MediumKind, ModelServer, Shadow, chaos, script};

/// Serves an NVMe controller made of software over vfio-user.
#[derive(Debug, Parser)]
#[command(name = "sheen-nvme-model", version, subcommand_negates_reqs = true)]
struct Arguments {
    #[command(subcommand)]
    task: Option<Task>,
    /// Where to listen: a path for a new UNIX socket
    #[arg(long, required = true)]
    socket: Option<PathBuf>,
    /// Size of the namespace in MiB
    #[arg(long, default_value_t = 1024)]
    size: u64,
    /// Bytes of a block: 512 or 4096
    #[arg(long, default_value_t = 4096)]
    format: usize,
    /// Entries of a queue at most (CAP.MQES + 1)
    #[arg(long, default_value_t = 1024)]
    queue_entries: u32,
    /// I/O queue pairs at most
    #[arg(long, default_value_t = 16)]
    queue_pairs: u16,
    /// Offer shadow doorbells: absent, polled or kicked
    #[arg(long, default_value = "absent")]
    shadow: String,
    /// What keeps the blocks: ram, power-cut (can lose what was not flushed) or null
    #[arg(long, default_value = "ram")]
    medium: String,
    /// A fault, e.g. "io read skip=3 times=1 lose"; may be given several times
    #[arg(long)]
    fault: Vec<String>,
    /// Seed of what faults draw
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Drive Sheen's own driver against controllers that misbehave at random
    Chaos {
        /// For how long
        #[arg(long, default_value_t = 600)]
        seconds: u64,
        /// Seed of the first episode; by the clock when absent
        #[arg(long)]
        seed: Option<u64>,
    },
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    match arguments.task {
        Some(Task::Chaos { seconds, seed }) => play_chaos(seconds, seed),
        None => serve(&arguments),
    }
}

fn play_chaos(seconds: u64, seed: Option<u64>) -> Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seed = seed.unwrap_or_else(|| u64::from(now.subsec_nanos()));
    writeln!(stdout(), "chaos: first seed {seed}, {seconds} s")?;
    match chaos::play(seed, Duration::from_secs(seconds)) {
        Ok(report) => {
            writeln!(stdout(), "chaos: {report}")?;
            Ok(())
        }
        Err(chaos::Finding { seed, broken }) => {
            let episode = chaos::Episode::of(seed);
            bail!(
                "{broken:?}\n{episode:#?}\nrepeat with: sheen-nvme-model chaos --seconds 0 --seed {seed}"
            )
        }
    }
}

fn serve(arguments: &Arguments) -> Result<()> {
    let shadow = match arguments.shadow.as_str() {
        "absent" => Shadow::Absent,
        "polled" => Shadow::Polled,
        "kicked" => Shadow::Kicked,
        other => bail!("--shadow {other}: absent, polled or kicked"),
    };
    let medium = match arguments.medium.as_str() {
        "ram" => MediumKind::Ram,
        "power-cut" => MediumKind::PowerCut,
        "null" => MediumKind::Null,
        other => bail!("--medium {other}: ram, power-cut or null"),
    };
    if !matches!(arguments.format, 512 | 4096) {
        bail!("--format {}: 512 or 4096", arguments.format);
    }
    if !(2..=65536).contains(&arguments.queue_entries) {
        bail!("--queue-entries {}: 2 to 65536", arguments.queue_entries);
    }
    let config = Config {
        bytes: arguments.size << 20,
        block_bytes: arguments.format,
        medium,
        queue_entries_max: arguments.queue_entries,
        queue_pairs_max: arguments.queue_pairs,
        vectors: arguments.queue_pairs + 1,
        shadow,
        ..Config::default()
    };
    let server = ModelServer::new(config).context("making the controller")?;
    let plan = script::plan(&arguments.fault, arguments.seed)?;
    server.model().with(|controller, _| *controller.plan() = plan);
    let socket = arguments.socket.as_deref().context("--socket is missing")?;
    server
        .serve(socket, || {
            // Nobody may be reading; the socket is there all the same.
            let _ = writeln!(stdout(), "listening on {}", socket.display());
            let _ = stdout().flush();
        })
        .with_context(|| format!("serving {}", socket.display()))
}
