//! Opening and closing: counted here per descriptor, registered at the MDT per client.
//!
//! DATA is never held for reading only while a writer is open here (a shared mapping could dirty pages without a word),
//! so opening for writing turns such a lease into one for writing first, at a time when no page is locked.

use std::sync::{Arc, MutexGuard};

use sheen_ports::Cancel;
use sheen_types::{Errno, attributes::frozen};
use sheen_wire::{
    Opcode,
    metadata::{Close, EntryReply, Open, OpenReply},
};

use crate::{
    client::Client,
    create::NewOpen,
    data_lease::DataMode,
    inode::{Inode, InodeState, Registered},
    lease::LAYOUT_ROOM,
    lock_order::LockOwner,
    request::{Reply, Request, Then},
    slots::CANCEL_POLL,
};

/// What opening told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpenState {
    /// Another client has it open, and one of all openers writes: the page cache is of no use.
    pub shared: bool,
}

impl Client {
    /// Opens a file once more.
    ///
    /// # Errors
    /// EPERM for an immutable or append-only file, ENFILE when this client has as much of the MDT's table as there is for
    /// it, ESTALE, ENOENT, EIO when the file's handles were lost and not all are
    /// closed yet, EINTR.
    pub fn open(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        open: NewOpen,
        cancel: &Cancel,
    ) -> Result<OpenState, Errno> {
        self.wait_valid(cancel)?;
        self.wait_void(inode, cancel)?;
        let state = start(inode, cancel)?;
        let failed = state.failed;
        drop(state);
        let result = if failed { Err(Errno::EIO) } else { self.open_alone(inode, open, cancel) };
        let unused = {
            let mut state = inode.lock();
            state.opening = false;
            result.is_err() && state.readers + state.writers == 0
        };
        inode.notify();
        if unused {
            self.unregister(inode, cancel);
        }
        result
    }

    fn open_alone(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        NewOpen { read, write, append }: NewOpen,
        cancel: &Cancel,
    ) -> Result<OpenState, Errno> {
        let wanted = if write { Registered::Write } else { Registered::Read };
        if inode.lock().registered < wanted {
            self.register(inode, wanted, append, cancel)?;
        } else if write {
            // The MDT is not asked again whether the file may be written.
            let (attributes, _) = self.metadata_attributes(inode, cancel)?;
            if frozen::refuses_open(attributes.flags, append) {
                return Err(Errno::EPERM);
            }
        }
        loop {
            let mut state = inode.lock();
            if write && state.data.revoking {
                state = inode.wait(state, CANCEL_POLL);
                drop(state);
                if cancel.is_cancelled() {
                    return Err(Errno::EINTR);
                }
                continue;
            }
            if write && state.data.mode == DataMode::Read {
                drop(state);
                self.request_data(inode, DataMode::Write, cancel)?;
                continue;
            }
            *(if write { &mut state.writers } else { &mut state.readers }) += 1;
            state.mappable |= read && write;
            return Ok(OpenState { shared: state.shared });
        }
    }

    pub(crate) fn register(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        wanted: Registered,
        append: bool,
        cancel: &Cancel,
    ) -> Result<(), Errno> {
        let stamp = self.stamp();
        let write = wanted == Registered::Write;
        let body = Open { fid: inode.fid, write, append };
        // The kernel writes no page of a file back while it is opened to be cut.
        let request = Request::new(Opcode::Open, &body).with_room(LAYOUT_ROOM).about(inode);
        let reply = self.ask_then(request, Then::Close(inode.clone()), cancel)?;
        let opened: OpenReply = reply.decode()?;
        let settled = self.settle(inode, &reply, stamp, &opened.attributes, &opened.lease);
        if !settled.fresh {
            self.keep_layout(inode, &reply);
        }
        let mut state = inode.lock();
        state.registered = state.registered.max(wanted);
        state.shared = opened.shared;
        state.looked_up = None;
        drop(state);
        inode.notify();
        Ok(())
    }

    /// Closes what [`Client::open`] or [`Client::create`] opened. Waits for the server unless cancelled; it is closed then
    /// all the same, only the server hears of it later or not at all.
    pub fn close(self: &Arc<Self>, inode: &Arc<Inode>, write: bool, cancel: &Cancel) {
        let _closing = self.space.closing();
        let Ok(mut state) = start(inode, cancel) else {
            // Another waits for the server; this one's time will come.
            let inode = inode.clone();
            // It may have to wait for the targets of the file, too.
            let targets = inode.lock().targets();
            let close = move |client: &Arc<Self>| client.close(&inode, write, &Cancel::new());
            return self.give_back(targets, close);
        };
        *(if write { &mut state.writers } else { &mut state.readers }) -= 1;
        let last = state.readers + state.writers == 0;
        if last {
            state.failed = false;
        }
        let rest = if state.writers == 0 { state.gather_rest() } else { None };
        state.mappable &= state.writers > 0;
        let nameless = last && state.nameless && !state.kept;
        drop(state);
        if let Some(range) = rest {
            self.pack_gathered(inode, range, cancel);
        }
        self.unregister(inode, cancel);
        inode.lock().opening = false;
        inode.notify();
        if nameless {
            // Somebody may go on to use it without an open.
            self.look_for_use(inode.fid, true);
        }
    }

    /// Takes back at the MDT what no descriptor needs any more.
    pub(crate) fn unregister(self: &Arc<Self>, inode: &Arc<Inode>, cancel: &Cancel) {
        let needed;
        {
            let mut state = inode.lock();
            needed = match (state.readers, state.writers) {
                (0, 0) if !state.kept => Registered::No,
                (_, 0) => Registered::Read,
                _ => Registered::Write,
            };
            if state.registered <= needed {
                return;
            }
            state.registered = needed;
        }
        let body = Close { fid: inode.fid, write_only: needed == Registered::Read };
        if let Err(errno) = self.ask(Request::new(Opcode::Close, &body).urgent(), cancel) {
            tracing::debug!(%errno, fid = %inode.fid, "closing");
        }
    }

    /// Takes back what came of a request whose caller left.
    pub(crate) fn end_left(self: &Arc<Self>, then: Then, reply: &Reply) {
        match then {
            Then::Nothing => {}
            Then::Close(inode) => self.close_unused(inode),
            Then::CloseCreated => {
                if let Ok(EntryReply { attributes, created: true, .. }) = reply.decode() {
                    self.close_unused(self.inode(attributes.fid));
                }
            }
            Then::Unlock(inode, lock) => {
                // Its owner's end releases it, as long as the owner is there.
                if !inode.lock().locks.has(lock.family, lock.owner) {
                    self.deliver(self.release_of(LockOwner::of(&lock)));
                }
            }
        }
    }

    /// The MDT has a file as open that may be open here or not.
    fn close_unused(&self, inode: Arc<Inode>) {
        self.janitor.owe(move |client| {
            let Ok(mut state) = start(&inode, &Cancel::new()) else { return };
            state.registered = Registered::Write;
            drop(state);
            client.unregister(&inode, &Cancel::new());
            inode.lock().opening = false;
            inode.notify();
        });
    }

    /// Registers a file's descriptors anew after an eviction; those of an inode that is gone fail.
    pub(crate) fn open_again(self: &Arc<Self>, inode: &Arc<Inode>) {
        let never = Cancel::new();
        let Ok(state) = start(inode, &never) else { return };
        let wanted = if state.writers > 0 { Registered::Write } else { Registered::Read };
        let open = state.readers + state.writers > 0;
        let needed = open || state.kept;
        drop(state);
        // Descriptors opened before a file became append-only may go on as they were.
        let result = if needed { self.register(inode, wanted, true, &never) } else { Ok(()) };
        let mut state = inode.lock();
        if let Err(errno) = result {
            tracing::warn!(fid = %inode.fid, %errno, "an open file was lost");
            state.failed = open;
            state.kept = false;
        }
        state.opening = false;
        drop(state);
        inode.notify();
    }
}

/// Opens and closes of one inode go one after the other.
pub(crate) fn start<'a>(
    inode: &'a Inode,
    cancel: &Cancel,
) -> Result<MutexGuard<'a, InodeState>, Errno> {
    let mut state = inode.lock();
    while state.opening {
        if cancel.is_cancelled() {
            return Err(Errno::EINTR);
        }
        state = inode.wait(state, CANCEL_POLL);
    }
    state.opening = true;
    Ok(state)
}
