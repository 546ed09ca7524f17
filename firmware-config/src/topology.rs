//! CPUs of the machine, as sysfs tells: which are online, share a core, belong to a NUMA node, are isolated, are ours.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
};

use nix::{
    sched::{CpuSet, sched_getaffinity},
    unistd::Pid,
};
use serde::Serialize;
use thiserror::Error;

use crate::cpu_list::CpuList;

/// One logical CPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cpu {
    /// Its number.
    pub number: usize,
    /// Socket.
    pub package: usize,
    /// Lowest number of the CPUs that share its core (hyperthreads); itself if it shares with none.
    pub core: usize,
    /// NUMA node; 0 where the kernel knows of none.
    pub numa_node: usize,
    /// Taken out of the scheduler's balancing (`isolcpus`).
    pub isolated: bool,
}

/// The CPUs this process may use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Topology {
    /// In order of number.
    pub cpus: Vec<Cpu>,
}

/// Why the topology is not known.
#[derive(Debug, Error)]
pub enum TopologyError {
    /// A file that must be there cannot be read.
    #[error("{path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file holds what it must not.
    #[error("{path}: expected {expected}, found {found:?}", path = path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What may stand there.
        expected: &'static str,
        /// What stands there.
        found: String,
    },
    /// The sets of online and allowed CPUs have nothing in common.
    #[error("no CPU is both online and allowed for this process")]
    None,
}

impl Topology {
    /// The CPUs of this machine that this process may use.
    ///
    /// # Errors
    /// [`TopologyError`].
    pub fn of_this_machine() -> Result<Self, TopologyError> {
        Self::read(Path::new("/"), &allowed())
    }

    /// Reads the tree below `root` (`sys/…`, `proc/self/cgroup`), kept to `allowed` unless that is empty.
    ///
    /// # Errors
    /// [`TopologyError`].
    pub fn read(root: &Path, allowed: &CpuList) -> Result<Self, TopologyError> {
        let tree = Tree(root);
        let cpu_folder = root.join("sys/devices/system/cpu");
        let online = tree.list(&cpu_folder.join("online"))?.ok_or(TopologyError::None)?;
        let isolated = tree.list(&cpu_folder.join("isolated"))?.unwrap_or_default();
        let cpuset = tree.cpuset()?;
        let numa_nodes = tree.numa_nodes()?;
        let ours = |cpu: &usize| {
            (allowed.0.is_empty() || allowed.0.contains(cpu))
                && cpuset.as_ref().is_none_or(|set| set.0.contains(cpu))
        };
        let mut cpus = Vec::new();
        for number in online.0.into_iter().filter(ours) {
            let folder = cpu_folder.join(format!("cpu{number}/topology"));
            // Virtual machines may leave any of these out: then the CPU stands for itself.
            let siblings = tree.list(&folder.join("thread_siblings_list"))?.unwrap_or_default();
            cpus.push(Cpu {
                number,
                package: tree.number(&folder.join("physical_package_id"))?.unwrap_or(0),
                core: siblings.0.first().copied().unwrap_or(number),
                numa_node: numa_nodes.get(&number).copied().unwrap_or(0),
                isolated: isolated.0.contains(&number),
            });
        }
        if cpus.is_empty() { Err(TopologyError::None) } else { Ok(Self { cpus }) }
    }

    /// Logical CPUs.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.cpus.len()
    }

    /// Cores; hyperthreads of a core count once.
    #[must_use]
    pub fn cores(&self) -> usize {
        self.cpus.iter().map(|cpu| cpu.core).collect::<BTreeSet<_>>().len()
    }
}

/// CPUs the scheduler may run this thread on; empty if the kernel does not say.
fn allowed() -> CpuList {
    let Ok(set) = sched_getaffinity(Pid::from_raw(0)) else { return CpuList::default() };
    CpuList((0..CpuSet::count()).filter(|&cpu| set.is_set(cpu) == Ok(true)).collect())
}

struct Tree<'a>(&'a Path);

impl Tree<'_> {
    /// A file's text; None if it is not there.
    fn text(path: &Path) -> Result<Option<String>, TopologyError> {
        match std::fs::read_to_string(path) {
            Ok(text) => Ok(Some(text.trim().to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(TopologyError::Read { path: path.into(), source }),
        }
    }

    fn list(&self, path: &Path) -> Result<Option<CpuList>, TopologyError> {
        let Some(text) = Self::text(path)? else { return Ok(None) };
        let expected = "a list of CPUs";
        text.parse().map(Some).map_err(|_| TopologyError::Content {
            path: path.into(),
            expected,
            found: text,
        })
    }

    fn number(&self, path: &Path) -> Result<Option<usize>, TopologyError> {
        let Some(text) = Self::text(path)? else { return Ok(None) };
        // Some firmware does not know: -1.
        if text == "-1" {
            return Ok(None);
        }
        let expected = "a number";
        text.parse().map(Some).map_err(|_| TopologyError::Content {
            path: path.into(),
            expected,
            found: text,
        })
    }

    /// NUMA node of each CPU.
    fn numa_nodes(&self) -> Result<BTreeMap<usize, usize>, TopologyError> {
        let folder = self.0.join("sys/devices/system/node");
        let mut nodes = BTreeMap::new();
        let Some(online) = self.list(&folder.join("online"))? else { return Ok(nodes) };
        for node in online.0 {
            let cpus = self.list(&folder.join(format!("node{node}/cpulist")))?.unwrap_or_default();
            nodes.extend(cpus.0.into_iter().map(|cpu| (cpu, node)));
        }
        Ok(nodes)
    }

    /// The CPUs of our control group (version 2), if it is confined: of the innermost group that says so.
    fn cpuset(&self) -> Result<Option<CpuList>, TopologyError> {
        let Some(groups) = Self::text(&self.0.join("proc/self/cgroup"))? else { return Ok(None) };
        let Some(group) = groups.lines().find_map(|line| line.strip_prefix("0::")) else {
            return Ok(None);
        };
        let mut group = Path::new(group.trim_start_matches('/'));
        loop {
            let folder = self.0.join("sys/fs/cgroup").join(group);
            let list = self.list(&folder.join("cpuset.cpus.effective"))?;
            if let Some(list) = list.filter(|list| !list.0.is_empty()) {
                return Ok(Some(list));
            }
            let Some(parent) = group.parent() else { return Ok(None) };
            group = parent;
        }
    }
}

#[cfg(test)]
pub(crate) mod test {
    use super::*;

    pub(crate) fn put(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, format!("{text}\n")).unwrap();
    }

    /// Two sockets with a NUMA node each, `cores` cores per socket, two hyperthreads per core, numbered as Linux does:
    /// first threads of all cores, then second threads.
    pub(crate) fn two_sockets(root: &Path, cores: usize) {
        let total = cores * 2;
        put(root, "sys/devices/system/cpu/online", &format!("0-{}", total * 2 - 1));
        put(root, "sys/devices/system/cpu/isolated", "");
        put(root, "sys/devices/system/node/online", "0-1");
        for node in 0..2 {
            let first = node * cores;
            let list = format!(
                "{}-{},{}-{}",
                first,
                first + cores - 1,
                first + total,
                first + total + cores - 1
            );
            put(root, &format!("sys/devices/system/node/node{node}/cpulist"), &list);
        }
        for cpu in 0..total * 2 {
            let core = cpu % total;
            let folder = format!("sys/devices/system/cpu/cpu{cpu}/topology");
            put(
                root,
                &format!("{folder}/thread_siblings_list"),
                &format!("{core},{}", core + total),
            );
            put(root, &format!("{folder}/physical_package_id"), &(core / cores).to_string());
        }
    }

    #[test]
    fn sockets_cores_and_hyperthreads_are_told_apart() {
        let root = tempfile::tempdir().unwrap();
        two_sockets(root.path(), 8);
        let topology = Topology::read(root.path(), &CpuList::default()).unwrap();
        assert_eq!((topology.threads(), topology.cores()), (32, 16));
        let cpu = &topology.cpus[25];
        let expected = Cpu { number: 25, package: 1, core: 9, numa_node: 1, isolated: false };
        assert_eq!(cpu, &expected);
    }

    #[test]
    fn only_cpus_we_may_use_count() {
        let root = tempfile::tempdir().unwrap();
        two_sockets(root.path(), 2);
        put(root.path(), "proc/self/cgroup", "0::/system.slice/sheen.service");
        put(root.path(), "sys/fs/cgroup/system.slice/cpuset.cpus.effective", "0-2");
        put(root.path(), "sys/devices/system/cpu/isolated", "2");
        let numbers = |allowed: &str| {
            let topology = Topology::read(root.path(), &allowed.parse().unwrap()).unwrap();
            topology.cpus.iter().map(|cpu| (cpu.number, cpu.isolated)).collect::<Vec<_>>()
        };
        assert_eq!(numbers(""), [(0, false), (1, false), (2, true)]);
        assert_eq!(numbers("1-7"), [(1, false), (2, true)]);
        let none = Topology::read(root.path(), &"7".parse().unwrap());
        assert!(matches!(none, Err(TopologyError::None)));
    }

    #[test]
    fn a_machine_that_says_little_is_understood() {
        let root = tempfile::tempdir().unwrap();
        put(root.path(), "sys/devices/system/cpu/online", "0-1");
        put(root.path(), "sys/devices/system/cpu/cpu0/topology/physical_package_id", "-1");
        let topology = Topology::read(root.path(), &CpuList::default()).unwrap();
        assert_eq!((topology.threads(), topology.cores()), (2, 2));
        put(root.path(), "sys/devices/system/cpu/online", "zero");
        let error = Topology::read(root.path(), &CpuList::default()).unwrap_err();
        assert!(error.to_string().ends_with("expected a list of CPUs, found \"zero\""), "{error}");
    }

    #[test]
    fn this_machine_has_the_cpus_the_system_says() {
        let topology = Topology::of_this_machine().unwrap();
        let parallelism = std::thread::available_parallelism().unwrap().get();
        assert!(topology.threads() >= parallelism, "quotas may make it fewer, never more");
    }
}
