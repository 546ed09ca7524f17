//! Lists of namespaces, controllers and identifiers, and the data that makes a namespace.

use super::{
    identify::{FormattedLbaSize, IDENTIFY_BYTES},
    layout::layout,
};

/// NIDT, Namespace Identifier Type [NVMe-2.0c §5.17.2.3].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamespaceIdentifier {
    /// 1h, IEEE Extended Unique Identifier.
    Eui64([u8; 8]),
    /// 2h, Namespace Globally Unique Identifier.
    Nguid([u8; 16]),
    /// 3h, Namespace UUID.
    Uuid([u8; 16]),
    /// 4h, Command Set Identifier: 0 NVM, 1 key value, 2 zoned.
    Csi(u8),
}

/// The identifiers of a Namespace Identification Descriptor list [NVMe-2.0c §5.17.2.3, figure 277]: what is of no type or
/// length we know is skipped, and the list ends where a length is zero or leaves the page.
#[must_use]
pub fn namespace_descriptors(page: &[u8; IDENTIFY_BYTES]) -> Vec<NamespaceIdentifier> {
    let mut found = Vec::new();
    let mut rest = &page[..];
    // Byte 0 NIDT, byte 1 NIDL, bytes 3:2 reserved, then NIDL bytes.
    while let Some((&[kind, length, _, _], tail)) = rest.split_first_chunk::<4>() {
        let length = usize::from(length);
        let Some((value, next)) = tail.split_at_checked(length) else { break };
        let identifier = match (kind, length) {
            (1, 8) => value.first_chunk().map(|&id| NamespaceIdentifier::Eui64(id)),
            (2, 16) => value.first_chunk().map(|&id| NamespaceIdentifier::Nguid(id)),
            (3, 16) => value.first_chunk().map(|&id| NamespaceIdentifier::Uuid(id)),
            (4, 1) => value.first().map(|&id| NamespaceIdentifier::Csi(id)),
            (_, 0) => break,
            _ => None,
        };
        found.extend(identifier);
        rest = next;
    }
    found
}

/// Identifiers of a namespace list: ascending, ended by zero [NVMe-2.0c §4.4.2].
///
/// # Errors
/// The first identifier that does not ascend from those before it (`after` before the first).
pub fn namespace_list(page: &[u8; IDENTIFY_BYTES], after: u32) -> Result<Vec<u32>, u32> {
    let mut list = Vec::new();
    let mut last = after;
    for entry in page.chunks_exact(4) {
        let nsid = <u32 as super::layout::Field>::load(entry);
        if nsid == 0 {
            break;
        }
        if nsid <= last {
            return Err(nsid);
        }
        last = nsid;
        list.push(nsid);
    }
    Ok(list)
}

layout! {
    /// Namespace Management's data for Create, NVM command set [NVM-1.0c §4.1.6 and NVMe-2.0c §5.23].
    NamespaceCreate: 4096 {
        /// NSZE, Namespace Size in logical blocks.
        0 nsze: u64,
        /// NCAP, Namespace Capacity in logical blocks.
        8 ncap: u64,
        /// FLBAS, Formatted LBA Size.
        26 flbas: FormattedLbaSize,
        /// DPS, End-to-end Data Protection Type Settings.
        29 dps: u8,
        /// NMIC, Namespace Multi-path I/O and Namespace Sharing Capabilities.
        30 nmic: u8,
        /// ANAGRPID, ANA Group Identifier.
        92 anagrpid: u32,
        /// NVMSETID, NVM Set Identifier.
        100 nvmsetid: u16,
        /// ENDGID, Endurance Group Identifier.
        102 endgid: u16,
    }
}

layout! {
    /// Controller list [NVMe-2.0c §4.4.1].
    ControllerList: 4096 {
        /// How many identifiers follow, at most 2,047.
        0 count: u16,
        /// Identifiers, ascending.
        2 identifiers: [u16; 2047],
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_namespace_list_ascends_or_is_refused() {
        let mut page = [0; IDENTIFY_BYTES];
        page[0] = 1;
        page[4] = 3;
        assert_eq!(namespace_list(&page, 0), Ok(vec![1, 3]));
        assert_eq!(namespace_list(&page, 1), Err(1));
        page[4] = 1;
        assert_eq!(namespace_list(&page, 0), Err(1));
        assert_eq!(namespace_list(&[0xff; IDENTIFY_BYTES], 0), Err(u32::MAX));
    }

    #[test]
    fn a_descriptor_list_ends_where_it_makes_no_sense() {
        let mut page = [0; IDENTIFY_BYTES];
        page[..2].copy_from_slice(&[3, 16]);
        page[4..20].fill(7);
        page[20..24].copy_from_slice(&[9, 4, 0, 0]);
        page[28..32].copy_from_slice(&[4, 1, 0, 0]);
        page[32] = 2;
        let expected = [NamespaceIdentifier::Uuid([7; 16]), NamespaceIdentifier::Csi(2)];
        assert_eq!(namespace_descriptors(&page), expected);
        assert!(namespace_descriptors(&[0xff; IDENTIFY_BYTES]).is_empty());
    }
}
