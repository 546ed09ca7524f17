//! Pages the kernel has and must not keep though no lease is given back: a write went past them, or to another place.
//!
//! - A write that bypasses the page cache (`O_DIRECT`) has the kernel drop the pages of its range before and, unless it is
//!   asynchronous, after: what a buffered read puts there meanwhile stays old else (Linux 6.18, `generic_file_direct_write`).
//! - An append through the page cache goes into the pages where the kernel believes the end to be. An open file becomes one
//!   by `fcntl(F_SETFL)` without a word; if another mount made the file longer, its end is elsewhere.
//!
//! The answer to the write cannot wait for the drop, since its pages may be locked until the answer. But it makes the
//! kernel's attributes invalid first, and with those invalid a reader asks for attributes before it looks at pages: that
//! answer waits. Mappings ask nobody, and show old bytes for the moment it takes.

use std::{ops::Range, sync::Arc, time::Duration};

use sheen_ports::Cancel;
use sheen_types::{Errno, Tick};

use crate::{client::Client, inode::Inode, slots::CANCEL_POLL};

/// How long after pages were last filled a write past them may have been begun before that. A write that was held up in the
/// kernel for longer than this leaves them old.
const FILLED_LATELY: Duration = Duration::from_secs(60);

/// Pages of an inode are being dropped, until this is.
struct Dropping(Arc<Inode>);

impl Drop for Dropping {
    fn drop(&mut self) {
        self.0.lock().dropping -= 1;
        self.0.notify();
    }
}

impl Client {
    /// Pages of the inode are filled for the kernel.
    pub(crate) fn note_pages(&self, inode: &Inode) {
        inode.lock().pages_filled = Some(self.clock.now());
    }

    /// A write past the page cache ended that the kernel may not wait for: pages of its range that were filled meanwhile go.
    pub fn wrote_past_pages(self: &Arc<Self>, inode: &Arc<Inode>, range: Range<u64>) {
        if inode.lock().may_have_pages(self.clock.now()) {
            self.drop_pages(inode, range);
        }
    }

    /// Drops pages of the kernel's, behind the answer that is about to be given; whoever asks for attributes waits.
    pub(crate) fn drop_pages(self: &Arc<Self>, inode: &Arc<Inode>, range: Range<u64>) {
        let targets = {
            let mut state = inode.lock();
            state.dropping += 1;
            state.targets()
        };
        let dropping = Dropping(inode.clone());
        self.sink().invalidate_attributes(inode.fid);
        self.give_back(targets, move |client| {
            client.sink().invalidate_data(dropping.0.fid, range);
        });
    }

    /// Waits until no page of the inode shows what is not true any more. Not for those who hold pages locked.
    ///
    /// # Errors
    /// EINTR when cancelled.
    pub(crate) fn wait_pages(&self, inode: &Inode, cancel: &Cancel) -> Result<(), Errno> {
        let mut state = inode.lock();
        while state.dropping > 0 {
            if cancel.is_cancelled() {
                return Err(Errno::EINTR);
            }
            state = inode.wait(state, CANCEL_POLL);
        }
        Ok(())
    }
}

impl crate::inode::InodeState {
    fn may_have_pages(&self, now: Tick) -> bool {
        self.pages_filled.is_some_and(|at| now.since(at) < FILLED_LATELY)
    }
}

#[cfg(test)]
mod test {
    use std::sync::{Condvar, Mutex, mpsc};

    use sheen_types::Fid;

    use super::*;
    use crate::{
        Access, CacheSink, WriteOptions,
        fake::{FILE, Fake},
        scenarios::{WRITE, buffer_with, read, start},
    };

    /// Pages that are locked until the test says otherwise.
    #[derive(Default)]
    struct Pages {
        locked: Mutex<bool>,
        unlocked: Condvar,
        told: Mutex<Vec<Range<u64>>>,
        attributes: Mutex<usize>,
    }

    impl Pages {
        fn unlock(&self) {
            *self.locked.lock().unwrap() = false;
            self.unlocked.notify_all();
        }
    }

    impl CacheSink for Pages {
        fn invalidate_data(&self, _: Fid, range: Range<u64>) {
            let locked = self.locked.lock().unwrap();
            drop(self.unlocked.wait_while(locked, |locked| *locked).unwrap());
            self.told.lock().unwrap().push(range);
        }

        fn invalidate_attributes(&self, _: Fid) {
            *self.attributes.lock().unwrap() += 1;
        }

        fn invalidate_entries(&self) {}
    }

    struct World {
        fake: Fake,
        client: Arc<Client>,
        file: Arc<Inode>,
        pages: Arc<Pages>,
    }

    /// A file of seven bytes that was opened for writing and read through pages, which are locked now.
    fn world() -> World {
        let (fake, client) = start();
        let file = client.inode(FILE);
        let pages = Arc::new(Pages::default());
        client.set_sink(pages.clone());
        fake.change(|state| state.write_as_another(0, b"content"));
        client.open(&file, WRITE, &Cancel::new()).unwrap();
        *pages.locked.lock().unwrap() = true;
        World { fake, client, file, pages }
    }

    impl World {
        fn fill(&self) {
            let room = self.fake.buffer(7);
            self.client.read(&self.file, 0, room, Access::Cached, &Cancel::new()).unwrap();
        }

        fn append(&self, at: u64) {
            let options = WriteOptions { append: true, durable: false, access: Access::Cached };
            let payload = buffer_with(&self.fake, b"more");
            self.client.write(&self.file, at, payload, &options, &Cancel::new()).unwrap();
        }

        /// Nobody learns attributes before the pages are dropped; returns what was, which is one range.
        fn dropped_before_attributes(&self) -> Range<u64> {
            let (sender, learned) = mpsc::channel();
            let (client, file) = (self.client.clone(), self.file.clone());
            std::thread::spawn(move || {
                let observed = client.attributes(&file, &Cancel::new());
                sender.send(observed.map(drop))
            });
            let early = learned.recv_timeout(Duration::from_millis(100));
            assert!(early.is_err(), "{early:?} while pages are locked");
            assert!(*self.pages.attributes.lock().unwrap() > 0, "the kernel would not ask");
            self.pages.unlock();
            learned.recv_timeout(Duration::from_secs(1)).unwrap().unwrap();
            self.client.disconnect();
            let told = self.pages.told.lock().unwrap();
            assert_eq!(told.len(), 1, "{told:?}");
            told[0].clone()
        }
    }

    #[test]
    fn what_was_read_beside_a_write_past_the_pages_is_dropped_before_anybody_learns_attributes() {
        let world = world();
        world.fill();
        world.client.wrote_past_pages(&world.file, 2..4);
        assert_eq!(world.dropped_before_attributes(), 2..4);
    }

    #[test]
    fn without_pages_nothing_is_dropped() {
        let world = world();
        assert_eq!(read(&world.fake, &world.client, &world.file, 0, 7), b"content");
        world.client.wrote_past_pages(&world.file, 2..4);
        assert_eq!(world.file.lock().dropping, 0);
        assert_eq!(*world.pages.attributes.lock().unwrap(), 0);
        world.client.disconnect();
    }

    #[test]
    fn an_append_that_the_kernel_put_elsewhere_is_dropped_from_there_on() {
        let world = world();
        world.append(3);
        assert_eq!(read(&world.fake, &world.client, &world.file, 0, 20), b"contentmore");
        assert_eq!(world.dropped_before_attributes(), 3..u64::MAX);
    }

    #[test]
    fn an_append_where_the_kernel_put_it_stays() {
        let world = world();
        world.append(7);
        assert_eq!(world.file.lock().dropping, 0);
        world.client.disconnect();
    }
}
