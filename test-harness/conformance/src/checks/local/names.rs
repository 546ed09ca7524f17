//! Names that go, are replaced, or have something mounted on them, seen by programs.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};

use super::DEADLINE;
use crate::process;

const SCRIPT: &str = include_str!("../../../scripts/names.py");

/// Where both views and a local file system have a directory of this check, and its script.
pub(super) struct Places<'a> {
    pub(super) here: &'a Path,
    pub(super) there: &'a Path,
    pub(super) scratch: &'a Path,
}

impl Places<'_> {
    fn script(&self) -> anyhow::Result<Command> {
        let script = self.scratch.join("names.py");
        fs::write(&script, SCRIPT)?;
        let mut command = Command::new("python3");
        command.arg(script);
        Ok(command)
    }

    /// What is open, current or held goes on as on the local file system when its name is gone, whoever took it.
    pub(super) fn gone(&self) -> anyhow::Result<String> {
        let [here, there, local] = [self.here, self.there, self.scratch].map(|at| at.join("gone"));
        fs::create_dir(&here)?;
        fs::create_dir_all(&local)?;
        let run = |first: &Path, second: &Path| {
            process::run(self.script()?.arg("gone").arg(first).arg(second), DEADLINE)
        };
        let expected = run(&local, &local)?;
        let found = run(&here, &there)?;
        // The kernel of the mount that did not remove it goes on to say where the directory was.
        let compared = |lines: &str| -> Vec<String> {
            let lines = lines.lines().filter(|line| !line.contains("getcwd"));
            lines.map(str::to_owned).collect()
        };
        let (expected, found) = (compared(&expected), compared(&found));
        ensure!(expected.len() == found.len(), "{} lines for {}", found.len(), expected.len());
        let differ = expected.iter().zip(&found).filter(|(expected, found)| expected != found);
        let differ: Vec<String> =
            differ.map(|(expected, found)| format!("{found} (local: {expected})")).collect();
        ensure!(differ.is_empty(), "{} differ: {}", differ.len(), differ[..1].join(", "));
        Ok(format!("{} acts", found.len()))
    }

    /// A name that is replaced all the time is there for whatever is done by it.
    pub(super) fn replaced(&self, time: Duration) -> anyhow::Result<String> {
        for (name, there) in [("once", self.here), ("twice", self.there)] {
            let here = self.here.join(name);
            fs::create_dir(&here)?;
            let mut command = self.script()?;
            command.arg("replaced").arg(&here).arg(there.join(name));
            command.arg(time.as_secs().to_string());
            process::run(&mut command, DEADLINE + time)?;
        }
        Ok(String::new())
    }

    /// A name that several users make, open and remove at both mounts is made, opened, or denied to whom it is private.
    pub(super) fn shared(&self, time: Duration) -> anyhow::Result<String> {
        let run = |first: &Path, second: &Path, time: Duration| {
            fs::create_dir(first)?;
            fs::set_permissions(first, Permissions::from_mode(0o777))?;
            let mut command = self.script()?;
            command.arg("shared").arg(first).arg(second).arg(time.as_secs().to_string());
            process::run(&mut command, DEADLINE + time)
        };
        let [here, there, local] =
            [self.here, self.there, self.scratch].map(|at| at.join("shared"));
        run(&local, &local, Duration::from_secs(1)).context("on the local file system")?;
        run(&here, &there, time)
    }

    /// What programs that are killed had under way is done when they have ended.
    pub(super) fn killed(&self, rounds: u32) -> anyhow::Result<String> {
        let run = |place: &Path, rounds: u32| {
            fs::create_dir(place)?;
            let mut command = self.script()?;
            command.arg("killed").arg(place).arg(place).arg(rounds.to_string());
            process::run(&mut command, DEADLINE)
        };
        run(&self.scratch.join("killed"), 1).context("on the local file system")?;
        run(&self.here.join("killed"), rounds)
    }

    /// What is mounted on a directory stays when names change from the other mount, also if only another mount namespace has
    /// it.
    pub(super) fn stacked(&self) -> anyhow::Result<String> {
        let under = self.here.join("stacked");
        let on = under.join("deeper/on");
        fs::create_dir_all(&on)?;
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "none"]).arg(&on);
        process::run(&mut mount, DEADLINE)?;
        let stays = self.stays(&on);
        let unmounted = process::run(Command::new("umount").arg(&on), DEADLINE);
        stays?;
        unmounted?;
        let mut other = Command::new("unshare");
        other.args(["-m", "sh", "-c"]);
        other.arg(
            "mount -t tmpfs none \"$1\" && touch \"$1/mark\" && test ! -e \"$2/new\" && \
             touch \"$3/new\" && ls \"$2/new\" \"$1/mark\"",
        );
        fs::create_dir(under.join("names"))?;
        other.arg("sh").arg(&on).arg(under.join("names"));
        other.arg(self.there.join("stacked/names"));
        process::run(&mut other, DEADLINE).context("in another mount namespace")
    }

    fn stays(&self, on: &Path) -> anyhow::Result<()> {
        fs::write(on.join("mark"), "")?;
        for round in 0..20 {
            let name = format!("stacked/deeper/name-{round}");
            // This mount caches that there is none, then what it leads to.
            ensure!(!self.here.join(&name).exists());
            fs::write(self.there.join(&name), "")?;
            ensure!(self.here.join(&name).exists(), "round {round}: the name is not seen");
            ensure!(on.join("mark").exists(), "round {round}: the mount is gone");
            fs::remove_file(self.there.join(&name))?;
            ensure!(!self.here.join(&name).exists(), "round {round}: the name is seen");
            ensure!(on.join("mark").exists(), "round {round}: the mount is gone");
        }
        Ok(())
    }
}
