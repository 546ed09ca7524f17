//! `sheen mount`, and `mount -t sheen`.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use sheen_client::ClientConfig;
use sheen_fuse::{
    kernel::mountpoint::{MountOptions, MountPoint, remount, stand_guard},
    mount::{MountConfig, MountHandle},
};

use super::{place::absolute, umount};
use crate::{
    answer,
    arguments::{GuardMount, Mount},
    failure::{Failure, FailureKind},
    process,
    source::Source,
};

/// Where a mount's process writes when it is not told, as root.
const LOG: &str = "/var/log/sheen-mount.log";
/// The same of others, in the folder for a user's state.
const USER_LOG: &str = "sheen/mount.log";
/// The command that [`guard`] carries out.
pub(super) const GUARD: &str = "guard-mount";

/// Mounts, or changes a mount.
///
/// # Errors
/// When the source is none, the node does not answer, or the kernel refuses.
pub(crate) fn run(json: bool, mount: &Mount) -> Result<()> {
    let dir = absolute(&mount.dir)?;
    let text = mount.options.join(",");
    let mut options = MountOptions::parse(&text, &[])?;
    if options.remount {
        remount(&dir, &options)?;
        return Ok(());
    }
    let source = Source::parse(&mount.source)?;
    if !text.split(',').any(|option| option.starts_with("fsname=")) {
        options.source.clone_from(&mount.source);
    }
    // The one who started us has looked.
    let replaced = !mount.report_ready && umount::remove_dead(&dir)?;
    if mount.foreground || mount.report_ready {
        return serve(&source, &dir, options, mount.report_ready);
    }
    let log = match &mount.log {
        Some(log) => log.clone(),
        None => default_log()?,
    };
    in_background(&mount.source, &dir, &mount.options, &log)?;
    if json {
        let done = serde_json::json!({
            "source": mount.source, "mounted": dir, "replaced_dead": replaced, "log": log,
        });
        answer::either(true, &done, String::new);
    }
    Ok(())
}

/// Where a mount's process writes when it is not told; its folder is made.
fn default_log() -> Result<PathBuf> {
    if nix::unistd::Uid::effective().is_root() {
        return Ok(PathBuf::from(LOG));
    }
    let absolute =
        |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")));
    let log = state.map(|state| state.join(USER_LOG)).ok_or_else(|| {
        Failure::new(FailureKind::Usage, "there is no folder for the mount's log: HOME is not set")
            .hint("say --log FILE")
    })?;
    let made = log.parent().map_or(Ok(()), std::fs::create_dir_all);
    made.map_err(|error| process::log_failure(&log, &error))?;
    Ok(log)
}

/// Mounts in a process of its own; returns when the mount answers.
///
/// # Errors
/// As [`run`].
pub(crate) fn in_background(
    source: &str,
    dir: &Path,
    options: &[String],
    log: &Path,
) -> Result<()> {
    if let Some(there) = MountPoint::at(dir)?.filter(MountPoint::is_fuse)
        && there.source == source
    {
        let text = format!("{source} is mounted at {} already", dir.display());
        bail!(Failure::new(FailureKind::InUse, text));
    }
    let mut arguments: Vec<OsString> = ["mount", "--report-ready"].map(OsString::from).to_vec();
    if !options.is_empty() {
        arguments.extend([OsString::from("-o"), OsString::from(options.join(","))]);
    }
    arguments.extend([OsString::from("--"), OsString::from(source), dir.as_os_str().to_owned()]);
    let arguments: Vec<&std::ffi::OsStr> = arguments.iter().map(OsString::as_os_str).collect();
    process::start(&arguments, log, |_| Ok(()))
        .with_context(|| format!("{source} was not mounted"))?;
    Ok(())
}

fn serve(source: &Source, dir: &Path, options: MountOptions, report_ready: bool) -> Result<()> {
    process::log_to_standard_error();
    if report_ready {
        process::detach();
    }
    let host = nix::unistd::gethostname()?;
    let label = format!("{} {} at {}", host.to_string_lossy(), std::process::id(), dir.display());
    let client = ClientConfig::new(&source.node, &source.name, &label)?;
    let mut config = MountConfig::new(client, dir.to_owned(), options);
    config.guard = Some(OsString::from(GUARD));
    let handle = MountHandle::start(config)?;
    if report_ready {
        answer::text(process::READY);
    }
    handle.wait();
    Ok(())
}

/// Aborts a mount when its process was killed.
///
/// # Errors
/// When there is no means to.
pub(crate) fn guard(guard: &GuardMount) -> Result<()> {
    stand_guard(guard.parent, guard.device, &guard.target).context("guarding the mount")
}
