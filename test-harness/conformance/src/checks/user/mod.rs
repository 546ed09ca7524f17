//! The user lane: real programs as an ordinary user, interrupted by a timer all the while.
//!
//! A clone of a tree, `configure` and `make -j`, `pip install`, `npm install`, verified blocks of fio: each as `nobody`,
//! with a signal a hundred times a second.

mod programs_of_user;
mod sources;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::{Context, Effort, fio};
use crate::programs;

use self::programs_of_user::User;
use self::sources::Sources;

const CHECK: &str = "user";
/// The jobs of fio the user runs.
const FIO_MEBIBYTES: u32 = 16;

/// Runs the check.
pub fn run(context: &mut Context<'_>) {
    let Some((work, scratch)) = context.prepared(CHECK) else { return };
    let effort = context.effort;
    let (cache, repository) = (context.cache.clone(), context.repository.clone());
    let seed = context.seed;
    let report = &mut *context.report;
    let mut made = None;
    report.case(CHECK, "programs and sources are there", || {
        made = Some((User::new(&scratch)?, Sources::fetch(&cache, &repository, &scratch, effort)?));
        Ok(String::new())
    });
    if let Some((user, sources)) = made {
        let local = scratch.join("local");
        let places: Vec<&Path> =
            if effort == Effort::Full { vec![&local, &work] } else { vec![&work] };
        for (name, does) in TASKS {
            report.case(CHECK, name, || {
                let mut said = Vec::new();
                for place in &places {
                    let home = home_at(place, &user, name)?;
                    let begun = Instant::now();
                    let figures = does(&user, &sources, &home)?;
                    said.push(format!("{figures} in {:.1} s", begun.elapsed().as_secs_f64()));
                }
                Ok(said.join("; here "))
            });
        }
        for job in fio::JOBS {
            let name = format!("fio: {}", job.name);
            report.case(CHECK, &name, || {
                programs::require(&[programs::FIO])?;
                let home = home_at(&work, &user, "fio")?;
                let as_user = |command: &mut _| user.take(command, &home);
                fio::write_and_verify(
                    &home.join("file"),
                    &home,
                    job.arguments,
                    (FIO_MEBIBYTES, seed),
                    &as_user,
                )
            });
        }
    }
    context.remove(CHECK, &work);
}

/// What a task does in a home of its own; gives its figures.
type Task = fn(&User, &Sources, &Path) -> anyhow::Result<String>;

const TASKS: [(&str, Task); 4] = [
    ("git clones a tree, checks it, repacks it", programs_of_user::clone),
    ("configure and make -j4", programs_of_user::make),
    ("pip installs packages with their dependencies", programs_of_user::pip),
    ("npm installs a package with its dependencies", programs_of_user::npm),
];

/// A directory of the user's own for a task, empty unless another task left something for it.
fn home_at(place: &Path, user: &User, task: &str) -> anyhow::Result<PathBuf> {
    fs::create_dir_all(place)?;
    fs::set_permissions(place, Permissions::from_mode(0o755))?;
    let first = task.split(' ').next().unwrap_or(task);
    let home = place.join(first);
    fs::create_dir_all(&home)?;
    user.owns(&home)?;
    Ok(home)
}
