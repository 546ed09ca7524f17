//! What a client may do, as it is ordered and shown: names in place of numbers, text in place of bytes.

use serde::{Deserialize, Serialize};
use sheen_meta::identity::{
    IDENTITY_FILESYSTEMS_MAX, IDENTITY_NETWORKS_MAX, IdentityRights, Mapping,
};
use sheen_wire::fields::List;

use super::{IdentitiesError, network};
use crate::mdt::IdentityTable;

/// Sessions a client may have unless told otherwise: each mount has one.
pub const SESSIONS_DEFAULT: u16 = 64;

/// For whom a client's sessions speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Speaks {
    /// For every user: its word is taken, as that of a Lustre or NFS client.
    Everybody,
    /// For every user but root, who becomes nobody.
    EverybodyButRoot,
    /// For one user.
    User {
        /// Which.
        uid: u32,
        /// Its group.
        gid: u32,
    },
}

/// What is to be another; what is absent stays as it is, or is the default of a new client.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RightsRequest {
    /// File systems by name; empty: every one, also those to come.
    pub filesystems: Option<Vec<String>>,
    /// For whom it speaks.
    pub speaks: Option<Speaks>,
    /// Whether it changes nothing.
    pub read_only: Option<bool>,
    /// Networks it may come from; empty: from anywhere.
    pub networks: Option<Vec<String>>,
    /// Networks from where it speaks for everybody whatever `speaks` says.
    pub trusted_networks: Option<Vec<String>>,
    /// Sessions at once.
    pub sessions: Option<u16>,
}

/// What a client may do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RightsShown {
    /// Whether every file system, also those to come; then `filesystems` is empty.
    pub every_filesystem: bool,
    /// File systems by name; one that was deleted by its number, as `#3`.
    pub filesystems: Vec<String>,
    /// For whom it speaks.
    pub speaks: Speaks,
    /// Whether it changes nothing.
    pub read_only: bool,
    /// Networks it may come from; empty: from anywhere.
    pub networks: Vec<String>,
    /// Networks from where it speaks for everybody.
    pub trusted_networks: Vec<String>,
    /// Sessions at once.
    pub sessions_max: u16,
}

/// What a new client may do unless told otherwise.
pub(super) const fn default_rights() -> IdentityRights {
    IdentityRights {
        every_filesystem: true,
        filesystems: List(Vec::new()),
        mapping: Mapping::Trusted,
        read_only: false,
        networks: List(Vec::new()),
        exempt_networks: List(Vec::new()),
        sessions_max: SESSIONS_DEFAULT,
    }
}

impl RightsRequest {
    /// The rights that `before` become.
    pub(super) fn apply(
        &self,
        before: IdentityRights,
        table: &IdentityTable,
    ) -> Result<IdentityRights, IdentitiesError> {
        let mut rights = before;
        if let Some(names) = &self.filesystems {
            rights.every_filesystem = names.is_empty();
            let number = |name: &String| {
                let found = table.filesystems().iter().find(|(_, it)| *it == name.as_bytes());
                let found = found.map(|(number, _)| *number);
                found.ok_or_else(|| IdentitiesError::NoFilesystem(name.clone()))
            };
            let mut numbers = names.iter().map(number).collect::<Result<Vec<u32>, _>>()?;
            numbers.sort_unstable();
            numbers.dedup();
            rights.filesystems = List(numbers);
        }
        if let Some(speaks) = self.speaks {
            rights.mapping = match speaks {
                Speaks::Everybody => Mapping::Trusted,
                Speaks::EverybodyButRoot => Mapping::Root,
                Speaks::User { uid, gid } => Mapping::Squash { uid, gid },
            };
            if speaks == Speaks::Everybody && self.trusted_networks.is_none() {
                rights.exempt_networks = List(Vec::new());
            }
        }
        rights.read_only = self.read_only.unwrap_or(rights.read_only);
        rights.sessions_max = self.sessions.unwrap_or(rights.sessions_max);
        if let Some(networks) = &self.networks {
            rights.networks = parse_networks(networks)?;
        }
        if let Some(networks) = &self.trusted_networks {
            rights.exempt_networks = parse_networks(networks)?;
        }
        check(&rights)?;
        Ok(rights)
    }
}

fn parse_networks(
    texts: &[String],
) -> Result<List<sheen_meta::identity::Network>, IdentitiesError> {
    Ok(List(texts.iter().map(|text| network::parse(text)).collect::<Result<Vec<_>, _>>()?))
}

/// Refuses what the metadata service would, with the reason.
fn check(rights: &IdentityRights) -> Result<(), IdentitiesError> {
    let refused = |text| Err(IdentitiesError::Rights(text));
    if rights.filesystems.0.len() > IDENTITY_FILESYSTEMS_MAX {
        return refused(
            "a client names at most 16 file systems; name none to let it use every one",
        );
    }
    if rights.networks.0.len() > IDENTITY_NETWORKS_MAX
        || rights.exempt_networks.0.len() > IDENTITY_NETWORKS_MAX
    {
        return refused("a client names at most 16 networks of each kind");
    }
    if rights.mapping == Mapping::Trusted && !rights.exempt_networks.0.is_empty() {
        return refused(
            "a client that speaks for everybody is trusted everywhere: leave trusted networks out, or say --squash or --map-root",
        );
    }
    if matches!(rights.mapping, Mapping::Squash { uid: 0, .. }) {
        return refused("a client is not squashed to root: name another user");
    }
    if rights.sessions_max == 0 {
        return refused("a client without sessions can do nothing: revoke it instead");
    }
    rights.check().map_err(IdentitiesError::Refused)
}

impl RightsShown {
    pub(super) fn of(rights: &IdentityRights, table: &IdentityTable) -> Self {
        let name = |number: &u32| {
            let found = table.filesystems().iter().find(|(it, _)| it == number);
            found.map_or_else(
                || format!("#{number}"),
                |(_, name)| String::from_utf8_lossy(name).into_owned(),
            )
        };
        Self {
            every_filesystem: rights.every_filesystem,
            filesystems: rights.filesystems.0.iter().map(name).collect(),
            speaks: match rights.mapping {
                Mapping::Trusted => Speaks::Everybody,
                Mapping::Root => Speaks::EverybodyButRoot,
                Mapping::Squash { uid, gid } => Speaks::User { uid, gid },
            },
            read_only: rights.read_only,
            networks: rights.networks.0.iter().map(network::text).collect(),
            trusted_networks: rights.exempt_networks.0.iter().map(network::text).collect(),
            sessions_max: rights.sessions_max,
        }
    }
}
