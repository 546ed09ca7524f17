//! `fallocate`: space for a range, holes, zeros.

use std::{ops::Range, sync::Arc};

use sheen_ports::Cancel;
use sheen_types::{Errno, Timespec, attributes::frozen};
use sheen_wire::{
    Opcode,
    object::{ObjectAllocate, ObjectPunch, PunchMode, WriteReply},
};

use crate::{
    client::Client,
    data_lease::Access,
    hold::Purpose,
    inode::{Inode, Known},
    layout::{Part, has_objects, parts},
    object_request::ObjectRequest,
    pool::Piece,
    truncate::FILE_BYTES_MAX,
    underway::Underway,
};

const KEEP_SIZE: i32 = 0x01;
const PUNCH_HOLE: i32 = 0x02;
const ZERO_RANGE: i32 = 0x10;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mode {
    Allocate { keep_size: bool },
    Punch,
    Zero { keep_size: bool },
}

impl Mode {
    fn from_bits(mode: i32) -> Result<Self, Errno> {
        let keep_size = mode & KEEP_SIZE != 0;
        match mode & !KEEP_SIZE {
            0 => Ok(Self::Allocate { keep_size }),
            PUNCH_HOLE if keep_size => Ok(Self::Punch),
            ZERO_RANGE => Ok(Self::Zero { keep_size }),
            _ => Err(Errno::EOPNOTSUPP),
        }
    }
}

/// Whether the file's flags allow it; the caller holds the lease.
fn check_frozen(inode: &Inode, mode: Mode) -> Result<(), Errno> {
    let state = inode.lock();
    state.check_may_write()?;
    match mode {
        Mode::Punch | Mode::Zero { .. } if state.frozen & frozen::APPEND != 0 => Err(Errno::EPERM),
        Mode::Allocate { .. } | Mode::Punch | Mode::Zero { .. } => Ok(()),
    }
}

impl Client {
    /// `fallocate` with the `FALLOC_FL_*` bits in `mode`. Collapsing, inserting and unsharing ranges is not offered.
    ///
    /// # Errors
    /// EPERM for an immutable or append-only file, EOPNOTSUPP, ENOSPC, EFBIG, EINVAL, EINTR.
    pub fn allocate(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        range: Range<u64>,
        mode: i32,
        cancel: &Cancel,
    ) -> Result<(), Errno> {
        let mode = Mode::from_bits(mode)?;
        if range.start >= range.end {
            return Err(Errno::EINVAL);
        }
        if range.end > FILE_BYTES_MAX {
            return Err(Errno::EFBIG);
        }
        loop {
            let layout = match mode {
                Mode::Punch => self.layout(inode, cancel)?,
                Mode::Allocate { .. } | Mode::Zero { .. } => {
                    self.layout_with_objects(inode, &range, cancel)?
                }
            };
            let whole = 0..u64::MAX;
            let hold = self.hold(inode, Purpose::Write, Access::Direct, whole, cancel)?;
            if !inode.has_layout(&layout) || (mode != Mode::Punch && !has_objects(&layout, &range))
            {
                drop(hold);
                continue;
            }
            check_frozen(inode, mode)?;
            let mut ranges = vec![(mode, range.clone())];
            if mode == (Mode::Zero { keep_size: true }) {
                // Behind the end all is zero: there is only space to be had.
                let size = self.content(inode, &layout, Known::default(), cancel)?.size;
                let end = size.clamp(range.start, range.end);
                let behind = (Mode::Allocate { keep_size: true }, end..range.end);
                ranges = vec![(mode, range.start..end), behind];
            }
            let parts: Vec<(Mode, Part)> = ranges
                .iter()
                .flat_map(|(mode, range)| {
                    parts(&layout, range).into_iter().map(|part| (*mode, part))
                })
                .collect();
            let mut pieces = Vec::new();
            let targets = parts.iter().map(|(_, part)| part.object.ost).collect();
            let underway = Underway::begin(inode, targets, Some(hold));
            for (mode, part) in parts {
                let (client, cancel) = (self.clone(), cancel.clone());
                let underway = underway.clone();
                let work = move || client.allocate_part(&part, mode, &underway, &cancel);
                pieces.push(Piece::new(part.object.ost, work));
            }
            let result = self.carry_out(pieces);
            self.forget_content(inode);
            return result;
        }
    }

    fn allocate_part(
        self: &Arc<Self>,
        part: &Part,
        mode: Mode,
        underway: &Arc<Underway>,
        cancel: &Cancel,
    ) -> Result<(), Errno> {
        let ost = part.object.ost;
        let object = part.object.object;
        let (offset, length, mtime) = (part.start, part.end - part.start, Timespec::ZERO);
        let request = match mode {
            Mode::Allocate { keep_size } => {
                let body = ObjectAllocate { ost, object, offset, length, keep_size, mtime };
                ObjectRequest::new(ost, Opcode::ObjectAllocate, &body)
            }
            Mode::Punch | Mode::Zero { .. } => {
                let extend = mode == Mode::Zero { keep_size: false };
                let mode = if mode == Mode::Punch { PunchMode::Hole } else { PunchMode::Zero };
                let body = ObjectPunch { ost, object, offset, length, mode, extend, mtime };
                ObjectRequest::new(ost, Opcode::ObjectPunch, &body)
            }
        };
        self.ask_object(request.of(underway), cancel)?.decode::<WriteReply>().map(drop)
    }
}
