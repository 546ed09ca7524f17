//! Names of extended attributes.

use sheen_types::Errno;

use crate::acl;

/// Name space of an extended attribute.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Namespace {
    /// `user.`: of files and directories only.
    User,
    /// `trusted.` and `security.`.
    Privileged,
    /// `system.posix_acl_access`.
    AccessAcl,
    /// `system.posix_acl_default`.
    DefaultAcl,
}

/// The name space of a whole name.
///
/// # Errors
/// `EOPNOTSUPP`: no such name space; `EINVAL`: nothing behind its dot.
pub(crate) fn namespace(name: &[u8]) -> Result<Namespace, Errno> {
    if name == acl::ACCESS {
        return Ok(Namespace::AccessAcl);
    }
    if name == acl::DEFAULT {
        return Ok(Namespace::DefaultAcl);
    }
    let spaces = [
        (&b"user."[..], Namespace::User),
        (b"trusted.", Namespace::Privileged),
        (b"security.", Namespace::Privileged),
    ];
    let found = spaces.into_iter().find(|(prefix, _)| name.starts_with(prefix));
    let (prefix, space) = found.ok_or(Errno::EOPNOTSUPP)?;
    if name.len() == prefix.len() { Err(Errno::EINVAL) } else { Ok(space) }
}
