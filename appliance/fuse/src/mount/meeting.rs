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
        access::{Opener, Permissions},
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
const ACCESS_LIST: &[u8] = b"system.posix_acl_access";

impl Mount {
    /// Makes and opens a file, or opens the one that is there; `cuts` with O_TRUNC.
    ///
    /// # Errors
    /// As [`sheen_client::Client::create`]; ESTALE only if the kernel is to look again; EISDIR, EACCES, ELOOP at a symbolic
    /// link, ENXIO at what is no file, EAGAIN when the name never held still.
    pub(crate) fn make_or_meet(
        &self,
        context: &Context,
        directory: &Arc<Inode>,
        wanted: &NewInode<'_>,
        how: NewOpen,
        cuts: bool,
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
                    FileKind::Regular => self.open_met(context, found, how, cuts),
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

    /// Opens a file the kernel checks nothing of. ESTALE: it is gone.
    fn open_met(
        &self,
        context: &Context,
        found: Found,
        how: NewOpen,
        cuts: bool,
    ) -> Result<Created, Errno> {
        let list = match self.client.get_xattr(&found.inode, ACCESS_LIST, &context.cancel) {
            Ok(list) => Some(list),
            Err(Errno::ENODATA | Errno::EOPNOTSUPP) => None,
            Err(errno) => return Err(errno),
        };
        let caller = Caller::of(context);
        let opener = Opener {
            uid: context.uid,
            gid: context.gid,
            groups: &caller.groups,
            overrides: caller.has(context, DAC_OVERRIDE),
        };
        let file = &found.observed.attributes;
        let file = Permissions { uid: file.uid, gid: file.gid, bits: file.permissions };
        if !opener.may_open(&file, list.as_deref(), how.read, how.write || cuts) {
            return Err(Errno::EACCES);
        }
        let opened = self.client.open(&found.inode, how, &context.cancel)?;
        Ok(Created { found, opened: Some(opened), is_new: false })
    }
}
