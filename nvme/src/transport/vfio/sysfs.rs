//! What the kernel says of a PCI function before it is opened: its driver, its IOMMU group, its device node.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::error::OpenError;

/// Drivers that leave a group to its user: a function with any other driver, or used by the kernel otherwise, does not.
/// A function without driver does no DMA.
const HARMLESS: [&str; 3] = ["vfio-pci", "pci-stub", "pcieport"];

/// A PCI function by its address, `0000:00:04.0`.
#[derive(Clone, Debug)]
pub(super) struct Function {
    /// `/sys`, or what stands for it in a test.
    sys: PathBuf,
    pub(super) address: String,
}

/// The IOMMU group of a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) number: u32,
    /// VFIO made the group up because there is no IOMMU.
    pub(super) is_without_iommu: bool,
}

impl Function {
    /// The function at `address`; the domain may be left out.
    ///
    /// # Errors
    /// [`OpenError::Address`], [`OpenError::Absent`].
    pub(super) fn find(sys: &Path, address: &str) -> Result<Self, OpenError> {
        let wrong = || OpenError::Address { address: address.to_owned() };
        let address = normal(address).ok_or_else(wrong)?;
        let function = Self { sys: sys.to_owned(), address };
        match function.path().exists() {
            true => Ok(function),
            false => Err(OpenError::Absent { address: function.address }),
        }
    }

    fn path(&self) -> PathBuf {
        self.sys.join("bus/pci/devices").join(&self.address)
    }

    /// The bound driver's name.
    pub(super) fn driver(&self) -> Option<String> {
        link_name(&self.path().join("driver"))
    }

    /// Whether a VFIO driver is bound.
    ///
    /// # Errors
    /// [`OpenError::NotBound`] with the driver that is.
    pub(super) fn check_bound(&self) -> Result<(), OpenError> {
        match self.driver() {
            // Variant drivers for certain devices end with the name of the general one.
            Some(driver) if driver.ends_with("vfio-pci") || driver.ends_with("vfio_pci") => Ok(()),
            driver => Err(OpenError::NotBound { address: self.address.clone(), driver }),
        }
    }

    /// The function's group. None: there is no IOMMU, and VFIO has made none up.
    pub(super) fn group(&self) -> Option<Group> {
        let number = link_name(&self.path().join("iommu_group"))?.parse().ok()?;
        let name = self.group_path(number).join("name");
        // Only groups without IOMMU have this name.
        let is_without_iommu =
            fs::read_to_string(name).is_ok_and(|name| name.trim() == "vfio-noiommu");
        Some(Group { number, is_without_iommu })
    }

    fn group_path(&self, number: u32) -> PathBuf {
        self.sys.join("kernel/iommu_groups").join(number.to_string())
    }

    /// The other functions of the group that keep it from being used, with their drivers.
    pub(super) fn others(&self, group: u32) -> Vec<(String, String)> {
        let Ok(entries) = fs::read_dir(self.group_path(group).join("devices")) else {
            return Vec::new();
        };
        let mut others: Vec<(String, String)> = entries
            .filter_map(Result::ok)
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .filter(|address| *address != self.address)
            .filter_map(|address| {
                let other = Self { sys: self.sys.clone(), address };
                let driver = other.driver().filter(|name| !HARMLESS.contains(&name.as_str()))?;
                Some((other.address, driver))
            })
            .collect();
        others.sort();
        others
    }

    /// Name of the function's own device node below `/dev/vfio/devices` (Linux 6.6 and later, if so configured).
    pub(super) fn node(&self) -> Option<String> {
        let entries = fs::read_dir(self.path().join("vfio-dev")).ok()?;
        let names = entries.filter_map(Result::ok).map(|entry| entry.file_name());
        names.map(|name| name.to_string_lossy().into_owned()).find(|name| name.starts_with("vfio"))
    }
}

fn link_name(path: &Path) -> Option<String> {
    let target = fs::read_link(path).ok()?;
    Some(target.file_name()?.to_string_lossy().into_owned())
}

/// `DDDD:BB:DD.F` in lower case, with the domain 0000 where none was given.
fn normal(address: &str) -> Option<String> {
    let lower = address.to_ascii_lowercase();
    let full = if lower.matches(':').count() == 1 { format!("0000:{lower}") } else { lower };
    let (domain, rest) = full.split_once(':')?;
    let (bus, rest) = rest.split_once(':')?;
    let (device, function) = rest.split_once('.')?;
    let is_hex = |text: &str, digits: usize| {
        text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    let is_address = is_hex(domain, 4) && is_hex(bus, 2) && is_hex(device, 2);
    (is_address && matches!(function, "0" | "1" | "2" | "3" | "4" | "5" | "6" | "7"))
        .then_some(full)
}

/// Why a node could not be opened, as far as the kind of error tells.
pub(super) fn node_error(path: &Path, error: &io::Error) -> OpenError {
    let path = path.to_owned();
    match error.kind() {
        io::ErrorKind::NotFound => OpenError::NoNode { path },
        io::ErrorKind::PermissionDenied => OpenError::Permission { path },
        io::ErrorKind::ResourceBusy => OpenError::Busy { path },
        _ => OpenError::Node { path, kind: error.kind() },
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use std::os::unix::fs::symlink;

    fn tree(functions: &[(&str, Option<&str>, Option<u32>)]) -> tempfile::TempDir {
        let sys = tempfile::tempdir().unwrap();
        for (address, driver, group) in functions {
            let path = sys.path().join("bus/pci/devices").join(address);
            fs::create_dir_all(&path).unwrap();
            if let Some(driver) = driver {
                symlink(format!("../../../bus/pci/drivers/{driver}"), path.join("driver")).unwrap();
            }
            if let Some(group) = group {
                let devices = sys.path().join(format!("kernel/iommu_groups/{group}/devices"));
                fs::create_dir_all(&devices).unwrap();
                symlink(&path, devices.join(address)).unwrap();
                let target = format!("../../../kernel/iommu_groups/{group}");
                symlink(target, path.join("iommu_group")).unwrap();
            }
        }
        sys
    }

    #[test]
    fn addresses_are_taken_with_or_without_domain_and_nothing_else() {
        assert_eq!(normal("00:04.0").unwrap(), "0000:00:04.0");
        assert_eq!(normal("0001:AF:1f.7").unwrap(), "0001:af:1f.7");
        for wrong in ["", "4", "00:04", "0000:00:04.8", "../../x:00.0", "0000:00:4.0", "a:b:c:d.0"]
        {
            assert_eq!(normal(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_function_names_its_driver_and_the_others_of_its_group() {
        let sys = tree(&[
            ("0000:00:04.0", Some("vfio-pci"), Some(7)),
            ("0000:00:04.1", Some("nvme"), Some(7)),
            ("0000:00:04.2", None, Some(7)),
            ("0000:00:1c.0", Some("pcieport"), Some(7)),
            ("0000:00:05.0", Some("nvme"), None),
        ]);
        let function = Function::find(sys.path(), "00:04.0").unwrap();
        function.check_bound().unwrap();
        assert_eq!(function.group(), Some(Group { number: 7, is_without_iommu: false }));
        assert_eq!(function.others(7), [("0000:00:04.1".to_owned(), "nvme".to_owned())]);
        assert_eq!(function.node(), None);
        let nodes = function.path().join("vfio-dev/vfio3");
        fs::create_dir_all(nodes).unwrap();
        assert_eq!(function.node().unwrap(), "vfio3");
        fs::write(sys.path().join("kernel/iommu_groups/7/name"), "vfio-noiommu\n").unwrap();
        assert!(function.group().unwrap().is_without_iommu);
        let other = Function::find(sys.path(), "0000:00:05.0").unwrap();
        assert_eq!(other.group(), None);
        let error = other.check_bound().unwrap_err().to_string();
        assert!(
            error.contains("nvme") && error.contains("sheen nvme bind 0000:00:05.0"),
            "{error}"
        );
        assert!(matches!(Function::find(sys.path(), "00:06.0"), Err(OpenError::Absent { .. })));
    }
}
