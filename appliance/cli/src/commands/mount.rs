//! `sheen mount`, and `mount -t sheen`.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use sheen_client::{ClientConfig, ShowIdentity};
use sheen_fuse::{
    kernel::mountpoint::{Detach, MountOptions, MountPoint, detach, remount, stand_guard},
    mount::{MountConfig, MountHandle},
};

use super::{place::absolute, server::source_of, umount};
use crate::{
    admin, answer,
    arguments::{GuardMount, Mount},
    failure::{Failure, FailureKind},
    process,
    shown_identity::ShownIdentity,
    source::Source,
};

/// Where a mount's process writes when it is not told, as root.
const LOG: &str = "/var/log/sheen-mount.log";
/// The same of others, in the folder for a user's state.
const USER_LOG: &str = "sheen/mount.log";
/// Options of ours: the identity file, and whether a node that encrypts nothing will do.
const IDENTITY: &str = "identity";
const ENCRYPTION: &str = "encryption";
/// How often a mount that is to be taken away and is covered by another one is looked at.
const COVERED_PAUSE: Duration = Duration::from_millis(250);
/// The command that [`guard`] carries out.
pub(super) const GUARD: &str = "guard-mount";

/// Mounts, or changes a mount.
///
/// # Errors
/// When the source is none, the node does not answer, or the kernel refuses.
pub(crate) fn run(json: bool, mount: &Mount) -> Result<()> {
    let dir = absolute(&mount.dir)?;
    let text = mount.options.join(",");
    let mut options = MountOptions::parse(&text, &[IDENTITY, ENCRYPTION])?;
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
    let log = state_folder(|name| std::env::var_os(name), home).map(|state| state.join(USER_LOG));
    let log = log.ok_or_else(|| {
        let text = "there is no folder for the mount's log: HOME is not set, and the user has none";
        Failure::new(FailureKind::Usage, text).hint("say --log FILE")
    })?;
    let made = log.parent().map_or(Ok(()), std::fs::create_dir_all);
    made.map_err(|error| process::log_failure(&log, &error))?;
    Ok(log)
}

/// Where a user's programs keep their state, by the environment, else by the user's home: mount(8) takes HOME out of the environment
/// of those it calls.
fn state_folder(
    variable: impl Fn(&str) -> Option<OsString>,
    home: impl FnOnce() -> Option<PathBuf>,
) -> Option<PathBuf> {
    let absolute = |name| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || absolute("HOME").or_else(home).filter(|path| path.is_absolute());
    absolute("XDG_STATE_HOME").or_else(|| Some(home()?.join(".local/state")))
}

/// The home of the user this process runs as, as the system's list of users has it.
fn home() -> Option<PathBuf> {
    let user = nix::unistd::User::from_uid(nix::unistd::Uid::effective()).ok().flatten();
    user.map(|user| user.dir)
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
        && source_of(&there) == source
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

/// The identity that options name, read.
fn shown_identity(
    source: &Source,
    options: &[(String, Option<String>)],
) -> Result<Option<Arc<dyn ShowIdentity>>> {
    let of = |name: &str| options.iter().rev().find(|option| option.0 == name);
    let usage = |text: &str| Failure::new(FailureKind::Usage, text);
    let clear = match of(ENCRYPTION).map(|option| option.1.as_deref()) {
        None | Some(Some("on")) => false,
        Some(Some("off")) => true,
        Some(_) => bail!(usage("the option encryption is on or off")),
    };
    let Some((_, path)) = of(IDENTITY) else {
        if clear {
            bail!(usage("encryption=off is said of a mount with an identity (identity=FILE)"));
        }
        return Ok(None);
    };
    let path = path.as_deref().filter(|path| !path.is_empty());
    let path = path.ok_or_else(|| usage("the option identity needs a file: identity=FILE"))?;
    if source.node.starts_with("unix:") {
        let text = "a mount over the node's socket shows no identity: the kernel tells who mounts";
        bail!(usage(text).hint("leave the option identity out, or name the node as HOST[:PORT]"));
    }
    Ok(Some(Arc::new(ShownIdentity::open(Path::new(path), clear)?)))
}

fn serve(source: &Source, dir: &Path, options: MountOptions, report_ready: bool) -> Result<()> {
    crate::log::to_standard_error();
    if report_ready {
        process::detach();
    }
    let served = Arc::new(OnceLock::new());
    let device = served.clone();
    process::on_interrupt(move |signal| {
        // What is not served yet ends as it would without us.
        device.get().is_some_and(|device| take_away(*device, signal))
    })?;
    let host = nix::unistd::gethostname()?;
    let label = admin::label(&host, std::process::id(), dir);
    let identity = shown_identity(source, &options.extra)?;
    let client = ClientConfig::new(&source.node, &source.name, &label)?;
    let mut config = MountConfig::new(client, dir.to_owned(), options);
    config.guard = Some(OsString::from(GUARD));
    config.identity = identity;
    let handle = MountHandle::start(config)?;
    if let Ok(Some(point)) = MountPoint::at(dir) {
        served.get_or_init(|| point.device);
    }
    if report_ready {
        answer::text(process::READY);
    }
    handle.wait();
    Ok(())
}

/// Takes our mount out of the tree, now or as soon as that can be: when no other mount covers it. It is served on until the
/// last program has closed what it has open there. Returns whether somebody sees to that.
fn take_away(device: (u32, u32), signal: Signal) -> bool {
    tracing::info!(%signal, "unmounting; what programs have open is served until they close it, or until the next signal");
    let Err(error) = detach_all(device) else { return true };
    tracing::warn!(%error, "cannot be unmounted yet, and is served until it can be, or until the next signal");
    let again = move || {
        while detach_all(device).is_err() {
            std::thread::sleep(COVERED_PAUSE);
        }
        tracing::info!("unmounted");
    };
    let started = std::thread::Builder::new().name("unmount".to_owned()).spawn(again);
    if let Err(error) = &started {
        tracing::error!(%error, "unmounting; the process ends, and what it had not written back is lost");
    }
    started.is_ok()
}

/// Takes every mount of a device out of the tree.
///
/// # Errors
/// When one is covered by another mount, or the system refuses.
fn detach_all(device: (u32, u32)) -> Result<()> {
    let mounts = MountPoint::all()?;
    let ours = mounts.iter().rev().filter(|mount| mount.device == device);
    ours.map(|mount| &mount.path).try_for_each(|path| {
        let top = MountPoint::at(path)?;
        if top.is_none_or(|top| top.device != device) {
            bail!("{} is below another mount", path.display());
        }
        Ok(detach(path, Detach::Lazy)?)
    })
}

/// Aborts a mount when its process was killed.
///
/// # Errors
/// When there is no means to.
pub(crate) fn guard(guard: &GuardMount) -> Result<()> {
    stand_guard(guard.parent, guard.device, &guard.target).context("guarding the mount")
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn the_log_of_a_user_s_mount_is_in_the_folder_for_state_or_at_home() {
        let state = |variables: &[(&str, &str)], home: Option<&str>| {
            let variable = |name: &str| {
                let found = variables.iter().find(|(there, _)| *there == name);
                found.map(|(_, value)| OsString::from(value))
            };
            state_folder(variable, || home.map(PathBuf::from))
        };
        let at = |path: &str| Some(PathBuf::from(path));
        let both = [("XDG_STATE_HOME", "/state"), ("HOME", "/h")];
        assert_eq!(state(&both, Some("/p")), at("/state"));
        assert_eq!(state(&both[1..], Some("/p")), at("/h/.local/state"));
        assert_eq!(state(&[], Some("/p")), at("/p/.local/state"), "as mount(8) calls it");
        assert_eq!(state(&[("HOME", "h")], Some("")), None);
        assert_eq!(state(&[], None), None);
    }
}
