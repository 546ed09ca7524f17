//! Who may open a file. The kernel decides that, except for a file it believes to be new.

const READ: u32 = 4;
const WRITE: u32 = 2;

const S_ISVTX: u32 = 0o1000;
const OTHERS_WRITE: u32 = 0o002;
const GROUP_WRITES: u32 = 0o020;

/// Version and tags of an access control list as an extended attribute (Linux, `posix_acl_xattr.h`).
const VERSION: u32 = 2;
const USER: u16 = 0x02;
const GROUP_OBJECT: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const ENTRY_BYTES: usize = 8;

/// Whether user `uid` may not open a regular file with O_CREAT, whatever its permissions, because it is another's in a sticky
/// directory: as Linux decides (`may_create_in_sticky`) when fs.protected_regular is `level`.
pub(crate) fn is_protected(
    directory: &Permissions,
    file: &Permissions,
    uid: u32,
    level: u32,
) -> bool {
    let is_sticky = directory.bits & S_ISVTX != 0;
    if !is_sticky || level == 0 || file.uid == directory.uid || file.uid == uid {
        return false;
    }
    directory.bits & OTHERS_WRITE != 0 || level >= 2 && directory.bits & GROUP_WRITES != 0
}

/// Who may open a file, its access control list apart.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Permissions {
    /// Owner.
    pub(crate) uid: u32,
    /// Group.
    pub(crate) gid: u32,
    /// Permission bits.
    pub(crate) bits: u32,
}

/// Who wants to open.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Opener<'a> {
    /// User.
    pub(crate) uid: u32,
    /// Group.
    pub(crate) gid: u32,
    /// Other groups.
    pub(crate) groups: &'a [u32],
    /// Reads and writes whatever the permissions are (CAP_DAC_OVERRIDE).
    pub(crate) overrides: bool,
}

impl Opener<'_> {
    fn is_in(&self, gid: u32) -> bool {
        self.gid == gid || self.groups.contains(&gid)
    }

    /// Whether a regular file with these permissions and access control list may be opened to `read` and `write`.
    pub(crate) fn may_open(
        &self,
        file: &Permissions,
        list: Option<&[u8]>,
        read: bool,
        write: bool,
    ) -> bool {
        let wanted = if read { READ } else { 0 } | if write { WRITE } else { 0 };
        let allows = |permissions: u32| permissions & wanted == wanted;
        if self.overrides {
            return true;
        }
        if self.uid == file.uid {
            return allows(file.bits >> 6);
        }
        let (group, other) = (file.bits >> 3, file.bits);
        match list {
            None if self.is_in(file.gid) => allows(group),
            None => allows(other),
            Some(list) => match self.decided_by_list(list, file, wanted) {
                Ok(None) => allows(other),
                Ok(Some(allowed)) => allowed,
                Err(NoList) => false,
            },
        }
    }

    /// What named users and groups decide; None: they are silent. One of several groups must allow all that is wanted.
    fn decided_by_list(
        &self,
        list: &[u8],
        file: &Permissions,
        wanted: u32,
    ) -> Result<Option<bool>, NoList> {
        let entries = entries(list)?;
        let mask =
            entries.iter().find(|entry| entry.tag == MASK).map_or(7, |mask| mask.permissions);
        let allows = |entry: &Entry| entry.permissions & mask & wanted == wanted;
        let named = entries.iter().find(|entry| entry.tag == USER && entry.id == self.uid);
        if let Some(named) = named {
            return Ok(Some(allows(named)));
        }
        let mine = |entry: &&Entry| match entry.tag {
            GROUP_OBJECT => self.is_in(file.gid),
            GROUP => self.is_in(entry.id),
            _ => false,
        };
        let mut groups = entries.iter().filter(mine).peekable();
        if groups.peek().is_none() {
            return Ok(None);
        }
        Ok(Some(groups.any(allows)))
    }
}

/// It makes no sense.
#[derive(Debug)]
struct NoList;

#[derive(Debug)]
struct Entry {
    tag: u16,
    permissions: u32,
    id: u32,
}

fn entries(list: &[u8]) -> Result<Vec<Entry>, NoList> {
    let (version, entries) = list.split_first_chunk().ok_or(NoList)?;
    let (entries, rest) = entries.as_chunks::<ENTRY_BYTES>();
    if u32::from_le_bytes(*version) != VERSION || !rest.is_empty() {
        return Err(NoList);
    }
    let parse = |[tag0, tag1, low, high, a, b, c, d]: &[u8; ENTRY_BYTES]| Entry {
        tag: u16::from_le_bytes([*tag0, *tag1]),
        permissions: u32::from(u16::from_le_bytes([*low, *high])),
        id: u32::from_le_bytes([*a, *b, *c, *d]),
    };
    Ok(entries.iter().map(parse).collect())
}

#[cfg(test)]
mod test {
    use super::*;

    fn file(bits: u32) -> Permissions {
        Permissions { uid: 1, gid: 10, bits }
    }

    fn opener(uid: u32, gid: u32) -> Opener<'static> {
        Opener { uid, gid, groups: &[20, 30], overrides: false }
    }

    fn list(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let mut list = VERSION.to_le_bytes().to_vec();
        for (tag, permissions, id) in entries {
            list.extend(tag.to_le_bytes());
            list.extend(permissions.to_le_bytes());
            list.extend(id.to_le_bytes());
        }
        list
    }

    #[test]
    fn one_class_of_permissions_counts() {
        let may = |who: Opener<'_>, mode, read, write| who.may_open(&file(mode), None, read, write);
        assert!(may(opener(1, 0), 0o600, true, true));
        assert!(!may(opener(1, 10), 0o077, true, false), "the owner's alone count");
        assert!(may(opener(2, 10), 0o640, true, false));
        assert!(!may(opener(2, 10), 0o640, true, true));
        assert!(!may(opener(2, 10), 0o606, true, false), "a member's are the group's");
        assert!(may(opener(2, 0), 0o606, true, true));
        let in_group = Opener { groups: &[10], ..opener(2, 0) };
        assert!(may(in_group, 0o660, true, true));
        let root = Opener { overrides: true, ..opener(0, 0) };
        assert!(may(root, 0o000, true, true));
        assert!(!may(opener(0, 0), 0o600, true, false), "user 0 without the capability");
    }

    #[test]
    fn files_of_others_in_sticky_directories_are_protected_as_in_linux() {
        let refused = |bits, uid, level| {
            let directory = Permissions { uid: 0, gid: 0, bits };
            is_protected(&directory, &file(0o666), uid, level)
        };
        assert!(refused(0o1777, 2, 1));
        assert!(refused(0o1777, 0, 1), "root too");
        assert!(!refused(0o1777, 2, 0), "switched off");
        assert!(!refused(0o777, 2, 2), "not sticky");
        assert!(!refused(0o1777, 1, 2), "its own");
        assert!(!refused(0o1770, 2, 1), "of a group's directory");
        assert!(refused(0o1770, 2, 2));
        assert!(!refused(0o1755, 2, 2), "nobody else makes files there");
        let of_same = Permissions { uid: 1, gid: 0, bits: 0o1777 };
        assert!(!is_protected(&of_same, &file(0o666), 2, 2), "the directory's owner's");
    }

    #[test]
    fn an_access_control_list_counts_as_in_linux() {
        let of = |who: Opener<'_>, entries: &[(u16, u16, u32)], read, write| {
            who.may_open(&file(0o664), Some(&list(entries)), read, write)
        };
        let entries = [
            (1, 6, u32::MAX),
            (USER, 6, 5),
            (USER, 0, 6),
            (GROUP_OBJECT, 4, u32::MAX),
            (GROUP, 4, 20),
            (GROUP, 2, 30),
            (MASK, 6, u32::MAX),
            (0x20, 4, u32::MAX),
        ];
        assert!(of(opener(5, 0), &entries, true, true));
        assert!(!of(opener(6, 0), &entries, true, false), "named and refused");
        assert!(of(opener(7, 0), &entries, true, false), "by one of its groups");
        assert!(!of(opener(7, 0), &entries, true, true), "no group allows both");
        let stranger = Opener { groups: &[], ..opener(7, 0) };
        assert!(of(stranger, &entries, true, false), "others may read");
        assert!(!of(stranger, &entries, false, true));
        let masked = [(USER, 6, 5), (MASK, 4, 0), (0x20, 0, 0)];
        assert!(!of(opener(5, 0), &masked, false, true));
        assert!(!opener(7, 0).may_open(&file(0o666), Some(b"xx"), true, false), "no list");
    }
}
