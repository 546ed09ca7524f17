//! Rows of stages that are lines of a shell script.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use super::{Plan, Row, Stages, contained, run};

/// A folder of its own, removed at the end.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("xtask-rows-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// Runs stages of a script in which each is a case of `$1`.
    fn run(&self, cases: &str, plan: &Plan<'_>) -> anyhow::Result<()> {
        let script = format!("cd {}\ncase $1 in {cases} esac", self.0.display());
        let program = ["sh", "-c", &script, "stage"].map(str::to_owned).to_vec();
        run(plan, &Stages { program, logs: &self.0.join("logs") })
    }

    fn read(&self, name: &str) -> io::Result<String> {
        fs::read_to_string(self.0.join(name))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// Whether a process has this as an argument.
fn is_running(argument: &str) -> bool {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    processes
        .map(|entry| fs::read(entry.path().join("cmdline")).unwrap_or_default())
        .any(|words| words.split(|byte| *byte == 0).any(|word| word == argument.as_bytes()))
}

#[test]
fn rows_run_side_by_side_and_each_in_its_order() {
    let place = Place::new("order");
    // Each of the first two ends when the other has begun.
    let wait = |file: &str| format!("while [ ! -e {file} ]; do sleep 0.01; done");
    let cases = format!(
        "a) touch a; {};; b) echo b >> front;; c) touch c; {}; echo told;; d) echo d >> beside;;",
        wait("c"),
        wait("a")
    );
    place.run(&cases, &Plan { front: &["a", "b"], beside: &["c", "d"], quiet: &[] }).unwrap();
    assert_eq!(place.read("front").unwrap(), "b\n");
    assert_eq!(place.read("beside").unwrap(), "d\n");
    assert_eq!(place.read("logs/c.log").unwrap(), "told\n");
}

#[test]
fn what_needs_quiet_runs_when_both_rows_are_through() {
    let place = Place::new("quiet");
    let cases = "a) ;; c) sleep 0.5; touch through;; q) test -e through;; r) touch r;;";
    let quiet = &["q", "r"];
    place.run(cases, &Plan { front: &["a"], beside: &["c"], quiet }).unwrap();
    assert!(place.0.join("r").exists());
}

#[test]
fn nothing_runs_behind_a_failure() {
    let place = Place::new("behind");
    let cases = "a) ;; c) sleep 0.3; exit 6;; q) touch q;;";
    let error = place.run(cases, &Plan { front: &["a"], beside: &["c"], quiet: &["q"] });
    assert!(error.unwrap_err().to_string().starts_with("stage c: failed: exit status: 6"));
    assert!(!place.0.join("q").exists());
}

#[test]
fn a_failure_beside_ends_the_front_row_with_all_it_started() {
    let place = Place::new("beside");
    let begun = Instant::now();
    let cases = "a) sleep 61.25 & sleep 61.25;; b) touch b;; c) sleep 0.3; exit 3;;";
    let error =
        place.run(cases, &Plan { front: &["a", "b"], beside: &["c"], quiet: &[] }).unwrap_err();
    assert!(error.to_string().starts_with("stage c: failed: exit status: 3"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(30));
    assert!(!place.0.join("b").exists(), "the row went on");
    assert!(!is_running("61.25"), "a process of the row runs on");
}

#[test]
fn a_failure_in_the_front_row_ends_what_runs_beside_and_is_the_one_told() {
    let place = Place::new("front");
    let cases = "a) sleep 0.3; exit 4;; c) sleep 62.25;; d) touch d;;";
    let error =
        place.run(cases, &Plan { front: &["a"], beside: &["c", "d"], quiet: &[] }).unwrap_err();
    assert!(error.to_string().starts_with("stage a: failed: exit status: 4"), "{error}");
    assert!(!place.0.join("d").exists(), "the row went on");
    assert!(!is_running("62.25"), "a process of the row runs on");
}

#[test]
fn a_stage_ends_with_who_started_it() {
    let place = Place::new("starter");
    let script = format!("touch {}/begun; sleep 64.25 & sleep 64.25", place.0.display());
    let stage = contained(Row::Beside, "a", &["sh", "-c", &script].map(str::to_owned));
    let mut starter = Command::new("sh");
    starter.args(["-c", "setsid \"$@\" & wait", "sh"]).arg(stage.get_program());
    let mut starter = starter.args(stage.get_args()).spawn().unwrap();
    let soon = |ready: &dyn Fn() -> bool| {
        let begun = Instant::now();
        while !ready() && begun.elapsed() < Duration::from_secs(20) {
            thread::sleep(Duration::from_millis(10));
        }
        ready()
    };
    assert!(soon(&|| place.0.join("begun").exists()), "it never began");
    starter.kill().unwrap();
    starter.wait().unwrap();
    assert!(soon(&|| !is_running("64.25")), "a process of the stage runs on");
}

#[test]
fn what_is_ended_has_time_to_clean_up() {
    let place = Place::new("clean");
    let cases = "a) trap 'sleep 0.5; touch cleaned; exit 1' TERM; sleep 63.25 & wait;; c) sleep 0.3; exit 5;;";
    place.run(cases, &Plan { front: &["a"], beside: &["c"], quiet: &[] }).unwrap_err();
    assert!(Path::new(&place.0).join("cleaned").exists());
}

#[test]
fn a_stage_beside_gives_way() {
    let place = Place::new("idle");
    let policy = "sed -n 's/^policy *: *//p' /proc/$$/sched";
    let cases = format!("a) {policy} > front;; c) {policy} > beside;;");
    place.run(&cases, &Plan { front: &["a"], beside: &["c"], quiet: &[] }).unwrap();
    // SCHED_OTHER and SCHED_IDLE; a kernel built without it tells neither.
    if let (Ok(front), Ok(beside)) = (place.read("front"), place.read("beside")) {
        assert!(front.is_empty() || (front.trim(), beside.trim()) == ("0", "5"), "{front}{beside}");
    }
}
