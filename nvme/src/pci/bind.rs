//! Moving a controller to vfio-pci and back.
//!
//! ```text
//! bind:   check → load modules → driver_override = vfio-pci → driver/unbind → drivers_probe → vfio-pci has it
//! unbind: check → load module  → driver_override = nothing  → driver/unbind → drivers_probe → nvme has it
//! ```
//!
//! Each step is skipped when its result is there already, so a move that was cut short anywhere is finished by running it
//! again, or taken back by the opposite move. Between the check and the unbinding the namespaces are claimed exclusively:
//! nobody can mount one in between.

use std::{
    fmt, io,
    time::{Duration, Instant},
};

use thiserror::Error;

use super::{
    Function, KERNEL_DRIVER, PciAddress, Process, Severity, Use, VFIO_DRIVER,
    machine::{Machine, PciError, link_name, names_in},
};

/// Modules that give a function to a program. The second serves the older interface only and may be missing.
const VFIO_MODULES: [&str; 2] = ["vfio-pci", "vfio_iommu_type1"];
/// A driver that has not taken a function by then has refused it.
const PROBE_DEADLINE: Duration = Duration::from_secs(5);
/// Drivers that other functions of an IOMMU group may have: they do no DMA on behalf of the kernel.
const HARMLESS: [&str; 3] = ["vfio-pci", "pcieport", "pci-stub"];

/// Whether data without a user is respected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Force {
    /// It is.
    No,
    /// It is not. What is in use is respected all the same.
    Yes,
}

/// A controller that vfio-pci has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bound {
    /// The driver that had it.
    pub before: Option<String>,
    /// Its IOMMU group; none in no-IOMMU mode.
    pub iommu_group: Option<u32>,
}

/// A controller that the kernel's driver has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unbound {
    /// The driver that had it.
    pub before: Option<String>,
    /// Its name, once the driver has given it one.
    pub name: Option<String>,
}

/// Why a controller is not moved to vfio-pci.
#[derive(Debug, Error)]
pub enum BindError {
    /// It cannot be looked at, or a step failed.
    #[error(transparent)]
    Pci(#[from] PciError),
    /// There is no IOMMU between it and memory.
    #[error(
        "{0} has no IOMMU group: this machine has no IOMMU, or it is switched off. Enable VT-d or AMD-Vi in the \
         firmware and boot with intel_iommu=on (Intel), then try again"
    )]
    NoIommu(PciAddress),
    /// The kernel uses another function of its IOMMU group.
    #[error(
        "{address} shares IOMMU group {group} with {other}, which the driver {driver} has; they move together only. \
         Put the drive into a slot with a group of its own, or unbind {other} first"
    )]
    Group {
        /// Which.
        address: PciAddress,
        /// Its group.
        group: u32,
        /// The other function.
        other: String,
        /// Its driver.
        driver: String,
    },
    /// Somebody uses it.
    #[error("{address} is in use: {}. {}", list(.uses), advice(.uses))]
    InUse {
        /// Which.
        address: PciAddress,
        /// What forbids it.
        uses: Vec<Use>,
    },
    /// A module cannot be loaded.
    #[error(
        "the kernel module {name} cannot be loaded: {source}. Is it installed for the running kernel?"
    )]
    Module {
        /// Which.
        name: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// The driver did not take it.
    #[error(
        "vfio-pci did not take {address} (its driver now: {}); the kernel log says why. \
         `sheen nvme unbind {address}` gives it back to the kernel's driver", shown(.driver)
    )]
    NotTaken {
        /// Which.
        address: PciAddress,
        /// Who has it.
        driver: Option<String>,
    },
}

/// Why a controller is not moved back.
#[derive(Debug, Error)]
pub enum UnbindError {
    /// It cannot be looked at, or a step failed.
    #[error(transparent)]
    Pci(#[from] PciError),
    /// A program drives it.
    #[error("{address} is driven by {}; stop that first", list(.processes))]
    InUse {
        /// Which.
        address: PciAddress,
        /// Who.
        processes: Vec<Process>,
    },
    /// A module cannot be loaded.
    #[error("the kernel module nvme cannot be loaded: {0}")]
    Module(io::Error),
    /// The driver did not take it.
    #[error("the kernel's driver did not take {address} (its driver now: {}); the kernel log says why", shown(.driver))]
    NotTaken {
        /// Which.
        address: PciAddress,
        /// Who has it.
        driver: Option<String>,
    },
}

impl Machine {
    /// Gives a controller to vfio-pci, so that a program can drive it.
    ///
    /// # Errors
    /// [`BindError`]; then it is as it was, or a further `bind` or [`Self::unbind`] goes on from where this stopped.
    pub fn bind(&self, address: PciAddress, force: Force) -> Result<Bound, BindError> {
        let function = self.function(address)?;
        let before = function.driver.clone();
        self.check_group(&function)?;
        if before.as_deref() == Some(VFIO_DRIVER) {
            return Ok(Bound { before, iommu_group: function.iommu_group });
        }
        let (claim, uses) = self.claim(&function)?;
        check_uses(address, uses, force)?;
        self.load_vfio()?;
        self.choose_driver(&function, VFIO_DRIVER)?;
        self.release(&function)?;
        drop(claim);
        match self.probe(address, VFIO_DRIVER)? {
            None => Ok(Bound { before, iommu_group: self.function(address)?.iommu_group }),
            Some(driver) => Err(BindError::NotTaken { address, driver }),
        }
    }

    /// Gives a controller back to the kernel's driver.
    ///
    /// # Errors
    /// [`UnbindError`].
    pub fn unbind(&self, address: PciAddress) -> Result<Unbound, UnbindError> {
        let function = self.function(address)?;
        let before = function.driver.clone();
        let has_it = before.as_deref() == Some(KERNEL_DRIVER);
        if !has_it {
            // The kernel would wait for the program for ever.
            let processes = self.vfio_users(&function);
            if !processes.is_empty() {
                return Err(UnbindError::InUse { address, processes });
            }
            self.kernel().load_module(KERNEL_DRIVER).map_err(UnbindError::Module)?;
        }
        self.choose_driver(&function, "")?;
        if !has_it {
            self.release(&function)?;
            if let Some(driver) = self.probe(address, KERNEL_DRIVER)? {
                return Err(UnbindError::NotTaken { address, driver });
            }
        }
        let controller = self.function(address)?.controller;
        Ok(Unbound { before, name: controller.map(|controller| controller.name) })
    }

    fn check_group(&self, function: &Function) -> Result<(), BindError> {
        let address = function.address;
        let group = function.iommu_group.ok_or(BindError::NoIommu(address))?;
        let members = self.path(&format!("sys/kernel/iommu_groups/{group}/devices"));
        for other in names_in(&members) {
            if other == address.to_string() {
                continue;
            }
            let driver = link_name(&self.path(&format!("sys/bus/pci/devices/{other}/driver")));
            if let Some(driver) = driver.filter(|driver| !HARMLESS.contains(&driver.as_str())) {
                return Err(BindError::Group { address, group, other, driver });
            }
        }
        Ok(())
    }

    fn load_vfio(&self) -> Result<(), BindError> {
        let [vfio_pci, type_one] = VFIO_MODULES;
        let load = |name| self.kernel().load_module(name);
        load(vfio_pci).map_err(|source| BindError::Module { name: vfio_pci, source })?;
        // Kernels with only the newer interface do not have it.
        let _ = load(type_one);
        Ok(())
    }

    /// Names the only driver that may have a function; `""` for any.
    fn choose_driver(&self, function: &Function, driver: &str) -> Result<(), PciError> {
        if function.driver_override.as_deref().unwrap_or_default() == driver {
            return Ok(());
        }
        let file = self.function_path(function.address, "driver_override");
        self.write(&file, &format!("{driver}\n"))
    }

    /// Takes a function from the driver that has it.
    fn release(&self, function: &Function) -> Result<(), PciError> {
        if self.driver(function.address).is_none() {
            return Ok(());
        }
        let file = self.function_path(function.address, "driver/unbind");
        self.write(&file, &function.address.to_string())
    }

    /// Has the kernel look for a driver. Gives who has the function when it is not `wanted`.
    fn probe(&self, address: PciAddress, wanted: &str) -> Result<Option<Option<String>>, PciError> {
        self.write(&self.path("sys/bus/pci/drivers_probe"), &address.to_string())?;
        let deadline = Instant::now() + PROBE_DEADLINE;
        loop {
            let driver = self.driver(address);
            if driver.as_deref() == Some(wanted) {
                return Ok(None);
            }
            if driver.is_some() || Instant::now() >= deadline {
                return Ok(Some(driver));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn check_uses(address: PciAddress, mut uses: Vec<Use>, force: Force) -> Result<(), BindError> {
    let respected = match force {
        Force::No => Severity::Data,
        Force::Yes => Severity::Live,
    };
    uses.retain(|used| used.severity() >= respected);
    if uses.is_empty() { Ok(()) } else { Err(BindError::InUse { address, uses }) }
}

fn list<T: fmt::Display>(items: &[T]) -> String {
    items.iter().map(T::to_string).collect::<Vec<_>>().join("; ")
}

fn advice(uses: &[Use]) -> &'static str {
    if uses.iter().any(|used| used.severity() == Severity::Live) {
        "Stop using it first (umount, swapoff, vgchange -an, mdadm --stop); --force does not help here"
    } else {
        "If nobody needs that data any more, --force takes it all the same (nothing is erased by binding)"
    }
}

fn shown(driver: &Option<String>) -> &str {
    driver.as_deref().unwrap_or("none")
}
