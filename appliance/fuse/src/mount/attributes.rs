//! `stat`, `chmod` and kin, `statfs`.

use sheen_client::{Changes, NewTime};
use sheen_types::Errno;

use crate::{
    kernel::{Context, NodeId, SetAttributes, SetTime, StatFs, TimedAttributes},
    mount::{Mount, caller},
};

/// Unit of the counts in `statfs`.
const FRAGMENT_BYTES: u32 = 4096;

fn time(set: SetTime) -> NewTime {
    match set {
        SetTime::Now => NewTime::Now,
        SetTime::At(time) => NewTime::At(time),
    }
}

impl Mount {
    pub(crate) fn attributes_of(
        &self,
        context: &Context,
        node: NodeId,
    ) -> Result<TimedAttributes, Errno> {
        let inode = self.inode(node)?;
        let observed = self.client.attributes(&inode, &context.cancel)?;
        Ok(self.timed(context, &inode, &observed))
    }

    pub(crate) fn change_attributes(
        &self,
        context: &Context,
        node: NodeId,
        set: &SetAttributes,
    ) -> Result<TimedAttributes, Errno> {
        let inode = self.inode(node)?;
        let changes = Changes {
            permissions: set.mode.map(|mode| mode & 0o7777),
            uid: set.uid,
            gid: set.gid,
            size: set.size,
            atime: set.atime.map(time),
            mtime: set.mtime.map(time),
            kill_suidgid: set.kill_privileges,
            caller: caller(context),
            ..Changes::default()
        };
        let observed = self.change_content(context, &inode, changes, &context.cancel)?;
        Ok(self.timed_set(context, &inode, &observed))
    }

    pub(crate) fn volume(&self, context: &Context) -> Result<StatFs, Errno> {
        let volume = self.client.recent_volume_statistics(&context.cancel)?;
        let fragments = |bytes: u64| bytes / u64::from(FRAGMENT_BYTES);
        Ok(StatFs {
            blocks: fragments(volume.total_bytes),
            blocks_free: fragments(volume.free_bytes),
            blocks_available: fragments(volume.free_bytes),
            files: volume.inodes_max,
            files_free: volume.inodes_max.saturating_sub(volume.inodes_used),
            block_bytes: FRAGMENT_BYTES,
            fragment_bytes: FRAGMENT_BYTES,
            name_bytes_max: 255,
        })
    }
}
