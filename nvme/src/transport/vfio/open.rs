//! From a PCI address to an open device with an address space, by iommufd or by group and container.
//!
//! iommufd (Linux 6.6, if so configured) is taken where the function has a node of its own and `/dev/iommu` can be opened; else
//! the function's group goes into a container of type 1. Each device has a container of its own: locked memory counts once for
//! each, and devices come and go without touching one another.

use std::{
    ffi::CString,
    fs::OpenOptions,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use nix::errno::Errno;
use tracing::warn;
use vfio_bindings::bindings::vfio::{
    VFIO_API_VERSION, VFIO_GROUP_FLAGS_VIABLE, VFIO_NOIOMMU_IOMMU, VFIO_TYPE1v2_IOMMU,
};

use super::{
    device::{Options, Way, WithoutIommu},
    error::OpenError,
    ioctl,
    space::Space,
    sysfs::{Function, Group, node_error},
};

/// Where device nodes are, `/dev`, or what stands for it in a test.
pub(super) fn open(
    dev: &Path,
    function: &Function,
    options: Options,
) -> Result<(OwnedFd, Space), OpenError> {
    function.check_bound()?;
    let address = || function.address.clone();
    let group = function.group().ok_or_else(|| OpenError::NoIommu { address: address() })?;
    if group.is_without_iommu {
        match (options.without_iommu, options.way) {
            (WithoutIommu::Refuse, _) => {
                return Err(OpenError::WithoutIommu { address: address() });
            }
            (WithoutIommu::AllowDeviceAllMemory, Way::Iommufd) => {
                return Err(OpenError::WithoutIommuByNode { address: address() });
            }
            (WithoutIommu::AllowDeviceAllMemory, Way::Automatic | Way::Group) => {}
        }
        warn!(
            "{}: no IOMMU: this device can read and write all of the machine's memory",
            address()
        );
        return by_group(dev, function, &group);
    }
    match options.way {
        Way::Group => by_group(dev, function, &group),
        Way::Iommufd => by_node(dev, function),
        Way::Automatic => {
            // Nodes or `/dev/iommu` may be missing or closed to us while the group is not.
            let is_offered = function.node().is_some() && open_node(&dev.join("iommu")).is_ok();
            if is_offered { by_node(dev, function) } else { by_group(dev, function, &group) }
        }
    }
}

fn open_node(path: &Path) -> Result<OwnedFd, OpenError> {
    let file = OpenOptions::new().read(true).write(true).open(path);
    file.map(OwnedFd::from).map_err(|error| node_error(path, &error))
}

const fn step(doing: &'static str) -> impl FnOnce(Errno) -> OpenError {
    move |errno| OpenError::Step { doing, errno }
}

fn by_group(dev: &Path, function: &Function, group: &Group) -> Result<(OwnedFd, Space), OpenError> {
    let container = open_node(&dev.join("vfio/vfio"))?;
    let version = ioctl::api_version(container.as_fd()).map_err(step("ask VFIO's version"))?;
    if u32::try_from(version) != Ok(VFIO_API_VERSION) {
        return Err(OpenError::Lacking { what: "the version 0 of its interface" });
    }
    let (kind, what, prefix) = if group.is_without_iommu {
        (VFIO_NOIOMMU_IOMMU, "the mode without IOMMU", "noiommu-")
    } else {
        (VFIO_TYPE1v2_IOMMU, "IOMMU type 1 version 2 (vfio_iommu_type1)", "")
    };
    let has = ioctl::has_extension(container.as_fd(), kind);
    if !has.map_err(step("ask what VFIO can do"))? {
        return Err(OpenError::Lacking { what });
    }
    let opened = open_node(&dev.join(format!("vfio/{prefix}{}", group.number)))?;
    let flags = ioctl::group_flags(opened.as_fd()).map_err(step("ask the state of the group"))?;
    if flags & VFIO_GROUP_FLAGS_VIABLE == 0 {
        return Err(OpenError::NotViable {
            address: function.address.clone(),
            group: group.number,
            others: function.others(group.number),
        });
    }
    ioctl::set_container(opened.as_fd(), container.as_fd())
        .map_err(step("put the device's group into a container"))?;
    ioctl::set_iommu(container.as_fd(), kind).map_err(step("give the container its IOMMU"))?;
    let name = CString::new(function.address.as_str())
        .map_err(|_| OpenError::Address { address: function.address.clone() })?;
    let device = ioctl::device(opened.as_fd(), &name).map_err(step("open the device"))?;
    let space = if group.is_without_iommu {
        Space::Physical { _group: opened, _container: container }
    } else {
        Space::Container { container, _group: opened }
    };
    Ok((device, space))
}

fn by_node(dev: &Path, function: &Function) -> Result<(OwnedFd, Space), OpenError> {
    let what = "a node of the device's own (CONFIG_VFIO_DEVICE_CDEV, Linux 6.6)";
    let node = function.node().ok_or(OpenError::Lacking { what })?;
    let iommufd = open_node(&dev.join("iommu"))?;
    let device = open_node(&dev.join("vfio/devices").join(node))?;
    ioctl::bind_iommufd(device.as_fd(), iommufd.as_fd()).map_err(|errno| match errno {
        // The group's DMA belongs to somebody else, as with a group that is not viable.
        Errno::EINVAL | Errno::EBUSY | Errno::EPERM if let Some(group) = not_viable(function) => {
            group
        }
        errno => OpenError::Step { doing: "bind the device to iommufd", errno },
    })?;
    let id = ioctl::ioas_alloc(iommufd.as_fd()).map_err(step("make an address space"))?;
    ioctl::attach(device.as_fd(), id).map_err(step("attach the device to its address space"))?;
    Ok((device, Space::Ioas { iommufd, id }))
}

fn not_viable(function: &Function) -> Option<OpenError> {
    let group = function.group()?.number;
    let others = function.others(group);
    let address = function.address.clone();
    (!others.is_empty()).then_some(OpenError::NotViable { address, group, others })
}
