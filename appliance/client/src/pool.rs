//! A few threads that carry pieces of a transfer at the same time.

use std::{
    fmt,
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
};

type Task = Box<dyn FnOnce() + Send>;

/// Threads and their queue. Tasks must end by themselves and not wait for other tasks.
pub(crate) struct Pool {
    queue: Mutex<Option<SyncSender<Task>>>,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pool")
    }
}

impl Pool {
    /// With `threads` threads; they end when the pool is closed.
    pub(crate) fn new(threads: usize) -> Self {
        let (sender, receiver) = sync_channel::<Task>(threads.max(1) * 16);
        let receiver = Arc::new(Mutex::new(receiver));
        for number in 0..threads.max(1) {
            let receiver = receiver.clone();
            let name = format!("sheen-piece-{number}");
            let spawned = std::thread::Builder::new().name(name).spawn(move || work(&receiver));
            if let Err(error) = spawned {
                tracing::error!(%error, "no thread for transfers");
            }
        }
        Self { queue: Mutex::new(Some(sender)) }
    }

    /// No more tasks.
    pub(crate) fn close(&self) {
        self.queue.lock().expect("no panic while locked").take();
    }

    /// Runs all of `tasks` at the same time, the last one on this thread; results in their order.
    pub(crate) fn run_all<R: Send + 'static>(
        &self,
        mut tasks: Vec<Box<dyn FnOnce() -> R + Send>>,
    ) -> Vec<R> {
        let Some(last) = tasks.pop() else { return Vec::new() };
        if tasks.is_empty() {
            return vec![last()];
        }
        let queue = self.queue.lock().expect("no panic while locked").clone();
        let (results, finished) = std::sync::mpsc::channel();
        let count = tasks.len();
        let mut ordered: Vec<Option<R>> = (0..=count).map(|_| None).collect();
        for (index, task) in tasks.into_iter().enumerate() {
            let results = results.clone();
            // The receiver is gone only if this thread panicked.
            let task: Task = Box::new(move || drop(results.send((index, task()))));
            let refused = match &queue {
                Some(queue) => queue.send(task).err().map(|error| error.0),
                None => Some(task),
            };
            if let Some(task) = refused {
                task();
            }
        }
        drop(results);
        ordered[count] = Some(last());
        for (index, result) in finished {
            ordered[index] = Some(result);
        }
        ordered.into_iter().flatten().collect()
    }
}

fn work(queue: &Mutex<Receiver<Task>>) {
    loop {
        let task = queue.lock().expect("no panic while locked").recv();
        let Ok(task) = task else { return };
        task();
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn results_come_in_the_order_of_their_tasks() {
        let pool = Pool::new(3);
        let tasks: Vec<Box<dyn FnOnce() -> u32 + Send>> =
            (0..50_u32).map(|i| Box::new(move || i) as Box<dyn FnOnce() -> u32 + Send>).collect();
        assert_eq!(pool.run_all(tasks), (0..50).collect::<Vec<_>>());
        pool.close();
        let tasks: Vec<Box<dyn FnOnce() -> u32 + Send>> = vec![Box::new(|| 1), Box::new(|| 2)];
        assert_eq!(pool.run_all(tasks), [1, 2], "a closed pool leaves the work to the caller");
    }
}
