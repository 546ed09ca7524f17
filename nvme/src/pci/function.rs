//! NVMe controllers and what sysfs knows of them.

use super::{
    KERNEL_DRIVER, PciAddress,
    machine::{Machine, PciError, link_name, names_in, text_of},
};

/// Class 01h mass storage, subclass 08h non-volatile memory; the last two digits tell I/O from administrative controllers.
const CLASS: &str = "0x0108";
/// Sizes in sysfs are in sectors of this many bytes, whatever the block size.
const SECTOR_BYTES: u64 = 512;

/// A PCI function that is an NVMe controller.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Function {
    /// Where it is.
    pub address: PciAddress,
    /// Vendor and device number.
    pub vendor_device: (u16, u16),
    /// The driver that has it, when one has.
    pub driver: Option<String>,
    /// The only driver that may have it, when one was chosen.
    pub driver_override: Option<String>,
    /// Its IOMMU group; none where there is no IOMMU.
    pub iommu_group: Option<u32>,
    /// The NUMA node it is attached to, where there are several.
    pub numa_node: Option<u32>,
    /// What the kernel's driver knows of it, when that has it.
    pub controller: Option<ControllerName>,
}

/// A controller as the kernel's driver knows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ControllerName {
    /// Name, such as `nvme0`.
    pub name: String,
    /// Model number.
    pub model: String,
    /// Serial number.
    pub serial: String,
    /// Firmware revision.
    pub firmware: String,
    /// Namespaces it shows as block devices.
    pub namespaces: Vec<NamespaceName>,
}

/// A namespace as the kernel's driver knows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NamespaceName {
    /// Name of the block device, such as `nvme0n1`.
    pub name: String,
    /// Namespace identifier, where the kernel tells.
    pub nsid: Option<u32>,
    /// Size.
    pub bytes: u64,
    /// Size of a logical block.
    pub block_bytes: u32,
}

impl Function {
    /// Size of all namespaces, when the kernel's driver has it.
    #[must_use]
    pub fn bytes(&self) -> Option<u64> {
        let controller = self.controller.as_ref()?;
        Some(controller.namespaces.iter().map(|namespace| namespace.bytes).sum())
    }

    /// Names of the block devices.
    pub(super) fn block_devices(&self) -> impl Iterator<Item = &str> {
        let controllers = self.controller.iter();
        controllers
            .flat_map(|known| known.namespaces.iter().map(|namespace| namespace.name.as_str()))
    }
}

impl Machine {
    /// Every NVMe controller, in the order of addresses.
    ///
    /// # Errors
    /// When sysfs is not there.
    pub fn functions(&self) -> Result<Vec<Function>, PciError> {
        let directory = self.path("sys/bus/pci/devices");
        if let Err(source) = std::fs::metadata(&directory) {
            return Err(PciError::Io { file: directory, doing: "listing PCI functions", source });
        }
        let addresses = names_in(&directory).into_iter().filter_map(|name| name.parse().ok());
        let mut functions: Vec<Function> =
            addresses.filter_map(|address| self.function(address).ok()).collect();
        functions.sort_by_key(|function| function.address);
        Ok(functions)
    }

    /// The NVMe controller at `address`.
    ///
    /// # Errors
    /// When there is nothing, or something else.
    pub fn function(&self, address: PciAddress) -> Result<Function, PciError> {
        let read = |file: &str| text_of(&self.function_path(address, file));
        let class = read("class").ok_or(PciError::NoFunction(address))?;
        if !class.starts_with(CLASS) {
            return Err(PciError::NotNvme { address, class });
        }
        let number = |file: &str| {
            let text = read(file).unwrap_or_default();
            u16::from_str_radix(text.trim_start_matches("0x"), 16).unwrap_or(0)
        };
        let group = link_name(&self.function_path(address, "iommu_group"));
        let chosen = read("driver_override").filter(|text| !text.is_empty() && text != "(null)");
        Ok(Function {
            address,
            vendor_device: (number("vendor"), number("device")),
            driver: self.driver(address),
            driver_override: chosen,
            iommu_group: group.and_then(|name| name.parse().ok()),
            // -1 where there is one node only.
            numa_node: read("numa_node").and_then(|text| text.parse().ok()),
            controller: self.controller(address),
        })
    }

    /// The driver that has a function.
    pub(super) fn driver(&self, address: PciAddress) -> Option<String> {
        link_name(&self.function_path(address, "driver"))
    }

    fn controller(&self, address: PciAddress) -> Option<ControllerName> {
        let directory = self.function_path(address, KERNEL_DRIVER);
        let name = names_in(&directory).into_iter().next()?;
        let directory = directory.join(&name);
        let read = |file: &str| text_of(&directory.join(file)).unwrap_or_default();
        let blocks = names_in(&directory).into_iter().filter_map(|entry| block_device(&entry));
        Some(ControllerName {
            model: read("model"),
            serial: read("serial"),
            firmware: read("firmware_rev"),
            namespaces: blocks.filter_map(|block| self.namespace(&block)).collect(),
            name,
        })
    }

    fn namespace(&self, name: &str) -> Option<NamespaceName> {
        let directory = self.path("sys/block").join(name);
        let read = |file: &str| text_of(&directory.join(file));
        let sectors: u64 = read("size")?.parse().ok()?;
        Some(NamespaceName {
            name: name.to_owned(),
            nsid: read("nsid").and_then(|text| text.parse().ok()),
            bytes: sectors.saturating_mul(SECTOR_BYTES),
            block_bytes: read("queue/logical_block_size")?.parse().ok()?,
        })
    }
}

/// The block device an entry of a controller's directory stands for: `nvme0n1` for itself, and the path `nvme0c1n1` of a
/// namespace with several for `nvme0n1`. Partitions and character devices are none.
fn block_device(entry: &str) -> Option<String> {
    let rest = entry.strip_prefix("nvme")?;
    let (controller, namespace) = rest.split_once('n')?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let head = match controller.split_once('c') {
        Some((head, path)) if is_number(path) => head,
        Some(_) => return None,
        None => controller,
    };
    (is_number(head) && is_number(namespace)).then(|| format!("nvme{head}n{namespace}"))
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn namespaces_are_told_from_what_else_lies_beside_them() {
        for (entry, device) in [
            ("nvme0n1", Some("nvme0n1")),
            ("nvme3c12n2", Some("nvme3n2")),
            ("nvme0n1p1", None),
            ("ng0n1", None),
            ("nvme-subsys0", None),
            ("numa_node", None),
            ("nvme0", None),
        ] {
            assert_eq!(block_device(entry).as_deref(), device, "{entry}");
        }
    }
}
