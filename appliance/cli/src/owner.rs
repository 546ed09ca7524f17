//! Whom a new file system's root directory belongs to.

use anyhow::{Context, Result};
use nix::unistd::{Group, User, getegid, geteuid};

use crate::failure::{Failure, FailureKind};

/// User and group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

impl Owner {
    /// Returns user and group of this process.
    pub(crate) fn of_process() -> Self {
        Self { uid: geteuid().as_raw(), gid: getegid().as_raw() }
    }

    /// Reads `USER:GROUP`, each a name or a number, or `USER` alone, which means its login group too.
    ///
    /// # Errors
    /// A usage failure when there is no such user or group; when the accounts cannot be read.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        let account = User::from_name(user).context("looking for the user")?;
        let uid = match (&account, id(user)) {
            (Some(account), _) => account.uid.as_raw(),
            (None, Some(uid)) => uid,
            (None, None) => return Err(unknown("user", user)),
        };
        let gid = match group {
            Some(group) => {
                match (Group::from_name(group).context("looking for the group")?, id(group)) {
                    (Some(found), _) => found.gid.as_raw(),
                    (None, Some(gid)) => gid,
                    (None, None) => return Err(unknown("group", group)),
                }
            }
            None => {
                let account = match account {
                    Some(account) => Some(account),
                    None => User::from_uid(uid.into()).context("looking for the user")?,
                };
                account.ok_or_else(|| unknown("account of user", user))?.gid.as_raw()
            }
        };
        Ok(Self { uid, gid })
    }
}

/// The number, unless it is the one that is nobody's.
fn id(text: &str) -> Option<u32> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|id| is_number && *id != u32::MAX)
}

fn unknown(what: &str, name: &str) -> anyhow::Error {
    Failure::new(FailureKind::Usage, format!("there is no {what} `{name}`"))
        .hint("say USER:GROUP, names or numbers")
        .into()
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn an_owner_is_named_or_numbered() {
        let owner = |text| Owner::parse(text).ok().map(|owner| (owner.uid, owner.gid));
        assert_eq!(owner("1234567:7654321"), Some((1_234_567, 7_654_321)));
        assert_eq!(owner("root:0"), Some((0, 0)));
        assert_eq!(owner("7:root"), Some((7, 0)));
        assert_eq!((owner("root"), owner("0")), (Some((0, 0)), Some((0, 0))));
        let wrong =
            ["", ":", "root:", "1:", "4294967295:0", "0:4294967295", "-1:0", "+1:0", "1:2:3"];
        for text in wrong.into_iter().chain(["no such user:0", "0:no such group", "1234567"]) {
            assert_eq!(owner(text), None, "{text}");
        }
    }
}
