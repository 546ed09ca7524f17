//! Ways to a model, to run the same checks over.

use std::{path::Path, time::Duration};

use sheen_nvme::{
    Transport,
    driver::Options,
    transport::vfio_user::{self, VfioUser},
};
use sheen_nvme_model::{
    Config, MediumKind, Model, Pace, Shadow,
    process::ModelProcess,
    rig::{Rig, impatient},
    script,
};

/// What a check asks of the controller.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish {
    pub(crate) block_bytes: usize,
    pub(crate) shadow: Shadow,
    pub(crate) queue_entries_max: u32,
    /// What each read takes at least.
    pub(crate) read_time: Duration,
    pub(crate) options: Options,
}

impl Default for Wish {
    fn default() -> Self {
        let options = Options { command_wait: Duration::from_secs(20), ..impatient() };
        Self {
            block_bytes: 4096,
            shadow: Shadow::Absent,
            queue_entries_max: 1024,
            read_time: Duration::ZERO,
            options,
        }
    }
}

impl Wish {
    /// The fault that makes reads take their time.
    fn slow_reads(&self) -> Option<String> {
        let milliseconds = self.read_time.as_millis();
        (milliseconds > 0).then(|| format!("io read times={} delay={milliseconds}", u32::MAX))
    }
}

/// A model, and what keeps it alive.
#[derive(Debug)]
pub(crate) enum Bed {
    Here(Model),
    There(ModelProcess, #[expect(dead_code, reason = "removed when dropped")] tempfile::TempDir),
}

/// How the model runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Stepped,
    Threaded,
    OtherProcess,
}

pub(crate) const MEDIUM_BYTES: u64 = 64 << 20;
const ARENA_BYTES: usize = 64 << 20;
const PATIENCE: Duration = Duration::from_secs(60);

impl Bed {
    pub(crate) fn new(way: Way, wish: Wish) -> Self {
        let config = Config {
            bytes: MEDIUM_BYTES,
            block_bytes: wish.block_bytes,
            medium: MediumKind::PowerCut,
            shadow: wish.shadow,
            queue_entries_max: wish.queue_entries_max,
            ..Config::default()
        };
        let pace = match way {
            Way::Stepped => Pace::OnAccess,
            Way::Threaded => Pace::Thread,
            Way::OtherProcess => return Self::another_process(wish),
        };
        let model = Model::new(config, pace).unwrap();
        if let Some(line) = wish.slow_reads() {
            model.with(|controller, _| controller.plan().add(script::rule(&line).unwrap()));
        }
        Self::Here(model)
    }

    fn another_process(wish: Wish) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let program = Path::new(env!("CARGO_BIN_EXE_sheen-nvme-model"));
        let shadow = match wish.shadow {
            Shadow::Absent => "absent",
            Shadow::Polled => "polled",
            Shadow::Kicked => "kicked",
        };
        let (size, format) = ((MEDIUM_BYTES >> 20).to_string(), wish.block_bytes.to_string());
        let entries = wish.queue_entries_max.to_string();
        let mut options = vec![
            "--size",
            &size,
            "--format",
            &format,
            "--shadow",
            shadow,
            "--queue-entries",
            &entries,
        ];
        let slow_reads = wish.slow_reads();
        options.extend(slow_reads.iter().flat_map(|line| ["--fault", line]));
        let process = ModelProcess::start(program, &folder.path().join("model"), &options);
        Self::There(process.unwrap(), folder)
    }

    pub(crate) fn transport(&self) -> Box<dyn Transport> {
        match self {
            Self::Here(model) => Box::new(model.transport().unwrap()),
            Self::There(process, _) => {
                // It lives, and on a machine that is busy waits for a core.
                let options = vfio_user::Options { patience: PATIENCE, ..Default::default() };
                Box::new(VfioUser::open(process.socket(), options).unwrap())
            }
        }
    }

    pub(crate) fn rig(&self, wish: Wish) -> Rig {
        Rig::attach_with(self.transport(), ARENA_BYTES, wish.options).unwrap()
    }
}

/// The seed of a run; printed, so that it can be repeated.
pub(crate) fn seed(of: &str) -> u64 {
    let seed = number("SHEEN_IO_SEED").unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(1, |time| u64::from(time.subsec_nanos()))
    });
    println!("{of}: SHEEN_IO_SEED={seed}");
    seed
}

/// Commands of each queue pair.
pub(crate) fn commands() -> u64 {
    number("SHEEN_IO_COMMANDS").unwrap_or(if cfg!(debug_assertions) { 400 } else { 20_000 })
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}
