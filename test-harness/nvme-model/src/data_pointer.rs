//! Where a command's data lies: PRP entries and lists, SGL descriptors and segments, walked into runs of addresses.
//!
//! Nothing a driver writes is trusted: every list is bounded by the transfer, every pointer is checked for alignment.
//! [NVMe-2.0c §4.1.1 PRP, §4.1.2 SGL]

use crate::{
    bytes::{count, get32, get64, index, index64},
    command::Command,
    memory::Memory,
    status::Status,
};

/// A run of host memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// First address.
    pub address: u64,
    /// Length.
    pub bytes: usize,
}

/// SGL descriptors walked for one command; more is refused, so that a ring of segments ends.
const DESCRIPTORS_MAX: usize = 1024;

/// What the walk needs beside the command.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Memory page size (CC.MPS).
    pub page_bytes: u64,
    /// Whether SGLs are offered.
    pub has_sgl: bool,
}

/// Finds the `bytes` bytes of the command's data; `runs` is overwritten.
///
/// # Errors
/// The status to complete the command with.
pub fn walk(
    memory: &Memory,
    command: &Command,
    bytes: usize,
    rules: Rules,
    runs: &mut Vec<Run>,
) -> Result<(), Status> {
    runs.clear();
    match command.psdt() {
        0 => prp(memory, command, bytes, rules.page_bytes, runs),
        1 | 2 if rules.has_sgl => sgl(memory, command, bytes, runs),
        _ => Err(Status::INVALID_FIELD),
    }
}

fn prp(
    memory: &Memory,
    command: &Command,
    bytes: usize,
    page_bytes: u64,
    runs: &mut Vec<Run>,
) -> Result<(), Status> {
    let first = command.pointer1();
    if !first.is_multiple_of(4) {
        return Err(Status::PRP_OFFSET);
    }
    let in_first = index64(page_bytes - first % page_bytes).min(bytes);
    runs.push(Run { address: first, bytes: in_first });
    let left = bytes - in_first;
    if left == 0 {
        return Ok(());
    }
    if count(left) <= page_bytes {
        return push_page(command.pointer2(), left, page_bytes, runs);
    }
    prp_list(memory, command.pointer2(), left, page_bytes, runs)
}

fn push_page(address: u64, bytes: usize, page: u64, runs: &mut Vec<Run>) -> Result<(), Status> {
    if !address.is_multiple_of(page) {
        return Err(Status::PRP_OFFSET);
    }
    runs.push(Run { address, bytes });
    Ok(())
}

/// A list fills its page to the end; its last entry points to the next list if more is left than it holds.
fn prp_list(
    memory: &Memory,
    list: u64,
    bytes: usize,
    page_bytes: u64,
    runs: &mut Vec<Run>,
) -> Result<(), Status> {
    if !list.is_multiple_of(8) {
        return Err(Status::PRP_OFFSET);
    }
    let (mut at, mut left) = (list, bytes);
    while left > 0 {
        let entry = memory.load64(at).map_err(|_| Status::DATA_TRANSFER)?;
        let is_last_of_page = at % page_bytes == page_bytes - 8;
        if is_last_of_page && count(left) > page_bytes {
            if entry % page_bytes != 0 {
                return Err(Status::PRP_OFFSET);
            }
            at = entry;
            continue;
        }
        let here = index64(page_bytes).min(left);
        push_page(entry, here, page_bytes, runs)?;
        left -= here;
        at += 8;
    }
    Ok(())
}

/// A descriptor's kind and place. [NVMe-2.0c figures 117-119]
#[derive(Clone, Copy, Debug)]
struct Descriptor {
    address: u64,
    length: u32,
    identifier: u8,
}

const DATA_BLOCK: u8 = 0x00;
const BIT_BUCKET: u8 = 0x10;
const SEGMENT: u8 = 0x20;
const LAST_SEGMENT: u8 = 0x30;

impl Descriptor {
    fn decode(bytes: &[u8]) -> Self {
        Self { address: get64(bytes, 0), length: get32(bytes, 8), identifier: bytes[15] }
    }
}

fn sgl(
    memory: &Memory,
    command: &Command,
    bytes: usize,
    runs: &mut Vec<Run>,
) -> Result<(), Status> {
    let mut inline = [0; 16];
    inline[..8].copy_from_slice(&command.pointer1().to_le_bytes());
    inline[8..].copy_from_slice(&command.pointer2().to_le_bytes());
    let first = Descriptor::decode(&inline);
    let mut left = bytes;
    match first.identifier {
        DATA_BLOCK => push_block(first, &mut left, runs)?,
        SEGMENT | LAST_SEGMENT => segments(memory, first, &mut left, runs)?,
        _ => return Err(Status::SGL_TYPE),
    }
    if left == 0 { Ok(()) } else { Err(Status::SGL_LENGTH) }
}

fn push_block(block: Descriptor, left: &mut usize, runs: &mut Vec<Run>) -> Result<(), Status> {
    let bytes = index(block.length);
    if bytes > *left {
        return Err(Status::SGL_LENGTH);
    }
    if bytes > 0 {
        runs.push(Run { address: block.address, bytes });
    }
    *left -= bytes;
    Ok(())
}

fn segments(
    memory: &Memory,
    first: Descriptor,
    left: &mut usize,
    runs: &mut Vec<Run>,
) -> Result<(), Status> {
    let mut segment = first;
    let mut seen = 0;
    loop {
        let length = index(segment.length);
        if length == 0 || !length.is_multiple_of(16) {
            return Err(Status::SGL_SEGMENT);
        }
        let descriptors = length / 16;
        let mut next = None;
        for number in 0..descriptors {
            seen += 1;
            if seen > DESCRIPTORS_MAX {
                return Err(Status::SGL_NUMBER);
            }
            let mut raw = [0; 16];
            let at = segment.address.wrapping_add(count(16 * number));
            memory.read(at, &mut raw).map_err(|_| Status::DATA_TRANSFER)?;
            let descriptor = Descriptor::decode(&raw);
            let is_final = number + 1 == descriptors;
            match descriptor.identifier {
                DATA_BLOCK => push_block(descriptor, left, runs)?,
                SEGMENT | LAST_SEGMENT if is_final && segment.identifier == SEGMENT => {
                    next = Some(descriptor);
                }
                SEGMENT | LAST_SEGMENT => return Err(Status::SGL_SEGMENT),
                BIT_BUCKET => return Err(Status::SGL_TYPE),
                _ => return Err(Status::SGL_TYPE),
            }
        }
        match next {
            Some(descriptor) => segment = descriptor,
            // A segment that is not the last one ends in a pointer to the next.
            None if segment.identifier == SEGMENT => return Err(Status::SGL_SEGMENT),
            None => return Ok(()),
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::test_memory::HostMemory;

    const RULES: Rules = Rules { page_bytes: 4096, has_sgl: true };

    fn with(pointer1: u64, pointer2: u64, psdt: u64) -> Command {
        Command::new([psdt << 14, 0, 0, pointer1, pointer2, 0, 0, 0])
    }

    fn walked(host: &HostMemory, command: Command, bytes: usize) -> Result<Vec<Run>, Status> {
        let mut runs = Vec::new();
        walk(&host.seen_by_device(), &command, bytes, RULES, &mut runs).map(|()| runs)
    }

    #[test]
    fn prp_lists_chain_at_the_end_of_a_page_only_when_more_is_left() {
        let host = HostMemory::new(1 << 20);
        let base = host.base();
        // A list that begins two entries before the end of its page.
        let list = base + 4096 - 16;
        host.put64(list, base + 0x1_0000);
        host.put64(list + 8, base + 0x2000);
        host.put64(base + 0x2000, base + 0x3_0000);
        host.put64(base + 0x2008, base + 0x4_0000);
        let runs = walked(&host, with(base + 0x8000, list, 0), 4 * 4096).unwrap();
        let addresses: Vec<u64> = runs.iter().map(|run| run.address - base).collect();
        assert_eq!(addresses, [0x8000, 0x1_0000, 0x3_0000, 0x4_0000]);
        // Exactly as many as the page holds: the last entry is data.
        let runs = walked(&host, with(base + 0x8000, list, 0), 3 * 4096).unwrap();
        assert_eq!(runs[2].address - base, 0x2000);
    }

    #[test]
    fn misaligned_prp_entries_are_refused() {
        let host = HostMemory::new(1 << 16);
        let base = host.base();
        assert_eq!(walked(&host, with(base + 2, 0, 0), 512), Err(Status::PRP_OFFSET));
        assert_eq!(walked(&host, with(base, base + 512, 0), 8192), Err(Status::PRP_OFFSET));
        assert_eq!(walked(&host, with(base, base + 4, 0), 3 * 4096), Err(Status::PRP_OFFSET));
        assert_eq!(walked(&host, with(base, 64, 0), 3 * 4096), Err(Status::DATA_TRANSFER));
    }

    fn put_descriptor(host: &HostMemory, at: u64, address: u64, length: u32, identifier: u8) {
        host.put64(at, address);
        host.put64(at + 8, u64::from(length) | (u64::from(identifier) << 56));
    }

    #[test]
    fn sgl_segments_are_walked_and_rings_of_them_end() {
        let host = HostMemory::new(1 << 16);
        let base = host.base();
        put_descriptor(&host, base, base + 0x4000, 512, DATA_BLOCK);
        put_descriptor(&host, base + 16, base + 0x1000, 32, LAST_SEGMENT);
        put_descriptor(&host, base + 0x1000, base + 0x5000, 256, DATA_BLOCK);
        put_descriptor(&host, base + 0x1010, base + 0x6000, 256, DATA_BLOCK);
        let segment = |length: u64, kind: u8| with(base, length | (u64::from(kind) << 56), 1);
        let runs = walked(&host, segment(32, SEGMENT), 1024).unwrap();
        assert_eq!(runs.len(), 3);
        assert_eq!(walked(&host, segment(32, SEGMENT), 1000), Err(Status::SGL_LENGTH));
        assert_eq!(walked(&host, segment(32, SEGMENT), 2000), Err(Status::SGL_LENGTH));
        assert_eq!(walked(&host, segment(24, SEGMENT), 1024), Err(Status::SGL_SEGMENT));
        assert_eq!(walked(&host, segment(16, SEGMENT), 512), Err(Status::SGL_SEGMENT));
        assert_eq!(walked(&host, segment(32, 0x40), 512), Err(Status::SGL_TYPE));
        put_descriptor(&host, base, base + 0x4000, 0, DATA_BLOCK);
        put_descriptor(&host, base + 16, base, 32, SEGMENT);
        assert_eq!(walked(&host, segment(32, SEGMENT), 1024), Err(Status::SGL_NUMBER));
    }
}
