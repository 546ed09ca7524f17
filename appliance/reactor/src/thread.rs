//! Starting a reactor's thread, on a core of its own or not.

use std::{
    io,
    sync::Arc,
    thread::{Builder, JoinHandle},
    time::Duration,
};

use nix::{
    errno::Errno,
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

use crate::{load::Load, reactor::Reactor, service::Service, system::SystemClock};

/// How a reactor's thread runs.
#[derive(Clone, Debug)]
pub struct ThreadPlan {
    /// Name of the thread, as `ps -L` shows it; the kernel keeps 15 bytes.
    pub name: String,
    /// Cores it may run on; empty: wherever the process may.
    pub cores: Vec<usize>,
    /// Time of polling without work before it sleeps.
    pub spin: Duration,
    /// Where it counts.
    pub load: Arc<Load>,
}

/// Starts a thread that makes its services with `make` and runs them until they are finished. A `make` that fails
/// ends the thread with its error.
///
/// # Errors
/// When the system refuses another thread.
pub fn spawn<F, E>(plan: ThreadPlan, make: F) -> io::Result<JoinHandle<Result<(), E>>>
where
    F: FnOnce() -> Result<Vec<Box<dyn Service>>, E> + Send + 'static,
    E: From<Errno> + Send + 'static,
{
    Builder::new().name(plan.name.clone()).spawn(move || {
        if !plan.cores.is_empty() {
            pin(&plan.cores)?;
        }
        let mut reactor = Reactor::new(SystemClock, plan.spin, plan.load)?;
        for service in make()? {
            reactor.add(service);
        }
        reactor.run();
        Ok(())
    })
}

/// Confines the calling thread to `cores`.
///
/// # Errors
/// The system's number: EINVAL when none of them is there for us.
pub fn pin(cores: &[usize]) -> Result<(), Errno> {
    let mut set = CpuSet::new();
    for &core in cores {
        set.set(core)?;
    }
    sched_setaffinity(Pid::from_raw(0), &set)
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_thread_runs_where_it_was_told() {
        let allowed = nix::sched::sched_getaffinity(Pid::from_raw(0)).unwrap();
        let core = (0..CpuSet::count()).rfind(|&core| allowed.is_set(core).unwrap()).unwrap();
        let plan = ThreadPlan {
            name: "pinned".into(),
            cores: vec![core],
            spin: Duration::ZERO,
            load: Arc::default(),
        };
        let thread = spawn(plan, move || {
            assert_eq!(nix::sched::sched_getcpu(), Ok(core));
            Ok::<_, Errno>(Vec::new())
        });
        assert_eq!(thread.unwrap().join().unwrap(), Ok(()));
        let nowhere = CpuSet::count() - 1;
        if !allowed.is_set(nowhere).unwrap() {
            std::thread::spawn(move || assert_eq!(pin(&[nowhere]), Err(Errno::EINVAL)))
                .join()
                .unwrap();
        }
    }
}
