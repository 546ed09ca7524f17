//! The command line.

use std::{ffi::OsString, net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand};

use sheen_types::Bytes;

use crate::commands::{authority::Authority, client::Client, key::Key, nvme::Nvme, scrub::Scrub};

/// Sheen: a parallel POSIX file system at the speed of your SSDs, on your own machines.
#[derive(Debug, Parser)]
#[command(name = "sheen", version, propagate_version = true, max_term_width = 100)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    /// Print answers as JSON, and errors on standard error as {"error": {"kind", "message", "hint"}}
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    pub command: Command,
}

impl Arguments {
    /// Whether this starts a mount's process and waits for it.
    pub(crate) fn starts_mount(&self) -> bool {
        match &self.command {
            Command::Mount(mount) => !mount.foreground && !mount.report_ready,
            _ => false,
        }
    }

    /// Whether `sheen up` or `sheen mount` started this as its background process.
    pub(crate) fn is_started_by_us(&self) -> bool {
        match &self.command {
            Command::Node(node) => node.report_ready,
            Command::Mount(mount) => mount.report_ready,
            _ => false,
        }
    }
}

const EXIT_CODES: &str = "\
Exit codes: 0 done, 1 failed, 2 wrong usage. `sheen fsck` has those of fsck(8), mount.sheen those of mount(8); `sheen nvme` ends with 3 \
when it refuses because a device is in use or data would be lost.";

/// What can be asked.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start a node on a file, make a file system and mount it, all in one
    ///
    /// For trying Sheen and for one machine. Keeps everything in --dir; running it again finds what is there.
    /// `sheen down` stops it and keeps the data. Several work side by side, each with --dir and --mount of its own.
    Up(Up),
    /// Unmount and stop what `sheen up` started; the data stays
    Down(Down),
    /// Run a node in the foreground
    ///
    /// Serves until SIGTERM or SIGINT, then stops cleanly. The configuration is TOML; unknown keys are refused.
    /// `sheen node --example` prints one with every key explained.
    Node(Node),
    /// Write an empty Sheen device
    ///
    /// Refuses a device or file that holds something, unless --force.
    Format(Format),
    /// Check a device at rest: read everything stored on it and name what is damaged
    ///
    /// Changes nothing unless --repair; refuses a device that a node uses. Exit code, as fsck(8): 0 nothing is wrong, 1 all
    /// that was wrong is repaired, 4 something stays wrong, 8 the check could not be
    /// begun, or not ended because the device did not carry out a read (it says nothing of any block then), 16 wrong usage.
    Fsck(Fsck),
    /// Show and steer the scrub: a node's own verification of everything stored, in the background
    ///
    /// What it finds is in the node's log, with object and place. By itself it begins a pass as [scrub] of the configuration says.
    #[command(subcommand)]
    Scrub(Scrub),
    /// Make, list and delete file systems
    #[command(subcommand)]
    Fs(Fs),
    /// Mount a file system
    ///
    /// SOURCE is NODE:/NAME, for example unix:/run/sheen/node.sock:/scratch or 10.0.0.5:9810:/scratch. Returns when the
    /// mount answers. A dead mount of Sheen's at DIR (its process was killed) is replaced. Also works as `mount -t sheen SOURCE DIR` once `sheen setup` installed /sbin/mount.sheen.
    Mount(Mount),
    /// Unmount; never hangs
    ///
    /// Fails with EBUSY while programs use the mount. --force takes it away all the same; --lazy hides it at once and
    /// removes it when the last program is done. Mounts that are not Sheen's are left to umount(8).
    Umount(Umount),
    /// Started by `sheen mount`: aborts the mount when its process was killed.
    #[command(hide = true)]
    GuardMount(GuardMount),
    /// Show a node: its targets, space, clients
    Status(Status),
    /// Check whether this machine is fit for Sheen, and say what to do where not
    Doctor(Doctor),
    /// Make, show, change and destroy the keys of encrypted devices
    #[command(subcommand)]
    Key(Key),
    /// Make, show, change and revoke clients: who may come from other machines, and what they may do there
    ///
    /// Given on the node's own machine, by its own user. What is changed counts at once.
    #[command(subcommand)]
    Client(Client),
    /// Show and exchange the certificate authority of a node, which signs for its clients and itself
    #[command(subcommand, after_help = CA_AFTER)]
    Ca(Authority),
    /// Look after NVMe drives: which there are, who drives them, how they are
    #[command(subcommand)]
    Nvme(Nvme),
    /// Show and choose how files and directories are compressed
    #[command(subcommand, after_help = COMPRESSION_AFTER)]
    Compression(Compression),
    /// Store what files hold anew, compressed as they ask for
    ///
    /// Needed for what was written before compression was chosen: a choice counts for new writes alone. Programs may use the
    /// files meanwhile. Can be interrupted at any time and run again. Files must be writable to you.
    #[command(after_help = RECOMPRESS_AFTER)]
    Recompress(Recompress),
    /// Install /sbin/mount.sheen, so that mount(8) and fstab know the type sheen (as root)
    Setup,
}

/// The node that is meant.
#[derive(Debug, Args)]
pub(crate) struct NodeAddress {
    /// The node: its UNIX socket (a path, or the folder of `sheen up`) or HOST:PORT [default: that of ./.sheen, else
    /// /run/sheen/node.sock]
    #[arg(long, value_name = "ADDRESS", env = "SHEEN_NODE")]
    pub node: Option<String>,
}

/// `sheen up`.
#[derive(Debug, Args)]
pub(crate) struct Up {
    /// Where to mount
    #[arg(long, value_name = "DIR", default_value = "./mnt")]
    pub mount: PathBuf,
    /// Where the node keeps its file, its configuration and its log
    #[arg(long, value_name = "DIR", default_value = "./.sheen")]
    pub dir: PathBuf,
    /// Size of the sparse file, when it is made [default: 64GiB, at most three quarters of what its disk has free]
    #[arg(long, value_name = "SIZE")]
    pub size: Option<Bytes>,
    /// Name of the file system, when it is made; it belongs to who makes it
    #[arg(long, value_name = "NAME", default_value = "sheen")]
    pub name: String,
    /// Leave encryption out, when the file is made; else a key file is made beside it
    #[arg(long)]
    pub no_encryption: bool,
    /// TCP address for clients, when the configuration is made [default: 127.0.0.1:9810, another port if that is taken]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<SocketAddr>,
    /// HTTP address of metrics, when the configuration is made [default: 127.0.0.1:9811, another port if that is taken]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub metrics: Option<SocketAddr>,
}

/// `sheen down`.
#[derive(Debug, Args)]
pub(crate) struct Down {
    /// Take only this mount of the node away before it stops [default: all of them]
    #[arg(long, value_name = "DIR")]
    pub mount: Option<PathBuf>,
    /// Where the node keeps its files
    #[arg(long, value_name = "DIR", default_value = "./.sheen")]
    pub dir: PathBuf,
}

/// `sheen node`.
#[derive(Debug, Args)]
pub(crate) struct Node {
    /// The configuration
    #[arg(long, value_name = "FILE", required_unless_present = "example")]
    pub config: Option<PathBuf>,
    /// Check the configuration and stop
    #[arg(long)]
    pub check: bool,
    /// Print a configuration with every key explained
    #[arg(long)]
    pub example: bool,
    /// Started by ourselves: report readiness on standard output.
    #[arg(long, hide = true)]
    pub report_ready: bool,
}

/// `sheen format`.
#[derive(Debug, Args)]
pub(crate) struct Format {
    /// The configuration that names the device
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Format even what holds something; it is lost
    #[arg(long)]
    pub force: bool,
}

/// `sheen fsck`.
#[derive(Debug, Args)]
pub(crate) struct Fsck {
    /// The device: a file, a disk, or as device.path names it (nvme:0000:01:00.0, vfio-user:SOCKET)
    pub device: PathBuf,
    /// The key that opens it, if it is encrypted: file:PATH, kms:KEY?endpoint=URL&region=REGION or tpm:DEVICE
    #[arg(long, value_name = "KEY", conflicts_with = "config")]
    pub key: Option<String>,
    /// The configuration that names the key
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Make good what is kept twice and has one bad copy: superblock, anchors, checkpoints. Content that is lost stays lost
    #[arg(long)]
    pub repair: bool,
}

/// `sheen fs`.
#[derive(Debug, Subcommand)]
pub(crate) enum Fs {
    /// Make a file system
    Create {
        /// Its name: letters, digits, `.`, `_`, `-`; at most 63
        name: String,
        /// Permissions of its root directory, octal
        #[arg(long, value_name = "MODE", default_value = "755")]
        mode: String,
        /// Owner of its root directory, names or numbers, as USER:GROUP or USER [default: who makes it]
        #[arg(long, value_name = "USER:GROUP")]
        owner: Option<String>,
        #[command(flatten)]
        address: NodeAddress,
    },
    /// List file systems
    List {
        #[command(flatten)]
        address: NodeAddress,
    },
    /// Delete a file system with everything in it
    Delete {
        /// Its name
        name: String,
        /// Delete it though it is mounted or holds files: its programs lose everything in it. Asks, unless --yes
        #[arg(long)]
        force: bool,
        /// Do not ask; needed beside --force where there is no terminal
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        address: NodeAddress,
    },
}

/// `sheen mount`.
#[derive(Debug, Args)]
pub(crate) struct Mount {
    /// What to mount: NODE:/NAME
    pub source: String,
    /// Where
    pub dir: PathBuf,
    /// Options as in fstab, separated by commas: ro, noatime, allow_other, fsname=NAME, remount …; over TCP identity=FILE (of
    /// `sheen client new`; its absolute path), and encryption=off if the node says so too
    #[arg(short = 'o', long = "options", value_name = "OPTIONS", value_delimiter = ',')]
    pub options: Vec<String>,
    /// Stay in the foreground. Here as in the background SIGINT, SIGTERM and SIGHUP to the mount's process unmount: at once for
    /// who looks, and what programs have open is served until they close it. A second signal ends it as it is
    #[arg(short, long)]
    pub foreground: bool,
    /// Where the mount's process writes what it has to say [default: /var/log/sheen-mount.log; for
    /// others than root sheen/mount.log in $XDG_STATE_HOME or ~/.local/state]
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// Started by ourselves: report readiness on standard output.
    #[arg(long, hide = true)]
    pub report_ready: bool,
}

/// The guard of a mount.
#[derive(Debug, Args)]
pub(crate) struct GuardMount {
    /// The process that serves it
    pub parent: i32,
    /// Its minor device number
    pub device: u32,
    /// Where it is
    pub target: PathBuf,
}

/// `sheen umount`.
#[derive(Debug, Args)]
pub(crate) struct Umount {
    /// Where it is mounted
    pub dir: PathBuf,
    /// Take it away from programs that use it
    #[arg(short, long)]
    pub force: bool,
    /// Hide it now, remove it when it is not used any more
    #[arg(short, long)]
    pub lazy: bool,
}

/// `sheen status`.
#[derive(Debug, Args)]
pub(crate) struct Status {
    #[command(flatten)]
    pub address: NodeAddress,
}

/// `sheen doctor`.
#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// Where the device file would lie
    #[arg(long, value_name = "PATH", default_value = ".")]
    pub path: PathBuf,
}

const COMPRESSION_AFTER: &str = "\
A choice counts for what is written from then on; `sheen recompress` brings what is there in line. New files and directories \
inherit it from their directory. lz4 costs little and suits nearly everything; zstd saves more at a higher cost; what does \
not shrink is stored as it is.

The same flags are those of chattr and lsattr: +c is lz4, +m is none.

Examples:
  sheen compression set lz4 /mnt/sheen/logs          # for all that is made in logs from now on
  sheen compression set zstd -R /mnt/sheen/archive   # also for the files there
  sheen recompress -R /mnt/sheen/archive             # and for what they hold";

const CA_AFTER: &str = "\
The exchange, while everything goes on to be served:
  sheen ca rotate                              # the next authority signs, both are believed
  sheen client renew NAME --out FILE           # for each client; both its files work
  sheen ca retire --yes                        # files of the old authority let nobody in any more";

const RECOMPRESS_AFTER: &str = "\
Examples:
  sheen recompress -R /mnt/sheen/logs              # as `sheen compression get` shows for each file
  sheen recompress --codec zstd big.csv            # zstd this once
  sheen recompress --codec none -R /mnt/sheen/db   # undo

Exit codes: 0 done, 1 some files failed, 2 wrong usage.";

/// Paths, and whether what lies below counts.
#[derive(Debug, Args)]
pub(crate) struct Paths {
    /// Files and directories on a mount
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// Everything below directories too; other mounts and symbolic links are left alone
    #[arg(short = 'R', long)]
    pub recursive: bool,
}

/// `sheen compression`.
#[derive(Debug, Subcommand)]
pub(crate) enum Compression {
    /// Show the choice, and of files the size and the space they take
    Get {
        #[command(flatten)]
        paths: Paths,
    },
    /// Choose for what is written from now on; only the owner or root may
    Set {
        /// none, lz4 or zstd
        #[arg(value_name = "none|lz4|zstd")]
        compression: sheen_types::Compression,
        #[command(flatten)]
        paths: Paths,
    },
}

/// `sheen recompress`.
#[derive(Debug, Args)]
pub(crate) struct Recompress {
    #[command(flatten)]
    pub paths: Paths,
    /// Use this, this once, in place of what each file asks for
    #[arg(long, value_name = "none|lz4|zstd")]
    pub codec: Option<sheen_types::Compression>,
}

/// Turns `mount.sheen SOURCE DIR [-sfnv] [-o OPTIONS] [-t TYPE]` (mount(8), "external helpers") into `sheen mount …`.
/// None: a fake mount, of which nothing is to be done.
pub(crate) fn from_mount_helper(given: &[OsString]) -> Option<Vec<OsString>> {
    let mut arguments: Vec<OsString> = vec!["sheen".into(), "mount".into()];
    let mut rest = given.iter().skip(1);
    while let Some(argument) = rest.next() {
        match argument.to_str() {
            Some("-f") => return None,
            // Sloppy, no mtab, verbose: nothing to do with us.
            Some("-s" | "-n" | "-v") => {}
            Some("-t" | "-N") => {
                rest.next();
            }
            _ => arguments.push(argument.clone()),
        }
    }
    Some(arguments)
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }

    #[test]
    fn what_mount_8_passes_is_understood() {
        let given =
            ["mount.sheen", "unix:/s:/fs", "/mnt", "-n", "-o", "rw,noatime"].map(OsString::from);
        let arguments = Arguments::parse_from(from_mount_helper(&given).unwrap());
        let Command::Mount(mount) = arguments.command else { panic!("not a mount") };
        assert_eq!(mount.source, "unix:/s:/fs");
        assert_eq!(mount.options, ["rw", "noatime"]);
        let fake = ["mount.sheen", "unix:/s:/fs", "/mnt", "-f", "-o", "rw"].map(OsString::from);
        assert_eq!(from_mount_helper(&fake), None, "mount(8) says what it would do by itself");
    }
}
