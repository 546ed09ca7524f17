//! Set-user-ID and set-group-ID of a file whose content changes: who may leave them.
//!
//! The kernel says for WRITE, SETATTR, OPEN and CREATE that the caller has no CAP_FSETID. It does not for FALLOCATE and
//! COPY_FILE_RANGE, and never which groups the caller is in; both are read in `/proc`. Of a caller that cannot be looked at
//! there nothing is believed: its changes take the bits away.

use std::sync::Arc;

use sheen_client::{Changes, Inode, Observed};
use sheen_ports::Cancel;
use sheen_types::Errno;

use crate::{
    kernel::Context,
    mount::{Mount, caller},
};

/// CAP_FSETID in a mask of capabilities.
const FSETID: u64 = 1 << 4;

impl Mount {
    /// Takes set-ID bits and capabilities away before `context`'s caller, who has no CAP_FSETID, changes content.
    pub(crate) fn drop_privileges(
        &self,
        context: &Context,
        inode: &Arc<Inode>,
    ) -> Result<(), Errno> {
        let is_member = |gid| is_member(context, gid);
        self.client.drop_privileges(inode, caller(context), is_member, &context.cancel)
    }

    /// Changes attributes, and set-group-ID with them if `changes` take set-ID bits and the caller is not in the group.
    pub(crate) fn change_content(
        &self,
        context: &Context,
        inode: &Arc<Inode>,
        changes: Changes,
        cancel: &Cancel,
    ) -> Result<Observed, Errno> {
        let kill_sgid = changes.kill_suidgid
            && self.client.loses_group(inode, |gid| is_member(context, gid), cancel)?;
        self.client.set_attributes(inode, &Changes { kill_sgid, ..changes }, cancel)
    }

    /// As [`Mount::drop_privileges`], for requests that do not tell of CAP_FSETID.
    pub(crate) fn drop_privileges_unless_kept(
        &self,
        context: &Context,
        inode: &Arc<Inode>,
    ) -> Result<(), Errno> {
        // A capability counts in the first user namespace only, which is where user 0 is root.
        if context.uid == 0 && Caller::of(context).capabilities & FSETID != 0 {
            return Ok(());
        }
        self.drop_privileges(context, inode)
    }
}

fn is_member(context: &Context, gid: u32) -> bool {
    gid == context.gid || Caller::of(context).groups.contains(&gid)
}

/// What `/proc` tells of a caller.
#[derive(PartialEq, Eq, Debug, Default)]
struct Caller {
    /// Effective capabilities.
    capabilities: u64,
    /// Supplementary groups.
    groups: Vec<u32>,
}

impl Caller {
    /// Nothing of a caller outside of the mount's pid namespace (thread id 0).
    fn of(context: &Context) -> Self {
        let status = std::fs::read_to_string(format!("/proc/{}/status", context.pid));
        status.map_or_else(|_| Self::default(), |status| Self::parse(&status))
    }

    fn parse(status: &str) -> Self {
        let mut found = Self::default();
        for line in status.lines() {
            if let Some(groups) = line.strip_prefix("Groups:") {
                found.groups = groups.split_whitespace().filter_map(|id| id.parse().ok()).collect();
            } else if let Some(mask) = line.strip_prefix("CapEff:") {
                found.capabilities = u64::from_str_radix(mask.trim(), 16).unwrap_or(0);
            }
        }
        found
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn groups_and_capabilities_are_read_of_a_status() {
        let status = "Name:\tx\nGid:\t1\t1\t1\t1\nGroups:\t4 24 1000 \nCapEff:\t0000000000000010\n";
        let found = Caller::parse(status);
        assert_eq!(found, Caller { capabilities: FSETID, groups: vec![4, 24, 1000] });
        assert_eq!(Caller::parse("Name:\tx\nGroups:\t\n"), Caller::default());
    }
}
