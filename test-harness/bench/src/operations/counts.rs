//! Requests to servers and commits of the metadata log for each operation, as a node's metrics page counts them, while
//! nothing else goes on.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use sheen_conformance::metrics;
use sheen_conformance::report::line;

use super::work::{NOBODY, Operation, Step};
use super::{Build, Worker, make_directory, user_name};
use crate::table::{Cost, Table};

/// Operations counted.
const OPERATIONS: u32 = 100;
/// How long nothing may be counted for it to be quiet.
const QUIET: Duration = Duration::from_millis(250);
const QUIET_DEADLINE: Duration = Duration::from_secs(10);
/// What an operation leaves behind is over by then: an inode without a name stays for two seconds.
pub(super) const AFTERMATH: Duration = Duration::from_secs(4);
/// Less than this of an operation is of the round: of the directory, of the session.
const SHARE_MIN: f64 = 0.03;
/// What goes on by the clock, whatever programs do.
const BY_THE_CLOCK: [&str; 4] = ["ping", "object_statistics", "ost_list", "filesystem_statistics"];

/// Who made the files, and so what the mount knows of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Made {
    /// The same mount, just before.
    Here,
    /// Another mount, which is gone.
    Elsewhere,
}

/// An operation that is counted.
struct Case {
    name: &'static str,
    operation: Operation,
    made: Made,
    reason: &'static str,
}

const fn case(name: &'static str, operation: Operation, made: Made, reason: &'static str) -> Case {
    Case { name, operation, made, reason }
}

/// What is counted, and why it costs what it costs.
const CASES: [Case; 18] = [
    case(
        "lookup (first stat)",
        Operation::Stat,
        Made::Elsewhere,
        "Lookup; the objects tell the size, and again for GETATTR, as nothing of a size without a lease is kept",
    ),
    case(
        "stat of what is known",
        Operation::Stat,
        Made::Here,
        "leases hold: the kernel answers itself",
    ),
    case(
        "open to read",
        Operation::Open,
        Made::Elsewhere,
        "Open tells the MDT who has it open; the kernel asks for the size first",
    ),
    case("open to write", Operation::OpenToWrite, Made::Elsewhere, "as above"),
    case("close, read", Operation::Close, Made::Elsewhere, "Close, as nobody has it open any more"),
    case(
        "close, written",
        Operation::CloseWritten,
        Made::Elsewhere,
        "the same: a close makes nothing durable and asks nothing",
    ),
    case(
        "create",
        Operation::Create,
        Made::Here,
        "Create opens too, and tells what the directory is now, which the kernel asks for next",
    ),
    case(
        "create, directory of others",
        Operation::Create,
        Made::Elsewhere,
        "and a Lookup: others may have made the name",
    ),
    case(
        "write 4 KiB in place",
        Operation::Write,
        Made::Elsewhere,
        "the write itself; attributes tell that there are no privileges to drop",
    ),
    case(
        "append 4 KiB",
        Operation::Append,
        Made::Elsewhere,
        "the same: DATA for writing tells the end",
    ),
    case("create, write, close", Operation::Make, Made::Here, "as create, the write and the close"),
    case("rename", Operation::Rename, Made::Here, "Rename, which tells what the directory is now"),
    case(
        "rename, files of others",
        Operation::Rename,
        Made::Elsewhere,
        "and a Lookup of either name, and the size for the old one",
    ),
    case(
        "rename into another directory",
        Operation::Carry,
        Made::Here,
        "Rename, which tells what both directories are now",
    ),
    case(
        "rename into another directory, files of others",
        Operation::Carry,
        Made::Elsewhere,
        "and a Lookup of the old name, with the size; the new directory is made here",
    ),
    case(
        "unlink",
        Operation::Unlink,
        Made::Here,
        "as rename; two seconds later the inode goes, and changes that are kept are given up first",
    ),
    case(
        "unlink, files of others",
        Operation::Unlink,
        Made::Elsewhere,
        "as above, after a Lookup with the size",
    ),
    case(
        "readdir and stat, each file",
        Operation::List,
        Made::Elsewhere,
        "as the first stat of each; the listing itself is a few requests in all",
    ),
];

/// Counts every case as root and as a user in every build.
///
/// # Errors
/// When an operation fails, or a node does not get quiet.
pub(super) fn run(table: &mut Table, builds: &mut [Build]) -> Result<()> {
    // What the rates left behind is over then.
    std::thread::sleep(AFTERMATH);
    for build in builds {
        for case in &CASES {
            let mut found = Vec::new();
            for uid in [0, NOBODY] {
                found.push(count(build, case, uid)?);
            }
            let [root, user] = found.as_slice() else { bail!("two users are counted") };
            table.cost(Cost {
                operation: case.name.to_owned(),
                build: build.name,
                requests: [root.during.requests(), user.during.requests()],
                commits: [root.during.commits, user.during.commits],
                later: [root.later.requests(), user.later.requests()],
                later_commits: [root.later.commits, user.later.commits],
                which: which(root, user),
                reason: case.reason,
            });
        }
        line(format_args!("operations: {} is counted", build.name));
    }
    Ok(())
}

/// Names of the requests as a user, and as root where those differ.
fn which(root: &Found, user: &Found) -> String {
    let (of_root, of_user) = (root.text(), user.text());
    if of_root == of_user { of_user } else { format!("root: {of_root}; user: {of_user}") }
}

/// What a node counted for each operation.
#[derive(Debug, Default)]
struct Counted {
    by_kind: BTreeMap<String, f64>,
    commits: f64,
}

impl Counted {
    fn requests(&self) -> f64 {
        // The sum of nothing is -0.0.
        self.by_kind.values().sum::<f64>() + 0.0
    }

    fn text(&self) -> String {
        let one = |(kind, count): (&String, &f64)| {
            if (count - 1.0).abs() < 0.005 { kind.clone() } else { format!("{count:.2} {kind}") }
        };
        self.by_kind.iter().map(one).collect::<Vec<_>>().join(", ")
    }
}

/// While the operations went on, and in the seconds after.
#[derive(Debug)]
struct Found {
    during: Counted,
    later: Counted,
}

impl Found {
    fn text(&self) -> String {
        match (self.during.text(), self.later.text()) {
            (during, later) if later.is_empty() => during,
            (during, later) => format!("{during} (later {later})"),
        }
    }
}

fn count(build: &mut Build, case: &Case, uid: u32) -> Result<Found> {
    let name = format!("{}-{:?}-{}", case.operation.word(), case.made, user_name(uid));
    if case.made == Made::Elsewhere {
        let other = build.cluster.mount()?;
        let directory = other.directory().join(&name);
        make_directory(&directory)?;
        let mut worker = Worker::start(&directory)?;
        worker.tell(case.operation, Step::Lay, OPERATIONS)?;
        worker.end()?;
        other.unmount()?;
    }
    let mount = build.cluster.mount()?;
    let directory = mount.directory().join(&name);
    if case.made == Made::Here {
        make_directory(&directory)?;
    }
    let mut worker = Worker::start(&directory)?;
    if case.made == Made::Here {
        worker.tell(case.operation, Step::Lay, OPERATIONS)?;
    }
    worker.become_user(uid)?;
    worker.tell(case.operation, Step::Begin, OPERATIONS)?;
    let node = build.cluster.admin_address();
    let before = quiet(node)?;
    worker.tell(case.operation, Step::Act, OPERATIONS)?;
    let after = quiet(node)?;
    std::thread::sleep(AFTERMATH);
    let later = quiet(node)?;
    worker.end()?;
    // What is there stays: its removal would be counted with the next.
    mount.unmount()?;
    Ok(Found { during: difference(&before, &after), later: difference(&after, &later) })
}

/// The counters of a node, as they stand.
#[derive(Debug, Default, PartialEq)]
struct Snapshot {
    by_kind: BTreeMap<String, f64>,
    commits: f64,
}

fn snapshot(node: SocketAddr) -> Result<Snapshot> {
    let page = metrics::fetch(node)?;
    Ok(Snapshot {
        by_kind: by_kind(&page, "sheen_operations_total"),
        commits: metrics::sum_of(&page, "sheen_raft_proposals_total").unwrap_or(0.0),
    })
}

/// Seconds requests have been with a node, from their arrival to the reply.
///
/// # Errors
/// When the node does not tell.
pub(super) fn seconds_in(node: SocketAddr) -> Result<f64> {
    let page = metrics::fetch(node)?;
    Ok(by_kind(&page, "sheen_operation_duration_seconds_sum").values().sum())
}

/// A metric of requests by kind, of all targets, but for requests that come by the clock.
fn by_kind(page: &str, metric: &str) -> BTreeMap<String, f64> {
    let mut by_kind = BTreeMap::new();
    for entry in page.lines() {
        let Some((labels, value)) = entry.rsplit_once(' ') else { continue };
        if labels.split('{').next() != Some(metric) {
            continue;
        }
        let kind = labels.split("operation=\"").nth(1).and_then(|rest| rest.split('"').next());
        let (Some(kind), Ok(value)) = (kind, value.parse::<f64>()) else { continue };
        if !BY_THE_CLOCK.contains(&kind) {
            *by_kind.entry(kind.to_owned()).or_default() += value;
        }
    }
    by_kind
}

/// The counters once they stand still.
fn quiet(node: SocketAddr) -> Result<Snapshot> {
    let begin = Instant::now();
    let mut last = snapshot(node)?;
    while begin.elapsed() < QUIET_DEADLINE {
        std::thread::sleep(QUIET);
        let now = snapshot(node)?;
        if now == last {
            return Ok(now);
        }
        last = now;
    }
    bail!("the node does not get quiet within {} s", QUIET_DEADLINE.as_secs())
}

fn difference(before: &Snapshot, after: &Snapshot) -> Counted {
    let each = |now: f64, then: f64| {
        let share = (now - then) / f64::from(OPERATIONS);
        if share < SHARE_MIN { 0.0 } else { share }
    };
    let rise = |(kind, now): (&String, &f64)| {
        let then = before.by_kind.get(kind).copied().unwrap_or(0.0);
        (kind.clone(), each(*now, then))
    };
    let by_kind = after.by_kind.iter().map(rise).filter(|(_, share)| *share > 0.0).collect();
    Counted { by_kind, commits: each(after.commits, before.commits) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_told_by_kind_for_each_operation() {
        let page = |opens: u32, writes: u32, pings: u32| {
            let open = format!(
                "sheen_operations_total{{target=\"MDT0000\",operation=\"open\"}} {opens}\n"
            );
            let write = |target: u32| {
                let labels = format!("{{target=\"OST000{target}\",operation=\"object_write\"}}");
                format!("sheen_operations_total{labels} {writes}\n")
            };
            let ping = format!("sheen_operations_total{{operation=\"ping\"}} {pings}\n");
            let (one, two) = (write(0), write(1));
            format!("# HELP sheen_operations_total Requests.\n{open}{one}{two}{ping}")
        };
        let at = |page: &str, commits| Snapshot {
            by_kind: by_kind(page, "sheen_operations_total"),
            commits,
        };
        let (before, after) = (at(&page(7, 1, 0), 5.0), at(&page(8, 51, 900), 6.0));
        let found = difference(&before, &after);
        assert_eq!(found.text(), "object_write", "one open of a hundred is the round's");
        assert_eq!((found.requests(), found.commits), (1.0, 0.0));
        let found = difference(&before, &at(&page(207, 26, 0), 305.0));
        assert_eq!(found.text(), "0.50 object_write, 2.00 open");
        assert_eq!(found.commits, 3.0);
    }
}
