//! A machine in a temporary directory: a tree like sysfs, and a kernel that moves functions between drivers as Linux
//! does. It can be cut short before any step.

use std::{
    cell::{Cell, RefCell},
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    rc::Rc,
};

use super::machine::{Kernel, Machine, text_of};

pub(super) const ADDRESS: &str = "0000:01:00.0";
const DISK_BYTES: u64 = 1 << 20;

/// What a fake kernel was asked for, and when it stops working.
#[derive(Debug, Default)]
pub(super) struct Script {
    pub(super) steps: RefCell<Vec<String>>,
    pub(super) steps_left: Cell<Option<usize>>,
    pub(super) missing_module: Cell<Option<&'static str>>,
    pub(super) refusing_driver: Cell<Option<&'static str>>,
}

#[derive(Debug)]
struct FakeKernel {
    root: PathBuf,
    script: Rc<Script>,
}

/// A machine with one controller of two namespaces, which the kernel's driver has.
#[derive(Debug)]
pub(super) struct FakeMachine {
    pub(super) machine: Machine,
    pub(super) script: Rc<Script>,
    pub(super) root: tempfile::TempDir,
}

impl FakeMachine {
    pub(super) fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let script = Rc::new(Script::default());
        let kernel = FakeKernel { root: root.path().into(), script: Rc::clone(&script) };
        let this = Self { machine: Machine::at(root.path(), Box::new(kernel)), script, root };
        let device = this.device();
        for (file, text) in [
            ("class", "0x010802\n"),
            ("vendor", "0x1b36\n"),
            ("device", "0x0010\n"),
            ("numa_node", "-1\n"),
            ("driver_override", "(null)\n"),
        ] {
            this.file(&device.join(file), text);
        }
        let group = this.root.path().join("sys/kernel/iommu_groups/5");
        fs::create_dir_all(group.join("devices").join(ADDRESS)).unwrap();
        symlink(&group, device.join("iommu_group")).unwrap();
        for driver in ["nvme", "vfio-pci"] {
            fs::create_dir_all(this.root.path().join("sys/bus/pci/drivers").join(driver)).unwrap();
        }
        this.file(
            &this.root.path().join("proc/self/mountinfo"),
            "1 1 0:2 / / rw - rootfs rootfs rw\n",
        );
        this.file(&this.root.path().join("proc/swaps"), "Filename Type Size Used Priority\n");
        attach(this.root.path(), "nvme");
        this.clear_disks();
        this
    }

    pub(super) fn device(&self) -> PathBuf {
        self.root.path().join("sys/bus/pci/devices").join(ADDRESS)
    }

    pub(super) fn disk(&self, name: &str) -> PathBuf {
        self.root.path().join("dev").join(name)
    }

    pub(super) fn file(&self, path: &Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub(super) fn driver(&self) -> Option<String> {
        self.machine.driver(ADDRESS.parse().unwrap())
    }

    pub(super) fn chosen(&self) -> String {
        text_of(&self.device().join("driver_override")).unwrap()
    }

    fn clear_disks(&self) {
        for name in ["nvme0n1", "nvme0n2"] {
            self.file(&self.disk(name), "");
            fs::File::create(self.disk(name)).unwrap().set_len(DISK_BYTES).unwrap();
        }
    }
}

impl Kernel for FakeKernel {
    fn write(&self, file: &Path, text: &str) -> io::Result<()> {
        let name = file.file_name().unwrap().to_str().unwrap();
        self.step(&format!("{name}={}", text.trim()))?;
        let device = self.root.join("sys/bus/pci/devices").join(ADDRESS);
        match name {
            "driver_override" => {
                let shown = if text.trim().is_empty() { "(null)\n" } else { text };
                fs::write(file, shown)
            }
            "unbind" => {
                assert!(device.join("driver").exists(), "only a bound function is unbound");
                detach(&self.root);
                Ok(())
            }
            "drivers_probe" => {
                let chosen = text_of(&device.join("driver_override")).unwrap();
                let driver = if chosen == "(null)" { "nvme" } else { chosen.as_str() };
                let refuses = self.script.refusing_driver.get() == Some(driver);
                if !device.join("driver").exists() && !refuses {
                    attach(&self.root, driver);
                }
                Ok(())
            }
            other => panic!("nobody writes to {other}"),
        }
    }

    fn load_module(&self, name: &str) -> io::Result<()> {
        self.step(&format!("modprobe {name}"))?;
        if self.script.missing_module.get() == Some(name) {
            return Err(io::Error::other("not found"));
        }
        Ok(())
    }
}

impl FakeKernel {
    fn step(&self, what: &str) -> io::Result<()> {
        if let Some(left) = self.script.steps_left.get() {
            let Some(left) = left.checked_sub(1) else {
                return Err(io::ErrorKind::Interrupted.into());
            };
            self.script.steps_left.set(Some(left));
        }
        self.script.steps.borrow_mut().push(what.to_owned());
        Ok(())
    }
}

fn attach(root: &Path, driver: &str) {
    let device = root.join("sys/bus/pci/devices").join(ADDRESS);
    symlink(root.join("sys/bus/pci/drivers").join(driver), device.join("driver")).unwrap();
    if driver != "nvme" {
        return;
    }
    let write = |path: PathBuf, text: &str| {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    let controller = device.join("nvme/nvme0");
    write(controller.join("model"), "A model                 \n");
    write(controller.join("serial"), "serial0\n");
    write(controller.join("firmware_rev"), "1.0\n");
    fs::create_dir_all(controller.join("ng0n1")).unwrap();
    // One namespace is named directly, the other by a path of several.
    for (entry, name, number) in
        [("nvme0n1", "nvme0n1", "259:1"), ("nvme0c0n2", "nvme0n2", "259:2")]
    {
        fs::create_dir_all(controller.join(entry)).unwrap();
        let block = root.join("sys/block").join(name);
        write(block.join("size"), &format!("{}\n", DISK_BYTES / 512));
        write(block.join("dev"), &format!("{number}\n"));
        write(block.join("nsid"), &format!("{}\n", &name[6..]));
        write(block.join("queue/logical_block_size"), "4096\n");
        fs::create_dir_all(block.join("holders")).unwrap();
    }
}

fn detach(root: &Path) {
    let device = root.join("sys/bus/pci/devices").join(ADDRESS);
    fs::remove_file(device.join("driver")).unwrap();
    if device.join("nvme").exists() {
        fs::remove_dir_all(device.join("nvme")).unwrap();
        fs::remove_dir_all(root.join("sys/block")).unwrap();
    }
}
