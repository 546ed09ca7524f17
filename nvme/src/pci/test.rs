//! Listing, refusals, and moves cut short anywhere.

use std::{fs, os::unix::fs::FileExt, os::unix::fs::symlink};

use super::{fake::*, *};

fn address() -> PciAddress {
    ADDRESS.parse().unwrap()
}

fn refusal(fake: &FakeMachine, force: Force) -> String {
    match fake.machine.bind(address(), force) {
        Err(error @ BindError::InUse { .. }) => {
            assert!(fake.script.steps.borrow().is_empty(), "a refusal changes nothing");
            error.to_string()
        }
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn controllers_are_listed_with_what_sysfs_knows() {
    let fake = FakeMachine::new();
    fake.file(&fake.root.path().join("sys/bus/pci/devices/0000:00:1f.2/class"), "0x010601\n");
    let functions = fake.machine.functions().unwrap();
    let [function] = &functions[..] else { panic!("{functions:?}") };
    assert_eq!(function.address.to_string(), ADDRESS);
    assert_eq!(function.vendor_device, (0x1b36, 0x0010));
    assert_eq!(function.driver.as_deref(), Some("nvme"));
    assert_eq!((function.iommu_group, function.numa_node), (Some(5), None));
    assert_eq!(function.bytes(), Some(2 << 20));
    let controller = function.controller.as_ref().unwrap();
    assert_eq!((controller.model.as_str(), controller.name.as_str()), ("A model", "nvme0"));
    let names: Vec<&str> = controller.namespaces.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["nvme0n2", "nvme0n1"]);
    assert_eq!(controller.namespaces[1].nsid, Some(1));
    assert!(fake.machine.uses(function).unwrap().is_empty());
}

#[test]
fn what_is_no_nvme_controller_is_refused_by_its_class() {
    let fake = FakeMachine::new();
    let other = "0000:00:1f.2";
    let bind = || fake.machine.bind(other.parse().unwrap(), Force::No);
    assert!(bind().unwrap_err().to_string().contains("no PCI function 0000:00:1f.2"));
    fake.file(&fake.root.path().join(format!("sys/bus/pci/devices/{other}/class")), "0x010601\n");
    assert!(bind().unwrap_err().to_string().contains("0x010601"));
}

#[test]
fn a_free_controller_moves_there_and_back() {
    let fake = FakeMachine::new();
    let bound = fake.machine.bind(address(), Force::No).unwrap();
    assert_eq!(bound, Bound { before: Some("nvme".into()), iommu_group: Some(5) });
    assert_eq!(fake.driver().as_deref(), Some(VFIO_DRIVER));
    let again = fake.machine.bind(address(), Force::No).unwrap();
    assert_eq!(again.before.as_deref(), Some(VFIO_DRIVER));
    let unbound = fake.machine.unbind(address()).unwrap();
    assert_eq!(unbound, Unbound { before: Some(VFIO_DRIVER.into()), name: Some("nvme0".into()) });
    assert_eq!((fake.driver().as_deref(), fake.chosen().as_str()), (Some("nvme"), "(null)"));
    assert_eq!(fake.machine.unbind(address()).unwrap().before.as_deref(), Some("nvme"));
}

#[test]
fn a_move_cut_short_anywhere_is_finished_by_its_repetition() {
    for steps in 0.. {
        let fake = FakeMachine::new();
        fake.script.steps_left.set(Some(steps));
        let is_whole = fake.machine.bind(address(), Force::No).is_ok();
        fake.script.steps_left.set(None);
        fake.machine.bind(address(), Force::No).unwrap();
        assert_eq!(fake.driver().as_deref(), Some(VFIO_DRIVER), "cut after {steps}");
        if is_whole {
            assert_eq!(steps, 5, "two modules, the choice, the release, the probe");
            return;
        }
    }
}

#[test]
fn a_move_cut_short_anywhere_is_taken_back_by_its_opposite() {
    for steps in 0..5 {
        let fake = FakeMachine::new();
        fake.script.steps_left.set(Some(steps));
        // The loading of the second module may fail.
        let _ = fake.machine.bind(address(), Force::No);
        fake.script.steps_left.set(None);
        fake.machine.unbind(address()).unwrap();
        assert_eq!((fake.driver().as_deref(), fake.chosen().as_str()), (Some("nvme"), "(null)"));
    }
}

#[test]
fn a_mounted_namespace_is_refused_by_name_even_with_force() {
    let fake = FakeMachine::new();
    let table = fake.root.path().join("proc/self/mountinfo");
    for line in [
        "40 1 259:2 / /data\\040here rw - ext4 /dev/root rw\n",
        "40 1 0:55 /sub /data\\040here rw - btrfs /dev/nvme0n2 rw\n",
    ] {
        fs::write(&table, line).unwrap();
        for force in [Force::No, Force::Yes] {
            let said = refusal(&fake, force);
            assert!(said.contains("nvme0n2 is mounted at /data here"), "{said}");
            assert!(said.contains("--force does not help"), "{said}");
        }
    }
}

#[test]
fn swap_holders_and_programs_are_refused_even_with_force() {
    let fake = FakeMachine::new();
    let root = fake.root.path();
    fs::write(root.join("proc/swaps"), "Filename\n/dev/nvme0n1p2 partition 1 0 -2\n").unwrap();
    fake.file(&root.join("sys/block/nvme0n1/nvme0n1p2/partition"), "2\n");
    assert!(refusal(&fake, Force::Yes).contains("nvme0n1p2 is active swap space"));
    fs::write(root.join("proc/swaps"), "Filename\n").unwrap();
    fs::create_dir_all(root.join("sys/block/nvme0n1/nvme0n1p2/holders/dm-3")).unwrap();
    fake.file(&root.join("sys/block/dm-3/dm/name"), "vg-lv\n");
    assert!(refusal(&fake, Force::Yes).contains("nvme0n1p2 is part of dm-3 (vg-lv)"));
    fs::remove_dir_all(root.join("sys/block/nvme0n1/nvme0n1p2/holders")).unwrap();
    fake.file(&root.join("proc/77/comm"), "fio\n");
    fs::create_dir_all(root.join("proc/77/fd")).unwrap();
    symlink("/dev/nvme0n2", root.join("proc/77/fd/3")).unwrap();
    assert!(refusal(&fake, Force::Yes).contains("nvme0n2 is opened by process 77 (fio)"));
}

#[test]
fn partitions_and_file_systems_are_taken_with_force_only() {
    let fake = FakeMachine::new();
    let part = fake.root.path().join("sys/block/nvme0n1/nvme0n1p1/partition");
    fake.file(&part, "1\n");
    let said = refusal(&fake, Force::No);
    assert!(said.contains("nvme0n1 has partitions (nvme0n1p1)"), "{said}");
    assert!(said.contains("--force takes it"), "{said}");
    fs::remove_dir_all(part.parent().unwrap()).unwrap();
    let disk = fs::File::options().write(true).open(fake.disk("nvme0n2")).unwrap();
    disk.write_all_at(&[0x53, 0xef], 0x438).unwrap();
    assert!(refusal(&fake, Force::No).contains("nvme0n2 holds a file system (ext2, ext3 or ext4)"));
    fake.machine.bind(address(), Force::Yes).unwrap();
}

#[test]
fn a_sheen_device_is_ours_and_needs_no_force() {
    let fake = FakeMachine::new();
    let disk = fs::File::options().write(true).open(fake.disk("nvme0n1")).unwrap();
    disk.write_all_at(b"SHEENDEV", 8).unwrap();
    let uses = fake.machine.uses(&fake.machine.function(address()).unwrap()).unwrap();
    assert_eq!(uses, [Use::Sheen { device: "nvme0n1".into() }]);
    fake.machine.bind(address(), Force::No).unwrap();
}

#[test]
fn without_an_iommu_or_with_a_shared_group_nothing_moves() {
    let fake = FakeMachine::new();
    let other = "0000:01:00.1";
    fs::create_dir_all(fake.root.path().join("sys/kernel/iommu_groups/5/devices").join(other))
        .unwrap();
    let device = fake.root.path().join("sys/bus/pci/devices").join(other);
    fs::create_dir_all(&device).unwrap();
    symlink("/sys/bus/pci/drivers/ahci", device.join("driver")).unwrap();
    let error = fake.machine.bind(address(), Force::Yes).unwrap_err();
    assert!(matches!(&error, BindError::Group { group: 5, .. }), "{error}");
    fs::remove_file(device.join("driver")).unwrap();
    symlink("/sys/bus/pci/drivers/pcieport", device.join("driver")).unwrap();
    fs::remove_file(fake.device().join("iommu_group")).unwrap();
    let error = fake.machine.bind(address(), Force::Yes).unwrap_err();
    assert!(error.to_string().contains("intel_iommu=on"), "{error}");
    assert!(fake.script.steps.borrow().is_empty());
}

#[test]
fn a_missing_module_and_a_refusing_driver_are_named() {
    let fake = FakeMachine::new();
    fake.script.missing_module.set(Some("vfio_iommu_type1"));
    fake.machine.bind(address(), Force::No).unwrap();
    fake.machine.unbind(address()).unwrap();
    fake.script.missing_module.set(Some("vfio-pci"));
    let error = fake.machine.bind(address(), Force::No).unwrap_err();
    assert!(error.to_string().contains("vfio-pci cannot be loaded"), "{error}");
    assert_eq!(fake.driver().as_deref(), Some("nvme"), "nothing was taken away");
    fake.script.missing_module.set(None);
    fake.script.refusing_driver.set(Some("vfio-pci"));
    let error = fake.machine.bind(address(), Force::No).unwrap_err();
    assert!(error.to_string().contains("sheen nvme unbind"), "{error}");
    fake.machine.unbind(address()).unwrap();
    assert_eq!(fake.driver().as_deref(), Some("nvme"));
}

#[test]
fn a_controller_a_program_drives_is_not_given_back() {
    let fake = FakeMachine::new();
    fake.machine.bind(address(), Force::No).unwrap();
    let process = fake.root.path().join("proc/88");
    fake.file(&process.join("comm"), "sheen\n");
    fs::create_dir_all(process.join("fd")).unwrap();
    symlink("/dev/vfio/5", process.join("fd/9")).unwrap();
    let error = fake.machine.unbind(address()).unwrap_err();
    assert!(error.to_string().contains("process 88 (sheen)"), "{error}");
    assert_eq!(fake.driver().as_deref(), Some(VFIO_DRIVER));
    fs::remove_dir_all(&process).unwrap();
    fake.machine.unbind(address()).unwrap();
}
