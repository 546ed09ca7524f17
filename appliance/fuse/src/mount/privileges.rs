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
    mount::{Mount, caller, sink},
};

/// CAP_FSETID in a mask of capabilities.
const FSETID: u64 = 1 << 4;
const S_ISGID: u32 = 0o2000;
/// Set-group-ID and group-execute.
const RUNS_AS_GROUP: u32 = S_ISGID | 0o010;

impl Mount {
    /// Takes set-ID bits and capabilities away before `context`'s caller, who has no CAP_FSETID, changes content.
    pub(crate) fn drop_privileges(
        &self,
        context: &Context,
        inode: &Arc<Inode>,
    ) -> Result<(), Errno> {
        let may_keep = |gid| may_keep_group(context, gid);
        let had = self.client.drop_privileges(inode, caller(context), may_keep, &context.cancel)?;
        let node = self.node(inode.fid);
        // Another change of content may have taken them a moment ago, and not told yet.
        if had || self.nodes.shows_set_ids(node) {
            // The answer tells the kernel nothing of the mode, and it would run a program by the one it knows.
            let told = self.outdate_attributes(node);
            sink::check("set-ID bits before a change of content", told);
        }
        Ok(())
    }

    /// Changes attributes, and set-group-ID with them if `changes` take set-ID bits and the caller may not keep it. Of a change of
    /// owner the kernel says that it takes them whoever the caller is.
    pub(crate) fn change_content(
        &self,
        context: &Context,
        inode: &Arc<Inode>,
        changes: Changes,
        cancel: &Cancel,
    ) -> Result<Observed, Errno> {
        let kill_sgid = changes.kill_suidgid
            && self.client.loses_group(inode, |gid| may_keep_group(context, gid), cancel)?;
        self.client.set_attributes(inode, &Changes { kill_sgid, ..changes }, cancel)
    }

    /// As [`Mount::drop_privileges`], for requests that do not tell of CAP_FSETID.
    pub(crate) fn drop_privileges_unless_kept(
        &self,
        context: &Context,
        inode: &Arc<Inode>,
    ) -> Result<(), Errno> {
        if Caller::of(context).has(context, FSETID) {
            return Ok(());
        }
        self.drop_privileges(context, inode)
    }

    /// Permissions of what is made in `directory` with `mode`: without set-group-ID if that would make it a program that runs
    /// for a group its maker is not in. Newer kernels see to that.
    pub(crate) fn permissions_of_new(
        &self,
        context: &Context,
        directory: &Arc<Inode>,
        mode: u32,
    ) -> Result<u32, Errno> {
        let permissions = mode & 0o7777;
        let kernel_does = self.strips_group.get().copied().unwrap_or(false);
        if kernel_does || permissions & RUNS_AS_GROUP != RUNS_AS_GROUP {
            return Ok(permissions);
        }
        let parent = self.client.attributes(directory, &context.cancel)?.attributes;
        let gives_group = parent.permissions & S_ISGID != 0;
        if gives_group && !may_keep_group(context, parent.gid) {
            return Ok(permissions & !S_ISGID);
        }
        Ok(permissions)
    }
}

/// Whether the caller is in the group or may leave set-group-ID anyway.
fn may_keep_group(context: &Context, gid: u32) -> bool {
    if gid == context.gid || context.supplementary_group == Some(gid) {
        return true;
    }
    let caller = Caller::of(context);
    caller.groups.contains(&gid) || caller.has(context, FSETID)
}

/// Whether a thread is in this process's user namespace. Not if it cannot be looked at.
fn is_of_our_users(thread: u32) -> bool {
    let namespace = |of: &str| std::fs::read_link(format!("/proc/{of}/ns/user")).ok();
    let theirs = namespace(&thread.to_string());
    theirs.is_some() && theirs == namespace("self")
}

/// What `/proc` tells of a caller.
#[derive(PartialEq, Eq, Debug, Default)]
pub(crate) struct Caller {
    /// Effective capabilities.
    capabilities: u64,
    /// Supplementary groups.
    pub(crate) groups: Vec<u32>,
}

impl Caller {
    /// Nothing of a caller outside of the mount's pid namespace (thread id 0).
    pub(crate) fn of(context: &Context) -> Self {
        Self::of_thread(context.pid)
    }

    fn of_thread(thread: u32) -> Self {
        let status = std::fs::read_to_string(format!("/proc/{thread}/status"));
        status.map_or_else(|_| Self::default(), |status| Self::parse(&status))
    }

    /// A capability counts in the mount's user namespace only, where user 0 is root.
    pub(crate) fn has(&self, context: &Context, capability: u64) -> bool {
        let has = context.uid == 0 && self.capabilities & capability != 0;
        has && is_of_our_users(context.pid)
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
    fn capabilities_in_another_user_namespace_count_nothing() {
        let mut child = std::process::Command::new("unshare")
            .args(["--user", "--map-root-user", "sleep", "60"])
            .spawn()
            .unwrap();
        let thread = child.id();
        let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
        let mut is_ours = true;
        let mut is_root = false;
        while (is_ours || !is_root) && std::time::Instant::now() < until {
            std::thread::sleep(std::time::Duration::from_millis(5));
            is_root = Caller::of_thread(thread).capabilities & FSETID != 0;
            is_ours = is_of_our_users(thread);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(is_root, "it never was root there");
        assert!(!is_ours, "what it may there is believed");
        assert!(is_of_our_users(std::process::id()));
        assert!(!is_of_our_users(0), "one that is not seen");
    }

    #[test]
    fn groups_and_capabilities_are_read_of_a_status() {
        let status = "Name:\tx\nGid:\t1\t1\t1\t1\nGroups:\t4 24 1000 \nCapEff:\t0000000000000010\n";
        let found = Caller::parse(status);
        assert_eq!(found, Caller { capabilities: FSETID, groups: vec![4, 24, 1000] });
        assert_eq!(Caller::parse("Name:\tx\nGroups:\t\n"), Caller::default());
    }
}
