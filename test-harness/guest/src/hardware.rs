//! The machine's hardware: processors, an IOMMU, NVMe controllers on ports of their own, a TPM 2.0.
//!
//! Each controller sits behind its own PCIe root port, so that it has an IOMMU group of its own and can be pulled.
//! Namespaces are sparse files; nothing of them has to survive the machine.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// One namespace of a controller.
#[derive(Debug, Clone, Copy)]
pub struct Namespace {
    /// Bytes of a logical block.
    pub block_bytes: u32,
    /// Size.
    pub bytes: u64,
}

/// One NVMe controller.
#[derive(Debug, Clone, Copy)]
pub struct Controller {
    /// Name in the emulator, and serial number.
    pub id: &'static str,
    /// Its namespaces, numbered from 1.
    pub namespaces: &'static [Namespace],
}

const MEGABYTES_512: u64 = 512 << 20;

/// The controllers of the guest.
pub const CONTROLLERS: &[Controller] = &[
    Controller {
        id: "sheen0",
        namespaces: &[
            Namespace { block_bytes: 4096, bytes: 2 << 30 },
            Namespace { block_bytes: 512, bytes: MEGABYTES_512 },
        ],
    },
    Controller {
        id: "sheen1",
        namespaces: &[Namespace { block_bytes: 512, bytes: MEGABYTES_512 }],
    },
];

/// Properties every controller gets beside its name and port.
const CONTROLLER_PROPERTIES: &str = "max_ioqpairs=8,msix_qsize=9,mdts=7";

/// The slot of the first root port; the ones below are the chipset's.
const FIRST_SLOT: usize = 4;

/// What the emulator is told about the machine, apart from the channels.
#[derive(Debug, Clone, Copy)]
pub struct Hardware {
    /// Virtual processors.
    pub processors: u32,
    /// Memory in MiB.
    pub memory_mebibytes: u32,
}

impl Default for Hardware {
    fn default() -> Self {
        Self { processors: 2, memory_mebibytes: 3072 }
    }
}

impl Hardware {
    /// The emulator's arguments.
    #[must_use]
    pub fn arguments(self) -> Vec<String> {
        let mut arguments: Vec<String> = [
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            "max",
            "-machine",
            "q35,kernel-irqchip=split",
            "-device",
            "intel-iommu,intremap=on,aw-bits=48",
        ]
        .map(str::to_owned)
        .to_vec();
        arguments.extend(["-smp".into(), self.processors.to_string()]);
        arguments.extend(["-m".into(), self.memory_mebibytes.to_string()]);
        arguments
    }
}

/// Where namespaces are best kept: in memory, when all of them fit, else in `otherwise`.
#[must_use]
pub fn media_home(otherwise: &Path) -> PathBuf {
    let memory = Path::new("/dev/shm");
    let wanted: u64 = namespaces().map(|(_, _, namespace)| namespace.bytes).sum();
    match nix::sys::statvfs::statvfs(memory) {
        Ok(space) if space.blocks_available() * space.fragment_size() > 2 * wanted => memory.into(),
        _ => otherwise.into(),
    }
}

/// Makes the namespaces' files in `directory`.
///
/// # Errors
/// When one cannot be made.
pub fn make_media(directory: &Path) -> Result<()> {
    for (controller, number, namespace) in namespaces() {
        make_medium(&directory.join(medium(controller.id, number)), namespace)?;
    }
    Ok(())
}

/// The emulator's arguments for the controllers.
#[must_use]
pub fn controller_arguments(directory: &Path) -> Vec<String> {
    let mut arguments = Vec::new();
    for (place, controller) in CONTROLLERS.iter().enumerate() {
        let port = port(controller.id);
        let slot = FIRST_SLOT + place;
        arguments.extend([
            "-device".into(),
            format!(
                "pcie-root-port,id={port},bus=pcie.0,chassis={slot},slot={slot},addr={slot:#x}"
            ),
        ]);
    }
    for (controller, number, _) in namespaces() {
        let drive = drive(controller.id, number);
        let path = directory.join(medium(controller.id, number));
        arguments.extend([
            "-blockdev".into(),
            format!(
                "driver=file,node-name={drive},filename={},aio=io_uring,discard=unmap,cache.no-flush=on",
                path.display()
            ),
        ]);
    }
    for controller in CONTROLLERS {
        for device in devices(controller) {
            arguments.extend(["-device".into(), device]);
        }
    }
    arguments
}

/// The socket at which the TPM's process takes the emulator's orders.
#[must_use]
pub fn tpm_socket(directory: &Path) -> PathBuf {
    directory.join("tpm.sock")
}

/// The emulator's arguments for the TPM.
#[must_use]
pub fn tpm_arguments(directory: &Path) -> Vec<String> {
    let socket = tpm_socket(directory);
    [
        "-chardev",
        &format!("socket,id=tpm-control,path={}", socket.display()),
        "-tpmdev",
        "emulator,id=tpm,chardev=tpm-control",
        "-device",
        "tpm-crb,tpmdev=tpm",
    ]
    .map(str::to_owned)
    .to_vec()
}

/// A controller and its namespaces as `-device` describes them, in the order in which they are added.
///
/// A single namespace is the controller's own drive: only so can the pair be plugged into a running machine, whose kernel
/// looks at a controller as soon as it is there.
#[must_use]
pub fn devices(controller: &Controller) -> Vec<String> {
    let id = controller.id;
    if let [only] = controller.namespaces {
        return vec![single(id, only, &drive(id, 1))];
    }
    let mut devices = vec![described(id)];
    for (place, namespace) in controller.namespaces.iter().enumerate() {
        let number = place + 1;
        let (drive, blocks) = (drive(id, number), blocks(namespace));
        devices.push(format!(
            "nvme-ns,id={id}n{number},bus={id},nsid={number},drive={drive},{blocks}"
        ));
    }
    devices
}

/// A controller of one namespace, with an empty medium of its own, to be plugged into a running machine: the description of
/// its drive and of itself. `number` tells it from those plugged in before; the emulator may be slow to forget them.
///
/// # Errors
/// When there is no such controller, it has several namespaces, or its medium cannot be made.
pub fn plugged(directory: &Path, id: &str, number: u32) -> Result<(Medium, String)> {
    let known = CONTROLLERS.iter().find(|controller| controller.id == id);
    let Some([only]) = known.map(|controller| controller.namespaces) else {
        bail!("no controller {id} of one namespace");
    };
    let node = format!("drive-{id}-plugged-{number}");
    let file = directory.join(format!("{node}.raw"));
    make_medium(&file, only)?;
    let device = single(id, only, &node);
    Ok((Medium { node, file }, device))
}

/// A namespace's file, and its name in the emulator.
#[derive(Debug)]
pub struct Medium {
    /// The name.
    pub node: String,
    /// The file.
    pub file: PathBuf,
}

fn described(id: &str) -> String {
    format!("nvme,id={id},serial={id},bus={},{CONTROLLER_PROPERTIES}", port(id))
}

fn blocks(namespace: &Namespace) -> String {
    let bytes = namespace.block_bytes;
    format!("logical_block_size={bytes},physical_block_size={bytes}")
}

fn single(id: &str, namespace: &Namespace, drive: &str) -> String {
    format!("{},drive={drive},{}", described(id), blocks(namespace))
}

fn make_medium(path: &Path, namespace: &Namespace) -> Result<()> {
    File::create(path)
        .and_then(|file| file.set_len(namespace.bytes))
        .with_context(|| format!("making {}", path.display()))
}

fn namespaces() -> impl Iterator<Item = (&'static Controller, usize, &'static Namespace)> {
    CONTROLLERS.iter().flat_map(|controller| {
        let numbered = controller.namespaces.iter().enumerate();
        numbered.map(move |(place, namespace)| (controller, place + 1, namespace))
    })
}

fn port(id: &str) -> String {
    format!("port-{id}")
}

fn drive(id: &str, number: usize) -> String {
    format!("drive-{id}-{number}")
}

fn medium(id: &str, number: usize) -> String {
    format!("{id}-{number}.raw")
}
