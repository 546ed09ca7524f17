//! Making a file where another user has just made something of that name.
//!
//! The kernel believed the name free, and would check nothing of what it is given. First it is sent to look again, and then it
//! checks. If the name was free once more by then and taken again, that is done here: what is there is opened if its
//! permissions allow it, or made if nothing is there.

use std::{sync::Arc, time::Duration};

use sheen_client::{Created, Found, Inode, LookedUp, NewInode, NewOpen};
use sheen_types::{Errno, FileKind};

use crate::{
    kernel::Context,
    mount::{
        Mount,
        access::{Opener, Permissions, is_protected},
        privileges::Caller,
    },
};

/// How often a name is looked at that is made and removed all the time.
const ROUNDS: u32 = 200;
/// How many of them follow each other at once, and the pause between the rest.
const AT_ONCE: u32 = 20;
const PAUSE: Duration = Duration::from_millis(1);

/// CAP_DAC_OVERRIDE in a mask of capabilities.
const DAC_OVERRIDE: u64 = 1 << 1;
/// CAP_FOWNER.
const FOWNER: u64 = 1 << 3;
/// Which files of others O_CREAT does not open in sticky directories.
const PROTECTED_REGULAR: &str = "/proc/sys/fs/protected_regular";
const ACCESS_LIST: &[u8] = b"system.posix_acl_access";

impl Mount {
    /// Makes and opens a file, or opens the one that is there, with the `flags` of `open`.
    ///
    /// # Errors
    /// As [`sheen_client::Client::create`]; ESTALE only if the kernel is to look again; EISDIR, EACCES, EPERM with O_NOATIME,
    /// ELOOP at a symbolic link, ENXIO at what is no file, EAGAIN when the name never held still.
    pub(crate) fn make_or_meet(
        &self,
        context: &Context,
        directory: &Arc<Inode>,
        wanted: &NewInode<'_>,
        how: NewOpen,
        flags: i32,
    ) -> Result<Created, Errno> {
        let create = || self.client.create(directory, wanted, Some(how), &context.cancel);
        let created = create();
        let (Err(Errno::ESTALE), Some(name)) = (&created, wanted.name) else {
            self.looks.end(context.pid);
            return created;
        };
        if self.looks.send_once(context.pid) {
            return created;
        }
        let mut refusal = Errno::EAGAIN;
        for round in 0..ROUNDS {
            if round >= AT_ONCE && context.cancel.sleep(PAUSE) {
                return Err(Errno::EINTR);
            }
            let met = match self.client.lookup(directory, Some(name), &context.cancel) {
                Ok(LookedUp::Absent(_)) => create(),
                Ok(LookedUp::Found(_)) if wanted.exclusive => return Err(Errno::EEXIST),
                Ok(LookedUp::Found(found)) => match found.observed.attributes.kind {
                    FileKind::Regular => self.open_met(context, directory, found, how, flags),
                    FileKind::Directory => return Err(Errno::EISDIR),
                    // Only the kernel can go on from here, which will not look a third time.
                    FileKind::Symlink => Err(Errno::ELOOP),
                    FileKind::Fifo
                    | FileKind::Socket
                    | FileKind::CharDevice
                    | FileKind::BlockDevice => Err(Errno::ENXIO),
                },
                // The directory is gone.
                Err(Errno::ESTALE) => return Err(Errno::ENOENT),
                Err(errno) => return Err(errno),
            };
            match met {
                Err(Errno::ESTALE) => refusal = Errno::EAGAIN,
                Err(errno @ (Errno::ELOOP | Errno::ENXIO)) => refusal = errno,
                met => return met,
            }
        }
        Err(refusal)
    }

    /// Opens a file the kernel checks nothing of before it is answered. What it checks then (fs.protected_regular, O_NOATIME)
    /// is checked here first, lest a file be cut whose opening is refused. ESTALE: it is gone.
    fn open_met(
        &self,
        context: &Context,
        directory: &Arc<Inode>,
        found: Found,
        how: NewOpen,
        flags: i32,
    ) -> Result<Created, Errno> {
        let list = match self.client.get_xattr(&found.inode, ACCESS_LIST, &context.cancel) {
            Ok(list) => Some(list),
            Err(Errno::ENODATA | Errno::EOPNOTSUPP) => None,
            Err(errno) => return Err(errno),
        };
        let parent = self.client.attributes(directory, &context.cancel)?.attributes;
        let parent = Permissions { uid: parent.uid, gid: parent.gid, bits: parent.permissions };
        let caller = Caller::of(context);
        let opener = Opener {
            uid: context.uid,
            gid: context.gid,
            groups: &caller.groups,
            overrides: caller.has(context, DAC_OVERRIDE),
        };
        let file = &found.observed.attributes;
        let file = Permissions { uid: file.uid, gid: file.gid, bits: file.permissions };
        let cuts = flags & libc::O_TRUNC != 0;
        let may_open = opener.may_open(&file, list.as_deref(), how.read, how.write || cuts);
        if !may_open || is_protected(&parent, &file, context.uid, protection()) {
            return Err(Errno::EACCES);
        }
        let is_owner = context.uid == file.uid || caller.has(context, FOWNER);
        if flags & libc::O_NOATIME != 0 && !is_owner {
            return Err(Errno::EPERM);
        }
        let opened = self.client.open(&found.inode, how, &context.cancel)?;
        Ok(Created { found, opened: Some(opened), is_new: false })
    }
}

/// fs.protected_regular as it is now; the strictest if nobody can tell.
fn protection() -> u32 {
    let level = std::fs::read_to_string(PROTECTED_REGULAR).ok();
    level.and_then(|level| level.trim().parse().ok()).unwrap_or(2)
}
