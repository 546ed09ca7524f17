//! A file or kernel block device by io_uring.
//!
//! Owns a ring, an open file registered with it, and the buffers of the commands in flight. One thread drives it;
//! several instances may have the same file open. `submit` only fills the submission queue, `ring` is one system call
//! for all of it, `poll` reads the completion queue in memory. Invariant: a slot in use has exactly one entry in the
//! submission queue, the kernel or the completion queue; so no queue can overflow. Buffers of registered arenas are known to the
//! kernel: it need not look up and pin their pages for each command. Short ones on files in memory pass by it (`super::at_once`).
//!
//! Deliberately absent: polled I/O (not on files).

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd, RawFd},
    path::Path,
};

use io_uring::{IoUring, opcode, squeue, types::Fixed, types::FsyncFlags};
use sheen_dma::{Arena, Buffer};
use sheen_ports::{
    Block, BlockCommand, BlockCompletion, BlockError, BlockGeometry, BlockOperation,
};
use sheen_types::{
    Lba,
    units::{BLOCK_BYTES_U64, TRANSFER_BYTES_MAX},
};

use super::{
    at_once::AtOnce,
    failure::{block_error, is_transient},
    file::{self, OpenError},
    slots::{Slot, Slots, Work},
};

/// Deepest queue that may be asked for; io_uring takes up to 32,768 entries.
pub const QUEUE_DEPTH_MAX: u32 = 4096;
/// Address alignment of buffers in bytes: the coarsest `dma_alignment` the kernel reports.
const BUFFER_ALIGNMENT: usize = 512;
/// How often a command is sent again after a transient refusal before the caller hears of it. Chosen by eye.
const ATTEMPTS_MAX: u32 = 16;
/// The registered file.
const FILE: Fixed = Fixed(0);
/// Arenas that are registered; buffers of others cost the kernel a look-up each time.
const ARENAS_MAX: u16 = 4;
/// Largest arena the kernel registers as one buffer.
const ARENA_BYTES_MAX: usize = 1 << 30;

/// A device. See the module.
pub struct UringFile {
    ring: IoUring,
    slots: Slots,
    geometry: BlockGeometry,
    direct: bool,
    is_file: bool,
    /// Set when the file system refused to punch a hole: further discards are answered without asking.
    discard_refused: bool,
    /// Entries were staged that no call of `ring` will follow.
    must_enter: bool,
    /// What `submit` carries out itself; with the slots in use no more than the queue is deep.
    at_once: AtOnce,
    /// Kept open for the ring.
    file: File,
    /// Registered with the ring, which is dropped before them; a place in here is the number the kernel knows.
    arenas: Vec<Arena>,
}

impl std::fmt::Debug for UringFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut debug = f.debug_struct("UringFile");
        debug.field("geometry", &self.geometry).field("direct", &self.direct);
        debug.field("in_flight", &self.slots.in_use()).finish_non_exhaustive()
    }
}

impl UringFile {
    /// Opens `path`, a regular file or block device, for `queue_depth` commands in flight
    /// (1..=[`QUEUE_DEPTH_MAX`], clamped).
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(path: &Path, queue_depth: u32) -> Result<Self, OpenError> {
        let queue_depth = queue_depth.clamp(1, QUEUE_DEPTH_MAX);
        let opened = file::open(path)?;
        let failed = |source| OpenError::Ring { path: path.into(), source };
        let ring = Self::build_ring(queue_depth).map_err(failed)?;
        ring.submitter().register_files(&[opened.file.as_raw_fd()]).map_err(failed)?;
        let geometry = BlockGeometry {
            blocks: opened.blocks,
            volatile_write_cache: opened.volatile_write_cache,
            atomic_write_blocks: 1,
            queue_depth: queue_depth as usize,
            transfer_blocks_max: 256,
        };
        Ok(Self {
            ring,
            slots: Slots::new(queue_depth),
            geometry,
            direct: opened.direct,
            is_file: opened.is_file,
            discard_refused: false,
            must_enter: false,
            at_once: AtOnce::new(&opened.file),
            file: opened.file,
            arenas: Vec::new(),
        })
    }

    /// Whether commands with buffers of this arena go without a look-up of their pages ([`Block::register`]).
    #[must_use]
    pub fn is_registered(&self, arena: &Arena) -> bool {
        self.arenas.iter().any(|other| other.is_same(arena))
    }

    /// Registers an arena; its pages stay in memory from here on.
    fn register_arena(&mut self, arena: &Arena) -> io::Result<()> {
        let number = u16::try_from(self.arenas.len()).unwrap_or(ARENAS_MAX);
        if number >= ARENAS_MAX || arena.bytes() > ARENA_BYTES_MAX {
            return Err(io::Error::from_raw_os_error(libc::EFBIG));
        }
        let submitter = self.ring.submitter();
        if number == 0 {
            submitter.register_buffers_sparse(u32::from(ARENAS_MAX))?;
        }
        let base = std::ptr::with_exposed_provenance_mut(arena.base_address());
        let whole = [libc::iovec { iov_base: base, iov_len: arena.bytes() }];
        // SAFETY: the range is the arena's whole mapping, which lives as long as its clone in `self.arenas`; that is dropped
        // after the ring.
        unsafe { submitter.register_buffers_update(u32::from(number), &whole, None) }?;
        self.arenas.push(arena.clone());
        Ok(())
    }

    /// Completions need no interrupt of the polling thread where the kernel can do without (5.19).
    fn build_ring(queue_depth: u32) -> io::Result<IoUring> {
        let entries = queue_depth.next_power_of_two();
        let mut quiet = IoUring::builder();
        quiet.dontfork().setup_submit_all().setup_coop_taskrun().setup_taskrun_flag();
        quiet.build(entries).or_else(|_| IoUring::builder().dontfork().build(entries))
    }

    /// Whether transfers go around the page cache. If not, the file system has no direct I/O.
    #[must_use]
    pub const fn is_direct(&self) -> bool {
        self.direct
    }

    fn check_buffer(&self, lba: Lba, buffer: &Buffer) -> bool {
        let bytes = buffer.len();
        bytes <= TRANSFER_BYTES_MAX
            && buffer.as_ptr().addr().is_multiple_of(BUFFER_ALIGNMENT)
            && (bytes as u64).is_multiple_of(BLOCK_BYTES_U64)
            && self.check_range(lba, bytes as u64 / BLOCK_BYTES_U64)
    }

    fn check_range(&self, lba: Lba, blocks: u64) -> bool {
        let end = lba.0.checked_add(blocks);
        blocks > 0 && end.is_some_and(|end| end <= self.geometry.blocks)
    }

    /// What a command asks of the kernel; a malformed one asks for nothing but its completion.
    fn work(&self, operation: BlockOperation) -> Work {
        match operation {
            BlockOperation::Read { lba, buffer } if self.check_buffer(lba, &buffer) => {
                Work::Read { buffer, offset: lba.byte_offset() }
            }
            BlockOperation::Write { lba, buffer, durable } if self.check_buffer(lba, &buffer) => {
                Work::Write { buffer, offset: lba.byte_offset(), durable }
            }
            BlockOperation::Discard { lba, blocks } if self.check_range(lba, blocks) => {
                Work::Discard { offset: lba.byte_offset(), bytes: blocks * BLOCK_BYTES_U64 }
            }
            BlockOperation::Flush => Work::Flush,
            BlockOperation::Read { buffer, .. } | BlockOperation::Write { buffer, .. } => {
                Work::Refused(Some(buffer))
            }
            BlockOperation::Discard { .. } => Work::Refused(None),
        }
    }

    /// Puts the rest of a slot's work into the submission queue.
    fn stage(&mut self, number: u32) {
        let discard_refused = self.discard_refused;
        let slot = self.slots.get_mut(number);
        let entry = entry(slot, &self.arenas, discard_refused).user_data(u64::from(number));
        // SAFETY: the entry points into a buffer that its slot owns; the slot keeps it until the completion was seen,
        // and `Drop` waits for completions or leaks the buffer. The file is registered and open as long as the ring.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        assert!(
            pushed.is_ok(),
            "a slot has one entry, and the queue has as many as there are slots"
        );
    }

    /// Shows the kernel what is staged. What it does not take now (it is short of memory) stays staged.
    fn enter(&mut self) {
        for _ in 0..ATTEMPTS_MAX {
            self.must_enter = !self.ring.submission().is_empty();
            if !self.must_enter {
                return;
            }
            match self.ring.submitter().submit() {
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
                Err(_) => return,
            }
        }
    }

    /// Books a completion. None: the command goes on, its rest is staged again.
    fn advance(&mut self, number: u32, result: i32) -> Option<BlockCompletion> {
        let slot = self.slots.get_mut(number);
        let result = match (&slot.work, usize::try_from(result)) {
            (Work::Refused(_), _) => Err(BlockError::Rejected),
            (_, Err(_)) if is_transient(-result) && slot.attempts < ATTEMPTS_MAX => {
                slot.attempts += 1;
                self.stage(number);
                self.must_enter = true;
                return None;
            }
            (Work::Discard { .. }, Err(_))
                if matches!(-result, libc::EOPNOTSUPP | libc::ENOSYS) =>
            {
                // A discard is a hint: what cannot be discarded stays.
                self.discard_refused = true;
                Ok(())
            }
            (_, Err(_)) => Err(block_error(-result)),
            (Work::Flush | Work::Discard { .. }, Ok(_)) => Ok(()),
            (Work::Read { buffer, .. } | Work::Write { buffer, .. }, Ok(bytes)) => {
                let left = buffer.len() - slot.done;
                assert!(bytes <= left, "the kernel moved {bytes} bytes of {left}");
                if bytes == left {
                    Ok(())
                } else if bytes < BUFFER_ALIGNMENT {
                    Err(slot.work.short_end())
                } else {
                    // Direct I/O goes on at a sector; a part of one is done again.
                    slot.done += bytes / BUFFER_ALIGNMENT * BUFFER_ALIGNMENT;
                    self.stage(number);
                    self.must_enter = true;
                    return None;
                }
            }
        };
        let slot = self.slots.remove(number);
        let buffer = match slot.work {
            Work::Read { buffer, .. } | Work::Write { buffer, .. } => Some(buffer),
            Work::Refused(buffer) => buffer,
            Work::Flush | Work::Discard { .. } => None,
        };
        Some(BlockCompletion { token: slot.token, buffer, result })
    }
}

/// The submission queue entry for the rest of a slot's work.
fn entry(slot: &Slot, arenas: &[Arena], discard_refused: bool) -> squeue::Entry {
    let done = slot.done;
    let rest = |buffer: &Buffer| {
        let bytes = u32::try_from(buffer.len() - done).expect("transfers are at most 1 MiB");
        let number = arenas.iter().position(|arena| buffer.is_of(arena));
        let number = number.and_then(|number| u16::try_from(number).ok());
        (buffer.as_ptr().wrapping_add(done), bytes, number)
    };
    match &slot.work {
        Work::Read { buffer, offset } => {
            let at = offset + done as u64;
            match rest(buffer) {
                (address, bytes, Some(arena)) => {
                    opcode::ReadFixed::new(FILE, address, bytes, arena).offset(at).build()
                }
                (address, bytes, None) => {
                    opcode::Read::new(FILE, address, bytes).offset(at).build()
                }
            }
        }
        Work::Write { buffer, offset, durable } => {
            let (at, flags) = (offset + done as u64, if *durable { libc::RWF_DSYNC } else { 0 });
            match rest(buffer) {
                (address, bytes, Some(arena)) => {
                    let write = opcode::WriteFixed::new(FILE, address, bytes, arena);
                    write.offset(at).rw_flags(flags).build()
                }
                (address, bytes, None) => {
                    opcode::Write::new(FILE, address, bytes).offset(at).rw_flags(flags).build()
                }
            }
        }
        Work::Flush => opcode::Fsync::new(FILE).flags(FsyncFlags::DATASYNC).build(),
        Work::Discard { .. } if discard_refused => opcode::Nop::new().build(),
        Work::Discard { offset, bytes } => {
            let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
            opcode::Fallocate::new(FILE, *bytes).offset(*offset).mode(mode).build()
        }
        Work::Refused(_) => opcode::Nop::new().build(),
    }
}

impl Block for UringFile {
    fn geometry(&self) -> BlockGeometry {
        self.geometry
    }

    fn host_blocks_free(&self) -> Option<u64> {
        let asked = self.is_file.then(|| nix::sys::statvfs::fstatvfs(&self.file));
        let facts = asked?.ok()?;
        Some(facts.blocks_available().saturating_mul(facts.fragment_size()) / BLOCK_BYTES_U64)
    }

    fn submit(&mut self, command: BlockCommand) -> Result<(), BlockCommand> {
        if self.in_flight() >= self.geometry.queue_depth {
            return Err(command);
        }
        let BlockCommand { token, operation } = command;
        let work = self.work(operation);
        let Some(work) = self.at_once.carry_out(&self.file, token, work) else { return Ok(()) };
        let slot = Slot { token, work, done: 0, attempts: 0 };
        let number = self.slots.insert(slot);
        self.stage(number);
        Ok(())
    }

    fn ring(&mut self) {
        self.enter();
    }

    fn poll(&mut self, completions: &mut Vec<BlockCompletion>) -> usize {
        if self.ring.completion().is_empty() && self.ring.submission().taskrun() {
            // The kernel has completions to post and waits for this thread to pass by. Failing is trying later.
            let _ = self.ring.submitter().submit();
        }
        let before = completions.len();
        self.at_once.poll(completions);
        // Bounded by the commands in flight: what is staged again is not completed in this loop.
        for _ in 0..self.slots.in_use() {
            let Some(event) = self.ring.completion().next() else { break };
            let number = u32::try_from(event.user_data()).expect("user data are slot numbers");
            completions.extend(self.advance(number, event.result()));
        }
        if self.must_enter {
            self.enter();
        }
        completions.len() - before
    }

    fn in_flight(&self) -> usize {
        self.slots.in_use() + self.at_once.ended()
    }

    fn prepare_sleep(&mut self) -> bool {
        self.at_once.ended() == 0
    }

    fn wake_descriptor(&self) -> Option<RawFd> {
        Some(self.ring.as_raw_fd())
    }

    /// Makes commands with buffers of the arena cheaper. Where the system refuses (an old kernel, the limit on locked memory
    /// of `ulimit -l`), they cost what they cost.
    fn register(&mut self, arena: &Arena) -> Result<(), BlockError> {
        if !self.is_registered(arena)
            && let Err(error) = self.register_arena(arena)
        {
            tracing::info!(
                bytes = arena.bytes(),
                "an arena is not registered with io_uring: {error}"
            );
        }
        Ok(())
    }
}

impl Drop for UringFile {
    /// Waits until the kernel lets go of every buffer.
    fn drop(&mut self) {
        let mut completions = Vec::new();
        while self.slots.in_use() > 0 {
            if self.poll(&mut completions) > 0 {
                continue;
            }
            match self.ring.submitter().submit_and_wait(1) {
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
                Err(_) => {
                    // The kernel may still write into these buffers: they are never given out again.
                    self.slots.drain().into_iter().for_each(std::mem::forget);
                    return;
                }
            }
        }
    }
}
