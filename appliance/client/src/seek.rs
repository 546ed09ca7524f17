//! `SEEK_DATA` and `SEEK_HOLE` over the stripes of a file.

use std::sync::Arc;

use sheen_ports::Cancel;
use sheen_types::{Errno, Layout};
use sheen_wire::{
    Opcode,
    object::{ObjectSeek, SeekReply, SeekTarget},
};

use crate::{
    client::Client, data_lease::Access, hold::Purpose, inode::Inode, inode::Known,
    object_request::ObjectRequest, slots::CANCEL_POLL,
};

/// Who waits until the kernel has dropped its pages of a file: each for a drop that begins after it came.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PageDrops {
    asked: u64,
    done: u64,
    /// From where the next drop is to be; None: nobody asked since the last one began.
    from: Option<u64>,
    /// A thread is at it.
    working: bool,
}

impl PageDrops {
    /// Somebody came: its number, and whether a thread must begin.
    fn ask(&mut self, offset: u64) -> (u64, bool) {
        self.asked += 1;
        self.from = Some(self.from.map_or(offset, |from| from.min(offset)));
        (self.asked, !std::mem::replace(&mut self.working, true))
    }

    /// What the thread does next: for all up to this number, from this offset on. None: it ends.
    fn next(&mut self) -> Option<(u64, u64)> {
        let next = self.from.take();
        self.working = next.is_some();
        next.map(|from| (self.asked, from))
    }
}

impl Client {
    /// The first data (or hole) at or behind `offset`; the end of the file counts as a hole.
    ///
    /// # Errors
    /// ENXIO behind the end, or when no data follows; EINTR.
    pub fn seek(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        offset: u64,
        target: SeekTarget,
        cancel: &Cancel,
    ) -> Result<u64, Errno> {
        if inode.lock().writers > 0 {
            // Pages that a mapping made dirty are data the objects do not know of, and the kernel does not write them first.
            self.have_pages_written(inode, offset, cancel)?;
        }
        let (layout, hold) = loop {
            let layout = self.layout(inode, cancel)?;
            let whole = 0..u64::MAX;
            let hold = self.hold(inode, Purpose::Read, Access::Direct, whole, cancel)?;
            if inode.has_layout(&layout) {
                break (layout, hold);
            }
        };
        let size = self.content(inode, &layout, Known::default(), cancel)?.size;
        if offset >= size {
            return Err(Errno::ENXIO);
        }
        let found = self.seek_in(&layout, offset, target, cancel)?;
        drop(hold);
        match target {
            SeekTarget::Hole => Ok(found.unwrap_or(size).min(size)),
            SeekTarget::Data => found.filter(|at| *at < size).ok_or(Errno::ENXIO),
        }
    }

    /// Has the kernel drop its pages of the file from `offset` on, which writes the dirty ones, and waits for that. Another
    /// thread does it: who is in the kernel for it learns of no signal to its caller. One for each file does it for all.
    pub(crate) fn have_pages_written(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        offset: u64,
        cancel: &Cancel,
    ) -> Result<(), Errno> {
        let mut state = inode.lock();
        let (turn, begins) = state.page_drops.ask(offset);
        if begins {
            let mut class = state.targets();
            drop(state);
            class.extend(self.unstable.targets_of(inode.fid));
            let dropped = inode.clone();
            self.give_back(class, move |client| client.drop_asked_pages(&dropped));
            state = inode.lock();
        }
        while state.page_drops.done < turn && !self.session.is_ended() {
            if cancel.is_cancelled() {
                return Err(Errno::EINTR);
            }
            state = inode.wait(state, CANCEL_POLL);
        }
        Ok(())
    }

    fn drop_asked_pages(&self, inode: &Inode) {
        let mut state = inode.lock();
        while let Some((turn, offset)) = state.page_drops.next() {
            drop(state);
            self.sink().invalidate_data(inode.fid, offset..u64::MAX);
            state = inode.lock();
            state.page_drops.done = turn;
            inode.notify();
        }
    }

    /// The first in any object, by offset in the file.
    fn seek_in(
        self: &Arc<Self>,
        layout: &Layout,
        offset: u64,
        target: SeekTarget,
        cancel: &Cancel,
    ) -> Result<Option<u64>, Errno> {
        for component in layout.components.iter().filter(|c| offset < c.end) {
            let start = offset.max(component.start);
            if !component.is_instantiated() {
                if target == SeekTarget::Hole {
                    return Ok(Some(start));
                }
                continue;
            }
            let mut first = None;
            for (stripe, object) in component.objects.iter().enumerate() {
                let object_offset = component.object_size(stripe, start);
                let body = ObjectSeek {
                    ost: object.ost,
                    object: object.object,
                    offset: object_offset,
                    target,
                };
                let request = ObjectRequest::new(object.ost, Opcode::ObjectSeek, &body);
                let at = match self.ask_object(request, cancel) {
                    Ok(reply) => reply.decode::<SeekReply>()?.offset,
                    // Behind the object's end: all hole, and no data.
                    Err(Errno::ENXIO) if target == SeekTarget::Hole => object_offset,
                    Err(Errno::ENXIO) => continue,
                    Err(errno) => return Err(errno),
                };
                let at = component.file_offset(stripe, at);
                first = Some(first.map_or(at, |first: u64| first.min(at)));
            }
            if let Some(at) = first.filter(|at| *at < component.end) {
                return Ok(Some(at));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod test {
    use std::{
        ops::Range,
        sync::{Mutex, mpsc},
        time::Duration,
    };

    use sheen_types::Fid;

    use super::*;
    use crate::{
        CacheSink,
        fake::{FILE, Fake},
        scenarios::{READ, WRITE, start, write},
    };

    /// A kernel with dirty pages: they are written when it is told to drop its pages.
    struct Dirty {
        fake: Fake,
        dropped: Mutex<Vec<(Range<u64>, usize)>>,
    }

    impl CacheSink for Dirty {
        fn invalidate_data(&self, _: Fid, range: Range<u64>) {
            let asked = self.fake.sent(Opcode::ObjectSeek).len();
            self.dropped.lock().unwrap().push((range, asked));
        }

        fn invalidate_attributes(&self, _: Fid) {}

        fn invalidate_entries(&self) {}
    }

    #[test]
    fn pages_a_mapping_made_dirty_are_written_before_objects_are_asked_for_data() {
        let (fake, client) = start();
        let dirty = Arc::new(Dirty { fake: fake.clone(), dropped: Mutex::default() });
        client.set_sink(dirty.clone());
        let file = client.inode(FILE);
        client.open(&file, READ, &Cancel::new()).unwrap();
        write(&fake, &client, &file, 0, b"content");
        // The fake's objects do not tell where data is; that they are asked is enough.
        client.seek(&file, 3, SeekTarget::Data, &Cancel::new()).unwrap_err();
        assert_eq!(dirty.dropped.lock().unwrap().as_slice(), [], "nobody here can map it to write");
        client.open(&file, WRITE, &Cancel::new()).unwrap();
        let asked = fake.sent(Opcode::ObjectSeek).len();
        client.seek(&file, 3, SeekTarget::Data, &Cancel::new()).unwrap_err();
        assert!(dirty.dropped.lock().unwrap().iter().eq(&[(3..u64::MAX, asked)]));
        assert!(fake.sent(Opcode::ObjectSeek).len() > asked);
        client.disconnect();
    }

    /// A kernel that does not drop its pages before it is told to; says when it was asked to.
    struct Stuck(Mutex<mpsc::Sender<()>>, Mutex<mpsc::Receiver<()>>);

    impl CacheSink for Stuck {
        fn invalidate_data(&self, _: Fid, _: Range<u64>) {
            self.0.lock().unwrap().send(()).unwrap();
            // Ends with an error when the sender is dropped.
            let _released = self.1.lock().unwrap().recv();
        }

        fn invalidate_attributes(&self, _: Fid) {}

        fn invalidate_entries(&self) {}
    }

    #[test]
    fn callers_that_are_killed_leave_pages_that_are_not_written_and_hold_one_thread() {
        let (_fake, client) = start();
        let (asked, came) = mpsc::channel();
        let (release, released) = mpsc::channel();
        client.set_sink(Arc::new(Stuck(Mutex::new(asked), Mutex::new(released))));
        let file = client.inode(FILE);
        client.open(&file, WRITE, &Cancel::new()).unwrap();
        let (ended, results) = mpsc::channel();
        let seek = |cancel: &Cancel| {
            let (client, file, ended) = (client.clone(), file.clone(), ended.clone());
            let cancel = cancel.clone();
            std::thread::spawn(move || {
                ended.send(client.seek(&file, 3, SeekTarget::Data, &cancel))
            });
        };
        let killed = Cancel::new();
        (0..2).for_each(|_| seek(&killed));
        came.recv_timeout(Duration::from_secs(5)).expect("the pages are dropped");
        killed.cancel();
        for _ in 0..2 {
            let result = results.recv_timeout(Duration::from_secs(5)).expect("it can be killed");
            assert_eq!(result, Err(Errno::EINTR));
        }
        assert!(came.try_recv().is_err(), "one thread waits for them all");
        // Pages may have become dirty since that one began.
        let late = Cancel::new();
        seek(&late);
        release.send(()).unwrap();
        came.recv_timeout(Duration::from_secs(5)).expect("the pages are dropped once more");
        assert!(results.try_recv().is_err(), "it waits for that");
        drop(release);
        results.recv_timeout(Duration::from_secs(5)).expect("it goes on").unwrap_err();
        client.disconnect();
    }
}
