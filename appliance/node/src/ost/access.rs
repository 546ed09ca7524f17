//! What a session may do with objects: of which file system, and whether it changes them.
//!
//! New objects carry the number of their file system in their id (`Fid::ver`), so the id itself answers: one comparison for each object
//! named. Objects that were named before ids carried one tell nothing; they are served to sessions whose principal may use every file
//! system. A service serves nobody by this alone: the connection is checked before (see `sessions`). Deliberately absent:
//! permissions. A session that is not trusted with them has no objects.

use sheen_types::Fid;

use super::{
    request::{Ask, Change},
    sessions::Refusal,
};

/// See the module.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ObjectAccess {
    /// Number of the file system whose objects are the session's to use. 0: it has none.
    pub filesystem: u32,
    /// It changes nothing.
    pub read_only: bool,
    /// Objects that carry no number are its to use too.
    pub unlabelled: bool,
}

impl ObjectAccess {
    /// No object.
    pub const NONE: Self = Self { filesystem: 0, read_only: true, unlabelled: false };

    /// Checks what is asked of an OST.
    ///
    /// # Errors
    /// [`Refusal::Filesystem`], [`Refusal::ReadOnly`].
    pub(crate) fn check(self, ask: &Ask) -> Result<(), Refusal> {
        match ask {
            Ask::Read(read) => self.check_object(read.object),
            Ask::Seek { object, .. } => self.check_object(*object),
            Ask::Glimpse(objects) => {
                objects.iter().try_for_each(|&object| self.check_object(object))
            }
            // Neither shows nor changes content.
            Ask::Statistics | Ask::Change(Change::Sync) => self.check_any(),
            Ask::Write(write) => self.check_change(write.object),
            Ask::Change(Change::Punch(punch)) => self.check_change(punch.object),
            Ask::Change(Change::Truncate(truncate)) => self.check_change(truncate.object),
            Ask::Change(Change::Allocate(allocate)) => self.check_change(allocate.object),
            Ask::Change(Change::Repack(repack, _)) => self.check_change(repack.object),
            // No client asks it.
            Ask::Change(Change::Destroy(_)) => Err(Refusal::Opcode),
        }
    }

    const fn check_any(self) -> Result<(), Refusal> {
        if self.filesystem == 0 { Err(Refusal::Filesystem) } else { Ok(()) }
    }

    fn check_object(self, object: Fid) -> Result<(), Refusal> {
        self.check_any()?;
        let own = if object.ver == 0 { self.unlabelled } else { object.ver == self.filesystem };
        if own { Ok(()) } else { Err(Refusal::Filesystem) }
    }

    fn check_change(self, object: Fid) -> Result<(), Refusal> {
        self.check_object(object)?;
        if self.read_only { Err(Refusal::ReadOnly) } else { Ok(()) }
    }
}
