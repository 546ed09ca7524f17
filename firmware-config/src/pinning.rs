//! Which CPUs each thread gets.
//!
//! With a core for every service thread and one left over, each service thread gets a core of its own (its first
//! hyperthread; the second stays empty), and everything else the rest. With fewer, nobody is pinned: the scheduler shares
//! better than we could, and a pinned polling thread would keep a client of the same host waiting.

use serde::Serialize;

use crate::topology::Topology;

/// CPUs of each thread. An empty list: wherever the scheduler likes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PinningPlan {
    /// The MDT's thread.
    pub mdt: Vec<usize>,
    /// Each data reactor's thread.
    pub reactors: Vec<Vec<usize>>,
    /// Control runtime, acceptor, and the program's first thread.
    pub control: Vec<usize>,
}

impl PinningPlan {
    /// Nobody is pinned.
    #[must_use]
    pub fn floating(reactors: usize) -> Self {
        Self { reactors: vec![Vec::new(); reactors], ..Self::default() }
    }

    /// A plan for an MDT and `reactors` data reactors.
    ///
    /// Isolated cores are taken first, reactors before the MDT, all on the NUMA node that has most cores for us, then
    /// on the others. The first core that is not isolated stays with the control part: the kernel's own work is there.
    #[must_use]
    pub fn new(topology: &Topology, reactors: usize) -> Self {
        let mut cores: Vec<_> =
            topology.cpus.iter().filter(|cpu| is_first(topology, cpu.number)).collect();
        if cores.len() < reactors + 2 {
            return Self::floating(reactors);
        }
        let kept = cores.iter().position(|cpu| !cpu.isolated).unwrap_or(0);
        cores.remove(kept);
        let on_node = |node: usize| cores.iter().filter(|cpu| cpu.numa_node == node).count();
        let mut order: Vec<_> = cores
            .iter()
            .map(|cpu| {
                (!cpu.isolated, usize::MAX - on_node(cpu.numa_node), cpu.numa_node, cpu.number)
            })
            .collect();
        order.sort_unstable();
        let mut own = order.into_iter().map(|(.., number)| number);
        let reactors: Vec<Vec<usize>> = own.by_ref().take(reactors).map(|cpu| vec![cpu]).collect();
        let mdt: Vec<usize> = own.take(1).collect();
        let core_of = |number: usize| {
            topology.cpus.iter().find(|cpu| cpu.number == number).map(|cpu| cpu.core)
        };
        let taken: Vec<_> =
            reactors.iter().flatten().chain(&mdt).map(|&cpu| core_of(cpu)).collect();
        let free =
            topology.cpus.iter().filter(|cpu| !cpu.isolated && !taken.contains(&Some(cpu.core)));
        Self { control: free.map(|cpu| cpu.number).collect(), mdt, reactors }
    }
}

/// Whether a CPU is the first of its core among those we may use.
fn is_first(topology: &Topology, number: usize) -> bool {
    let core = |number| topology.cpus.iter().find(|cpu| cpu.number == number).map(|cpu| cpu.core);
    !topology.cpus.iter().any(|cpu| cpu.number < number && Some(cpu.core) == core(number))
}

/// How many data reactors a machine should run for `osts` OSTs: one per two cores, so that clients of the same host,
/// the MDT and the control part have the other half.
#[must_use]
pub fn reactors_for(topology: &Topology, osts: u32) -> u32 {
    let by_cores = u32::try_from(topology.cores() / 2).unwrap_or(u32::MAX);
    by_cores.clamp(1, osts.max(1))
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::{cpu_list::CpuList, topology::Cpu, topology::test::two_sockets};

    fn flat(cpus: usize) -> Topology {
        let cpu = |number| Cpu { number, package: 0, core: number, numa_node: 0, isolated: false };
        Topology { cpus: (0..cpus).map(cpu).collect() }
    }

    #[test]
    fn service_threads_never_share_a_core_with_anybody() {
        let root = tempfile::tempdir().unwrap();
        two_sockets(root.path(), 8);
        let topology = Topology::read(root.path(), &CpuList::default()).unwrap();
        for reactors in 1..=14 {
            let plan = PinningPlan::new(&topology, reactors);
            assert_eq!((plan.reactors.len(), plan.mdt.len()), (reactors, 1));
            let core = |cpu: &usize| topology.cpus[*cpu].core;
            let mut own: Vec<usize> =
                plan.reactors.iter().flatten().chain(&plan.mdt).map(core).collect();
            own.sort_unstable();
            assert!(own.windows(2).all(|pair| pair[0] != pair[1]), "{plan:?}");
            assert!(!plan.control.is_empty());
            assert!(plan.control.iter().all(|cpu| !own.contains(&core(cpu))), "{plan:?}");
        }
        assert_eq!(PinningPlan::new(&topology, 15), PinningPlan::floating(15));
    }

    #[test]
    fn reactors_stay_on_one_numa_node_while_it_has_cores() {
        let root = tempfile::tempdir().unwrap();
        two_sockets(root.path(), 8);
        let topology = Topology::read(root.path(), &CpuList::default()).unwrap();
        let plan = PinningPlan::new(&topology, 7);
        let node = |cpu: &usize| topology.cpus[*cpu].numa_node;
        assert!(
            plan.reactors.iter().flatten().chain(&plan.mdt).all(|cpu| node(cpu) == 1),
            "{plan:?}"
        );
    }

    #[test]
    fn isolated_cores_are_taken_first_and_never_for_control() {
        let mut topology = flat(8);
        topology.cpus[5].isolated = true;
        topology.cpus[6].isolated = true;
        let plan = PinningPlan::new(&topology, 2);
        assert_eq!(plan.reactors, [vec![5], vec![6]]);
        assert_eq!(plan.mdt, [1]);
        assert_eq!(plan.control, [0, 2, 3, 4, 7]);
    }

    #[test]
    fn a_small_machine_pins_nobody() {
        assert_eq!(PinningPlan::new(&flat(2), 1), PinningPlan::floating(1));
        assert_eq!(reactors_for(&flat(2), 4), 1);
        assert_eq!(reactors_for(&flat(1), 4), 1);
        assert_eq!(reactors_for(&flat(16), 4), 4);
        assert_eq!(reactors_for(&flat(16), 32), 8);
        assert_eq!(PinningPlan::new(&flat(3), 1).reactors, [vec![1]]);
    }
}
