//! POSIX access control lists, in the form Linux keeps them in extended attributes.
//!
//! The value is a u32 version (2) and entries of {u16 tag, u16 permissions, u32 id}, little-endian.
//! Who may do what is checked by the client's kernel; here lists are checked for form, kept in step
//! with the mode, and inherited.

use sheen_types::Errno;
use sheen_wire::{Decoder, Encoder, Field};

/// Name of the attribute with the access list.
pub(crate) const ACCESS: &[u8] = b"system.posix_acl_access";
/// Name of the attribute with the list new entries of a directory inherit.
pub(crate) const DEFAULT: &[u8] = b"system.posix_acl_default";

const VERSION: u32 = 2;
const UNDEFINED_ID: u32 = u32::MAX;

const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct AclEntry {
    tag: u16,
    permissions: u16,
    id: u32,
}

/// A valid list: owner, named users, owning group, named groups, mask (if anything is named), other.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Acl(Vec<AclEntry>);

impl Acl {
    /// Reads an attribute's value. None for a list without entries, which means "remove it".
    ///
    /// # Errors
    /// `EOPNOTSUPP`: another version; `EINVAL`: not a valid list.
    pub(crate) fn parse(value: &[u8]) -> Result<Option<Self>, Errno> {
        if value.is_empty() {
            return Ok(None);
        }
        let mut input = Decoder::new(value);
        if u32::decode(&mut input).map_err(|_| Errno::EINVAL)? != VERSION {
            return Err(Errno::EOPNOTSUPP);
        }
        let mut entries = Vec::with_capacity(input.remaining() / 8);
        while input.remaining() > 0 {
            entries.push(Self::entry(&mut input).ok_or(Errno::EINVAL)?);
        }
        if entries.is_empty() {
            return Ok(None);
        }
        let acl = Self(entries);
        if acl.is_valid() { Ok(Some(acl)) } else { Err(Errno::EINVAL) }
    }

    fn entry(input: &mut Decoder<'_>) -> Option<AclEntry> {
        let tag = u16::decode(input).ok()?;
        let permissions = u16::decode(input).ok()?;
        let id = u32::decode(input).ok()?;
        let named = matches!(tag, USER | GROUP);
        if permissions > 7 || named && id == UNDEFINED_ID {
            return None;
        }
        Some(AclEntry { tag, permissions, id: if named { id } else { UNDEFINED_ID } })
    }

    /// Tags must stand in order, those of owner, group and other exactly once, and a mask there
    /// must be if somebody is named.
    fn is_valid(&self) -> bool {
        let ordered = self.0.windows(2).all(|pair| {
            let repeats = pair[0].tag == pair[1].tag && matches!(pair[0].tag, USER | GROUP);
            pair[0].tag < pair[1].tag || repeats
        });
        let known = self
            .0
            .iter()
            .all(|entry| matches!(entry.tag, USER_OBJ | USER | GROUP_OBJ | GROUP | MASK | OTHER));
        let named = self.0.iter().any(|entry| matches!(entry.tag, USER | GROUP));
        ordered
            && known
            && [USER_OBJ, GROUP_OBJ, OTHER].iter().all(|&tag| self.permissions(tag).is_some())
            && (!named || self.permissions(MASK).is_some())
    }

    /// The attribute's value.
    pub(crate) fn to_value(&self) -> Vec<u8> {
        let mut value = Vec::with_capacity(4 + self.0.len() * 8);
        let mut out = Encoder(&mut value);
        VERSION.encode(&mut out);
        for entry in &self.0 {
            entry.tag.encode(&mut out);
            entry.permissions.encode(&mut out);
            entry.id.encode(&mut out);
        }
        value
    }

    fn permissions(&self, tag: u16) -> Option<u16> {
        self.0.iter().find(|entry| entry.tag == tag).map(|entry| entry.permissions)
    }

    fn permissions_mut(&mut self, tag: u16) -> Option<&mut u16> {
        self.0.iter_mut().find(|entry| entry.tag == tag).map(|entry| &mut entry.permissions)
    }

    /// The tag the mode's group bits show: the mask if there is one.
    fn group_class(&self) -> u16 {
        if self.permissions(MASK).is_some() { MASK } else { GROUP_OBJ }
    }

    /// The nine permission bits that show this list.
    pub(crate) fn mode_bits(&self) -> u16 {
        let bits = |tag| self.permissions(tag).unwrap_or(0);
        bits(USER_OBJ) << 6 | bits(self.group_class()) << 3 | bits(OTHER)
    }

    /// Whether the mode alone says all of it.
    pub(crate) fn is_mode_only(&self) -> bool {
        self.0.len() == 3
    }

    /// Follows a chmod to `mode`.
    pub(crate) fn set_mode(&mut self, mode: u16) {
        let class = self.group_class();
        for (tag, shift) in [(USER_OBJ, 6), (class, 3), (OTHER, 0)] {
            if let Some(permissions) = self.permissions_mut(tag) {
                *permissions = mode >> shift & 7;
            }
        }
    }

    /// What a new inode made with `mode` gets from this default list: the list narrowed to what
    /// `mode` asks for is its access list. Returns the nine bits of its mode, and the list unless
    /// the mode says all of it.
    pub(crate) fn inherit(&self, mode: u16) -> (u16, Option<Self>) {
        let mut access = self.clone();
        let class = access.group_class();
        for (tag, shift) in [(USER_OBJ, 6), (class, 3), (OTHER, 0)] {
            if let Some(permissions) = access.permissions_mut(tag) {
                *permissions &= mode >> shift & 7;
            }
        }
        let bits = access.mode_bits();
        let list = if access.is_mode_only() { None } else { Some(access) };
        (bits, list)
    }
}

#[cfg(test)]
pub(crate) mod test {
    use super::*;

    /// An attribute's value from {tag, permissions, id}.
    pub(crate) fn value(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let list = entries.iter().map(|&(tag, permissions, id)| AclEntry { tag, permissions, id });
        Acl(list.collect()).to_value()
    }

    fn parse(entries: &[(u16, u16, u32)]) -> Result<Option<Acl>, Errno> {
        Acl::parse(&value(entries))
    }

    /// `u::rwx u:1000:rw g::r-x m::rwx o::r`
    pub(crate) const NAMED: &[(u16, u16, u32)] =
        &[(1, 7, !0), (2, 6, 1000), (4, 5, !0), (16, 7, !0), (32, 4, !0)];

    #[test]
    fn lists_of_wrong_form_are_refused() {
        for wrong in [
            &[(1, 7, !0), (4, 5, !0)][..],
            &[(1, 7, !0), (1, 7, !0), (4, 5, !0), (32, 4, !0)],
            &[(4, 5, !0), (1, 7, !0), (32, 4, !0)],
            &[(1, 7, !0), (2, 6, 1000), (4, 5, !0), (32, 4, !0)],
            &[(1, 8, !0), (4, 5, !0), (32, 4, !0)],
            &[(1, 7, !0), (2, 6, !0), (4, 5, !0), (16, 7, !0), (32, 4, !0)],
            &[(1, 7, !0), (4, 5, !0), (32, 4, !0), (64, 4, !0)],
        ] {
            assert_eq!(parse(wrong), Err(Errno::EINVAL), "{wrong:?}");
        }
        assert_eq!(Acl::parse(&[2, 0, 0]), Err(Errno::EINVAL));
        assert_eq!(Acl::parse(&[1, 0, 0, 0]), Err(Errno::EOPNOTSUPP));
        assert_eq!(Acl::parse(&[2, 0, 0, 0, 1]), Err(Errno::EINVAL));
        assert_eq!(Acl::parse(&[2, 0, 0, 0]), Ok(None));
        assert_eq!(Acl::parse(&[]), Ok(None));
    }

    #[test]
    fn a_list_reads_back_as_it_was_written() {
        let acl = parse(NAMED).unwrap().unwrap();
        assert_eq!(acl.to_value(), value(NAMED));
        assert_eq!(acl.mode_bits(), 0o774);
        assert!(!acl.is_mode_only());
    }

    #[test]
    fn chmod_changes_the_mask_and_not_the_group() {
        let mut acl = parse(NAMED).unwrap().unwrap();
        acl.set_mode(0o641);
        assert_eq!(acl.mode_bits(), 0o641);
        assert_eq!(acl.permissions(GROUP_OBJ), Some(5));
        assert_eq!(acl.permissions(MASK), Some(4));
        assert_eq!(acl.permissions(USER), Some(6));
    }

    #[test]
    fn a_new_inode_gets_no_more_than_it_asked_for() {
        let default = parse(NAMED).unwrap().unwrap();
        let (bits, list) = default.inherit(0o660);
        assert_eq!(bits, 0o660);
        assert_eq!(list.unwrap().permissions(GROUP_OBJ), Some(5));
        let plain = parse(&[(1, 7, !0), (4, 5, !0), (32, 0, !0)]).unwrap().unwrap();
        assert_eq!(plain.inherit(0o666), (0o640, None));
    }
}
