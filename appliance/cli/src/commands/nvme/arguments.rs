//! The command line of `sheen nvme`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use sheen_nvme::pci::PciAddress;
use sheen_types::Bytes;

use super::target::Target;

const AFTER: &str = "\
A controller is named by its PCI address, as `sheen nvme list` shows it; DOMAIN: may be left out when it is 0000. The \
commands from `health` on talk to the controller themselves: it has to be bound (`sheen nvme bind`) and used by no other \
program. They also take vfio-user:SOCKET, a controller in another process.

What destroys data asks for --yes-destroy SERIAL, the serial number of the one drive that is meant; without it they say what \
would be lost, and do nothing.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 refused because the device is in use or data would be lost.";

const BIND_AFTER: &str = "\
Nothing is written to the drive. Until `sheen nvme unbind`, or the next boot, the kernel shows no block devices of it.

Refused, by name, while a namespace or a partition of it is mounted, is swap space, belongs to LVM, dm-crypt or md, or is \
opened by a program: --force does not help there. Refused without --force when it holds a partition table, a file system \
or anything else known. The data of a Sheen node is ours and is no reason to refuse.

Interrupted half-way? Run it again to finish, or `sheen nvme unbind` to go back; nothing has to be cleaned up.

Example:
  sheen nvme list
  sheen nvme bind 0000:01:00.0
  sheen node --config node.toml          # with device.path = \"nvme:0000:01:00.0\"";

/// What can be asked about NVMe controllers.
#[derive(Debug, Subcommand)]
#[command(after_help = AFTER)]
pub(crate) enum Nvme {
    /// List every NVMe controller: where it is, who drives it, what uses it
    List,
    /// Show one controller: its namespaces and what keeps it from being bound
    Show {
        /// PCI address, such as 0000:01:00.0
        address: PciAddress,
    },
    /// Give a controller from the kernel's driver to vfio-pci, so that Sheen can drive it (as root)
    #[command(after_help = BIND_AFTER)]
    Bind {
        /// PCI address, such as 0000:01:00.0
        address: PciAddress,
        /// Bind though it has partitions or holds a file system; never overrides something that is in use
        #[arg(long)]
        force: bool,
    },
    /// Give a controller back to the kernel's driver (as root); refused while a program drives it
    Unbind {
        /// PCI address, such as 0000:01:00.0
        address: PciAddress,
    },
    /// Ask a controller how it is: wear, temperature, errors, firmware
    ///
    /// Fails with exit code 1 when the drive gives a critical warning.
    Health {
        /// PCI address, or vfio-user:SOCKET
        target: Target,
    },
    /// Measure random reads (or writes) with Sheen's driver: IOPS and latencies
    #[command(after_help = BENCH_AFTER)]
    Bench(BenchArguments),
    /// Format a namespace to 512-byte or 4-KiB blocks; destroys what it holds
    Format(FormatArguments),
    /// Erase everything on a drive beyond recovery, and wait until that is done
    Sanitize(SanitizeArguments),
    /// Make, delete, attach or detach namespaces
    Namespace(NamespaceArguments),
    /// Give a drive new firmware, to run after its next reset
    Firmware(FirmwareArguments),
}

const BENCH_AFTER: &str = "\
Each thread polls on a queue pair of its own and keeps --queue-depth commands in flight. Latency is from submission to the \
poll that found the completion.

Examples:
  sheen nvme bench 0000:01:00.0 --queue-depth 1              # latency
  sheen nvme bench 0000:01:00.0 --queue-depth 32 --threads 4 # throughput
  sheen nvme bench 0000:01:00.0 --write --yes-destroy SERIAL";

/// `sheen nvme bench`.
#[derive(Debug, Args)]
pub(crate) struct BenchArguments {
    /// PCI address, or vfio-user:SOCKET
    pub target: Target,
    /// Namespace
    #[arg(long, value_name = "NSID", default_value_t = 1)]
    pub namespace: u32,
    /// Commands in flight on each thread
    #[arg(long, value_name = "COMMANDS", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub queue_depth: u32,
    /// Threads, each with a queue pair
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub threads: u16,
    /// Bytes of a command; a multiple of 4KiB
    #[arg(long, value_name = "SIZE", default_value = "4KiB")]
    pub block_size: Bytes,
    /// How long, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub seconds: u32,
    /// Write instead of reading; overwrites the whole namespace
    #[arg(long)]
    pub write: bool,
    /// Serial number of the drive whose data may be lost; with --write
    #[arg(long, value_name = "SERIAL")]
    pub yes_destroy: Option<String>,
}

/// `sheen nvme format`.
#[derive(Debug, Args)]
pub(crate) struct FormatArguments {
    /// PCI address, or vfio-user:SOCKET
    pub target: Target,
    /// Namespace
    #[arg(long, value_name = "NSID")]
    pub namespace: u32,
    /// Bytes of a logical block: 512 or 4096
    #[arg(long, value_name = "BYTES", value_parser = block_size)]
    pub block_size: u32,
    /// Erase beyond what formatting does by itself
    #[arg(long, value_name = "HOW", default_value = "none")]
    pub erase: EraseKind,
    /// Serial number of the drive whose data may be lost
    #[arg(long, value_name = "SERIAL")]
    pub yes_destroy: Option<String>,
}

fn block_size(text: &str) -> Result<u32, &'static str> {
    match text {
        "512" => Ok(512),
        "4096" | "4KiB" | "4K" => Ok(4096),
        _ => Err("expected 512 or 4096"),
    }
}

/// How user data are erased.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum EraseKind {
    /// As the drive likes
    None,
    /// Overwritten or erased
    UserData,
    /// By throwing the encryption key away
    Crypto,
}

/// `sheen nvme sanitize`.
#[derive(Debug, Args)]
pub(crate) struct SanitizeArguments {
    /// PCI address, or vfio-user:SOCKET
    pub target: Target,
    /// How
    #[arg(long, value_name = "HOW")]
    pub action: SanitizeKind,
    /// Serial number of the drive whose data may be lost
    #[arg(long, value_name = "SERIAL")]
    pub yes_destroy: Option<String>,
}

/// How a drive is sanitized.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SanitizeKind {
    /// Erase the blocks
    BlockErase,
    /// Throw the encryption key away
    CryptoErase,
    /// Write zeroes everywhere
    Overwrite,
    /// Leave the state a failed sanitize leaves
    ExitFailure,
}

/// `sheen nvme namespace`.
#[derive(Debug, Args)]
pub(crate) struct NamespaceArguments {
    /// PCI address, or vfio-user:SOCKET
    pub target: Target,
    /// What to do
    #[command(subcommand)]
    pub action: NamespaceAction,
    /// Serial number of the drive whose namespaces are meant
    #[arg(long, value_name = "SERIAL", global = true)]
    pub yes_destroy: Option<String>,
}

/// What is done to namespaces.
#[derive(Debug, Clone, Copy, Subcommand)]
pub(crate) enum NamespaceAction {
    /// Make a namespace and attach it
    Create {
        /// Size in logical blocks of the format
        #[arg(long, value_name = "COUNT")]
        blocks: u64,
        /// Number of the format
        #[arg(long, value_name = "NUMBER", default_value_t = 0)]
        format: u8,
    },
    /// Delete a namespace with what it holds
    Delete {
        /// Namespace
        nsid: u32,
    },
    /// Attach a namespace to this controller
    Attach {
        /// Namespace
        nsid: u32,
    },
    /// Detach a namespace from this controller; what it holds stays
    Detach {
        /// Namespace
        nsid: u32,
    },
}

/// `sheen nvme firmware`.
#[derive(Debug, Args)]
pub(crate) struct FirmwareArguments {
    /// PCI address, or vfio-user:SOCKET
    pub target: Target,
    /// The image, as the drive's maker gives it
    #[arg(value_name = "FILE")]
    pub image: PathBuf,
    /// Firmware slot; 0: the drive chooses
    #[arg(long, value_name = "SLOT", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=7))]
    pub slot: u8,
    /// Serial number of the drive that is meant
    #[arg(long, value_name = "SERIAL")]
    pub yes_destroy: Option<String>,
}
